# SPDX-License-Identifier: Apache-2.0
"""Immutable and append-only files and directories (chattr +i, +a) through ioctl FS_IOC_GETFLAGS and SETFLAGS."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.calls import FLAG_APPEND, FLAG_IMMUTABLE
from tests.gateways.fuse.posix.expect import fails, watch
from tests.gateways.fuse.posix.places import Place

Mark = Callable[[Path, int], None]
ADDED = FLAG_IMMUTABLE | FLAG_APPEND


@pytest.fixture
def mark() -> Iterator[Mark]:
    """Flags on top of those that the file system gives by itself; taken off afterwards."""
    marked = []

    def set_flags(path: Path, flags: int) -> None:
        calls.set_flags(path, (calls.get_flags(path) & ~ADDED) | flags)
        marked.append(path)

    yield set_flags
    for path in reversed(marked):
        if os.path.lexists(path):
            calls.set_flags(path, calls.get_flags(path) & ~ADDED)


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["file", "dir"])
def test_set_and_shown(place: Place, d: Path, mark: Mark, kind: str) -> None:
    path = d / "x"
    calls.put(path, b"") if kind == "file" else os.mkdir(path)
    assert calls.get_flags(path) & ADDED == 0
    for flags in (FLAG_IMMUTABLE, FLAG_APPEND, ADDED, 0):
        mark(path, flags)
        assert calls.get_flags(path) & ADDED == flags


@pytest.mark.every_engine
def test_setting_moves_ctime(place: Place, d: Path, mark: Mark) -> None:
    place.require("ctime_of_ioctl")
    calls.put(d / "x", b"")
    with watch(place, {d / "x": "c"}):
        mark(d / "x", FLAG_APPEND)


def test_only_root_sets_them(open_dir: Path, alice: User) -> None:
    alice.put(open_dir / "x", b"")
    flags = calls.get_flags(open_dir / "x")
    for flag in (FLAG_IMMUTABLE, FLAG_APPEND):
        with fails(errno.EPERM):
            alice.set_flags(open_dir / "x", flags | flag)
    assert alice.get_flags(open_dir / "x") == flags


#: What may not happen to an immutable file.
IMMUTABLE: dict[str, Callable[[Path], Any]] = {
    "open to write": lambda p: calls.may_open(p, os.O_WRONLY),
    "open to read and write": lambda p: calls.may_open(p, os.O_RDWR),
    "open to append": lambda p: calls.may_open(p, os.O_WRONLY | os.O_APPEND),
    "open and cut": lambda p: calls.may_open(p, os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda p: os.truncate(p, 0),
    "chmod": lambda p: os.chmod(p, 0o600),
    "chown": lambda p: os.chown(p, 1, 1),
    "utime": lambda p: os.utime(p, (1, 1)),
    "utime now": lambda p: os.utime(p),
    "link": lambda p: os.link(p, f"{p}2"),
    "unlink": os.unlink,
    "rename": lambda p: os.rename(p, f"{p}2"),
    "rename over it": lambda p: os.rename(p.parent / "other", p),
    "setxattr": lambda p: os.setxattr(p, "user.a", b"1"),
}
#: … and what may happen to one that only grows.
APPEND_ONLY_MAY = ("open to append", "utime now")


@pytest.mark.every_engine
@pytest.mark.parametrize("call", IMMUTABLE)
def test_an_immutable_file(place: Place, d: Path, mark: Mark, call: str) -> None:
    calls.put(d / "x", b"content")
    calls.put(d / "other", b"")
    mark(d / "x", FLAG_IMMUTABLE)
    with watch(place, {d / "x": "", d: ""}), fails(errno.EPERM, errno.EACCES):
        IMMUTABLE[call](d / "x")
    assert calls.get(d / "x") == b"content"
    assert sorted(os.listdir(d)) == ["other", "x"]


@pytest.mark.every_engine
@pytest.mark.parametrize("call", IMMUTABLE)
def test_an_append_only_file(d: Path, mark: Mark, call: str) -> None:
    calls.put(d / "x", b"content")
    calls.put(d / "other", b"")
    mark(d / "x", FLAG_APPEND)
    if call in APPEND_ONLY_MAY:
        IMMUTABLE[call](d / "x")
    else:
        with fails(errno.EPERM, errno.EACCES):
            IMMUTABLE[call](d / "x")
    assert calls.get(d / "x") == b"content"


@pytest.mark.every_engine
def test_an_append_only_file_grows(d: Path, mark: Mark) -> None:
    calls.put(d / "x", b"one")
    mark(d / "x", FLAG_APPEND)
    fd = os.open(d / "x", os.O_WRONLY | os.O_APPEND)
    os.write(fd, b" two")
    with fails(errno.EPERM):
        os.ftruncate(fd, 0)
    os.close(fd)
    assert calls.get(d / "x") == b"one two"


def _fill(folder: Path) -> None:
    os.mkdir(folder)
    calls.put(folder / "file", b"1")
    os.mkdir(folder / "dir")
    calls.put(folder.parent / "outside", b"")


#: What happens in a directory: name -> call, whether it only adds.
IN_DIRECTORY: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "create": (lambda p: calls.put(p / "new", b""), True),
    "mkdir": (lambda p: os.mkdir(p / "new"), True),
    "mkfifo": (lambda p: os.mkfifo(p / "new"), True),
    "mknod": (lambda p: os.mknod(p / "new", stat.S_IFREG | 0o644), True),
    "symlink": (lambda p: os.symlink("x", p / "new"), True),
    "link": (lambda p: os.link(p.parent / "outside", p / "new"), True),
    "rename into": (lambda p: os.rename(p.parent / "outside", p / "new"), True),
    "unlink": (lambda p: os.unlink(p / "file"), False),
    "rmdir": (lambda p: os.rmdir(p / "dir"), False),
    "rename out": (lambda p: os.rename(p / "file", p.parent / "moved"), False),
    "rename within": (lambda p: os.rename(p / "file", p / "new"), False),
}


@pytest.mark.every_engine
@pytest.mark.parametrize("call", IN_DIRECTORY)
def test_an_immutable_directory(place: Place, d: Path, mark: Mark, call: str) -> None:
    _fill(d / "p")
    mark(d / "p", FLAG_IMMUTABLE)
    with watch(place, {d / "p": ""}), fails(errno.EPERM, errno.EACCES):
        IN_DIRECTORY[call][0](d / "p")
    assert sorted(os.listdir(d / "p")) == ["dir", "file"]
    calls.put(d / "p" / "file", b"content may change")


@pytest.mark.every_engine
@pytest.mark.parametrize("call", IN_DIRECTORY)
def test_an_append_only_directory(d: Path, mark: Mark, call: str) -> None:
    _fill(d / "p")
    mark(d / "p", FLAG_APPEND)
    function, adds = IN_DIRECTORY[call]
    if adds:
        function(d / "p")
        assert "new" in os.listdir(d / "p")
    else:
        with fails(errno.EPERM):
            function(d / "p")
        assert sorted(os.listdir(d / "p")) == ["dir", "file"]


@pytest.mark.parametrize("flag", [FLAG_IMMUTABLE, FLAG_APPEND])
def test_a_marked_directory_itself_stays(d: Path, mark: Mark, root: Actor, flag: int) -> None:
    os.mkdir(d / "p")
    mark(d / "p", flag)
    with fails(errno.EPERM):
        os.rmdir(d / "p")
    with fails(errno.EPERM):
        os.rename(d / "p", d / "q")


def test_descriptors_opened_before(d: Path, mark: Mark) -> None:
    """Whoever could write before still can, as on other Linux file systems that check at open."""
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"1")
    mark(d / "x", FLAG_IMMUTABLE)
    assert os.pread(fd, 1, 0) == b"1"
    os.close(fd)


def test_other_ioctls(d: Path) -> None:
    import fcntl

    calls.put(d / "x", b"")
    fd = os.open(d / "x", os.O_RDONLY)
    with fails(errno.ENOTTY):
        fcntl.ioctl(fd, 0x5401, bytes(64))
    with fails(errno.ENOTTY, errno.EOPNOTSUPP):
        fcntl.ioctl(fd, 0x8004_7A7A, bytes(4))
    os.close(fd)
