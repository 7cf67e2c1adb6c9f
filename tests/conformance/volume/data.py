# SPDX-License-Identifier: Apache-2.0
"""Slices, truncation, sessions, background jobs, limits. Source: spec metadata-semantics §3, §6, §8, §10."""

from __future__ import annotations

import errno

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import CHUNK_SIZE, ROOT, TRASH, Slice
from tests.conformance.volume.base import NOW, VolumeBase


class Data(VolumeBase):
    async def test_write_truncate_and_read_slices(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        with meta.store.round_trips() as n:
            attr = await meta.write_slices(f, 0, [Slice(10, 7001, 100, 0, 100)], NOW)
        assert n.count == 2
        assert (attr.length, attr.mtime_ns) == (110, NOW)
        attr = await meta.write_slices(f, 2, [Slice(0, 7002, 5, 0, 5)], NOW + 1)
        assert attr.length == 2 * CHUNK_SIZE + 5
        with meta.store.round_trips() as n:
            assert await meta.read_chunk(f, 0) == [Slice(10, 7001, 100, 0, 100)]
        assert n.count == 1
        assert await meta.read_chunk(f, 1) == []
        await meta.truncate(f, 50)
        assert await meta.read_chunk(f, 0) == [Slice(10, 7001, 100, 0, 100), Slice(50, 0, 0, 0, CHUNK_SIZE - 50)]
        assert await meta.read_chunk(f, 2) == [Slice(0, 7002, 5, 0, 5), Slice(0, 0, 0, 0, 5)]
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
