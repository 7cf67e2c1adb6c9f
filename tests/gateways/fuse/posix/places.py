# SPDX-License-Identifier: Apache-2.0
"""Where the suite runs: a file system of the kernel as reference, or a volume of ours on one of the engines.

The same tests have to pass on all of them. What a reference can't do is in `_LACKS`; a volume of ours may lack only
what its format can't express, or what the kernel keeps to itself under a mount option: `sqlite+writeback_cache` is a
volume mounted with that one. SUITE_PLACES=tmpfs,sqlite chooses places, and an absolute path in it names a directory of
whatever file system stands there.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.gateways.fuse.mounts import ENGINES, Mount, fast_folder, mount_type, mounted, require_fuse, umount2
from tests.servers.process import missing

REFERENCES: Final = ("tmpfs", "ext4")
#: Mount flags of the suite: everything that is off by default and has tests here.
FLAGS: Final = (
    "--enable-xattr", "--enable-cap", "--enable-ioctl", "--atime-mode", "strictatime", "-o", "suid,dev",
)  # fmt: skip

#: What a place can't do, with the reason that is printed.
_OURS: Final = {
    "collapse": "the format has no way to shift the bytes of a file",
}
_LACKS: Final[dict[str, dict[str, str]]] = {
    "postgres": {"uint32": "the format's SQL columns hold numbers below 2^31"},
    "tmpfs": {
        "zero_range": "tmpfs can't zero a range",
        "collapse": "tmpfs can't shift bytes",
    },
    "ext4": {},
    "writeback_cache": {
        "fresh_blocks": "with writeback_cache the kernel shows st_blocks as old as its attribute cache",
        "holes_seen": "with writeback_cache the kernel holds bytes that we don't know, so all of a file is data",
        "ctime_of_ioctl": "with writeback_cache the kernel keeps change times itself and knows nothing of ioctls",
    },
}

#: Two operations this far apart have different times, on every place.
TICK_S: Final = 0.05


class Place:
    """root: a directory of the file system under test."""

    def __init__(self, name: str, root: Path, mount: Mount | None = None) -> None:
        self.name = name
        self.root = root
        self.mount = mount
        self._lacks = _OURS.copy() if mount else {}
        for part in name.split("+"):
            self._lacks |= _LACKS.get(part, {})

    @property
    def ours(self) -> bool:
        return self.mount is not None

    def lacks(self, feature: str) -> str | None:
        return self._lacks.get(feature)

    def require(self, feature: str) -> None:
        reason = self._lacks.get(feature)
        if reason is not None:
            pytest.skip(f"{self.name}: {reason}")

    def check(self) -> None:
        """Unmount; what was left of the volume has to be sound."""
        assert self.mount
        self.mount.stop()
        self.mount.check("--objects")

    def tick(self) -> None:
        """Let time pass that every place can tell apart. Time itself is what is tested here."""
        time.sleep(TICK_S)

    @contextmanager
    def second(self, *, read_only: bool = False) -> Iterator[Path]:
        """The same files at another mount point: another process for a volume, a bind mount for a reference."""
        if self.mount:
            with self.mount.second(*self.mount.flags, *(("--read-only",) if read_only else ())) as other:
                yield other.point
            return
        point = fast_folder("sluice-second-")
        subprocess.run(["mount", "--bind", self.root, point], check=True)
        try:
            if read_only:
                subprocess.run(["mount", "-o", "remount,ro,bind", point], check=True)
            yield point
        finally:
            umount2(point, 2)
            point.rmdir()


@contextmanager
def place(name: str) -> Iterator[Place]:
    engine, *options = name.split("+")
    if engine in ENGINES:
        with mounted(engine, *FLAGS, *(f"-o{option}" for option in options), enable_acl=True) as mount:
            yield Place(name, mount.point, mount)
    elif name.startswith("/"):
        yield Place(mount_type(Path(name)) or "directory", Path(name))
    else:
        require_fuse()  # root, that is
        with _reference(name) as root:
            yield Place(name, root)


@contextmanager
def _reference(name: str) -> Iterator[Path]:
    folder = fast_folder("sluice-reference-")
    point = folder / "mnt"
    point.mkdir()
    if name == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "mode=0755,size=2g,strictatime", "tmpfs", str(point)]
    else:
        image = folder / "image"
        with open(image, "wb") as f:
            f.truncate(2 << 30)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        command = ["mount", "-o", "loop,strictatime", str(image), str(point)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        missing(f"a mount of {name}", done.stderr.strip())
    try:
        point.chmod(0o755)
        yield point
    finally:
        umount2(point, 2)
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=False)


def given() -> bool:
    """Whether somebody asked for certain places; everything runs there then."""
    return bool(os.environ.get("SUITE_PLACES"))


def chosen() -> list[str]:
    """Places to run on, the reference first."""
    wanted = os.environ.get("SUITE_PLACES", "")
    return wanted.split(",") if wanted else [*REFERENCES, *ENGINES, "sqlite+writeback_cache"]


#: Places where every test function runs without being asked for; on others only those marked `every_engine` do.
FAST: Final = ("tmpfs", "sqlite")
#: Where all parameters do, too.
FULL: Final = "sqlite"


class Pool:
    """Places that stay for all modules of a test process: mounting costs more than most modules."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: dict[str, Place] = {}

    def get(self, name: str) -> Place:
        if name not in self._open:
            self._open[name] = self._stack.enter_context(place(name))
        return self._open[name]

    def close(self) -> None:
        """Unmount. What the tests left of a volume has to be sound."""
        found = list(self._open.values())
        self._open.clear()
        try:
            for each in found:
                if each.mount and each.mount.process_lives():
                    each.check()
        finally:
            self._stack.close()
