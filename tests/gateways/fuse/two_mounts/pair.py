# SPDX-License-Identifier: Apache-2.0
"""Two mounts of one fresh volume, or two folders that are one (FUSE_TESTS_ON), to try the tests themselves.

FUSE_TESTS_ENGINE and FUSE_TESTS_FLAGS as in the programs' tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.gateways.fuse.mounts import Mount, mounted


class Pair(NamedTuple):
    """The same folder of the volume as each mount shows it. mount: the first one, None on another file system."""

    a: Path
    b: Path
    mount: Mount | None

    def check(self) -> None:
        if self.mount is not None:
            self.mount.check()


@contextmanager
def pair(*flags: str, **settings: Any) -> Iterator[Pair]:
    if root := os.environ.get("FUSE_TESTS_ON"):
        folder = Path(tempfile.mkdtemp(dir=root, prefix="pair-"))
        yield Pair(folder, folder, None)
        shutil.rmtree(folder)
        return
    flags = (*flags, *shlex.split(os.environ.get("FUSE_TESTS_FLAGS", "")))
    with mounted(os.environ.get("FUSE_TESTS_ENGINE", "redis"), *flags, **settings) as first, first.second() as second:
        # A folder of the volume: its root may have names that aren't ours.
        (first.point / "work").mkdir()
        yield Pair(first.point / "work", second.point / "work", first)
        first.check()
