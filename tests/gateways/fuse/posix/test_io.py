# SPDX-License-Identifier: Apache-2.0
"""read(2) and write(2) in all their forms: positions, vectors, the end, appending, direct, mapped, large."""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path

import pytest

from tests.gateways.fuse.posix import calls
from tests.gateways.fuse.posix.actors import People
from tests.gateways.fuse.posix.expect import fails
from tests.gateways.fuse.posix.places import Place

KIB, MIB = 1 << 10, 1 << 20
O_DIRECT = os.O_DIRECT


@pytest.mark.every_engine
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 131_071, 131_073, MIB, 5 * MIB + 1])
def test_what_is_written_is_read(d: Path, size: int) -> None:
    data = os.urandom(size)
    calls.put(d / "x", data)
    assert calls.get(d / "x") == data
    assert os.stat(d / "x").st_size == size


@pytest.mark.every_engine
def test_over_the_border_of_a_chunk(d: Path) -> None:
    border = 64 * MIB
    data = os.urandom(300_000)
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    assert os.pwrite(fd, data, border - 100_000) == 300_000
    assert os.pread(fd, 400_000, border - 100_000) == data
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 400_000, border - 150_000) == bytes(50_000) + data
    assert os.pread(fd, 10, 0) == bytes(10)
    os.close(fd)


