# SPDX-License-Identifier: Apache-2.0
"""Volume suite: what a shrinking file leaves behind: nothing. And chunks that others leave behind are found.

Source: spec metadata-semantics §6.4, §6.7, §8.3, §14.1.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.recent import RecentRecords
from core.meta.records import CHUNK_SIZE, FLAG_APPEND, ROOT, Slice, encode_slices
from core.meta.store import DELETE, PUT
from core.object.memory import MemStore
from tests.conformance.volume.base import NOW, VolumeBase
from tests.conformance.volume.changelog import lines, with_log
from tests.conformance.volume.datapath import Client, delayed, require_nothing_lost, stored

KIB = 1 << 10


def once(meta: Meta, act: Callable[[], Awaitable[object]]) -> None:
    """Something happens after the next truncation has read what it wants to change, before it commits."""
    find, done = meta._find, False

    async def wrapped(*args: Any) -> Any:
        nonlocal done
        found = await find(*args)
        if not done:
            done = True
            await act()
        return found

    meta._find = wrapped  # type: ignore[method-assign]


class Lengths(VolumeBase):
    @pytest.fixture
    async def cutter(self, meta: Meta) -> AsyncIterator[Client]:
        """A client with real objects; in the end no slice may be lost, and none left over."""
        client = Client(meta, MemStore())
        await self.set_trash(meta, 0)
        yield client
        await client.idle()
        await require_nothing_lost(meta, client.objects)
        await client.close()

    @pytest.fixture
    async def beside(self, cutter: Client) -> AsyncIterator[Client]:
        beside = Client.beside(cutter, cutter.meta.clock_ns)
        beside.meta.use_format(cutter.meta.format)
        yield beside
        await beside.close()

    async def three_chunks(self, meta: Meta, name: bytes = b"f") -> int:
        ino, _ = await meta.create(ROOT, name)
        for index in range(3):
            await meta.write_slices(ino, index, [Slice(10, 7001 + index, 100, 0, 100)], NOW + index)
        return ino

    async def chunks(self, meta: Meta) -> list[tuple[int, int]]:
        return sorted([(key[1], key[2]) async for key, _ in meta.store.scan(k.CHUNK)])

    @pytest.mark.parametrize(("length", "left"), [
        (0, []), (1, [0]), (CHUNK_SIZE, [0]), (CHUNK_SIZE + 1, [0, 1]), (2 * CHUNK_SIZE, [0, 1]),
        (2 * CHUNK_SIZE + 50, [0, 1, 2]),
    ])  # fmt: skip
    async def test_whole_chunks_behind_the_new_end_go(self, meta: Meta, length: int, left: list[int]) -> None:
        await self.set_trash(meta, 0)
        ino = await self.three_chunks(meta)
        assert (await meta.truncate(ino, length)).length == length
        await self.idle(meta)
        assert await self.chunks(meta) == [(ino, index) for index in left]
        assert sorted(self.removed) == [(7001 + index, 100) for index in range(3) if index not in left]
        await meta.truncate(ino, 5 * CHUNK_SIZE)
        for index in range(len(left), 3):
            assert not any(s.id for s in await meta.read_chunk(ino, index))
        await meta.unlink(ROOT, b"f")
        await self.idle(meta)
        assert await self.chunks(meta) == []
        assert sorted(self.removed) == [(7001 + index, 100) for index in range(3)]

    @pytest.mark.parametrize("known", [True, False])
    async def test_emptying_a_file_costs_no_more_than_cutting_it(self, meta: Meta, known: bool) -> None:
        ino, _ = await meta.create(ROOT, b"f")
        most = 3 if meta.store.name == "tikv" else 2
        for length in (0, 50):
            await meta.write_slices(ino, 0, [Slice(0, 7001 + length, 100, 0, 100)], NOW + length)
            await meta.slice_ids.take()  # so that a batch of ids is at hand
            if not known and meta.store.recent is not None:
                meta.store.recent = RecentRecords()
            with meta.store.round_trips() as trips:
                await meta.truncate(ino, length)
            assert trips.count <= most

    async def test_slices_wait_for_the_trash_days(self, meta: Meta) -> None:
        await self.set_trash(meta, 2)
        ino = await self.three_chunks(meta)
        await meta.truncate(ino, CHUNK_SIZE)
        assert await delayed(meta) == {7002, 7003}
        await meta.truncate(ino, 0)
        assert await delayed(meta) == {7001, 7002, 7003}
        assert await self.chunks(meta) == [] and self.removed == []
        assert await meta.clean_delayed_slices(-3600) == 2
        await self.idle(meta)
        assert sorted(self.removed) == [(7001 + index, 100) for index in range(3)]

    async def test_what_a_copy_uses_stays(self, cutter: Client, beside: Client) -> None:
        meta, data = cutter.meta, random.Random(1).randbytes(90 * KIB)
        ino, _ = await meta.create(ROOT, b"f")
        await cutter.write(ino, 0, data)
        copy, _ = await meta.create(ROOT, b"copy")
        clone = await meta.clone(ino, ROOT, b"clone")
        await meta.copy_file_range(ino, 0, copy, 0, len(data))
        await beside.meta.truncate(ino, 0)
        await beside.idle()
        assert await cutter.read(copy) == await cutter.read(clone.ino) == data
        await meta.truncate(clone.ino, 0)
        await beside.meta.truncate(copy, 0)
        await cutter.idle()
        await beside.idle()
        assert await stored(cutter.objects) == set()

    async def test_a_record_that_comes_at_the_last_moment_goes_too(self, cutter: Client, beside: Client) -> None:
        """The write is before the cut then, or after it: never a part of both."""
        meta = cutter.meta
        ino, _ = await meta.create(ROOT, b"f")
        await cutter.write(ino, 0, b"a" * KIB)

        async def write() -> None:
            await beside.write(ino, 5, b"b" * KIB)
            await beside.write(ino, CHUNK_SIZE + 5, b"c" * KIB)

        once(meta, write)
        assert (await meta.truncate(ino, 0)).length == 0
        await cutter.idle()
        assert await self.chunks(meta) == [] and await stored(cutter.objects) == set()

    @pytest.mark.parametrize("trash_days", [0, 1])
    async def test_a_compaction_at_the_last_moment(self, cutter: Client, beside: Client, trash_days: int) -> None:
        for client in (cutter, beside):
            await self.set_trash(client.meta, trash_days)
        ino, _ = await cutter.meta.create(ROOT, b"f")
        for n in range(7):
            await cutter.write(ino, n * 100, b"%d" % n * 500)
        once(cutter.meta, lambda: beside.meta.compact_chunk(ino, 0))
        assert (await cutter.meta.truncate(ino, 0)).length == 0
        await cutter.idle()
        assert await self.chunks(cutter.meta) == []
        assert await stored(cutter.objects) == await delayed(cutter.meta)

    async def test_a_compaction_finds_its_chunk_removed(self, cutter: Client, beside: Client) -> None:
        meta = cutter.meta
        ino, _ = await meta.create(ROOT, b"f")
        for n in range(7):
            await cutter.write(ino, n * 100, b"%d" % n * 500)
        merge = meta.merge_slices
        assert merge is not None

        async def slow(pieces: Any, tier: int) -> Any:
            made = await merge(pieces, tier)
            await beside.meta.truncate(ino, 0)
            await beside.write(ino, 0, b"new")
            return made

        meta.merge_slices = slow
        assert await meta.compact_chunk(ino, 0) == 0
        assert await cutter.read(ino) == b"new"

    async def test_two_clients_cut_write_and_grow_one_file(self, cutter: Client, beside: Client) -> None:
        """In the end it is as long as somebody made it, and everything in it is what somebody wrote, or zero."""
        rng = random.Random(7)
        ino, _ = await cutter.meta.create(ROOT, b"f")

        async def work(client: Client, mark: bytes) -> None:
            for _ in range(25):
                at = rng.choice((0, 1, KIB, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + KIB))
                if rng.random() < 0.5:
                    await client.write(ino, at, mark * 100)
                else:
                    await client.meta.truncate(ino, at)

        await asyncio.gather(work(cutter, b"a"), work(beside, b"b"), work(cutter, b"c"))
        for client in (cutter, beside):
            await client.idle()
        length = (await cutter.meta.getattr(ino)).length
        assert all(index << 26 < max(length, 1) for _, index in await self.chunks(cutter.meta))
        for start in (0, CHUNK_SIZE - 100, CHUNK_SIZE):
            if start < length:
                index, pos = divmod(start, CHUNK_SIZE)
                seen = await cutter._read_chunk(
                    ino, index, pos, min(CHUNK_SIZE, pos + 200, length - index * CHUNK_SIZE)
                )
                assert set(seen) <= set(b"abc\0")
        await cutter.meta.unlink(ROOT, b"f")
        await cutter.idle()
        assert await self.chunks(cutter.meta) == []

    async def test_a_chunk_with_many_slices_goes_at_once_or_in_steps(self, meta: Meta) -> None:
        """More records than some databases change in one transaction."""
        await self.set_trash(meta, 0)
        ino, _ = await meta.create(ROOT, b"f")
        for index in range(3):
            for at in range(0, 150, 50):
                batch = [Slice(i * 10, 100_000 + index * 1000 + i, 10, 0, 10) for i in range(at, at + 50)]
                await meta.write_slices(ino, index, batch, NOW)
        assert (await meta.truncate(ino, 0)).length == 0
        await meta.truncate(ino, CHUNK_SIZE)
        assert not any(s.id for s in await meta.read_chunk(ino, 0) if s.pos + s.length > CHUNK_SIZE)
        await meta.unlink(ROOT, b"f")
        await self.idle(meta)
        assert len(set(self.removed)) == 450
        assert await self.chunks(meta) == []

    async def test_a_refused_cut_changes_nothing(self, meta: Meta) -> None:
        ino = await self.three_chunks(meta)
        await meta.setattr(ino, {"flags": FLAG_APPEND})
        with pytest.raises(FsError):
            await meta.truncate(ino, 0)
        assert len(await self.chunks(meta)) == 3
        await meta.setattr(ino, {"flags": 0})

    async def test_removed_chunks_are_in_the_change_log(self, meta: Meta) -> None:
        ino = await self.three_chunks(meta)
        with_log(meta)
        await meta.truncate(ino, CHUNK_SIZE)
        found = await lines(meta)
        assert found[0].startswith(f"TRUNCATE({ino},{2 * CHUNK_SIZE + 110},{CHUNK_SIZE},")
        assert found[1:] == [f"DELCHUNK({ino},2)", f"DELCHUNK({ino},1)"]

    # -- what others leave behind --------------------------------------------------------------------------------

    async def left_behind(self, meta: Meta, ino: int, indexes: list[int]) -> None:
        """As JuiceFS leaves chunks behind an end that it has cut."""
        for index in indexes:
            raw = encode_slices([Slice(0, 8000 + index, 50, 0, 50), Slice(0, 0, 0, 0, CHUNK_SIZE)])
            sliceref = k.sliceref(8000 + index, 50)
            await meta.store.commit([], [(PUT, k.chunk(ino, index), raw), (PUT, sliceref, 1)])

    @pytest.mark.parametrize("indexes", [[0], [1], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]])
    async def test_chunks_behind_the_end_go_with_their_file(self, meta: Meta, indexes: list[int]) -> None:
        await self.set_trash(meta, 0)
        ino, _ = await meta.create(ROOT, b"f")
        await self.left_behind(meta, ino, indexes)
        await meta.unlink(ROOT, b"f")
        await self.idle(meta)
        assert await self.chunks(meta) == []
        assert sorted(self.removed) == [(8000 + index, 50) for index in indexes]

    async def test_chunks_of_files_that_do_not_exist_are_found_and_released(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        living, open_file, removed = 900_001, 900_002, 900_003
        ino = await self.three_chunks(meta)
        await self.left_behind(meta, living, [3, 70])
        await self.left_behind(meta, open_file, [0])
        await self.left_behind(meta, removed, [1])
        lists = [k.sustained(meta.sid, open_file), k.delfile(removed, 5)]
        await meta.store.commit([], [(PUT, lists[0], True), (PUT, lists[1], 77)])
        assert await meta.find_lost() == {living: 70}
        assert not await meta.release_lost(ino, 2)  # it exists
        assert await meta.release_lost(living, 70)
        assert not await meta.release_lost(living, 70)
        await self.idle(meta)
        assert sorted(self.removed) == [(8003, 50), (8070, 50)]
        await meta.store.commit([], [(DELETE, key, None) for key in lists])
        for lost, last in (await meta.find_lost()).items():
            assert await meta.release_lost(lost, last)
        await self.idle(meta)
        assert await self.chunks(meta) == [(ino, index) for index in range(3)]
        assert [key async for key, _ in meta.store.scan(k.DELFILE)] == []
