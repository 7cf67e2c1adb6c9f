# SPDX-License-Identifier: Apache-2.0
"""Appending from several mounts at once, and reading meanwhile: nothing is lost, nothing is invented, nothing told is
missing. Random, with the printed seed (SLUICE_TEST_SEED repeats a run)."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from core.meta.records import CHUNK_SIZE
from core.meta.store import RecordStore
from core.vfs.posix.posix import Posix
from core.volume import open_record_store
from tests.conformance.volume.base import Ticking
from tests.conftest import seed_value
from tests.servers.engines import Engine, engine
from tests.unit.chunk.doubles import BLOCK, FaultyStore
from tests.unit.vfs.posix.names_mount import Mount, PosixSuite
from tests.unit.vfs.posix.test_files import close, content, create, read, write
from tests.unit.vfs.volume import make_client, new_volume

APPEND = os.O_WRONLY | os.O_APPEND


def records(who: int, chance: random.Random, number: int) -> list[bytes]:
    return [b"%d:%06d:" % (who, n) + b"x" * chance.randrange(3000) + b"\n" for n in range(number)]


class TestAppends(PosixSuite):
    async def test_records_of_three_mounts_are_all_kept_whole_and_in_order(self, mount: Mount, more: Any) -> None:
        chance = random.Random(seed_value())
        mounts = [mount, await more(), await more()]
        ino, fh = await create(mount, b"log")
        await close(mount, fh, ino)
        written = [records(who, chance, 60) for who in range(3)]

        async def append(who: int) -> None:
            at = mounts[who]
            fh, _ = await at.posix.open(ino, APPEND)
            for n, record in enumerate(written[who]):
                await write(at, fh, ino, 0, record, APPEND)
                if chance.random() < 0.3:
                    await at.posix.fsync(fh, ino)
                elif n % 4 == 0:
                    await asyncio.sleep(0)
            await close(at, fh, ino)

        await asyncio.gather(*(append(who) for who in range(3)))
        found = (await content(mount, ino)).splitlines(keepends=True)
        assert len(found) == 180
        for who in range(3):
            assert [r for r in found if r.startswith(b"%d:" % who)] == written[who]

    async def test_appends_pass_the_end_of_a_chunk(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount, b"log")
        await mount.posix.allocate(fh, ino, 0, 0, CHUNK_SIZE - 10)
        await close(mount, fh, ino)
        handles = [(at, (await at.posix.open(ino, APPEND))[0]) for at in (mount, other)]
        for n, (at, fh) in enumerate(handles):
            await write(at, fh, ino, 0, b"%d" % n * 100, APPEND)
        await asyncio.gather(*(close(at, fh, ino) for at, fh in handles))
        fh, _ = await mount.posix.open(ino, os.O_RDONLY)
        tail = await read(mount, fh, ino, CHUNK_SIZE - 10, 1000)
        assert tail in (b"0" * 100 + b"1" * 100, b"1" * 100 + b"0" * 100)
        await close(mount, fh, ino)

    async def test_who_appends_sees_what_it_wrote(self, mount: Mount, more: Any) -> None:
        other = await more()
        ino, fh = await create(mount, b"log", os.O_RDWR | os.O_APPEND)
        far, _ = await other.posix.open(ino, APPEND)
        await write(other, far, ino, 0, b"theirs ", APPEND)
        await other.posix.fsync(far, ino)
        await write(mount, fh, ino, 0, b"ours", os.O_RDWR | os.O_APPEND)
        assert (await mount.posix.getattr(ino)).attr.length >= 4
        assert await read(mount, fh, ino) == b"theirs ours"
        # A write at an offset comes after what was appended before it, and the other way round.
        await write(mount, fh, ino, 0, b"T", os.O_RDWR)
        await write(mount, fh, ino, 0, b"!", os.O_RDWR | os.O_APPEND)
        assert await read(mount, fh, ino) == b"Theirs ours!"
        for at, handle in ((mount, fh), (other, far)):
            await close(at, handle, ino)

    async def test_the_door_hears_of_bytes_that_went_elsewhere(self, mount: Mount, more: Any) -> None:
        other, told = await more(), []

        async def invalidate(ino: int, content: bool) -> None:
            told.append(content)

        mount.client.vfs.invalidate = invalidate
        ino, fh = await create(mount, b"log", os.O_RDWR | os.O_APPEND)
        far, _ = await other.posix.open(ino, APPEND)
        await write(other, far, ino, 0, b"theirs", APPEND)
        await close(other, far, ino)
        await write(mount, fh, ino, 0, b"ours", os.O_RDWR | os.O_APPEND)
        await mount.posix.fsync(fh, ino)
        await mount.client.idle()
        assert True in told
        await close(mount, fh, ino)


@pytest.fixture(scope="module", params=["memory", "sqlite", "redis"])
def database(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engine(request.param) as found:
        yield found


class TestReadersOfAGrowingFile:
    """One mount appends, in place or not; readers of another see every byte that they were told of, and no other."""

    @pytest.fixture
    async def stores(self, database: Engine) -> AsyncIterator[list[RecordStore]]:
        """Two connections to one volume; the memory engine is one."""
        url = database.fresh_url()
        first = open_record_store(url)
        await first.open()
        await new_volume(first)
        second = first
        if first.caps.shared and not url.startswith("memkv"):
            second = open_record_store(url)
            await second.open()
        yield [first, second]
        for store in {id(s): s for s in (first, second)}.values():
            await store.close()

    @pytest.mark.parametrize("append", [False, True])
    async def test_it(self, stores: list[RecordStore], append: bool) -> None:
        chance = random.Random(seed_value())
        objects, clock = FaultyStore(), Ticking()
        mounts = []
        for store in stores:
            client = await make_client(store, objects, clock_ns=clock, memory_budget=32 << 20)
            mounts.append(Mount(client, Posix(client.vfs)))
        writer, reader = mounts
        pattern = bytes(n * 7919 % 251 + 1 for n in range(251 * 1024))

        def expected(offset: int, n: int) -> bytes:
            at = offset % 251
            return pattern[at : at + n]

        flags = os.O_RDWR | (os.O_APPEND if append else 0)
        ino, fh = await create(writer, b"f", flags)
        done, reads = False, 0

        async def grow() -> None:
            nonlocal done
            length = 0
            try:
                for _ in range(250):
                    n = chance.choice([1, 50, 4096, 9000, BLOCK, 3 * BLOCK])
                    await write(writer, fh, ino, length, expected(length, n), flags)
                    length += n
                    if chance.random() < 0.5:
                        await writer.posix.fsync(fh, ino)
                    await asyncio.sleep(0)
            finally:
                done = True

        async def follow() -> None:
            nonlocal reads
            mine, _ = await reader.posix.open(ino, os.O_RDONLY)
            while not done:
                how = chance.random()
                if how < 0.1:
                    await close(reader, mine, ino)
                    mine, _ = await reader.posix.open(ino, os.O_RDONLY)
                node = await (reader.find(b"f") if how < 0.5 else reader.posix.getattr(ino))
                size = node.attr.length
                start = max(0, size - chance.randrange(1, 200_000))
                for at in range(start, size, 100_000):
                    n = min(100_000, size - at)
                    found = await read(reader, mine, ino, at, n + chance.choice([0, 1, 5000]))
                    assert len(found) >= n, f"told of {size} bytes, {len(found)} of {n} at {at}"
                    assert found == expected(at, len(found)), f"bytes nobody wrote at {at} of {size}"
                    reads += 1
                await asyncio.sleep(0)
            await close(reader, mine, ino)

        await asyncio.gather(grow(), *(follow() for _ in range(3)))
        await close(writer, fh, ino)
        assert reads > 50
        await reader.client.close()
        await writer.client.close(check=True)
