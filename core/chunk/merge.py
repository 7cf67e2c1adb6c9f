# SPDX-License-Identifier: Apache-2.0
"""Merging: the visible pieces of a chunk are read and written as one new slice.

The data half of a compaction; what is merged and what becomes of it is decided in `core/meta/compact.py`. Holes become
zero bytes. Source: metadata-semantics §7.2 step 4, data-path §8.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from core.chunk.api import Durability, SliceStore, SliceWriter
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockMissing
from core.meta.records import Slice
from core.object.api import Buffer

#: Reads under way; fragments are small mostly, so that their latency counts and not their bytes.
_READS: Final = 16
#: Blocks that were read and aren't written yet, for each merge.
_AHEAD: Final = 2
_ZEROS: Final = memoryview(bytes(1 << 16))


class Merger:
    """The hook of a volume (`Meta.merge_slices`): merges inside the memory budget of its slice store.

    What a merge reads ahead is charged before it begins, and only so many run at once that all of that is a quarter of
    the budget at most. Else merges that hold what they have read could wait for each other's buffers for ever.
    """

    def __init__(self, slices: BlockSliceStore) -> None:
        self._slices = slices
        self._bytes = _AHEAD * slices.block_size
        self._gate = asyncio.Semaphore(max(1, slices.budget.limit // (4 * self._bytes)))

    async def __call__(self, pieces: Sequence[Slice], tier: int = 0) -> tuple[int, int] | None:
        budget = self._slices.budget
        async with self._gate:
            await budget.charge(self._bytes)
            try:
                return await merge_pieces(self._slices, pieces, tier)
            finally:
                budget.release(self._bytes)


async def merge_pieces(slices: SliceStore, pieces: Sequence[Slice], tier: int = 0) -> tuple[int, int] | None:
    """Write gapless pieces, at most 64 MiB together, as a slice: (id, size). None if an object of theirs is gone:
    somebody else has compacted then. FsError (EIO, ENOSPC) if it can't be read or stored. Nothing stays behind.

    tier: the file's storage tier. There is one kind of object so far, so it changes nothing yet.
    """
    # Never staged: what it replaces is in the object store (data-path §6).
    writer = await slices.writer(sum(piece.length for piece in pieces), Durability.STORED)
    try:
        await _copy(slices, pieces, writer)
        piece = await writer.finish()
    except BlockMissing:
        await writer.abort()
        return None
    except BaseException:
        await writer.abort()
        raise
    return piece.id, piece.size


async def _copy(slices: SliceStore, pieces: Sequence[Slice], writer: SliceWriter) -> None:
    parts = _split(pieces, slices.block_size)
    part = next(parts, None)
    reads: deque[tuple[int, asyncio.Task[Buffer] | None]] = deque()
    held = 0
    try:
        while part is not None or reads:
            while part is not None and len(reads) < _READS:
                if not part.id:
                    reads.append((part.length, None))
                elif not held or held + part.length <= _AHEAD * slices.block_size:
                    held += part.length
                    read = slices.read(part.id, part.size, part.off, part.length)
                    reads.append((part.length, asyncio.ensure_future(read)))
                else:
                    break
                part = next(parts, None)
            length, task = reads[0]
            if task is not None:
                await writer.write(await task)
                held -= length
            for at in range(0, length if task is None else 0, len(_ZEROS)):
                await writer.write(_ZEROS[: length - at])
            reads.popleft()
    finally:
        left = [task for _, task in reads if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


def _split(pieces: Sequence[Slice], block_size: int) -> Iterator[Slice]:
    """Cut at the borders of the old slices' blocks: one read, one block."""
    for piece in pieces:
        at, left = piece.off, piece.length
        while left:
            length = min(left, block_size - at % block_size) if piece.id else left
            yield Slice(piece.pos, piece.id, piece.size, at, length)
            at += length
            left -= length


__all__ = ["Merger", "merge_pieces"]
