# SPDX-License-Identifier: Apache-2.0
"""A read-only mount: everything that would change something is EROFS, everything else works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.expect import fails
from tests.gateways.fuse.posix.places import Place


@pytest.fixture(scope="module")
def mirror(place: Place) -> Iterator[Path]:
    with place.second(read_only=True) as root:
        yield root


@pytest.fixture
def r(place: Place, d: Path, mirror: Path) -> Path:
    """`d` as the read-only mount shows it, with a file, a directory and a symlink."""
    calls.put(d / "x", b"content")
    os.mkdir(d / "dir")
    os.symlink("x", d / "s")
    os.mkfifo(d / "fifo", 0o666)
    return mirror / d.relative_to(place.root)


CHANGES: dict[str, Callable[[Path], Any]] = {
    "chmod": lambda r: os.chmod(r / "x", 0o600),
    "chown": lambda r: os.chown(r / "x", 1, 1),
    "lchown": lambda r: os.lchown(r / "s", 1, 1),
    "truncate": lambda r: os.truncate(r / "x", 0),
    "link": lambda r: os.link(r / "x", r / "y"),
    "mkdir": lambda r: os.mkdir(r / "y"),
    "mkfifo": lambda r: os.mkfifo(r / "y"),
    "mknod": lambda r: os.mknod(r / "y"),
    "open to write": lambda r: calls.may_open(r / "x", os.O_WRONLY),
    "open to read and write": lambda r: calls.may_open(r / "x", os.O_RDWR),
    "open and cut": lambda r: calls.may_open(r / "x", os.O_RDONLY | os.O_TRUNC),
    "create": lambda r: calls.may_open(r / "y", os.O_CREAT | os.O_RDONLY),
    "create without a name": lambda r: os.open(r, os.O_TMPFILE | os.O_RDWR),
    "rename": lambda r: os.rename(r / "x", r / "y"),
    "rmdir": lambda r: os.rmdir(r / "dir"),
    "symlink": lambda r: os.symlink("x", r / "y"),
    "unlink": lambda r: os.unlink(r / "x"),
    "utime": lambda r: os.utime(r / "x", (1, 1)),
    "setxattr": lambda r: os.setxattr(r / "x", "user.a", b"1"),
    "removexattr": lambda r: os.removexattr(r / "x", "user.a"),
    "access to write": lambda r: calls.faccessat(r / "x", os.W_OK),
}


@pytest.mark.parametrize("call", CHANGES)
def test_nothing_changes(d: Path, r: Path, call: str) -> None:
    before = os.stat(d / "x"), sorted(os.listdir(d))
    with fails(errno.EROFS):
        CHANGES[call](r)
    after = os.stat(d / "x"), sorted(os.listdir(d))
    assert before == after


def test_reading_works(r: Path) -> None:
    assert calls.get(r / "x") == b"content"
    assert calls.get(r / "s") == b"content"
    assert sorted(os.listdir(r)) == ["dir", "fifo", "s", "x"]
    assert os.readlink(r / "s") == "x"
    calls.may_open(r / "x", os.O_CREAT | os.O_RDONLY)
    assert os.statvfs(r).f_flag & os.ST_RDONLY


def test_a_fifo_is_not_on_the_disk(r: Path) -> None:
    fd = os.open(r / "fifo", os.O_RDWR)
    os.write(fd, b"1")
    assert os.read(fd, 1) == b"1"
    os.close(fd)


def test_existing_names_are_told_before_the_mount_is_looked_at(r: Path) -> None:
    for call in (os.mkdir, os.mkfifo):
        with fails(errno.EEXIST, errno.EROFS):
            call(r / "x")
    with fails(errno.ENOENT, errno.EROFS):
        os.unlink(r / "nothing")
    with fails(errno.EEXIST, errno.EROFS):
        os.open(r / "x", os.O_CREAT | os.O_EXCL | os.O_RDONLY)
