# SPDX-License-Identifier: Apache-2.0
"""A fresh volume, mounted, as the place of a program's test.

FUSE_TESTS_ENGINE (redis) and FUSE_TESTS_FLAGS (of `sluice mount`, such as "-o writeback_cache") change what is tested.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from tests.gateways.fuse.mounts import Mount, mounted
from tests.gateways.fuse.programs.place import Place


class MountedPlace:
    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        self.folder = mount.point / "work"
        self.folder.mkdir()
        self.folder.chmod(0o755)

    def remount(self) -> None:
        self.mount.stop()
        for cache in self.mount.folder.glob("cache*"):
            shutil.rmtree(cache)
        self.mount.start()


@contextmanager
def mounted_place() -> Iterator[Place]:
    # What isn't on by default and what these programs use.
    flags = ["--enable-xattr", "--enable-ioctl", *shlex.split(os.environ.get("FUSE_TESTS_FLAGS", ""))]
    with mounted(os.environ.get("FUSE_TESTS_ENGINE", "redis"), *flags, enable_acl=True) as mount:
        place = MountedPlace(mount)
        yield place
        # What the programs believed, the volume's own checker confirms.
        place.mount.check()
