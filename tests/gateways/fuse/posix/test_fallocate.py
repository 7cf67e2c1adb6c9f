# SPDX-License-Identifier: Apache-2.0
"""posix_fallocate(3), fallocate(2) in all modes, holes: SEEK_HOLE, SEEK_DATA and st_blocks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import Actor, User
from tests.gateways.fuse.posix.calls import (
    FALLOC_COLLAPSE,
    FALLOC_INSERT,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
)
from tests.gateways.fuse.posix.expect import fails, make, watch
from tests.gateways.fuse.posix.places import Place

PUNCH = FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE
KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def fd(d: Path) -> Iterator[int]:
    made = os.open(d / "x", os.O_CREAT | os.O_RDWR, 0o644)
    yield made
    os.close(made)


# -- allocation ----------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
def test_allocating_makes_room_and_zeros(place: Place, d: Path, fd: int) -> None:
    os.write(fd, b"abc")
    with watch(place, {fd: "cm"}):
        os.posix_fallocate(fd, 2, 100_000)
    assert os.fstat(fd).st_size == 100_002
    assert os.pread(fd, 200_000, 0) == b"abc".ljust(100_002, b"\0")


def test_allocating_what_is_there_keeps_it(fd: int) -> None:
    os.write(fd, b"abc" * 5000)
    os.posix_fallocate(fd, 100, 200)
    assert os.pread(fd, 20_000, 0) == b"abc" * 5000
    assert os.fstat(fd).st_size == 15_000


@pytest.mark.every_engine
def test_keep_size(fd: int) -> None:
    os.write(fd, b"abc")
    calls.fallocate(fd, FALLOC_KEEP_SIZE, 0, MIB)
    assert os.fstat(fd).st_size == 3
    assert os.pread(fd, 100, 0) == b"abc"


def test_offsets_and_lengths_that_are_none(fd: int) -> None:
    for offset, length in ((-1, 10), (0, 0), (0, -1), (10, -20)):
        with fails(errno.EINVAL):
            calls.fallocate(fd, 0, offset, length)
    with fails(errno.EFBIG):
        calls.fallocate(fd, 0, (1 << 63) - 10, 20)
    assert os.fstat(fd).st_size == 0


def test_descriptors_that_may_not(d: Path, root: Actor) -> None:
    calls.put(d / "x", b"1")
    fd = os.open(d / "x", os.O_RDONLY)
    with fails(errno.EBADF):
        os.posix_fallocate(fd, 0, 10)
    os.close(fd)
    make(root, "fifo", d / "fifo")
    fd = os.open(d / "fifo", os.O_RDWR)
    with fails(errno.ESPIPE):
        os.posix_fallocate(fd, 0, 10)
    os.close(fd)
    fd = os.open(d, os.O_RDONLY)
    with fails(errno.EBADF, errno.EISDIR):
        calls.fallocate(fd, 0, 0, 10)
    os.close(fd)


def test_rights_are_those_of_the_descriptor(open_dir: Path, alice: User) -> None:
    fd = alice.open(open_dir / "x", os.O_CREAT | os.O_RDWR, 0)
    alice.posix_fallocate(fd, 0, 5000)
    assert alice.fstat(fd).st_size == 5000
    alice.close(fd)


# -- holes ---------------------------------------------------------------------------------------------------------


def test_punching_zeroes_and_keeps_the_size(place: Place, fd: int) -> None:
    data = os.urandom(300_000)
    os.write(fd, data)
    with watch(place, {fd: "cm"}):
        calls.fallocate(fd, PUNCH, 1000, 200_000)
    assert os.pread(fd, 400_000, 0) == data[:1000] + bytes(200_000) + data[201_000:]
    assert os.fstat(fd).st_size == 300_000


@pytest.mark.every_engine
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, 4096), (4095, 2), (1, 8191), (4096, 65536), (299_999, 1), (299_000, 5000), (300_000, 1), (400_000, 10),
     (0, 300_000), (0, 1 << 40)],
)  # fmt: skip
def test_punching_everywhere(fd: int, offset: int, length: int) -> None:
    data = os.urandom(300_000)
    os.write(fd, data)
    calls.fallocate(fd, PUNCH, offset, length)
    model = bytearray(data)
    end = min(offset + length, len(model))
    model[offset:end] = bytes(max(end - offset, 0))
    assert os.pread(fd, 400_000, 0) == bytes(model)
    assert os.fstat(fd).st_size == 300_000


def test_punching_without_keep_size(fd: int) -> None:
    with fails(errno.EOPNOTSUPP):
        calls.fallocate(fd, FALLOC_PUNCH_HOLE, 0, 4096)


@pytest.mark.every_engine
@pytest.mark.parametrize("keep", [0, FALLOC_KEEP_SIZE])
def test_zero_range(place: Place, fd: int, keep: int) -> None:
    place.require("zero_range")
    data = os.urandom(100_000)
    os.write(fd, data)
    with watch(place, {fd: "cm"}):
        calls.fallocate(fd, FALLOC_ZERO_RANGE | keep, 10_000, 20_001)
    assert os.pread(fd, 200_000, 0) == data[:10_000] + bytes(20_001) + data[30_001:]
    calls.fallocate(fd, FALLOC_ZERO_RANGE | keep, 90_000, 30_000)
    assert os.fstat(fd).st_size == (100_000 if keep else 120_000)
    assert os.pread(fd, 200_000, 90_000) == bytes(10_000 if keep else 30_000)


@pytest.mark.parametrize("mode", [FALLOC_COLLAPSE, FALLOC_INSERT])
def test_shifting_bytes(place: Place, fd: int, mode: int) -> None:
    block = 64 * KIB
    one, two, three = (os.urandom(block) for _ in range(3))
    os.write(fd, one + two + three)
    if place.lacks("collapse"):
        with fails(errno.EOPNOTSUPP):
            calls.fallocate(fd, mode, block, block)
        assert os.pread(fd, 1 << 20, 0) == one + two + three
        return
    calls.fallocate(fd, mode, block, block)
    wanted = one + three if mode == FALLOC_COLLAPSE else one + bytes(block) + two + three
    assert os.pread(fd, 1 << 20, 0) == wanted


@pytest.mark.parametrize("mode", [FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 0x400])
def test_modes_that_are_none(fd: int, mode: int) -> None:
    os.write(fd, b"1")
    with fails(errno.EOPNOTSUPP, errno.EINVAL):
        calls.fallocate(fd, mode, 0, 4096)


def extents(fd: int) -> list[tuple[int, int]]:
    """Where data is, as SEEK_DATA and SEEK_HOLE tell."""
    found, at, size = [], 0, os.fstat(fd).st_size
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as e:
            assert e.errno == errno.ENXIO
            break
        at = os.lseek(fd, start, os.SEEK_HOLE)
        assert at > start
        found.append((start, at))
    return found


def covers(found: list[tuple[int, int]], start: int, end: int) -> bool:
    return any(a <= start and end <= b for a, b in found)


def touches(found: list[tuple[int, int]], start: int, end: int) -> bool:
    return any(a < end and start < b for a, b in found)


@pytest.mark.every_engine
def test_seek_finds_what_was_written_and_where_nothing_was(place: Place, fd: int) -> None:
    place.require("holes_seen")
    os.pwrite(fd, b"a" * 100_000, 1 * MIB)
    os.pwrite(fd, b"b" * 100_000, 70 * MIB)
    os.ftruncate(fd, 200 * MIB)
    found = extents(fd)
    assert covers(found, MIB, MIB + 100_000) and covers(found, 70 * MIB, 70 * MIB + 100_000)
    # A file system may round to its blocks; megabytes of nothing are a hole.
    for start, end in ((0, MIB - 64 * KIB), (2 * MIB, 69 * MIB), (71 * MIB, 200 * MIB)):
        assert not touches(found, start, end), found


@pytest.mark.every_engine
def test_seek_rules(fd: int) -> None:
    os.write(fd, b"data" * 5000)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    assert os.lseek(fd, 123, os.SEEK_DATA) == 123
    assert os.lseek(fd, 123, os.SEEK_HOLE) == 20_000
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        for at in (20_000, 20_001, 1 << 40):
            with fails(errno.ENXIO):
                os.lseek(fd, at, whence)
        with fails(errno.ENXIO, errno.EINVAL):
            os.lseek(fd, -1, whence)


def test_seek_in_an_empty_file_and_in_one_hole(place: Place, fd: int) -> None:
    place.require("holes_seen")
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        with fails(errno.ENXIO):
            os.lseek(fd, 0, whence)
    os.ftruncate(fd, 10 * MIB)
    assert os.lseek(fd, 5, os.SEEK_HOLE) == 5
    with fails(errno.ENXIO):
        os.lseek(fd, 5, os.SEEK_DATA)


@pytest.mark.every_engine
def test_seek_sees_punched_holes(place: Place, fd: int) -> None:
    place.require("holes_seen")
    os.write(fd, b"d" * (4 * MIB))
    calls.fallocate(fd, PUNCH, MIB, MIB)
    assert os.lseek(fd, 0, os.SEEK_HOLE) == MIB
    assert os.lseek(fd, MIB, os.SEEK_DATA) == 2 * MIB
    assert os.lseek(fd, 2 * MIB, os.SEEK_HOLE) == 4 * MIB


def test_seek_sees_unflushed_writes_of_another_descriptor(d: Path, fd: int) -> None:
    os.ftruncate(fd, 8 * MIB)
    writer = os.open(d / "x", os.O_WRONLY)
    os.pwrite(writer, b"x" * 70_000, 4 * MIB)
    assert covers(extents(fd), 4 * MIB, 4 * MIB + 70_000)
    os.close(writer)


@pytest.mark.every_engine
def test_blocks_do_not_count_holes(place: Place, fd: int) -> None:
    place.require("fresh_blocks")
    os.ftruncate(fd, 100 * MIB)
    assert os.fstat(fd).st_blocks < 100
    os.pwrite(fd, b"x" * MIB, 50 * MIB)
    os.fsync(fd)
    blocks = os.fstat(fd).st_blocks
    assert MIB <= blocks * 512 <= 2 * MIB
    calls.fallocate(fd, PUNCH, 50 * MIB, MIB)
    os.fsync(fd)
    assert os.fstat(fd).st_blocks < blocks
    os.ftruncate(fd, 0)
    assert os.fstat(fd).st_blocks == 0


@pytest.mark.every_engine
def test_blocks_of_a_written_file(place: Place, d: Path, fd: int) -> None:
    place.require("fresh_blocks")
    os.write(fd, os.urandom(300_000))
    os.fsync(fd)
    assert 300_000 <= os.fstat(fd).st_blocks * 512 <= 400_000
    calls.put(d / "empty", b"")
    assert os.stat(d / "empty").st_blocks == 0


def test_tools_that_know_holes_see_them(d: Path, fd: int) -> None:
    import subprocess

    os.pwrite(fd, b"end", 64 * MIB)
    os.fsync(fd)
    shown = subprocess.run(["du", "-k", d / "x"], capture_output=True, text=True, check=True).stdout
    assert int(shown.split()[0]) < 1000
    subprocess.run(["cp", "--sparse=auto", d / "x", d / "y"], check=True)
    assert os.stat(d / "y").st_size == 64 * MIB + 3
    assert os.stat(d / "y").st_blocks * 512 < MIB
    assert calls.get(d / "y")[-3:] == b"end"