@pytest.mark.every_engine
def test_positions(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    assert os.write(fd, b"0123456789") == 10
    assert os.read(fd, 5) == b""
    assert os.lseek(fd, -4, os.SEEK_END) == 6
    assert os.read(fd, 2) == b"67"
    assert os.lseek(fd, 1, os.SEEK_CUR) == 9
    assert os.read(fd, 100) == b"9"
    assert os.lseek(fd, 20, os.SEEK_SET) == 20
    assert os.read(fd, 5) == b""
    assert os.write(fd, b"x") == 1
    assert os.pread(fd, 100, 0) == b"0123456789" + bytes(10) + b"x"
    with fails(errno.EINVAL):
        os.lseek(fd, -1, os.SEEK_SET)
    with fails(errno.EINVAL):
        os.lseek(fd, 0, 99)
    with fails(errno.EINVAL):
        os.pread(fd, 1, -1)
    assert os.pread(fd, 1, 1 << 50) == b""
    os.close(fd)


def test_vectors(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    assert os.writev(fd, [b"one", b"", b"two", b"three" * 5000]) == 25_006
    into = [bytearray(4), bytearray(3), bytearray(50_000)]
    assert os.preadv(fd, into, 1) == 25_005
    assert (bytes(into[0]), bytes(into[1]), bytes(into[2][:6])) == (b"netw", b"oth", b"reethr")
    assert os.pwritev(fd, [b"X", b"Y"], 2) == 2
    assert os.pread(fd, 6, 0) == b"onXYwo"
    os.close(fd)


@pytest.mark.every_engine
def test_reads_see_writes_of_other_descriptors_at_once(d: Path) -> None:
    one, two = os.open(d / "x", os.O_CREAT | os.O_RDWR), os.open(d / "x", os.O_RDWR)
    for i in range(50):
        os.pwrite(one, b"%04d" % i, i * 3000)
        assert os.pread(two, 4, i * 3000) == b"%04d" % i
        assert os.fstat(two).st_size == i * 3000 + 4
        assert os.stat(d / "x").st_size == i * 3000 + 4
    os.close(one)
    os.close(two)


def test_reads_see_writes_of_other_processes_at_once(d: Path, people: People) -> None:
    other = people.another()
    fd, its = os.open(d / "x", os.O_CREAT | os.O_RDWR), other.open(d / "x", os.O_RDWR)
    for i in range(20):
        os.pwrite(fd, b"mine %d" % i, i * 5000)
        assert other.pread(its, 20, i * 5000) == b"mine %d" % i
        other.pwrite(its, b"theirs %d" % i, i * 5000)
        assert os.pread(fd, 20, i * 5000) == b"theirs %d" % i


@pytest.mark.parametrize("block", [1, 100, 512, 4096, 65_537])
def test_small_steps(d: Path, block: int) -> None:
    count = min(3000, 4 * MIB // block)
    data = os.urandom(block * count)
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    for i in range(count):
        assert os.write(fd, data[i * block : (i + 1) * block]) == block
    os.lseek(fd, 0, 0)
    read = b"".join(iter(lambda: os.read(fd, block), b""))
    os.close(fd)
    assert read == data
    assert calls.get(d / "x") == data


@pytest.mark.every_engine
def test_random_pieces(d: Path) -> None:
    rng = random.Random(1)
    model = bytearray()
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    for _ in range(300):
        offset, size = rng.randrange(1 << 20), rng.randrange(1, 30_000)
        data = rng.randbytes(size)
        os.pwrite(fd, data, offset)
        model.extend(bytes(max(offset + size - len(model), 0)))
        model[offset : offset + size] = data
        at = rng.randrange(1 << 20)
        assert os.pread(fd, 10_000, at) == model[at : at + 10_000]
    os.close(fd)
    assert calls.get(d / "x") == model


def test_the_largest_offsets(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    with fails(errno.EFBIG, errno.EINVAL):
        os.pwrite(fd, b"12", (1 << 63) - 2)
    assert os.fstat(fd).st_size == 0
    os.close(fd)


def test_closed_descriptors(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.close(fd)
    for call, args in ((os.read, (fd, 1)), (os.write, (fd, b"1")), (os.fsync, (fd,)), (os.fstat, (fd,)),
                       (os.close, (fd,))):  # fmt: skip
        with fails(errno.EBADF):
            call(*args)


def test_synchronous_writes(d: Path) -> None:
    for flag in (os.O_SYNC, os.O_DSYNC):
        fd = os.open(d / "x", os.O_CREAT | os.O_RDWR | flag)
        assert os.write(fd, b"1" * 10_000) == 10_000
        os.fdatasync(fd)
        os.fsync(fd)
        os.close(fd)
    folder = os.open(d, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    os.sync()
    assert calls.get(d / "x") == b"1" * 10_000


# -- appending -----------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
def test_appending_ignores_the_position(d: Path) -> None:
    calls.put(d / "x", b"start")
    fd = os.open(d / "x", os.O_RDWR | os.O_APPEND)
    os.lseek(fd, 0, 0)
    os.write(fd, b" one")
    assert os.lseek(fd, 0, os.SEEK_CUR) == 9
    os.lseek(fd, 2, 0)
    os.write(fd, b" two")
    assert os.pread(fd, 100, 0) == b"start one two"
    os.truncate(d / "x", 5)
    os.write(fd, b"!")
    assert os.pread(fd, 100, 0) == b"start!"
    os.close(fd)


@pytest.mark.every_engine
def test_appenders_of_one_mount_lose_nothing(d: Path, people: People) -> None:
    others = [people.another() for _ in range(3)]
    fds = [other.open(d / "x", os.O_CREAT | os.O_WRONLY | os.O_APPEND) for other in others]
    records = [[b"%d-%04d;" % (n, i) for i in range(200)] for n in range(3)]
    begun = [
        other.begin("several", [("write", (fd, record)) for record in mine])
        for other, fd, mine in zip(others, fds, records, strict=True)
    ]
    for call in begun:
        assert set(call.result(60)) == {7}
    for other, fd in zip(others, fds, strict=True):
        other.close(fd)
    found = calls.get(d / "x").split(b";")[:-1]
    assert len(found) == 600
    for n, mine in enumerate(records):
        assert [r + b";" for r in found if r.startswith(b"%d-" % n)] == mine


def test_o_append_can_be_switched(d: Path) -> None:
    import fcntl

    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"12345")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    os.lseek(fd, 0, 0)
    os.write(fd, b"67")
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    os.lseek(fd, 0, 0)
    os.write(fd, b"X")
    assert os.pread(fd, 100, 0) == b"X234567"
    os.close(fd)


# -- direct --------------------------------------------------------------------------------------------------------


def aligned(data: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(data))
    memory.write(data)
    return memory


@pytest.mark.every_engine
def test_direct_writes_and_reads(d: Path) -> None:
    data = os.urandom(MIB)
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR | O_DIRECT)
    assert os.writev(fd, [aligned(data)]) == MIB
    into = mmap.mmap(-1, MIB)
    assert os.preadv(fd, [into], 0) == MIB
    assert into[:] == data
    assert os.preadv(fd, [into], MIB - 4096) == 4096
    assert os.preadv(fd, [into], MIB) == 0
    os.close(fd)
    assert calls.get(d / "x") == data


@pytest.mark.every_engine
def test_direct_and_buffered_see_each_other(d: Path) -> None:
    direct, buffered = os.open(d / "x", os.O_CREAT | os.O_RDWR | O_DIRECT), os.open(d / "x", os.O_RDWR)
    into = mmap.mmap(-1, 8192)
    os.pwrite(buffered, b"a" * 8192, 0)
    assert os.preadv(direct, [into], 0) == 8192 and into[:] == b"a" * 8192
    os.pwritev(direct, [aligned(b"b" * 4096)], 4096)
    assert os.pread(buffered, 8192, 0) == b"a" * 4096 + b"b" * 4096
    os.pwrite(buffered, b"c" * 10, 4090)
    os.preadv(direct, [into], 0)
    assert into[4085:4105] == b"aaaaa" + b"c" * 10 + b"bbbbb"
    os.close(direct)
    os.close(buffered)


def test_a_direct_read_at_an_odd_end(d: Path) -> None:
    calls.put(d / "x", b"z" * 5000)
    fd = os.open(d / "x", os.O_RDONLY | O_DIRECT)
    into = mmap.mmap(-1, 8192)
    assert os.preadv(fd, [into], 0) == 5000
    assert into[:5001] == b"z" * 5000 + b"\0"
    os.close(fd)


# -- mapped --------------------------------------------------------------------------------------------------------


@pytest.mark.every_engine
def test_shared_mappings_and_calls_see_each_other(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 100_000)
    with mmap.mmap(fd, 100_000) as memory:
        os.pwrite(fd, b"written", 50_000)
        assert memory[50_000:50_007] == b"written"
        memory[10:16] = b"mapped"
        assert os.pread(fd, 6, 10) == b"mapped"
        memory[99_990:100_000] = b"0123456789"
        memory.flush()
    os.close(fd)
    data = calls.get(d / "x")
    assert (data[10:16], data[50_000:50_007], data[99_990:]) == (b"mapped", b"written", b"0123456789")
    assert len(data) == 100_000


@pytest.mark.every_engine
def test_mapped_writes_are_there_after_unmapping_and_closing(d: Path) -> None:
    calls.put(d / "x", bytes(10_000))
    fd = os.open(d / "x", os.O_RDWR)
    memory = mmap.mmap(fd, 10_000)
    os.close(fd)
    memory[5000] = 7
    memory.close()
    assert calls.get(d / "x")[5000] == 7
    os.sync()
    fd = os.open(d / "x", os.O_RDONLY | O_DIRECT)
    into = mmap.mmap(-1, 12_288)
    os.preadv(fd, [into], 0)
    assert into[5000] == 7
    os.close(fd)


def test_private_mappings_keep_their_changes(d: Path) -> None:
    calls.put(d / "x", b"a" * 10_000)
    fd = os.open(d / "x", os.O_RDONLY)
    with mmap.mmap(fd, 10_000, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as memory:
        memory[0:3] = b"bbb"
        assert memory[0:4] == b"bbba"
        assert os.pread(fd, 4, 0) == b"aaaa"
    os.close(fd)
    assert calls.get(d / "x") == b"a" * 10_000


def test_two_processes_share_a_mapping(d: Path, people: People) -> None:
    calls.put(d / "x", bytes(8192))
    fd = os.open(d / "x", os.O_RDWR)
    other = people.another()
    its = other.open(d / "x", os.O_RDWR)
    with mmap.mmap(fd, 8192) as memory:
        memory[4096:4100] = b"here"
        assert other.pread(its, 4, 4096) == b"here"
        other.pwrite(its, b"back", 0)
        assert memory[0:4] == b"back"
    os.close(fd)


def test_a_mapping_of_a_removed_file(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"m" * 8192)
    memory = mmap.mmap(fd, 8192)
    os.close(fd)
    os.unlink(d / "x")
    memory[0:2] = b"ok"
    memory.flush()
    assert memory[0:4] == b"okmm"
    memory.close()


def test_the_rest_of_the_last_page_is_zero_and_not_written(d: Path) -> None:
    calls.put(d / "x", b"x" * 5000)
    fd = os.open(d / "x", os.O_RDWR)
    with mmap.mmap(fd, 5000) as memory:
        memory[4999] = ord("y")
        memory.flush()
    os.ftruncate(fd, 8192)
    assert os.pread(fd, 8192, 4998) == b"xy" + bytes(3192)
    os.close(fd)


def test_a_mapping_after_the_file_was_cut_and_grown(d: Path) -> None:
    fd = os.open(d / "x", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"a" * 16_384)
    with mmap.mmap(fd, 16_384) as memory:
        assert memory[9000:9001] == b"a"
        os.ftruncate(fd, 6000)
        os.ftruncate(fd, 16_384)
        assert memory[5990:6010] == b"a" * 10 + bytes(10)
        assert memory[16_383:] == b"\0"
    os.close(fd)


def test_a_mapping_needs_the_right_descriptor(place: Place, d: Path) -> None:
    calls.put(d / "x", b"a" * 4096)
    fd = os.open(d / "x", os.O_RDONLY)
    with fails(errno.EACCES):
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_WRITE)
    os.close(fd)
    fd = os.open(d / "x", os.O_WRONLY)
    with fails(errno.EACCES):
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(fd)
    fd = os.open(d, os.O_RDONLY)
    with fails(errno.ENODEV):
        mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
    os.close(fd)


def test_sendfile_and_splice(d: Path) -> None:
    data = os.urandom(200_000)
    calls.put(d / "a", data)
    a, b = os.open(d / "a", os.O_RDONLY), os.open(d / "b", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < len(data):
        done += os.sendfile(b, a, done, len(data) - done)
    assert calls.get(d / "b") == data
    r, w = os.pipe()
    assert os.splice(a, w, 4096, offset_src=1000) == 4096
    assert os.splice(r, b, 4096, offset_dst=300_000) == 4096
    assert os.pread(b, 5000, 300_000) == data[1000:5096]
    for fd in (a, b, r, w):
        os.close(fd)
