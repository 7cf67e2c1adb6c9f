# SPDX-License-Identifier: Apache-2.0
"""Files that the kernel reads by itself: the right bytes, no refused open, every change seen."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.gateways.fuse.mounts import Mount, mounted
from tests.gateways.fuse.passthrough.conftest import KIB, passed, require_passthrough, settle
from tests.gateways.fuse.passthrough.stopped import open_files
from tests.gateways.fuse.process.running import expect_complaints, serving_worker
from tests.servers.process import wait_for

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]


def test_a_file_at_hand_is_read_and_mapped_while_the_mount_stands_still(mount: Mount, path: Path) -> None:
    assert passed(mount, path)


def test_bytes_end_and_what_follows_the_end_in_a_mapping_are_right(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_RDONLY)
    with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        assert os.pread(fd, 1 << 20, 0) == content
        assert os.pread(fd, 100, len(content) - 3) == content[-3:]
        assert os.pread(fd, 100, len(content)) == b""
        assert os.lseek(fd, 0, os.SEEK_END) == os.fstat(fd).st_size == len(content)
        assert mapped[:] == content
    rest = -len(content) % PAGE
    at = libc.mmap(None, len(content), mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
    assert ctypes.string_at(at + len(content), rest) == bytes(rest)
    libc.munmap(ctypes.c_void_p(at), len(content))
    os.close(fd)


def test_files_that_are_short_or_longer_than_a_block_are_read_as_ever(mount: Mount) -> None:
    for name, size in (("short", 5000), ("long", (4 << 20) + 1)):
        path = mount.point / name
        path.write_bytes(data := os.urandom(size))
        assert not passed(mount, path)
        assert path.read_bytes() == data


def test_a_file_of_several_pieces_and_a_hole_is_passed_through(mount: Mount) -> None:
    path = mount.point / "pieces"
    expected = bytearray(200 * KIB)
    with path.open("wb") as file:
        file.truncate(len(expected))
        for at in (0, 50 * KIB, 49 * KIB, 150 * KIB + 3):
            expected[at : at + 5000] = data = os.urandom(5000)
            os.pwrite(file.fileno(), data, at)
            os.fsync(file.fileno())
    settle(mount, path)
    assert path.read_bytes() == expected


def test_a_writer_may_open_it_and_readers_see_what_it_writes(mount: Mount, path: Path, content: bytes) -> None:
    reader = os.open(path, os.O_RDONLY)
    with mmap.mmap(reader, 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        writer = os.open(path, os.O_RDWR)
        assert os.pread(writer, 1 << 20, 0) == content
        for at in (0, 100_001, len(content) - 1):
            os.pwrite(writer, b"changed", at)
            expected = os.pread(writer, 1 << 20, 0)
            assert expected[at : at + 7] == b"changed"
            assert os.pread(reader, 1 << 20, 0) == expected
            assert mapped[:] == expected[: len(content)]
        os.close(reader)
        os.pwrite(writer, b"after the reader's close", 5)
        assert mapped[5:29] == b"after the reader's close"
        os.close(writer)
    assert path.read_bytes()[5:29] == b"after the reader's close"


@pytest.mark.parametrize("how", ["shorter", "longer", "punch", "allocate", "copy", "append", "open with O_TRUNC"])
def test_every_kind_of_change_reaches_readers(how: str, path: Path, content: bytes) -> None:
    reader = os.open(path, os.O_RDONLY)
    assert os.pread(reader, 10, 0) == content[:10]
    expected = bytearray(content)
    if how == "shorter":
        os.truncate(path, 70_000)
        del expected[70_000:]
    elif how == "longer":
        os.truncate(path, len(content) + 10_000)
        expected += bytes(10_000)
    elif how == "open with O_TRUNC":
        path.write_bytes(b"something else")
        expected[:] = b"something else"
    else:
        writer = os.open(path, os.O_RDWR | (os.O_APPEND if how == "append" else 0))
        if how == "append":
            os.write(writer, b"more")
            expected += b"more"
        elif how == "allocate":
            os.posix_fallocate(writer, 0, len(content) + 5000)
            expected += bytes(5000)
        elif how == "punch":
            punch(writer, 8192, 70_000)
            expected[8192:78192] = bytes(70_000)
        elif how == "copy":
            source = os.open(path.parent / "source", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
            os.write(source, b"s" * 20_000)
            assert os.copy_file_range(source, writer, 20_000, 0, 30_000) == 20_000
            expected[30_000:50_000] = b"s" * 20_000
            os.close(source)
        os.close(writer)
    assert os.fstat(reader).st_size == len(expected)
    assert os.pread(reader, 1 << 20, 0) == expected
    os.close(reader)
    assert path.read_bytes() == expected


def test_descriptors_of_all_kinds_at_random(mount: Mount, path: Path, content: bytes) -> None:
    """No open is refused, and whoever reads sees the file as it is."""
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    model = bytearray(content)
    held: list[tuple[int, int]] = []
    for _ in range(400):
        step = rng.random()
        if step < 0.3:
            flags = rng.choice([os.O_RDONLY, os.O_RDONLY, os.O_RDONLY, os.O_RDWR, os.O_WRONLY])
            held.append((os.open(path, flags), flags))
        elif step < 0.5 and held:
            os.close(held.pop(rng.randrange(len(held)))[0])
        elif step < 0.6 and held:
            for fd, _ in held:
                os.close(fd)
            held.clear()
        elif step < 0.7:
            size = rng.choice([len(model), rng.randrange(60 * KIB, 400 * KIB)])
            os.truncate(path, size)
            model[:] = (model + bytes(max(0, size - len(model))))[:size]
        elif writers := [fd for fd, flags in held if flags != os.O_RDONLY]:
            at, data = rng.randrange(len(model)), rng.randbytes(rng.randrange(1, 9000))
            os.pwrite(rng.choice(writers), data, at)
            model[len(model) :] = bytes(max(0, at + len(data) - len(model)))
            model[at : at + len(data)] = data
        for fd, flags in held:
            if flags != os.O_WRONLY:
                at = rng.randrange(len(model))
                assert os.pread(fd, 20_000, at) == model[at : at + 20_000], (flags, at)
    for fd, _ in held:
        os.close(fd)
    assert path.read_bytes() == model


def test_what_a_writer_stores_into_a_mapping_is_in_the_file(mount: Mount, path: Path, content: bytes) -> None:
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    mapped = mmap.mmap(writer, 0, mmap.MAP_SHARED)
    mapped[1000:1005] = b"store"
    assert os.pread(reader, 5, 1000) == os.pread(writer, 5, 1000) == b"store"
    os.pwrite(writer, b"write", 1005)
    os.close(writer)
    mapped[200_000:200_005] = b"later"
    os.close(reader)
    mapped.close()
    expected = bytearray(content)
    expected[1000:1010], expected[200_000:200_005] = b"storewrite", b"later"
    assert path.read_bytes() == expected
    with mount.second() as other:
        theirs = other.point / path.name
        wait_for(lambda: theirs.read_bytes() == expected, 10, "what was stored after the descriptor was closed")


def test_after_a_crash_of_the_worker_readers_still_see_changes(content: bytes) -> None:
    require_passthrough()
    with mounted("sqlite", "--passthrough") as mount:
        expect_complaints(mount)  # of the crash
        path = mount.point / "file"
        path.write_bytes(content)
        settle(mount, path)
        reader = os.open(path, os.O_RDONLY)
        assert os.pread(reader, 1 << 20, 0) == content
        os.kill(serving_worker(mount), signal.SIGKILL)
        again = os.open(path, os.O_RDONLY)
        assert os.pread(again, 1 << 20, 0) == os.pread(reader, 1 << 20, 0) == content
        with path.open("r+b") as file:
            file.write(b"changed")
        assert os.pread(reader, 7, 0) == os.pread(again, 7, 0) == b"changed"
        os.close(reader)
        os.close(again)
        settle(mount, path)


@pytest.mark.parametrize("left", ["descriptors", "the mapping", "nothing"])
def test_what_was_stored_into_a_mapping_survives_a_crash_of_the_worker(content: bytes, left: str) -> None:
    """It lies in the copy alone until the worker looks: stopped first, it surely hasn't."""
    require_passthrough()
    with mounted("sqlite", "--passthrough") as mount:
        expect_complaints(mount)  # of the crash
        path = mount.point / "file"
        path.write_bytes(content)
        settle(mount, path)
        reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
        # Not by the module mmap, which keeps a descriptor.
        at = libc.mmap(None, len(content), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, writer, 0)
        os.pwrite(writer, b"written", 990)
        worker = serving_worker(mount)
        if left != "descriptors":
            os.close(reader)
            os.close(writer)
        os.kill(worker, signal.SIGSTOP)
        ctypes.memmove(at + 1000, b"stored", 6)
        ctypes.memmove(at + len(content) - 3, b"end", 3)
        if left == "nothing":
            libc.munmap(ctypes.c_void_p(at), len(content))
        os.kill(worker, signal.SIGKILL)
        expected = bytearray(content)
        expected[990:997], expected[1000:1006], expected[-3:] = b"written", b"stored", b"end"
        assert path.read_bytes() == expected
        if left == "descriptors":
            assert os.pread(reader, 1 << 20, 0) == os.pread(writer, 1 << 20, 0) == expected
            ctypes.memmove(at + 2000, b"later", 5)
            os.pwrite(writer, b"then", 2001)
            expected[2000:2005] = b"lthen"
            assert os.pread(reader, 1 << 20, 0) == expected
            os.close(reader)
            os.close(writer)
        if left != "nothing":
            libc.munmap(ctypes.c_void_p(at), len(content))
        with mount.second() as other:
            theirs = other.point / path.name
            wait_for(lambda: theirs.read_bytes() == expected, 10, "what was stored, in the volume")


