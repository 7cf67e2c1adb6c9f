# SPDX-License-Identifier: Apache-2.0
"""How tests say what they expect: an errno, which times move, a file of each kind, a matching mode."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.gateways.fuse.posix.actors import Actor
from tests.gateways.fuse.posix.places import Place

#: Everything that has a name. `symlink` dangles.
KINDS: Final = ("file", "dir", "fifo", "block", "char", "socket", "symlink")
NOT_DIR: Final = tuple(k for k in KINDS if k != "dir")
#: What chmod and others reach through their path.
FOLLOWED: Final = tuple(k for k in KINDS if k != "symlink")

FORMATS: Final = {
    "file": stat.S_IFREG, "dir": stat.S_IFDIR, "fifo": stat.S_IFIFO, "block": stat.S_IFBLK, "char": stat.S_IFCHR,
    "socket": stat.S_IFSOCK, "symlink": stat.S_IFLNK,
}  # fmt: skip

#: How long an access time may take to be written down.
PATIENCE_S: Final = 10
NAME_MAX: Final = 255
PATH_MAX: Final = 4096  # with its NUL


def make(actor: Actor, kind: str, path: Path | str, mode: int = 0o644) -> None:
    """Devices carry number 1:3 and 7:200, which tests never open."""
    if kind == "file":
        actor.put(path, b"", mode)
    elif kind == "dir":
        actor.mkdir(path, mode)
    elif kind == "symlink":
        actor.symlink("nowhere-at-all", path)
    elif kind == "socket":
        actor.mknod(path, stat.S_IFSOCK | mode)
    elif kind == "fifo":
        actor.mkfifo(path, mode)
    else:
        actor.mknod(path, FORMATS[kind] | mode, os.makedev(7, 200) if kind == "block" else os.makedev(1, 3))
    if kind != "symlink":
        actor.chmod(path, mode)


def mode_of(path: Path | str | int) -> int:
    return stat.S_IMODE(_stat(path).st_mode)


def kind_of(path: Path | str) -> str:
    found = stat.S_IFMT(os.lstat(path).st_mode)
    return next(kind for kind, bits in FORMATS.items() if bits == found)


def _stat(path: Path | str | int) -> os.stat_result:
    return os.fstat(path) if isinstance(path, int) else os.lstat(path)


@contextmanager
def fails(*numbers: int, why: str = "") -> Iterator[None]:
    """The block fails with one of these errnos."""
    wanted = "/".join(errno.errorcode[n] for n in numbers)
    try:
        yield
    except OSError as e:
        if e.errno not in numbers:
            got = errno.errorcode.get(e.errno or 0, str(e.errno))
            pytest.fail(f"expected {wanted}, got {got} ({e}) {why}", pytrace=True)
    else:
        pytest.fail(f"expected {wanted}, but it worked {why}", pytrace=True)


def outcome(call: Any, *args: Any, **kwargs: Any) -> int:
    """0, or the errno."""
    try:
        call(*args, **kwargs)
    except OSError as e:
        return e.errno or -1
    return 0


def name_of_error(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else "success"


@contextmanager
def watch(place: Place, rules: Mapping[Any, str]) -> Iterator[None]:
    """Which times the block moves: letters of a(ccess), c(hange), m(odification) for each path or descriptor.

    Change and modification times that aren't named stay as they are. Access times are looked at if named (`a` must
    move, though a reader need not wait until it is written down) or denied (`-a` must stay).
    """
    before = {path: _stat(path) for path in rules}
    place.tick()
    yield
    for path, rule in rules.items():
        now, then = _stat(path), before[path]
        for letter, field in (("c", "st_ctime_ns"), ("m", "st_mtime_ns"), ("a", "st_atime_ns")):
            a, b = getattr(then, field), getattr(now, field)
            if letter in rule and f"-{letter}" not in rule:
                deadline = time.monotonic() + PATIENCE_S
                while letter == "a" and b <= a and time.monotonic() < deadline:
                    time.sleep(0.02)
                    b = getattr(_stat(path), field)
                assert b > a, f"{field} of {path} should have moved on from {a}, is {b}"
            elif letter != "a" or "-a" in rule:
                assert b == a, f"{field} of {path} should have stayed {a}, is {b} ({b - a:+} ns)"
