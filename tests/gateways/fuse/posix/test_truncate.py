# SPDX-License-Identifier: Apache-2.0
"""truncate(2) and ftruncate(2): content, times, rights, limits."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.expect import fails, make, mode_of, watch
from tests.gateways.fuse.posix.places import Place

MIB = 1 << 20


def by_path(path: Path, size: int) -> None:
    os.truncate(path, size)


def by_descriptor(path: Path, size: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


Cut = Callable[[Path, int], None]
both = pytest.mark.parametrize("cut", [by_path, by_descriptor])


@pytest.mark.every_engine
@both
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65536, 5 * MIB + 3])
def test_what_is_left_is_what_was_there(d: Path, cut: Cut, size: int) -> None:
    data = os.urandom(6 * MIB)
    calls.put(d / "x", data)
    cut(d / "x", size)
    assert os.stat(d / "x").st_size == size
    assert calls.get(d / "x") == data[:size]


@pytest.mark.every_engine
@both
def test_grows_with_zeros(d: Path, cut: Cut) -> None:
    calls.put(d / "x", b"head")
    for size in (5, 4096, 4097, MIB + 1, 9 * MIB):
        cut(d / "x", size)
        assert calls.get(d / "x") == b"head".ljust(size, b"\0")


@pytest.mark.every_engine
@both
def test_cut_bytes_never_come_back(d: Path, cut: Cut) -> None:
    calls.put(d / "x", b"x" * 300_000)
    cut(d / "x", 1000)
    cut(d / "x", 300_000)
    assert calls.get(d / "x") == b"x" * 1000 + bytes(299_000)
    cut(d / "x", 0)
    cut(d / "x", 10)
    assert calls.get(d / "x") == bytes(10)


@both
def test_through_other_descriptors(d: Path, cut: Cut) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"0123456789")
    cut(d / "x", 4)
    assert os.fstat(fd).st_size == 4
    assert os.pread(fd, 100, 0) == b"0123"
    assert os.write(fd, b"!") == 1  # the position stays where it was
    assert os.pread(fd, 100, 0) == b"0123" + bytes(6) + b"!"
    os.close(fd)


@pytest.mark.every_engine
@both
@pytest.mark.parametrize("size", [0, 3, 9, 100])
def test_moves_mtime_and_ctime(place: Place, d: Path, cut: Cut, size: int) -> None:
    calls.put(d / "x", b"123456789")
    if size == 9 and cut is by_path:
        return  # POSIX lets truncate(2) to the same size do as it likes, and file systems differ
    with watch(place, {d / "x": "cm", d: ""}):
        cut(d / "x", size)


def test_an_error_moves_nothing(place: Place, open_dir: Path, alice: User) -> None:
    calls.put(open_dir / "x", b"123", 0o644)
    with watch(place, {open_dir / "x": ""}), fails(errno.EACCES):
        alice.truncate(open_dir / "x", 0)
    assert calls.get(open_dir / "x") == b"123"


@pytest.mark.parametrize("kind", ["dir", "fifo", "socket", "char", "block"])
def test_other_kinds(d: Path, root: Actor, kind: str) -> None:
    make(root, kind, d / "x")
    with fails(errno.EISDIR if kind == "dir" else errno.EINVAL):
        os.truncate(d / "x", 0)


@both
def test_negative_sizes(d: Path, cut: Cut) -> None:
    calls.put(d / "x", b"1")
    for size in (-1, -(1 << 40)):
        with fails(errno.EINVAL):
            cut(d / "x", size)
    assert calls.get(d / "x") == b"1"


@both
def test_sizes_beyond_everything(d: Path, cut: Cut) -> None:
    calls.put(d / "x", b"1")
    try:
        cut(d / "x", (1 << 63) - 1)
    except OSError as e:
        assert e.errno in (errno.EFBIG, errno.EINVAL)
        assert os.stat(d / "x").st_size == 1
    else:
        assert os.stat(d / "x").st_size == (1 << 63) - 1


@pytest.mark.every_engine
@both
def test_terabytes_of_nothing(d: Path, cut: Cut) -> None:
    calls.put(d / "x", b"1")
    cut(d / "x", 3 << 40)
    found = os.stat(d / "x")
    assert found.st_size == 3 << 40
    assert found.st_blocks < 10_000
    fd = os.open(d / "x", os.O_RDWR)
    os.pwrite(fd, b"far", (3 << 40) - 3)
    assert os.pread(fd, 10, (3 << 40) - 5) == b"\0\0far"
    assert os.pread(fd, 3, 1 << 40) == bytes(3)
    os.close(fd)


def test_needs_the_right_of_the_moment_or_an_open_descriptor(open_dir: Path, alice: User) -> None:
    alice.put(open_dir / "x", b"12345")
    fd = alice.open(open_dir / "x", os.O_WRONLY)
    alice.chmod(open_dir / "x", 0o444)
    with fails(errno.EACCES):
        alice.truncate(open_dir / "x", 1)
    alice.ftruncate(fd, 1)
    alice.close(fd)
    assert calls.get(open_dir / "x") == b"1"


@pytest.mark.parametrize("kind", ["truncate", "ftruncate"])
def test_somebody_else_clears_setuid(open_dir: Path, alice: User, bob: User, kind: str) -> None:
    alice.put(open_dir / "x", b"12345")
    alice.chmod(open_dir / "x", 0o6777)
    if kind == "truncate":
        bob.truncate(open_dir / "x", 1)
    else:
        fd = bob.open(open_dir / "x", os.O_RDWR)
        bob.ftruncate(fd, 1)
        bob.close(fd)
    assert oct(mode_of(open_dir / "x")) == oct(0o777)


def test_the_limit_of_the_process(d: Path) -> None:
    calls.put(d / "x", b"1")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
        with fails(errno.EFBIG):
            os.truncate(d / "x", MIB + 1)
        fd = os.open(d / "x", os.O_WRONLY)
        assert os.pwrite(fd, b"12345", MIB - 3) == 3
        with fails(errno.EFBIG):
            os.pwrite(fd, b"12345", MIB)
        os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.stat(d / "x").st_size == MIB


def test_many_cuts_of_one_file(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    model = bytearray()
    for i in range(60):
        size = (i * 7919) % 20_000
        os.ftruncate(fd, size)
        model = model[:size].ljust(size, b"\0")
        os.pwrite(fd, b"abc", size // 2)
        model[size // 2 : size // 2 + 3] = b"abc"
        assert os.fstat(fd).st_size == len(model)
    assert os.pread(fd, 1 << 16, 0) == model
    os.close(fd)
