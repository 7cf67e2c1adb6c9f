# SPDX-License-Identifier: Apache-2.0
"""Clients with a real data path for the suite: several `Meta`s and slice stores over one object store in memory.

Reads do what an open file does: a missing object makes them look at the chunk's slices again, a few times.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.chunk.merge import Merger
from core.chunk.naming import parse_block_key
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockMissing
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, Slice, decode_slices
from core.meta.slices import pieces_for
from core.object.memory import MemStore

BLOCK = 1 << 16


class Client:
    """One client: `meta`, and its own slice store over the shared objects."""

    def __init__(self, meta: Meta, objects: MemStore) -> None:
        self.meta = meta
        self.objects = objects
        self.slices = BlockSliceStore(
            objects, block_size=BLOCK, compression="", hash_prefix=False, new_slice_id=meta.slice_ids.take,
            memory_budget=32 << 20,
        )  # fmt: skip
        meta.remove_slice = self.slices.remove
        meta.merge_slices = Merger(self.slices)
        meta.on_deleted = meta.delete_data_soon
        meta.on_freed = meta.delete_slices_soon

    @classmethod
    def beside(cls, other: Client, clock_ns: Callable[[], int]) -> Client:
        """Another client of the same volume, without a session of its own."""
        return cls(Meta(other.meta.store, other.meta.format, clock_ns=clock_ns), other.objects)

    async def write(self, ino: int, offset: int, data: bytes) -> None:
        at = 0
        while at < len(data):
            index, pos = offset + at >> CHUNK_BITS, (offset + at) % CHUNK_SIZE
            part = data[at : at + CHUNK_SIZE - pos]
            writer = await self.slices.writer(len(part))
            await writer.write(part)
            piece = await writer.finish()
            record = Slice(pos, piece.id, piece.size, piece.off, piece.length)
            await self.meta.write_slices(ino, index, [record], self.meta.clock_ns(), refs=[piece.refs])
            at += len(part)

    async def read(self, ino: int, length: int | None = None) -> bytes:
        """The whole file, or its first bytes."""
        if length is None:
            length = (await self.meta.getattr(ino)).length
        out = bytearray()
        while len(out) < length:
            index, pos = len(out) >> CHUNK_BITS, len(out) % CHUNK_SIZE
            out += await self._read_chunk(ino, index, pos, min(CHUNK_SIZE, pos + length - len(out)))
        return bytes(out)

    async def _read_chunk(self, ino: int, index: int, start: int, end: int) -> bytes:
        seen = None
        while True:
            records = await self.meta.read_chunk(ino, index)
            try:
                parts = [await self.slices.read(s.id, s.size, s.off, s.length) for s in pieces_for(records, start, end)]
                return b"".join(parts)
            except BlockMissing:
                if records == seen:
                    raise
                seen = records

    async def idle(self) -> None:
        while self.meta._background:
            await asyncio.gather(*self.meta._background, return_exceptions=True)

    async def close(self) -> None:
        await self.idle()
        await self.slices.close()


async def stored(objects: MemStore) -> set[int]:
    """Ids of slices that have objects."""
    found: set[int] = set()
    async for info in objects.list("chunks/"):
        block = parse_block_key(info.key)
        assert block is not None
        found.add(block[0])
    return found


async def referenced(meta: Meta) -> set[int]:
    """Ids of slices that chunks name."""
    return {s.id async for _, raw in meta.store.scan(k.CHUNK) for s in decode_slices(raw) if s.id}


async def delayed(meta: Meta) -> set[int]:
    """Ids of slices that a compaction replaced and that are kept for the trash days."""
    found: set[int] = set()
    async for _, raw in meta.store.scan(k.DELSLICES):
        found.update(int.from_bytes(raw[at : at + 8]) for at in range(0, len(raw), 12))
    return found


async def require_nothing_lost(meta: Meta, objects: MemStore, *, leaks: bool = False) -> None:
    """Every slice in use has its objects; unless `leaks`, nothing else has any."""
    used = await referenced(meta) | await delayed(meta)
    there = await stored(objects)
    assert used <= there, f"slices {sorted(used - there)} are in use and have no objects"
    assert leaks or there == used, f"slices {sorted(there - used)} are left over"
