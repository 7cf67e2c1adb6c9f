# SPDX-License-Identifier: Apache-2.0
"""Volume suite: fallocate and copy_file_range. Source: spec metadata-semantics §6.5, §6.6."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.caller import Caller
from core.meta.meta import Meta
from core.meta.ranges import (
    FALLOC_COLLAPSE_RANGE,
    FALLOC_INSERT_RANGE,
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    FALLOC_ZERO_RANGE,
)
from core.meta.records import CHUNK_SIZE, DIRECTORY, FIFO, FLAG_APPEND, FLAG_IMMUTABLE, ROOT, DirStat, Slice
from core.meta.slices import flatten, pieces_for
from tests.conformance.volume.base import NOW, USER, VolumeBase
from tests.conformance.volume.changelog import lines, with_log


async def written(meta: Meta, name: bytes, slice_id: int, length: int) -> int:
    """A new file of the root with one slice."""
    ino, _ = await meta.create(ROOT, name)
    await meta.write_slices(ino, 0, [Slice(0, slice_id, length, 0, length)], NOW)
    return ino


async def require_refused(work: Awaitable[object], code: int) -> None:
    with pytest.raises(FsError) as e:
        await work
    assert e.value.errno == code, e.value


class Ranges(VolumeBase):
    # -- fallocate -----------------------------------------------------------------------------------------------

    async def test_fallocate_sets_the_length(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        with meta.store.round_trips() as n:
            attr = await meta.fallocate(f, 0, 100, 5000)
        assert n.count <= 2
        assert attr.length == 5100
        assert await meta.read_chunk(f, 0) == []
        kept = await meta.fallocate(f, FALLOC_KEEP_SIZE, 0, 1 << 30)
        assert kept.length == 5100 and kept.mtime_ns > attr.mtime_ns
        assert (await meta.store.read(k.dirstat(ROOT)))[0] == DirStat(5100, 8192, 1)

    async def test_holes_and_zeros(self, meta: Meta) -> None:
        f = await written(meta, b"f", 7001, CHUNK_SIZE)
        await meta.write_slices(f, 1, [Slice(0, 7002, 1000, 0, 1000)], NOW)
        attr = await meta.fallocate(f, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, CHUNK_SIZE - 10, 100)
        assert attr.length == CHUNK_SIZE + 1000
        assert (await meta.read_chunk(f, 0))[1:] == [Slice(CHUNK_SIZE - 10, 0, 0, 0, 10)]
        assert (await meta.read_chunk(f, 1))[1:] == [Slice(0, 0, 0, 0, 90)]
        attr = await meta.fallocate(f, FALLOC_ZERO_RANGE, CHUNK_SIZE + 900, 1000)
        assert attr.length == CHUNK_SIZE + 1900
        assert (await meta.read_chunk(f, 1))[2:] == [Slice(900, 0, 0, 0, 100)]  # only up to the old end
        attr = await meta.fallocate(f, FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, CHUNK_SIZE + 5000, 1000)
        assert attr.length == CHUNK_SIZE + 1900 and len(await meta.read_chunk(f, 1)) == 3

    async def test_a_hole_in_a_huge_sparse_file_is_recorded_where_there_is_data(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f")
        await meta.truncate(f, 1 << 40)
        for index in (3, 9000, 16000):
            await meta.write_slices(f, index, [Slice(0, 7000 + index, 10, 0, 10)], NOW)
        attr = await meta.fallocate(f, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 100, (1 << 40) - 200)
        assert attr.length == 1 << 40
        for index in (3, 9000, 16000):
            assert all(not piece.id for piece in pieces_for(await meta.read_chunk(f, index), 0, 10))
        found = [key async for key, _ in meta.store.scan(k.CHUNK)]
        assert len(found) <= 6

    async def test_fallocate_refuses(self, meta: Meta) -> None:
        f, _ = await meta.create(ROOT, b"f", 0o644)
        fifo, _ = await meta.mknod(ROOT, b"p", FIFO, 0o666)
        d, _ = await meta.mknod(ROOT, b"d", DIRECTORY, 0o777)
        for mode in (FALLOC_COLLAPSE_RANGE | FALLOC_KEEP_SIZE, FALLOC_INSERT_RANGE | FALLOC_PUNCH_HOLE,
                     FALLOC_COLLAPSE_RANGE | FALLOC_INSERT_RANGE, FALLOC_PUNCH_HOLE):  # fmt: skip
            await require_refused(meta.fallocate(f, mode, 0, 10), errno.EINVAL)
        for mode in (FALLOC_COLLAPSE_RANGE, FALLOC_INSERT_RANGE, 0x40):
            await require_refused(meta.fallocate(f, mode, 0, 10), errno.ENOTSUP)
        await require_refused(meta.fallocate(f, 0, 0, 0), errno.EINVAL)
        await require_refused(meta.fallocate(f, 0, -1, 5), errno.EINVAL)
        await require_refused(meta.fallocate(f, 0, 0, 1 << 57), errno.EFBIG)
        await require_refused(meta.fallocate(424242, 0, 0, 5), errno.ENOENT)
        await require_refused(meta.fallocate(fifo, 0, 0, 5), errno.EPIPE)
        await require_refused(meta.fallocate(d, 0, 0, 5), errno.EPERM)
        await require_refused(meta.fallocate(f, 0, 0, 5, USER), errno.EACCES)
        await meta.setattr(f, {"flags": FLAG_APPEND})
        await require_refused(meta.fallocate(f, FALLOC_ZERO_RANGE, 0, 5), errno.EPERM)
        assert (await meta.fallocate(f, FALLOC_KEEP_SIZE, 0, 5)).length == 0
        await meta.setattr(f, {"flags": FLAG_IMMUTABLE})
        await require_refused(meta.fallocate(f, 0, 0, 5), errno.EPERM)
        meta.capacity = 1 << 17
        g, _ = await meta.create(ROOT, b"g")
        await require_refused(meta.fallocate(g, 0, 0, 1 << 20), errno.ENOSPC)

    # -- copy_file_range -----------------------------------------------------------------------------------------

    async def test_copy_shares_slices_and_counts_them(self, meta: Meta) -> None:
        a = await written(meta, b"a", 7001, 10000)
        b, _ = await meta.create(ROOT, b"b")
        with meta.store.round_trips() as n:
            assert await meta.copy_file_range(a, 1000, b, 500, 4000) == 4000
        assert n.count <= 2
        attr = await meta.getattr(b)
        assert attr.length == 4500
        assert await meta.read_chunk(b, 0) == [Slice(500, 7001, 10000, 1000, 4000)]
        assert (await meta.store.read(k.sliceref(7001, 10000)))[0] == 2
        assert (await meta.store.read(k.dirstat(ROOT)))[0] == DirStat(14500, 12288 + 8192, 2)
        assert await meta.copy_file_range(a, 9000, b, 0, 1 << 30) == 1000  # clipped to the source
        assert await meta.copy_file_range(a, 10000, b, 0, 5) == 0
        assert await meta.copy_file_range(a, 0, b, 0, 0) == 0

    async def test_copied_holes_hide_what_was_there(self, meta: Meta) -> None:
        a, _ = await meta.create(ROOT, b"a")
        await meta.write_slices(a, 0, [Slice(5000, 7001, 100, 0, 100)], NOW)
        await meta.truncate(a, 2 * CHUNK_SIZE)
        b = await written(meta, b"b", 7002, CHUNK_SIZE)
        assert await meta.copy_file_range(a, 0, b, 0, CHUNK_SIZE + 50) == CHUNK_SIZE + 50
        visible = [s for s in flatten(await meta.read_chunk(b, 0)) if s.id]
        assert visible == [Slice(5000, 7001, 100, 0, 100)]
        assert (await meta.getattr(b)).length == CHUNK_SIZE + 50

    async def test_a_piece_over_a_chunk_border_is_two(self, meta: Meta) -> None:
        a = await written(meta, b"a", 7001, 1000)
        b, _ = await meta.create(ROOT, b"b")
        await meta.copy_file_range(a, 0, b, CHUNK_SIZE - 300, 1000)
        assert await meta.read_chunk(b, 0) == [Slice(CHUNK_SIZE - 300, 7001, 1000, 0, 300)]
        assert await meta.read_chunk(b, 1) == [Slice(0, 7001, 1000, 300, 700)]
        assert (await meta.store.read(k.sliceref(7001, 1000)))[0] == 3

    async def test_copy_within_one_file(self, meta: Meta) -> None:
        a = await written(meta, b"a", 7001, 1000)
        assert await meta.copy_file_range(a, 0, a, 5000, 4000) == 1000  # to the end that it had, not the one it gets
        assert (await meta.getattr(a)).length == 6000
        await require_refused(meta.copy_file_range(a, 0, a, 500, 600), errno.EINVAL)
        await require_refused(meta.copy_file_range(a, 500, a, 0, 600), errno.EINVAL)
        assert await meta.copy_file_range(a, 0, a, 500, 500) == 500

    async def test_large_copies_take_several_transactions(self, meta: Meta) -> None:
        a, _ = await meta.create(ROOT, b"a")
        records = [Slice(at * 8, 100_000 + at, 4, 0, 4) for at in range(1500)]
        for at in range(0, len(records), 50):
            await meta.write_slices(a, 0, records[at : at + 50], NOW + at)
        await meta.write_slices(a, 70, [Slice(0, 7002, 1000, 0, 1000)], NOW)
        b, _ = await meta.create(ROOT, b"b")
        length = 70 * CHUNK_SIZE + 1000
        assert await meta.copy_file_range(a, 0, b, 10, 1 << 50) == length
        want = [(s.pos + 10, s.id) for s in flatten(await meta.read_chunk(a, 0)) if s.id]
        assert [(s.pos, s.id) for s in flatten(await meta.read_chunk(b, 0)) if s.id] == want
        assert [s for s in flatten(await meta.read_chunk(b, 70)) if s.id] == [Slice(10, 7002, 1000, 0, 1000)]
        assert (await meta.getattr(b)).length == length + 10

    async def test_copy_refuses(self, meta: Meta) -> None:
        a = await written(meta, b"a", 7001, 1000)
        b, _ = await meta.create(ROOT, b"b", 0o600)
        d, _ = await meta.mkdir(ROOT, b"d")
        await require_refused(meta.copy_file_range(a, 0, 424242, 0, 5), errno.ENOENT)
        await require_refused(meta.copy_file_range(424242, 0, b, 0, 5), errno.ENOENT)
        await require_refused(meta.copy_file_range(d, 0, b, 0, 5), errno.EINVAL)
        await require_refused(meta.copy_file_range(a, 0, d, 0, 5), errno.EINVAL)
        await require_refused(meta.copy_file_range(a, -1, b, 0, 5), errno.EINVAL)
        await require_refused(meta.copy_file_range(a, 0, b, (1 << 57) - 3, 5), errno.EFBIG)
        await require_refused(meta.copy_file_range(a, 0, b, 0, 5, USER), errno.EACCES)
        for flag in (FLAG_APPEND, FLAG_IMMUTABLE):
            await meta.setattr(b, {"flags": flag})
            await require_refused(meta.copy_file_range(a, 0, b, 0, 5), errno.EPERM)
        await meta.setattr(b, {"flags": 0})
        meta.capacity = 12288
        await require_refused(meta.copy_file_range(a, 0, b, 1 << 20, 5), errno.ENOSPC)

    async def test_copies_of_files_that_are_removed_at_the_same_time(self, meta: Meta) -> None:
        """Either the copy is whole and its slice counted, or there is none."""
        await self.set_trash(meta, 0)
        sources = [await written(meta, b"s%d" % i, 9000 + i, 1000) for i in range(12)]
        targets = [(await meta.create(ROOT, b"t%d" % i))[0] for i in range(12)]
        other = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        other.use_format(meta.format)
        other.remove_slice, other.on_deleted = meta.remove_slice, other.delete_data_soon
        copies = [meta.copy_file_range(a, 0, b, 0, 1000) for a, b in zip(sources, targets, strict=True)]
        removals = [other.unlink(ROOT, b"s%d" % i) for i in range(12)]
        done = await asyncio.gather(*copies, *removals, return_exceptions=True)
        await self.idle(meta)
        await self.idle(other)
        removed = {slice_id for slice_id, _ in self.removed}
        for i, (target, result) in enumerate(zip(targets, done, strict=False)):
            records = await meta.read_chunk(target, 0)
            assert bool(records) == (result == 1000)
            assert not records or 9000 + i not in removed

    async def test_usage_of_owners_follows(self, meta: Meta) -> None:
        meta.user_group_quota = True
        a, _ = await meta.mknod(ROOT, b"a", 1, 0o644, caller=Caller(1000, (1000,)))
        before = (await meta.store.read(k.quota(1, 1000)))[0].used_space
        await meta.fallocate(a, 0, 0, 100_000)
        assert (await meta.store.read(k.quota(1, 1000)))[0].used_space - before == 102400 - 4096

    async def test_changes_of_content_leave_their_lines(self, meta: Meta) -> None:
        """Format §9: the arguments that consumers of the change log get."""
        await self.set_trash(meta, 0)
        with_log(meta)
        a = await written(meta, b"a", 7001, 1000)
        b, _ = await meta.create(ROOT, b"b")
        await meta.write_slices(a, 0, [Slice(9, 7002, 50, 0, 50), Slice(0, 0, 0, 0, 3)], NOW + 5)
        await meta.truncate(a, 500)
        await meta.fallocate(a, FALLOC_ZERO_RANGE, 400, 200)
        await meta.copy_file_range(a, 100, b, 7, 300)
        made = await meta.clone(a, ROOT, b"c", umask=0o22)
        d, _ = await meta.mkdir(ROOT, b"d")
        tree = await meta.clone(d, ROOT, b"e", preserve=True)
        meta.opened(b)
        await meta.unlink(ROOT, b"b")
        await meta.closed(b)
        await self.idle(meta)
        found = [line for line in await lines(meta) if not line.startswith(("CREATE", "UNLINK", "LINK", "NEWSESSION"))]
        secs, ns = divmod(NOW, 1_000_000_000)
        assert found == [
            f"WRITE({a},0,0,7001,1000,{secs},{ns}):1",
            f"WRITE({a},0,9,7002,50,{secs},{ns + 5}):2",
            f"WRITE({a},0,0,0,3,{secs},{ns + 5}):3",
            f"TRUNCATE({a},1000,500,0)",
            f"FALLOCATE({a},400,200,16)",
            f"COPYFILERANGE({a},100,{b},7,300):307",
            f"CLONE({a},1,c,{made.ino},0,18,true):{made.ino}",
            f"CLONE({d},0,,{tree.ino},2,0,true):{tree.ino}",
            f"ATTACH({tree.ino},1,e)",
            f"DELSUSTAINED({meta.sid},{b})",
            f"DELCHUNK({b},0)",
        ]
        meta.use_format(meta.format.changed(change_log=False))
