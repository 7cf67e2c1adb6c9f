# SPDX-License-Identifier: Apache-2.0
"""setuid and setgid of files go when somebody without the privilege changes what is in them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.expect import mode_of
from tests.gateways.fuse.posix.places import Place


def _write(a: Actor, fd: int) -> None:
    a.write(fd, b"1")


def _fallocate(a: Actor, fd: int) -> None:
    a.fallocate(fd, 0, 0, 100_000)


CHANGES: dict[str, Callable[[Actor, int], Any]] = {
    "write": _write,
    "pwrite": lambda a, fd: a.pwrite(fd, b"1", 100),
    "ftruncate": lambda a, fd: a.ftruncate(fd, 1),
    "fallocate": _fallocate,
    "copy_file_range": lambda a, fd: a.copy_file_range(fd, 0, fd, 7000, 100),
    "punch": lambda a, fd: a.fallocate(fd, calls.FALLOC_PUNCH_HOLE | calls.FALLOC_KEEP_SIZE, 0, 4096),
}
#: mode -> what a write by somebody else leaves
LEFT = {
    0o4777: 0o777, 0o6777: 0o777, 0o2777: 0o777, 0o4666: 0o666, 0o1777: 0o1777, 0o7777: 0o1777,
}  # fmt: skip


@pytest.mark.every_engine
@pytest.mark.parametrize("mode", LEFT)
@pytest.mark.parametrize("change", CHANGES)
def test_somebody_else_writes(open_dir: Path, alice: User, bob: User, change: str, mode: int) -> None:
    alice.put(open_dir / "x", b"content" * 2000)
    alice.chmod(open_dir / "x", mode)
    fd = bob.open(open_dir / "x", os.O_RDWR)
    assert oct(mode_of(open_dir / "x")) == oct(mode)
    CHANGES[change](bob, fd)
    bob.close(fd)
    assert oct(mode_of(open_dir / "x")) == oct(LEFT[mode])


@pytest.mark.every_engine
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6755])
def test_the_owner_writes(open_dir: Path, alice: User, mode: int) -> None:
    alice.put(open_dir / "x", b"content")
    alice.chmod(open_dir / "x", mode)
    alice.add(open_dir / "x", b"1")
    assert oct(mode_of(open_dir / "x")) == oct(0o755)


@pytest.mark.every_engine
@pytest.mark.parametrize("change", CHANGES)
def test_root_writes(open_dir: Path, root: Actor, change: str) -> None:
    calls.put(open_dir / "x", b"content" * 2000)
    os.chmod(open_dir / "x", 0o6755)
    fd = os.open(open_dir / "x", os.O_RDWR)
    CHANGES[change](root, fd)
    os.close(fd)
    assert oct(mode_of(open_dir / "x")) == oct(0o6755)


@pytest.mark.parametrize("change", ["read", "chmod", "utime", "link", "rename", "setxattr"])
def test_what_leaves_the_bits(open_dir: Path, alice: User, change: str) -> None:
    path = open_dir / "x"
    alice.put(path, b"content")
    alice.chmod(path, 0o6755)
    if change == "read":
        alice.get(path)
    elif change == "chmod":
        alice.chmod(path, 0o6711)
    elif change == "utime":
        alice.utime(path)
    elif change == "link":
        alice.link(path, open_dir / "y")
    elif change == "rename":
        alice.rename(path, open_dir / "y")
        path = open_dir / "y"
    else:
        alice.setxattr(path, "user.a", b"1")
    assert oct(mode_of(path) & 0o6000) == oct(0o6000)


def test_o_trunc_clears_them(open_dir: Path, alice: User, bob: User) -> None:
    alice.put(open_dir / "x", b"content")
    alice.chmod(open_dir / "x", 0o6777)
    bob.put(open_dir / "x", b"")
    assert oct(mode_of(open_dir / "x")) == oct(0o777)


def test_a_file_in_a_setgid_directory_keeps_no_setgid_of_a_foreign_group(d: Path, alice: User) -> None:
    """Somebody outside of the directory's group can't make a program that runs with that group."""
    os.mkdir(d / "p")
    os.chown(d / "p", 0, 60100)
    os.chmod(d / "p", 0o2777)
    alice.may_open(d / "p" / "x", os.O_CREAT | os.O_RDWR, 0o2775)
    found = os.stat(d / "p" / "x")
    assert (found.st_gid, oct(mode_of(d / "p" / "x"))) == (60100, oct(0o775))


def test_mapped_writes_by_root_leave_them(place: Place, d: Path) -> None:
    calls.put(d / "x", bytes(4096))
    os.chmod(d / "x", 0o6755)
    fd = os.open(d / "x", os.O_RDWR)
    with mmap.mmap(fd, 4096) as memory:
        memory[0] = 1
    os.close(fd)
    assert oct(mode_of(d / "x")) == oct(0o6755)
