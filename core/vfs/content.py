# SPDX-License-Identifier: Apache-2.0
"""Bodies on their way in and out: a writer that turns a stream into slices, a reader that turns slices into a stream.

Memory is bounded on both sides: the writer by the slice store's buffers, the reader by a window of block reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

from core.chunk.api import FileRange, Piece, SliceStore, SliceWriter
from core.errors import FsError
from core.failpoints import point
from core.meta.meta import Meta
from core.meta.publish import Content
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, Slice
from core.meta.slices import pieces_for
from core.object.api import Buffer

#: Blocks read ahead of the consumer of one stream.
WINDOW: Final = 8
_ZEROS: Final = memoryview(bytes(1 << 20))
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

    def __init__(self, meta: Meta, slices: SliceStore, ino: int, chunk0: list[Slice] | None) -> None:
        self._meta = meta
        self._slices = slices
        self._ino = ino
        self._chunks: dict[int, list[Slice]] = {} if chunk0 is None else {0: chunk0}

    async def iterate(self, offset: int, length: int) -> AsyncIterator[Buffer | FileRange]:
        end = offset + length
        while offset < end:
            index = offset >> CHUNK_BITS
            start = offset & (CHUNK_SIZE - 1)
            stop = min(CHUNK_SIZE, start + end - offset)
            async for part in self._chunk_range(index, start, stop):
                offset += part.length if isinstance(part, FileRange) else len(part)
                yield part

    async def _records(self, index: int, *, fresh: bool = False) -> list[Slice]:
        if fresh or index not in self._chunks:
            self._chunks = {index: await self._meta.read_chunk(self._ino, index)}
        return self._chunks[index]

    async def _chunk_range(self, index: int, start: int, stop: int) -> AsyncIterator[Buffer | FileRange]:
        tries = 0
        while start < stop:
            records = await self._records(index, fresh=tries > 0)
            try:
                async for part in self._pieces(records, start, stop):
                    start += part.length if isinstance(part, FileRange) else len(part)
                    yield part
            except FsError:
                # A compaction may have replaced the slices since they were looked up (data-path §9.6).
                tries += 1
                if tries > 2 or await self._records(index, fresh=True) == records:
                    raise

    async def _pieces(self, records: list[Slice], start: int, stop: int) -> AsyncIterator[Buffer | FileRange]:
        reads: deque[tuple[Slice, asyncio.Task[Buffer] | Buffer | FileRange]] = deque()
        parts = self._split(pieces_for(records, start, stop))
        try:
            more = True
            while more or reads:
                while more and len(reads) < WINDOW:
                    part = next(parts, None)
                    if part is None:
                        more = False
                    else:
                        reads.append((part, self._start(part)))
                if reads:
                    s, head = reads.popleft()
                    if isinstance(head, FileRange):
                        # A compaction may have deleted the file while earlier parts were being sent.
                        head = self._start(s)
                    yield await head if isinstance(head, asyncio.Task) else head
        finally:
            for _, left in reads:
                if isinstance(left, asyncio.Task):
                    left.cancel()

    def _start(self, s: Slice) -> asyncio.Task[Buffer] | Buffer | FileRange:
        if not s.id:
            return _ZEROS[: s.length]
        local = self._slices.local_range(s.id, s.size, s.off, s.length)
        if local is not None:
            return local
        cached = self._slices.read_cached(s.id, s.size, s.off, s.length)
        if cached is not None:
            return cached
        return asyncio.ensure_future(self._slices.read(s.id, s.size, s.off, s.length))

    def _split(self, pieces: list[Slice]) -> Iterator[Slice]:
        """Cut at block borders (one read = one block) and holes into parts of the shared zero buffer."""
        for s in pieces:
            step = self._slices.block_size if s.id else len(_ZEROS)
            at, left = s.off, s.length
            while left:
                n = min(left, step - at % step if s.id else step)
                yield Slice(s.pos, s.id, s.size, at, n)
                at += n
                left -= n
