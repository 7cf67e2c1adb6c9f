# SPDX-License-Identifier: Apache-2.0
"""Another door replaces a file as a whole while a mount reads it: each open sees the old file or the new one."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import time
from pathlib import Path

import pytest

from core.volume import open_volume
from tests.gateways.fuse.mounts import mounted
from tests.gateways.fuse.programs.place import sizes
from tests.gateways.fuse.two_mounts.actors import Cast
from tests.servers.process import wait_for

#: Versions have their own sizes, so that a size of one with bytes of another is found.
LENGTHS = (3_000_001, 70_000, 9_000_007, 4096, 1)


def version(number: int) -> bytes:
    return bytes([number % 251 + 1]) * LENGTHS[number % len(LENGTHS)]


def read_versions(path: Path, end: Path, seed: int, lenient: bool) -> tuple[int, list[str]]:
    """Opens and reads the file in a few pieces, over and over; the number of opens and what was wrong."""
    rng = random.Random(seed)
    opens = 0
    wrong: list[str] = []
    while not end.exists() and len(wrong) < 5:
        fd = open_one(path)
        opens += 1
        try:
            size = os.fstat(fd).st_size
            data, piece = b"", rng.choice([1 << 16, 1 << 20, 1 << 22])
            while part := os.pread(fd, piece, len(data)):
                data += part
                if rng.random() < 0.1:
                    time.sleep(rng.random() * 0.02)  # so that replacing falls between two reads
            if len(set(data)) != 1:
                wrong.append(f"a mix of {sorted(set(data))}")
            elif data != version_of(data):
                wrong.append(f"{len(data)} bytes of version {data[0]}")
            elif size != len(data):
                wrong.append(f"{len(data)} bytes, fstat told {size}")
        except OSError as e:
            if not lenient:
                wrong.append(f"{e}")
        finally:
            os.close(fd)
    return opens, wrong


def open_one(path: Path) -> int:
    """Opening a name that is always there. The kernel looks it up again when what it remembered is gone, but only once:
    a file that is replaced right between that and the open is ESTALE, and opening it anew is all one can do."""
    for _ in range(5):
        try:
            return os.open(path, os.O_RDONLY)
        except OSError as e:
            if e.errno != errno.ESTALE:
                raise
    raise AssertionError("replaced between lookup and open, five times in a row")


def version_of(data: bytes) -> bytes:
    """The version that begins with that byte and has that length, if there is one."""
    return next((v for n in range(1255) if (v := version(n))[0] == data[0] and len(v) == len(data)), b"")


async def publish(meta_url: str, path: bytes, numbers: range) -> None:
    volume = await open_volume(meta_url)
    try:
        for number in numbers:
            await volume.fs.publish(path, await volume.fs.content_of(version(number)))
    finally:
        await volume.close()


def publish_many(meta_url: str, path: bytes, count: int) -> None:
    asyncio.run(publish(meta_url, path, range(1, count + 1)))


async def test_an_open_after_a_replacement_finds_the_new_file() -> None:
    """Though the kernel remembers for a second which file had the name, and that one is gone."""
    with mounted(os.environ.get("FUSE_TESTS_ENGINE", "redis"), trash_days=0) as mount:
        for number in range(1, 40):
            await publish(mount.meta_url, b"/file", range(number, number + 1))
            data = await asyncio.to_thread((mount.point / "file").read_bytes)
            assert data == version(number), f"{len(data)} bytes of {data[:1]!r} after publishing version {number}"


@pytest.mark.parametrize("trash_days", [1, 0], ids=["with a trash", "without a trash"])
@sizes(fast=60, heavy=1000)
def test_each_open_sees_one_version(size: int, trash_days: int, tmp_path: Path) -> None:
    """Without a trash, what was replaced goes as soon as nobody of the replacing process needs it: a reader of the old
    file may get an error, but no other bytes. The name itself is always there, so opening it works."""
    with mounted(os.environ.get("FUSE_TESTS_ENGINE", "redis"), trash_days=trash_days) as mount, Cast(3) as cast:
        publish_many(mount.meta_url, b"/file", 1)
        readers = [
            cast.start(read_versions, mount.point / "file", tmp_path / "end", seed, trash_days == 0) for seed in (1, 2)
        ]
        try:
            cast.start(publish_many, mount.meta_url, b"/file", size).result()
        finally:
            (tmp_path / "end").touch()
        for reader in readers:
            opens, wrong = reader.result()
            assert opens and not wrong, "\n".join(wrong)
        # And soon, the last one.
        last = version(size)
        wait_for(lambda: (mount.point / "file").read_bytes() == last, 5, "the last version")
        mount.check()
