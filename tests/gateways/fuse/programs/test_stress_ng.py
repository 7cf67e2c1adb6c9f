# SPDX-License-Identifier: Apache-2.0
"""stress-ng's stressors of files and directories, each with its own verification on."""

from __future__ import annotations

import random
import re
from typing import Final

import pytest

from tests.gateways.fuse.programs.place import Place, first, sizes
from tests.gateways.fuse.programs.run import run
from tests.servers.process import require

#: Those that work in --temp-path and need no special device. Left out: `io`, which syncs every file system of the
#: machine, and `io-uring`, whose statx asks for a path that isn't there (it fails on ext4 too).
STRESSORS: Final = {
    "names": ("dentry", "dir", "dirdeep", "dirmany", "filename", "link", "mknod", "rename", "symlink", "touch",
              "chdir", "open", "handle"),
    "attributes": ("access", "chmod", "chown", "fstat", "utime", "xattr", "file-ioctl", "inode-flags", "metamix",
                   "fcntl", "dnotify", "fsize"),
    "data": ("copy-file", "fallocate", "fpunch", "hdd", "iomix", "readahead", "seek", "sendfile",
             "splice", "sync-file", "revio", "aio", "aiol", "rotate", "fiemap"),
    "memory": ("mmap", "mmapfork", "mmapmany", "msync", "msyncmany", "remap"),
    "locks": ("flock", "lockf", "locka", "lockofd", "lockmix", "lease", "dup"),
}  # fmt: skip

#: Their usual gigabytes test the disk, not the file system.
SMALLER: Final = {
    "memory": ("--mmap-file", "--mmap-bytes", "16m", "--msync-bytes", "4m"),
    "data": ("--hdd-bytes", "16m", "--iomix-bytes", "16m", "--fallocate-bytes", "32m", "--seek-size", "16m",
             "--readahead-bytes", "16m", "--sync-file-bytes", "4m"),
}  # fmt: skip

#: 0 all well; 3 a stressor isn't implemented here, 4 it lacks a resource of the machine.
FINE: Final = (0, 3, 4)


@pytest.mark.parametrize("group", first(STRESSORS, "locks"))
@sizes(fast=5, heavy=120)
def test_stress_ng(place: Place, size: int, group: str, rng: random.Random) -> None:
    require("stress-ng", "apt-get install stress-ng")
    known = run("stress-ng", "--stressors").stdout.split()  # releases differ
    names = [name for name in STRESSORS[group] if name in known]
    if size < len(names):  # one second is the least, so a fast run takes some of them
        names = rng.sample(names, size)
    each = size // len(names)
    options = [part for name in names for part in (f"--{name}", "2")]
    options += SMALLER.get(group, ())
    report = run(
        "stress-ng", "--temp-path", place.folder, "--timeout", f"{each}s", "--verify", "--sequential", "2", *options,
        timeout_s=size * 4 + 240, allowed=FINE,  # making and removing their files comes on top of the seconds
    ).stdout  # fmt: skip
    wrong = [line for line in report.splitlines() if re.search(r"fail: |error: |aborted", line)]
    assert not wrong, "\n".join(wrong[:20])
    assert not list(place.folder.glob("tmp-stress-ng*")), "stress-ng removes what it made"
