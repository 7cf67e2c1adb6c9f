# SPDX-License-Identifier: Apache-2.0
"""A path whose directory or file another mount has just replaced by a new one of the same name: calls by that path
work, though the kernel remembers for a moment what was there. All of this happens within that moment.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.expect import fails
from tests.gateways.fuse.posix.places import Place

MAKING: dict[str, Callable[[Path], object]] = {
    "create": lambda p: os.close(os.open(p, os.O_CREAT | os.O_WRONLY)),
    "create exclusively": lambda p: os.close(os.open(p, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda p: os.mknod(p, stat.S_IFREG | 0o644),
    "symlink": lambda p: os.symlink("x", p),
    "link": lambda p: os.link(p.parent.parent / "source", p),
    "link a nameless file": lambda p: _named(p),
}
USING: dict[str, Callable[[Path], object]] = {
    "open": lambda p: os.close(os.open(p, os.O_RDWR)),
    "open to cut": lambda p: os.close(os.open(p, os.O_WRONLY | os.O_TRUNC)),
    "stat": os.stat,
    "chmod": lambda p: os.chmod(p, 0o600),
    "chmod to what it is": lambda p: os.chmod(p, 0o644),
    "chown": lambda p: os.chown(p, 1, 1),
    "truncate": lambda p: os.truncate(p, 5),
    "utime": lambda p: os.utime(p, (1, 1)),
    "setxattr": lambda p: os.setxattr(p, "user.a", b"1"),
    "listxattr": os.listxattr,
    "link": lambda p: os.link(p, p.parent / "second"),
    "rename": lambda p: os.rename(p, p.parent / "moved"),
    "unlink": os.unlink,
}


def _named(path: Path) -> None:
    fd = os.open(path.parent, os.O_TMPFILE | os.O_RDWR)
    try:
        calls.link_fd(fd, path)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def second(place: Place) -> Iterator[Path]:
    with place.second() as other:
        yield other


@pytest.mark.parametrize("call", MAKING)
def test_a_name_in_a_directory_that_was_replaced(place: Place, d: Path, second: Path, call: str) -> None:
    theirs = second / d.relative_to(place.root)
    (d / "source").touch()
    (d / "folder").mkdir()
    os.stat(d / "folder")
    os.rmdir(theirs / "folder")
    os.mkdir(theirs / "folder")
    MAKING[call](d / "folder" / "new")
    assert os.listdir(theirs / "folder") == ["new"]


@pytest.mark.parametrize("call", USING)
def test_a_file_that_was_replaced(place: Place, d: Path, second: Path, call: str) -> None:
    theirs = second / d.relative_to(place.root)
    calls.put(d / "file", b"old")
    os.stat(d / "file")
    calls.put(theirs / "new", b"new content")
    os.chmod(theirs / "new", 0o644)
    os.rename(theirs / "new", theirs / "file")
    USING[call](d / "file")


def test_working_in_a_directory_that_another_mount_removed(place: Place, d: Path, second: Path) -> None:
    """Nothing can be made there; what is said is that it is gone, one way or the other."""
    theirs = second / d.relative_to(place.root)
    (d / "folder").mkdir()
    fd = os.open(d / "folder", os.O_RDONLY)
    os.rmdir(theirs / "folder")
    with fails(errno.ENOENT, errno.ESTALE):
        os.mkdir("x", dir_fd=fd)
    assert os.listdir(fd) == []
    os.close(fd)
