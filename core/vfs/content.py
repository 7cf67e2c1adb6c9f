# SPDX-License-Identifier: Apache-2.0
"""Bodies on their way in and out: a writer that turns a stream into slices, a reader that turns slices into a stream.

Memory is bounded on both sides: the writer by the slice store's buffers, the reader by its read-ahead, which is charged
to the same budget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from core.chunk.api import FileRange, Piece, SliceStore, SliceWriter
from core.chunk.readahead import ReadStream
from core.chunk.store import BlockSliceStore
from core.errors import FsError
from core.failpoints import point
from core.meta.meta import Meta
from core.meta.publish import Content
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, Slice
from core.meta.slices import pieces_for
from core.object.api import Buffer

#: Slices of one body that may still be uploading while the next one fills.
_FINISHING: Final = 2


def pack_limit(block_size: int) -> int:
    """Bodies up to this size share objects with others. Above it sharing saves little and copying costs more."""
    return block_size // 4


def content_of_piece(piece: Piece) -> Content:
    return Content(
        piece.length,
        {0: [Slice(0, piece.id, piece.size, piece.off, piece.length)]},
        fresh=((piece.id, piece.size, piece.refs),),
    )


class ContentWriter:
    """Receives one body front to back. Small bodies of known size are packed, others become slices of up to 64 MiB."""

    def __init__(self, slices: SliceStore, size_hint: int | None, discard: Callable[[Content], None]) -> None:
        self.length = 0
        self._slices = slices
        self._discard = discard
        self._hint = size_hint
        self._small: bytearray | None = None
        if size_hint is not None and 0 < size_hint <= pack_limit(slices.block_size):
            self._small = bytearray(size_hint)
        self._writer: SliceWriter | None = None
        self._finishing: deque[asyncio.Task[Piece]] = deque()
        self._pieces: list[Piece] = []
        self._done: Content | None = None

    async def open(self) -> None:
        """Get the first buffer; must be awaited before `buffer`."""
        if self._small is None and self._writer is None:
            self._writer = await self._slices.writer(self._hint)

    def buffer(self) -> memoryview:
        """Writable part of a pooled buffer (never empty). Fill n bytes of it, then `await advance(n)`."""
        if self._small is not None:
            if self.length < len(self._small):
                return memoryview(self._small)[self.length :]
            self._small.extend(bytes(4096))  # the hint was too small
            return memoryview(self._small)[self.length :]
        assert self._writer is not None, "await open() first"
        view = self._writer.buffer()
        return view[: CHUNK_SIZE - self._writer.length]

    async def advance(self, n: int) -> None:
        self.length += n
        if self._small is not None:
            return
        assert self._writer is not None
        await self._writer.advance(n)
        if self._writer.length == CHUNK_SIZE:
            full, self._writer = self._writer, None
            self._finishing.append(asyncio.ensure_future(full.finish()))
            if len(self._finishing) >= _FINISHING:
                self._pieces.append(await self._finishing.popleft())
            self._writer = await self._slices.writer()

    async def write(self, data: Buffer) -> None:
        """Append a copy of data."""
        view = memoryview(data)
        await self.open()
        while view:
            room = self.buffer()
            n = min(len(room), len(view))
            room[:n] = view[:n]
            room.release()
            await self.advance(n)
            view = view[n:]

    async def finish(self) -> Content:
        """All bytes are stored when this returns. A small body is packed together with others'."""
        if self.length == 0:
            await self.abort()
            self._done = Content(0, {})
            return self._done
        if self._small is not None:
            piece = await self._slices.pack(memoryview(self._small)[: self.length])
            self._done = content_of_piece(piece)
            await point("content.finished")
            return self._done
        while self._finishing:
            self._pieces.append(await self._finishing.popleft())
        if self._writer is not None:
            last, self._writer = self._writer, None
            if last.length:
                self._pieces.append(await last.finish())
            else:
                await last.abort()
        self._done = Content(
            self.length,
            {i: [Slice(0, p.id, p.size, p.off, p.length)] for i, p in enumerate(self._pieces)},
            fresh=tuple((p.id, p.size, p.refs) for p in self._pieces),
        )
        await point("content.finished")
        return self._done

    async def abort(self) -> None:
        """Give up; what was uploaded is deleted (best effort). Safe at any time, also after `finish`."""
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.abort()
        for task in self._finishing:
            task.cancel()
        results = await asyncio.gather(*self._finishing, return_exceptions=True)
        self._finishing.clear()
        pieces = self._pieces + [r for r in results if isinstance(r, Piece)]
        if self._done is None and pieces:
            self._discard(Content(0, {}, fresh=tuple((p.id, p.size, p.refs) for p in pieces)))
        elif self._done is not None and self._done.fresh:
            self._discard(self._done)
        self._pieces, self._done, self._small = [], None, None


class RangeReader:
    """Streams one byte range of a file: pieces in order, local file ranges as they are, zeros for holes."""

    def __init__(self, meta: Meta, slices: BlockSliceStore, ino: int, chunk0: list[Slice] | None) -> None:
        self._meta = meta
        self._slices = slices
        self._ino = ino
        self._chunks: dict[int, list[Slice]] = {} if chunk0 is None else {0: chunk0}

    async def iterate(self, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        end = offset + length
        tries = 0
        while offset < end:
            try:
                if end - offset <= self._slices.block_size:
                    one = await self._one(offset, end - offset)
                    if one is not None:
                        yield one
                        return
                async for part in self._stream(offset, end - offset):
                    offset += part.length if isinstance(part, FileRange) else len(part)
                    tries = 0
                    yield part
            except FsError:
                # A compaction may have replaced the slices since they were looked up (data-path §9.6).
                index = offset >> CHUNK_BITS
                used = self._chunks.get(index)
                self._chunks.clear()
                tries += 1
                if tries > 2 or await self._records(index) == used:
                    raise

    async def _one(self, offset: int, length: int) -> Buffer | FileRange | None:
        """The range if it lies in one block; most bodies do, and need no stream."""
        index, start = offset >> CHUNK_BITS, offset & (CHUNK_SIZE - 1)
        if start + length > CHUNK_SIZE:
            return None
        pieces = pieces_for(await self._records(index), start, start + length)
        step = self._slices.block_size
        _, slice_id, size, off, n = pieces[0]
        if len(pieces) > 1 or not slice_id or off // step != (off + n - 1) // step:
            return None
        local = self._slices.local_range(slice_id, size, off, n)
        return await self._slices.read(slice_id, size, off, n) if local is None else local

    async def _stream(self, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        stream = ReadStream(self._slices, self._pieces, offset + length, wanted=length)
        try:
            async for part in stream.iter_range(offset, length, local_files=True):
                yield part
        finally:
            stream.close()

    async def _pieces(self, index: int, start: int, end: int) -> Sequence[Slice]:
        return pieces_for(await self._records(index), start, end)

    async def _records(self, index: int) -> list[Slice]:
        known = self._chunks.get(index)
        if known is None:
            known = await self._meta.read_chunk(self._ino, index)
            for old in [i for i in self._chunks if abs(i - index) > 1]:
                del self._chunks[old]
            self._chunks[index] = known
        return known
