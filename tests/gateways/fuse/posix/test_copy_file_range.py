# SPDX-License-Identifier: Apache-2.0
"""copy_file_range(2): content, positions, overlaps, errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.expect import fails, watch
from tests.gateways.fuse.posix.places import Place

MIB = 1 << 20


def copy_all(fd_in: int, off_in: int, fd_out: int, off_out: int, length: int) -> int:
    """A call may copy less than was asked; what it says is what it did."""
    done = 0
    while done < length:
        n = calls.copy_file_range(fd_in, off_in + done, fd_out, off_out + done, length - done)
        if n == 0:
            break
        done += n
    return done


@pytest.mark.every_engine
@pytest.mark.parametrize(
    ("off_in", "off_out", "length"),
    [
        (0, 0, 3 * MIB),
        (1, 2, 100),
        (4096, 0, 4096),
        (MIB + 1, 5 * MIB + 3, MIB),
        (3 * MIB - 10, 0, 10),
        (10, 9 * MIB, 7),
    ],
)
def test_copies(d: Path, off_in: int, off_out: int, length: int) -> None:
    data, before = os.urandom(3 * MIB), os.urandom(2 * MIB)
    calls.put(d / "a", data)
    calls.put(d / "b", before)
    a, b = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_RDWR)
    assert copy_all(a, off_in, b, off_out, length) == length
    model = bytearray(before)
    model.extend(bytes(max(off_out - len(model), 0)))
    model[off_out : off_out + length] = data[off_in : off_in + length]
    assert calls.get(d / "b") == bytes(model)
    assert calls.get(d / "a") == data
    os.close(a)
    os.close(b)
    assert calls.get(d / "b") == bytes(model)


@pytest.mark.every_engine
def test_ends_with_the_source(d: Path) -> None:
    calls.put(d / "a", b"0123456789")
    a, b = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    assert calls.copy_file_range(a, 7, b, 0, 100) == 3
    assert calls.copy_file_range(a, 10, b, 0, 100) == 0
    assert calls.copy_file_range(a, 99, b, 0, 100) == 0
    assert calls.copy_file_range(a, 0, b, 0, 0) == 0
    assert os.pread(b, 100, 0) == b"789"
    os.close(a)
    os.close(b)


def test_moves_the_positions_of_descriptors(d: Path) -> None:
    calls.put(d / "a", b"0123456789")
    a, b = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    os.lseek(a, 2, 0)
    assert os.copy_file_range(a, b, 3) == 3
    assert (os.lseek(a, 0, 1), os.lseek(b, 0, 1)) == (5, 3)
    assert os.copy_file_range(a, b, 100) == 5
    assert os.pread(b, 100, 0) == b"23456789"
    os.close(a)
    os.close(b)


def test_sees_bytes_that_are_still_buffered(d: Path) -> None:
    a, b = os.open(d / "a", os.O_CREAT | os.O_RDWR), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    os.write(a, b"fresh" * 1000)
    os.write(b, b"-" * 6000)
    assert copy_all(a, 0, b, 500, 5000) == 5000
    os.pwrite(a, b"LATER", 0)
    assert os.pread(b, 6000, 0) == b"-" * 500 + b"fresh" * 1000 + b"-" * 500
    os.close(a)
    os.close(b)


@pytest.mark.every_engine
def test_within_one_file(d: Path) -> None:
    fd = os.open(d / "a", os.O_CREAT | os.O_RDWR)
    data = os.urandom(200_000)
    os.write(fd, data)
    assert copy_all(fd, 0, fd, 100_000, 100_000) == 100_000
    assert os.pread(fd, 300_000, 0) == data[:100_000] * 2
    assert copy_all(fd, 0, fd, 500_000, 200_000) == 200_000
    assert os.pread(fd, 1 << 20, 200_000) == bytes(300_000) + data[:100_000] * 2
    for off_in, off_out in ((0, 1), (1, 0), (5, 5)):
        with fails(errno.EINVAL, why="overlap"):
            calls.copy_file_range(fd, off_in, fd, off_out, 100)
    os.close(fd)


@pytest.mark.every_engine
def test_holes_stay_zeros(d: Path) -> None:
    a, b = os.open(d / "a", os.O_CREAT | os.O_RDWR), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    os.pwrite(a, b"end", 3 * MIB)
    os.write(b, b"x" * (4 * MIB))
    assert copy_all(a, 0, b, 0, 3 * MIB + 3) == 3 * MIB + 3
    assert os.pread(b, 5 * MIB, 0) == bytes(3 * MIB) + b"end" + b"x" * (MIB - 3)
    os.close(a)
    os.close(b)


def test_times(place: Place, d: Path) -> None:
    calls.put(d / "a", b"1" * 10_000)
    calls.put(d / "b", b"")
    a, b = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_WRONLY)
    with watch(place, {d / "a": "", d / "b": "cm"}):
        assert copy_all(a, 0, b, 0, 10_000) == 10_000
    os.close(a)
    os.close(b)


def test_what_it_refuses(d: Path) -> None:
    calls.put(d / "a", b"123")
    r, w = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_CREAT | os.O_WRONLY)
    for source, target in ((w, w), (r, r)):
        with fails(errno.EBADF, errno.EINVAL):
            calls.copy_file_range(source, 0, target, 0, 3)
    with fails(errno.EINVAL):
        calls.copy_file_range(r, 0, w, 0, 3, 1)
    appending = os.open(d / "b", os.O_WRONLY | os.O_APPEND)
    with fails(errno.EBADF):
        calls.copy_file_range(r, 0, appending, 0, 3)
    folder = os.open(d, os.O_RDONLY)
    with fails(errno.EISDIR):
        calls.copy_file_range(folder, 0, w, 0, 3)
    with fails(errno.EINVAL, errno.EOVERFLOW):
        calls.copy_file_range(r, -1, w, 0, 3)
    for fd in (r, w, appending, folder):
        os.close(fd)


def test_a_copy_is_independent(d: Path) -> None:
    data = os.urandom(MIB)
    calls.put(d / "a", data)
    a, b = os.open(d / "a", os.O_RDWR), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    assert copy_all(a, 0, b, 0, MIB) == MIB
    os.pwrite(a, b"changed", 100)
    os.pwrite(b, b"CHANGED", 300)
    assert os.pread(b, MIB, 0) == data[:300] + b"CHANGED" + data[307:]
    assert os.pread(a, MIB, 0) == data[:100] + b"changed" + data[107:]
    os.close(a)
    os.unlink(d / "a")
    assert os.pread(b, 300, 0) == data[:300]
    os.close(b)


def test_from_and_to_another_file_system(d: Path, tmp_path: Path) -> None:
    """The kernel falls back to reading and writing, or says that it can't."""
    calls.put(tmp_path / "a", b"abc" * 10_000)
    a, b = os.open(tmp_path / "a", os.O_RDONLY), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    try:
        assert copy_all(a, 0, b, 0, 30_000) == 30_000
    except OSError as e:
        assert e.errno in (errno.EXDEV, errno.EOPNOTSUPP)
    else:
        assert calls.get(d / "b") == b"abc" * 10_000
    os.close(a)
    os.close(b)
