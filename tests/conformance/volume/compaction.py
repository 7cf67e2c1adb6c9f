# SPDX-License-Identifier: Apache-2.0
"""Volume suite: compaction and delayed slices. Source: spec metadata-semantics §7."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from core import failpoints
from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.compact import Compacted
from core.meta.data import MAX_RECORDS
from core.meta.meta import Meta
from core.meta.records import CHUNK_SIZE, ROOT, Slice
from core.object.memory import MemStore
from tests.conformance.volume.base import NOW, VolumeBase
from tests.conformance.volume.changelog import lines, with_log
from tests.conformance.volume.datapath import Client, delayed, require_nothing_lost, stored

KIB = 1 << 10


class Compaction(VolumeBase):
    @pytest.fixture
    async def client(self, meta: Meta) -> AsyncIterator[Client]:
        client = Client(meta, MemStore())
        await self.set_trash(meta, 0)
        yield client
        await client.idle()
        await require_nothing_lost(meta, client.objects)
        await client.close()

    @pytest.fixture
    async def second(self, client: Client) -> AsyncIterator[Client]:
        second = Client.beside(client, client.meta.clock_ns)
        second.meta.use_format(client.meta.format)
        yield second
        await second.close()

    @pytest.fixture
    def armed(self) -> Iterator[None]:
        yield
        failpoints.arm("")

    async def fragmented(self, client: Client, name: bytes, number: int = 6, *, seed: int = 1) -> tuple[int, bytes]:
        """A file that was written in pieces here and there, and its content."""
        rng = random.Random(seed)
        ino, _ = await client.meta.create(ROOT, name)
        model = bytearray()
        for _ in range(number):
            data = rng.randbytes(rng.randrange(1, 90 * KIB))
            at = rng.randrange(200 * KIB)
            await client.write(ino, at, data)
            model.extend(bytes(max(0, at + len(data) - len(model))))
            model[at : at + len(data)] = data
        return ino, bytes(model)

    async def test_reading_a_fragmented_chunk_compacts_it(self, client: Client) -> None:
        ino, content = await self.fragmented(client, b"f", 6)
        before = await client.meta.getattr(ino)
        assert await client.read(ino) == content
        await client.idle()
        assert len(await client.meta.read_chunk(ino, 0)) == 1
        assert await client.read(ino) == content
        assert await client.meta.getattr(ino) == before
        assert len(await stored(client.objects)) == 1

    async def test_old_slices_wait_for_the_trash_days(self, client: Client) -> None:
        meta = client.meta
        await self.set_trash(meta, 2)
        ino, content = await self.fragmented(client, b"f")
        old = await stored(client.objects)
        assert await meta.compact_chunk(ino, 0) == 5
        assert await delayed(meta) == old
        assert old < await stored(client.objects)
        for key in [key async for key, _ in meta.store.scan(k.DELSLICES)]:
            assert [s.id for s in await meta.read_chunk(ino, 0)] == [key[1]]
        await self._release(meta)
        assert await client.read(ino) == content
        assert len(await stored(client.objects)) == 1

    async def _release(self, meta: Meta) -> None:
        assert await meta.clean_delayed_slices(-3600) == 1
        assert await delayed(meta) == set()

    async def test_what_is_appended_meanwhile_stays_behind(self, client: Client) -> None:
        ino, content = await self.fragmented(client, b"f")
        merge = client.meta.merge_slices
        assert merge is not None

        async def slow(pieces: Sequence[Slice], tier: int) -> tuple[int, int] | None:
            made = await merge(pieces, tier)
            if len(await client.meta.read_chunk(ino, 0)) == 6:
                await client.write(ino, 5, b"late")
                await client.meta.truncate(ino, 50)
            return made

        client.meta.merge_slices = slow
        assert await client.meta.compact_chunk(ino, 0) >= 5
        assert await client.read(ino) == content[:5] + b"late" + content[9:50]

    async def test_two_clients_compact_one_chunk(self, client: Client, second: Client) -> None:
        ino, content = await self.fragmented(client, b"f", 12)
        removed = await asyncio.gather(client.meta.compact_chunk(ino, 0), second.meta.compact_chunk(ino, 0))
        assert sum(removed) == 11
        await client.idle()
        await second.idle()
        assert await client.read(ino) == content == await second.read(ino)
        assert len(await stored(client.objects)) == 1

    async def test_a_file_that_goes_while_it_is_compacted(self, client: Client, second: Client) -> None:
        ino, _ = await self.fragmented(client, b"f")
        merge = client.meta.merge_slices
        assert merge is not None

        async def slow(pieces: Sequence[Slice], tier: int) -> tuple[int, int] | None:
            made = await merge(pieces, tier)
            await second.meta.unlink(ROOT, b"f")
            await second.idle()
            return made

        client.meta.merge_slices = slow
        assert await client.meta.compact_chunk(ino, 0) == 0
        await client.idle()
        assert await stored(client.objects) == set()

    async def test_a_reader_with_old_records_looks_again(self, client: Client, second: Client) -> None:
        ino, content = await self.fragmented(client, b"f")
        old = await second.meta.read_chunk(ino, 0)
        await client.meta.compact_chunk(ino, 0)
        await client.idle()
        read, first = second.meta.read_chunk, True

        async def stale(ino: int, index: int) -> list[Slice]:
            nonlocal first
            given, first = (old, False) if first else (await read(ino, index), False)
            return given

        second.meta.read_chunk = stale  # type: ignore[method-assign]
        assert await second.read(ino) == content

    async def test_members_of_a_pack_are_compacted_one_by_one(self, client: Client) -> None:
        meta = client.meta
        files = [(await meta.create(ROOT, b"p%d" % i))[0] for i in range(3)]
        pieces = await asyncio.gather(*(client.slices.pack(bytes([65 + i]) * 100) for i in range(3)))
        assert len({p.id for p in pieces}) == 1
        for ino, p in zip(files, pieces, strict=True):
            await meta.write_slices(ino, 0, [Slice(0, p.id, p.size, p.off, p.length)], NOW, refs=[p.refs])
        for i, ino in enumerate(files):
            await client.write(ino, 50, b"tail")
            assert await meta.compact_chunk(ino, 0) == 1
            await client.idle()
            assert (pieces[0].id in await stored(client.objects)) == (i < 2)
        for i, ino in enumerate(files):
            assert await client.read(ino) == bytes([65 + i]) * 50 + b"tail" + bytes([65 + i]) * 46

    async def test_zeros_need_no_slice(self, client: Client) -> None:
        meta = client.meta
        ino, _ = await meta.create(ROOT, b"f")
        for length in (500, 20, 700, 100, 9000):
            await meta.truncate(ino, length)
        assert await meta.compact_chunk(ino, 0) == 4
        assert await stored(client.objects) == set()
        assert await client.read(ino) == bytes(9000)
        await client.write(ino, 300, b"x" * 100)
        await meta.truncate(ino, 350)
        await meta.truncate(ino, 1000)
        await meta.compact_chunk(ino, 0)
        assert await client.read(ino) == bytes(300) + b"x" * 50 + bytes(650)

    async def test_writes_compact_at_99_records(self, client: Client) -> None:
        meta = client.meta
        ino, _ = await meta.create(ROOT, b"f")
        for at in range(98):
            await client.write(ino, at * 3, b"abcd")
        await client.idle()
        (raw,) = await meta.store.read(k.chunk(ino, 0))
        assert len(raw) == 98 * 24
        await client.write(ino, 98 * 3, b"abcd")
        await client.idle()
        (raw,) = await meta.store.read(k.chunk(ino, 0))
        assert len(raw) == 24 or (meta.store.caps.max_writes and len(raw) < 20 * 24)
        assert await client.read(ino) == b"abc" * 99 + b"d"

    async def test_a_chunk_never_gets_too_many_records(self, client: Client) -> None:
        meta = client.meta
        ino, _ = await meta.create(ROOT, b"f")
        piece = await client.slices.pack(b"z" * 64)
        meta._in_background = 1000  # nothing in the background: every one of them is dropped
        for turn in range(60):
            batch = [Slice(turn * 7 + at * 2, piece.id, piece.size, at, 1) for at in range(60)]
            batch.append(Slice(5000 + turn, piece.id, piece.size, turn, 1))
            await meta.write_slices(ino, 0, batch, NOW + turn, refs=[0] * 61)
            await meta.store.commit([], [(2, k.sliceref(piece.id, piece.size), 61)])
            (raw,) = await meta.store.read(k.chunk(ino, 0))
            assert len(raw) // 24 <= MAX_RECORDS
        meta._in_background = 0
        assert await meta.compact_chunk(ino, 0) > 0
        assert len(await meta.read_chunk(ino, 0)) == 1

    async def test_errors_leave_the_chunk_as_it_was(self, client: Client, armed: None) -> None:
        meta = client.meta
        ino, content = await self.fragmented(client, b"f")
        merge = meta.merge_slices

        async def broken(pieces: Sequence[Slice], tier: int) -> tuple[int, int] | None:
            raise FsError(5, "the object store is away")

        meta.merge_slices = broken
        with pytest.raises(FsError, match="away"):
            await meta.compact_chunk(ino, 0)
        meta.merge_slices = merge
        failpoints.arm("compact.stored=raise")
        with pytest.raises(MetaError):
            await meta.compact_chunk(ino, 0)
        assert len(await stored(client.objects)) == 6
        failpoints.arm("compact.committed=raise")
        with pytest.raises(MetaError):
            await meta.compact_chunk(ino, 0)
        failpoints.arm("")
        assert len(await stored(client.objects)) == 7  # the old ones: nobody was told that they are free
        await meta.clean_unused_slices()
        assert len(await stored(client.objects)) == 1
        assert await client.read(ino) == content

    async def test_a_slice_that_nobody_wants_and_cannot_be_deleted_is_marked(self, client: Client, armed: None) -> None:
        meta = client.meta
        ino, _ = await self.fragmented(client, b"f")
        remove = meta.remove_slice

        async def broken(slice_id: int, size: int) -> None:
            raise FsError(5, "the object store is away")

        meta.remove_slice = broken
        failpoints.arm("compact.stored=raise")
        with pytest.raises(MetaError):
            await meta.compact_chunk(ino, 0)
        failpoints.arm("")
        assert len(await stored(client.objects)) == 7
        meta.remove_slice = remove
        assert await meta.clean_unused_slices() == 1

    async def test_a_missing_object_is_an_error_and_not_a_change(self, client: Client) -> None:
        meta = client.meta
        ino, _ = await self.fragmented(client, b"f")
        records = await meta.read_chunk(ino, 0)
        await client.idle()
        ino, _ = await self.fragmented(client, b"g", 3, seed=2)
        records = await meta.read_chunk(ino, 0)
        await client.slices.remove(records[-1].id, records[-1].size)
        with pytest.raises(MetaError, match="missing"):
            await meta.compact_chunk(ino, 0)
        assert await meta.read_chunk(ino, 0) == records
        await meta.unlink(ROOT, b"g")

    async def test_trees_are_compacted(self, client: Client) -> None:
        meta = client.meta
        d, _ = await meta.mkdir(ROOT, b"d")
        contents = {}
        for i in range(5):
            ino, content = await self.fragmented(client, b"f%d" % i, 3 + i, seed=i)
            contents[ino] = content
            await meta.rename(ROOT, b"f%d" % i, d, b"f%d" % i)
        far, _ = await meta.create(d, b"far")
        for index in (0, 3):
            for at in range(3):
                await client.write(far, index * CHUNK_SIZE + at * 10, b"0123456789ab")
        shown: list[int] = []
        report = await meta.compact_tree(ROOT, progress=lambda seen: shown.append(seen.compacted))
        assert (report.files, report.chunks, report.compacted, report.failures) == (6, 7, 7, [])
        assert report.removed == 2 + 3 + 4 + 5 + 6 + 2 + 2
        assert sorted(shown) == [1, 2, 3, 4, 5, 6, 7]
        await client.idle()
        for ino, content in contents.items():
            assert await client.read(ino) == content
        assert await meta.compact_tree(far) == Compacted(1, 2, 0, 0, [])

    async def test_a_compaction_leaves_its_line(self, client: Client) -> None:
        meta = client.meta
        ino, _ = await self.fragmented(client, b"f", 3)
        with_log(meta)
        old = await meta.read_chunk(ino, 0)
        assert await meta.compact_chunk(ino, 0) == 2
        await client.idle()
        (new,) = await meta.read_chunk(ino, 0)
        found = await lines(meta)
        assert found[0] == f"COMPACTCHUNK({ino},0,0,3,{new.pos},{new.id},{new.size})"
        assert sorted(found[1:]) == sorted(f"DELETESLICE({s.id},{s.size})" for s in old)
        meta.use_format(meta.format.changed(change_log=False))

    async def test_no_more_than_ten_chunks_at_a_time(self, client: Client) -> None:
        meta = client.meta
        files = [(await self.fragmented(client, b"f%d" % i, 5, seed=i))[0] for i in range(14)]
        merge, running, most, full = meta.merge_slices, 0, 0, asyncio.Event()
        assert merge is not None

        async def slow(pieces: Sequence[Slice], tier: int) -> tuple[int, int] | None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == 10:
                full.set()
            await full.wait()
            try:
                return await merge(pieces, tier)
            finally:
                running -= 1

        meta.merge_slices = slow
        for ino in files:
            await meta.read_chunk(ino, 0)
        await client.idle()
        assert most == 10
        for ino in files:
            await meta.read_chunk(ino, 0)
        await client.idle()
        assert [len(await meta.read_chunk(ino, 0)) for ino in files] == [1] * 14
