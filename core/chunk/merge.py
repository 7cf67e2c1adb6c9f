# SPDX-License-Identifier: Apache-2.0
"""Merging: the visible pieces of a chunk are read and written as one new slice.

The data half of a compaction; what is merged and what becomes of it is decided in `core/meta/compact.py`. Holes become
zero bytes. Reads go through the caches and run ahead of the writer by two blocks at most, so that the compactions of a
process stay inside its memory budget. Source: metadata-semantics §7.2 step 4, data-path §8.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from core.chunk.api import SliceStore, SliceWriter
from core.chunk.transfer import BlockMissing
from core.meta.records import Slice
from core.object.api import Buffer

#: Reads under way; fragments are small mostly, so that their latency counts and not their bytes.
_READS: Final = 16
_ZEROS: Final = memoryview(bytes(1 << 16))


async def merge_pieces(slices: SliceStore, pieces: Sequence[Slice], tier: int = 0) -> tuple[int, int] | None:
    """Write gapless pieces, at most 64 MiB together, as a slice: (id, size). None if an object of theirs is gone:
    somebody else has compacted then. FsError (EIO, ENOSPC) if it can't be read or stored. Nothing stays behind.

    tier: the file's storage tier. There is one kind of object so far, so it changes nothing yet.
    """
    writer = await slices.writer(sum(piece.length for piece in pieces))
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
    reads: deque[tuple[int, asyncio.Task[Buffer] | None]] = deque()
    ahead = 0
    more = True
    try:
        while more or reads:
            while more and len(reads) < _READS and ahead < 2 * slices.block_size:
                part = next(parts, None)
                if part is None:
                    more = False
                    break
                read = slices.read(part.id, part.size, part.off, part.length) if part.id else None
                reads.append((part.length, None if read is None else asyncio.ensure_future(read)))
                ahead += part.length if part.id else 0
            if not reads:
                break
            length, task = reads[0]
            if task is not None:
                await writer.write(await task)
                ahead -= length
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


__all__ = ["merge_pieces"]