def test_what_was_stored_just_before_the_unmount_is_in_the_volume(content: bytes) -> None:
    require_passthrough()
    with mounted("sqlite", "--passthrough") as mount:
        path = mount.point / "file"
        path.write_bytes(content)
        settle(mount, path)
        reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
        at = libc.mmap(None, len(content), mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, writer, 0)
        os.close(reader)
        os.close(writer)
        ctypes.memmove(at + 1000, b"stored", 6)
        libc.munmap(ctypes.c_void_p(at), len(content))
        mount.stop()
        mount.start()
        assert path.read_bytes() == content[:1000] + b"stored" + content[1006:]


def test_stores_and_writes_of_one_file_at_the_same_time_lose_nothing(mount: Mount, path: Path, content: bytes) -> None:
    """Who stores into a mapping is not undone by what is written beside it, nor by the worker that takes it over."""
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    expected = bytearray(content)
    with mmap.mmap(writer, 0, mmap.MAP_SHARED) as mapped:
        for number in range(3000):
            at = number % 500 * 16
            mapped[at : at + 8] = expected[at : at + 8] = number.to_bytes(8, "big")
            if number % 3 == 0:
                at += 8
                expected[at : at + 8] = number.to_bytes(8, "little")
                os.pwrite(writer, number.to_bytes(8, "little"), at)
            if number % 50 == 0:
                os.fsync(writer)
                assert mapped[:8000] == expected[:8000], number
    os.close(reader)
    os.close(writer)
    assert path.read_bytes() == expected


