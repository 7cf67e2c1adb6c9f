# SPDX-License-Identifier: Apache-2.0
"""Extended attributes: flags, sizes, names, rights, kinds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.expect import fails, make
from tests.gateways.fuse.posix.places import Place


@pytest.fixture
def x(d: Path) -> Path:
    calls.put(d / "x", b"")
    return d / "x"


@pytest.mark.every_engine
@pytest.mark.parametrize("kind", ["file", "dir"])
def test_set_get_list_remove(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    path = d / "x"
    assert os.listxattr(path) == []
    os.setxattr(path, "user.one", b"1")
    os.setxattr(path, "user.two", b"\0\xff binary \0")
    os.setxattr(path, "trusted.three", b"3")
    assert sorted(os.listxattr(path)) == ["trusted.three", "user.one", "user.two"]
    assert os.getxattr(path, "user.two") == b"\0\xff binary \0"
    os.setxattr(path, "user.one", b"another value")
    assert os.getxattr(path, "user.one") == b"another value"
    os.removexattr(path, "user.one")
    assert sorted(os.listxattr(path)) == ["trusted.three", "user.two"]
    with fails(errno.ENODATA):
        os.getxattr(path, "user.one")
    with fails(errno.ENODATA):
        os.removexattr(path, "user.one")


@pytest.mark.every_engine
def test_create_and_replace(x: Path) -> None:
    with fails(errno.ENODATA):
        os.setxattr(x, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(x, "user.a", b"1", os.XATTR_CREATE)
    with fails(errno.EEXIST):
        os.setxattr(x, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(x, "user.a", b"3", os.XATTR_REPLACE)
    assert os.getxattr(x, "user.a") == b"3"


@pytest.mark.every_engine
def test_an_empty_value_is_a_value(x: Path) -> None:
    os.setxattr(x, "user.a", b"")
    assert os.getxattr(x, "user.a") == b""
    assert os.listxattr(x) == ["user.a"]
    os.removexattr(x, "user.a")
    assert os.listxattr(x) == []


@pytest.mark.parametrize("size", [1, 255, 1000, 3000])
def test_values_of_some_size(x: Path, size: int) -> None:
    value = os.urandom(size)
    os.setxattr(x, "user.a", value)
    assert os.getxattr(x, "user.a") == value


def test_the_largest_value(place: Place, x: Path) -> None:
    if not place.ours:
        pytest.skip(f"{place.name} holds less than the 64 KiB of the format")
    value = os.urandom(65536)
    os.setxattr(x, "user.a", value)
    assert os.getxattr(x, "user.a") == value


def test_values_beyond_the_limit(x: Path) -> None:
    with fails(errno.E2BIG, errno.ERANGE, errno.ENOSPC):
        os.setxattr(x, "user.a", bytes(65537))
    assert os.listxattr(x) == []


def test_names_up_to_255_bytes(x: Path) -> None:
    name = "user." + "n" * 250
    os.setxattr(x, name, b"1")
    assert os.listxattr(x) == [name]
    with fails(errno.ERANGE):
        os.setxattr(x, name + "n", b"1")
    with fails(errno.ERANGE, errno.ENODATA):
        os.getxattr(x, name + "n")


@pytest.mark.parametrize("name", ["", "a", "user", "user.", ".a", "unknown.a"])
def test_names_that_are_none(x: Path, name: str) -> None:
    with fails(errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE):
        os.setxattr(x, name, b"1")
    assert os.listxattr(x) == []


def test_buffers_that_are_too_small(x: Path) -> None:
    import ctypes

    os.setxattr(x, "user.a", b"12345")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(5)
    assert libc.getxattr(os.fsencode(x), b"user.a", buffer, 4) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.getxattr(os.fsencode(x), b"user.a", buffer, 5) == 5
    assert libc.getxattr(os.fsencode(x), b"user.a", None, 0) == 5
    assert libc.listxattr(os.fsencode(x), buffer, 3) == -1
    assert ctypes.get_errno() == errno.ERANGE
    assert libc.listxattr(os.fsencode(x), None, 0) == 7


@pytest.mark.parametrize("kind", ["symlink", "fifo", "socket", "char", "block"])
def test_user_attributes_are_for_files_and_directories(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    with fails(errno.EPERM):
        os.setxattr(d / "x", "user.a", b"1", follow_symlinks=False)
    with fails(errno.ENODATA, errno.EPERM):
        os.getxattr(d / "x", "user.a", follow_symlinks=False)
    os.setxattr(d / "x", "trusted.a", b"1", follow_symlinks=False)
    assert os.getxattr(d / "x", "trusted.a", follow_symlinks=False) == b"1"


@pytest.mark.every_engine
def test_rights(open_dir: Path, alice: User, bob: User) -> None:
    path = open_dir / "x"
    alice.put(path, b"", 0o644)
    alice.setxattr(path, "user.a", b"1")
    assert bob.getxattr(path, "user.a") == b"1"
    with fails(errno.EACCES):
        bob.setxattr(path, "user.a", b"2")
    with fails(errno.EACCES):
        bob.removexattr(path, "user.a")
    alice.chmod(path, 0o600)
    with fails(errno.EACCES):
        bob.getxattr(path, "user.a")
    assert bob.listxattr(path) == ["user.a"]
    with fails(errno.EPERM):
        alice.setxattr(path, "trusted.a", b"1")
    os.setxattr(path, "trusted.a", b"1")
    assert "trusted.a" not in alice.listxattr(path)
    with fails(errno.ENODATA):
        alice.getxattr(path, "trusted.a")


def test_only_the_owner_marks_a_sticky_directory(d: Path, alice: User) -> None:
    os.mkdir(d / "x")
    os.chmod(d / "x", 0o1777)
    with fails(errno.EPERM):
        alice.setxattr(d / "x", "user.a", b"1")


def test_they_belong_to_the_inode(d: Path, x: Path) -> None:
    os.setxattr(x, "user.a", b"1")
    os.link(x, d / "y")
    os.rename(x, d / "z")
    assert os.getxattr(d / "y", "user.a") == b"1"
    os.setxattr(d / "z", "user.a", b"2")
    assert os.getxattr(d / "y", "user.a") == b"2"
    os.unlink(d / "y")
    os.unlink(d / "z")
    calls.put(d / "z", b"")
    assert os.listxattr(d / "z") == []


def test_many(x: Path, place: Place) -> None:
    names = {f"user.name-{i:03}" for i in range(60)}
    for name in names:
        os.setxattr(x, name, name.encode())
    assert set(os.listxattr(x)) == names
    assert all(os.getxattr(x, name) == name.encode() for name in names)


def test_capabilities_are_lost_by_a_write(place: Place, open_dir: Path, alice: User) -> None:
    path = open_dir / "x"
    calls.put(path, b"1", 0o777)
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(path, "security.capability", capability)
    assert os.getxattr(path, "security.capability") == capability
    alice.add(path, b"2")
    with fails(errno.ENODATA):
        os.getxattr(path, "security.capability")
