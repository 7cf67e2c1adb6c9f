# SPDX-License-Identifier: Apache-2.0
"""Slices, truncation, sessions, background jobs, limits. Source: spec metadata-semantics §3, §6, §8, §10."""

from __future__ import annotations

import errno

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import CHUNK_SIZE, ROOT, TRASH, Slice
from core.meta.slices import pieces_for
from tests.conformance.volume.base import NOW, VolumeBase


class Data(VolumeBase):
    async def test_write_truncate_and_read_slices(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        with meta.store.round_trips() as n:
            attr = await meta.write_slices(f, 0, [Slice(10, 7001, 100, 0, 100)], NOW)
        assert n.count == (2 if meta.store.recent is None else 1)  # what this client made is known to it
        assert (attr.length, attr.mtime_ns) == (110, NOW)
        attr = await meta.write_slices(f, 2, [Slice(0, 7002, 5, 0, 5)], NOW + 1)
        assert attr.length == 2 * CHUNK_SIZE + 5
        with meta.store.round_trips() as n:
            assert await meta.read_chunk(f, 0) == [Slice(10, 7001, 100, 0, 100)]
        assert n.count == 1
        assert await meta.read_chunk(f, 1) == []
        await meta.truncate(f, 50)
        assert await meta.read_chunk(f, 0) == [Slice(10, 7001, 100, 0, 100), Slice(50, 0, 0, 0, CHUNK_SIZE - 50)]
        assert await meta.read_chunk(f, 2) == []
        attr = await meta.truncate(f, 3 * CHUNK_SIZE)
        assert attr.length == 3 * CHUNK_SIZE
        assert await meta.read_chunk(f, 1) == []
        same = await meta.truncate(f, 3 * CHUNK_SIZE)
        assert same == attr
        for length, code in ((-1, errno.EINVAL), (1 << 57, errno.EFBIG)):
            with pytest.raises(FsError) as e:
                await meta.truncate(f, length)
            assert e.value.errno == code
        with pytest.raises(FsError) as e:
            await meta.write_slices(424242, 0, [Slice(0, 7003, 5, 0, 5)], NOW)
        assert e.value.errno == errno.ENOENT

    async def test_a_slice_is_never_applied_twice(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        records = [Slice(0, 7001, 100, 0, 100), Slice(200, 7002, 50, 0, 50)]
        first = await meta.write_slices(f, 0, records, NOW, refs=[1, 3])
        assert await meta.write_slices(f, 0, records, NOW, refs=[1, 3]) == first
        await meta.write_slices(f, 0, [Slice(20, 7003, 10, 0, 10)], NOW)
        again = await meta.write_slices(f, 0, records[1:], NOW, refs=[3])
        assert again.length == 250
        assert await meta.read_chunk(f, 0) == [*records, Slice(20, 7003, 10, 0, 10)]
        assert (await meta.store.read(k.sliceref(7002, 50)))[0] == 3
        await meta.write_slices(f, 0, [Slice(0, 0, 0, 0, 5)], NOW)  # zeros have no identity
        await meta.write_slices(f, 0, [Slice(0, 0, 0, 0, 5)], NOW)
        assert len(await meta.read_chunk(f, 0)) == 5
        await meta.store.commit([], [(2, k.sliceref(7002, 50), -2)])

    async def test_a_chunk_with_many_slices_is_deleted(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        f, _ = await meta.create(ROOT, b"f")
        for at in range(0, 300, 50):
            batch = [Slice(i * 10, 100_000 + i % 290, 10, 0, 10) for i in range(at, at + 50)]
            await meta.write_slices(f, 0, batch, NOW)
        twice = [(2, k.sliceref(100_000 + i, 10), 1) for i in range(10)]
        await meta.store.commit([], twice)
        await meta.truncate(f, 2000)
        await meta.unlink(ROOT, b"f")
        await self.idle(meta)
        assert sorted(self.removed) == [(100_000 + i, 10) for i in range(290)]
        for kind in (k.CHUNK, k.DELFILE):
            assert [key async for key, _ in meta.store.scan(kind)] == []

    async def test_a_file_with_many_chunks_is_shortened_and_lengthened(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        for index in range(130):
            await meta.write_slices(f, index, [Slice(0, 7000 + index, 10, 0, 10)], NOW)
        assert (await meta.truncate(f, 5)).length == 5
        assert (await meta.truncate(f, 200 * CHUNK_SIZE + 7)).length == 200 * CHUNK_SIZE + 7
        for index in range(130):
            zeros = pieces_for(await meta.read_chunk(f, index), 5 if index == 0 else 0, 10)
            assert [s.id for s in zeros] == [0]

    async def test_expired_trash_goes(self, meta: Meta) -> None:
        d, _ = await meta.mkdir(ROOT, b"d")
        await meta.publish(d, [b"f"], self.content(8001, 100))
        await meta.unlink(d, b"f")
        await meta.rmdir(ROOT, b"d")
        assert await meta.clean_trash(26) == 0
        assert await meta.clean_trash(-2) == 2
        await self.idle(meta)
        assert await meta.readdir(TRASH) == []
        assert self.removed == [(8001, 100)]
        await meta.create(ROOT, b"again")
        await meta.unlink(ROOT, b"again")

    async def test_stale_sessions_are_cleaned(self, meta: Meta) -> None:
        await self.set_trash(meta, 0)
        made = await meta.publish(ROOT, [b"f"], self.content(8001, 100))
        dead = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await dead.new_session("dead", heartbeat_s=0)
        dead.heartbeat_s = -1000
        await dead.store.commit([], [(0, k.session(dead.sid), dead._expiry())])
        dead.opened(made.ino)
        await dead.unlink(ROOT, b"f")
        assert {s["Sid"] for s in await meta.sessions()} == {meta.sid, dead.sid}
        assert await meta.clean_stale_sessions() == 1
        await self.idle(meta)
        assert self.removed == [(8001, 100)]
        assert [s["Sid"] for s in await meta.sessions()] == [meta.sid]

    async def test_capacity_and_inode_limits(self, meta: Meta) -> None:
        meta.capacity = 8192
        await meta.create(ROOT, b"a")
        await meta.create(ROOT, b"b")
        with pytest.raises(FsError) as e:
            await meta.create(ROOT, b"c")
        assert e.value.errno == errno.ENOSPC
        meta.capacity, meta.max_inodes = 0, 2
        with pytest.raises(FsError) as e:
            await meta.create(ROOT, b"c")
        assert e.value.errno == errno.ENOSPC