def test_another_mounts_changes_are_seen(mount: Mount, path: Path, content: bytes) -> None:
    reader = os.open(path, os.O_RDONLY)
    with mount.second() as other:
        theirs = other.point / path.name
        with theirs.open("r+b") as file:
            file.write(b"theirs")
        wait_for(lambda: os.pread(reader, 6, 0) == b"theirs", 10, "what the other mount wrote")
        with theirs.open("ab") as file:
            file.write(b"!" * 5000)

        def told() -> bool:
            size = os.fstat(reader).st_size
            assert len(os.pread(reader, 1 << 20, 0)) >= size
            return size == len(content) + 5000

        wait_for(told, 10, "the new size")
        os.truncate(theirs, 100_000)
        wait_for(lambda: os.stat(path).st_size == 100_000, 10, "the shorter size")
        assert len(os.pread(reader, 1 << 20, 0)) == 100_000
    os.close(reader)


def test_a_removed_file_is_read_on(path: Path, content: bytes) -> None:
    reader = os.open(path, os.O_RDONLY)
    path.unlink()
    assert os.pread(reader, 1 << 20, 0) == content
    os.close(reader)


def test_locks_and_attributes_still_work(path: Path) -> None:
    reader = os.open(path, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_EX)
    other = os.open(path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(reader)
    os.utime(path, ns=(1, 2_000_000_000))
    assert os.fstat(other).st_mtime_ns == 2_000_000_000
    os.close(other)


def test_copies_and_numbers_are_given_back(mount: Mount) -> None:
    """Copies of closed files are kept, up to a limit; those of open ones are not forgotten."""
    for number in range(80):
        path = mount.point / f"many-{number}"
        path.write_bytes(os.urandom(4 << 20))
        time.sleep(0)
        path.read_bytes()
        path.read_bytes()
    assert open_files(mount) * (4 << 20) <= 300 << 20


def test_without_the_option_nothing_is_passed_through() -> None:
    with mounted("sqlite", "--no-passthrough") as mount:
        path = mount.point / "file"
        path.write_bytes(os.urandom(300 * KIB))
        assert not passed(mount, path)


@pytest.mark.parametrize("settings", [{"compression": "lz4"}, {"block_size": 1024}], ids=lambda s: str(s))
def test_blocks_that_are_stored_otherwise(settings: dict[str, object]) -> None:
    with mounted("sqlite", "--passthrough", **settings) as mount:
        path = mount.point / "file"
        path.write_bytes(data := os.urandom(300 * KIB))
        for _ in range(5):
            assert path.read_bytes() == data


def punch(fd: int, offset: int, length: int) -> None:
    mode = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "fallocate")
