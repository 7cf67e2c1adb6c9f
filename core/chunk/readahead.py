# SPDX-License-Identifier: Apache-2.0
"""Read-ahead of one reader: blocks that a sequential stream will want next are fetched before it asks.

`Window` decides (pure), `ReadStream` does. Source: data-path §9.3: one block at the start of a file or of a sequence,
doubled while the reader keeps going and memory is there, halved when memory is short, at most 8 blocks.

Memory: each block that is held or under way is charged to the budget; what isn't free isn't fetched ahead. A demand
is served in any case (`BlockReader.fetch`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from core.chunk.api import FileRange
from core.chunk.buffers import MemoryBudget
from core.chunk.naming import BlockId
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockError
from core.meta.records import CHUNK_SIZE, Slice
from core.object.api import Buffer

#: Visible pieces (`slices.pieces_for`) of bytes [start, end) of chunk `index`; id 0 is zeros. May ask the metadata.
PiecesOf = Callable[[int, int, int], Awaitable[Sequence[Slice]]]

_position = itemgetter(0)
_ZEROS = memoryview(bytes(1 << 20))


class Window:
    """How far ahead of a reader to fetch. `seen(offset, length, short)` returns the window in bytes."""

    def __init__(self, block_size: int, maximum: int) -> None:
        self.size = 0
        self._block = block_size
        self._max = maximum
        self._last = 0  # where the reader stood after its last request
        self._total = 0  # bytes it read in sequence
        self._started = False

    def seen(self, offset: int, length: int, *, short_of_memory: bool = False) -> int:
        forward = self._last <= offset <= self._last + self.size + self._block
        backward = self._last - max(self.size // 8, self._block) <= offset < self._last
        if not self._started or not (forward or backward):
            sequential = offset == 0
            self.size, self._total = 0, 0
        else:
            sequential = offset == 0 or self._total > 0
        self._started = True
        self._total += length
        self._last = max(self._last, offset + length) if backward else offset + length
        if not self.size:
            if sequential and self._max >= self._block and not short_of_memory:
                self.size = self._block
        elif short_of_memory:
            self.size = self.size // 2 if self.size >= 2 * self._block else 0
        elif self.size < self._max and self._total >= self.size:
            self.size = min(self.size * 2, self._max)
        return self.size


class _Held(NamedTuple):
    """A block that was fetched for this stream, or is on its way. end: file offset after its last wanted byte."""

    task: asyncio.Task[Buffer]
    end: int


class ReadStream:
    """Reads one file for one reader (a response body, an open handle). One request at a time; `close` it.

    pieces_of: where the bytes of a chunk lie. length: of the file; nothing is fetched behind it. local_files: hand
    out `FileRange`s where possible (for sendfile).
    """

    def __init__(
        self, store: BlockSliceStore, pieces_of: PiecesOf, length: int, *, max_window: int | None = None
    ) -> None:
        self.length = length
        self._store = store
        self._budget: MemoryBudget = store.budget
        self._pieces_of = pieces_of
        self._block_size = store.block_size
        budget_share = self._budget.limit * 4 // 5
        self._window = Window(store.block_size, min(max_window or 8 * store.block_size, budget_share))
        self._held: dict[BlockId, _Held] = {}
        self._ahead = 0  # file offset up to which read-ahead was started
        self._next = 0  # where a sequential reader asks next
        self._chunk: tuple[int, int, Sequence[Slice]] | None = None  # index, end, pieces from 0 to the end

    async def read_some(self, offset: int, limit: int) -> Buffer:
        """Between 1 and `limit` bytes at offset, as many as lie in one block, without copying; b"" at the end."""
        limit = min(limit, self.length - offset)
        if limit <= 0:
            return b""
        piece = await self._piece_at(offset, limit)
        if not piece.id:
            return _ZEROS[: min(piece.length, len(_ZEROS))]
        block, boff, n = self._locate(piece)
        found = self._store.read_cached(piece.id, piece.size, piece.off, n)
        window = self._window.seen(offset, n, short_of_memory=self._is_short())
        if offset != self._next:
            self._ahead = 0  # a jump: look again at everything in the window
            if not window:
                self.close()
        self._next = offset + n
        if window:
            await self._run_ahead(offset + n)
        if self._held and found is None:
            found = await self._from_held(block, boff, n)
        if found is None:
            found = await self._store.read(piece.id, piece.size, piece.off, n)
        self._let_go(offset + n)
        return found

    async def read(self, offset: int, length: int) -> Buffer:
        """Bytes [offset, offset+length) clipped to the file; copies only if they lie in several blocks."""
        length = min(length, self.length - offset)
        if length <= 0:
            return b""
        first = await self.read_some(offset, length)
        if len(first) == length:
            return first
        out = bytearray(length)
        at = len(first)
        out[:at] = first
        while at < length:
            part = await self.read_some(offset + at, length - at)
            out[at : at + len(part)] = part
            at += len(part)
        return out

    async def iter_range(
        self, offset: int, length: int, *, local_files: bool = False
    ) -> AsyncIterator[Buffer | FileRange]:
        """All of [offset, offset+length) in order. local_files: `FileRange`s where bytes lie in a local file."""
        end = min(offset + length, self.length)
        while offset < end:
            part: Buffer | FileRange | None = None
            if local_files:
                part = await self._local(offset, end - offset)
            if part is None:
                part = await self.read_some(offset, end - offset)
            offset += part.length if isinstance(part, FileRange) else len(part)
            yield part

    def invalidate(self, length: int) -> None:
        """The file changed: forget where its bytes lie and what was fetched; `length` is the new one."""
        self.length = length
        self._chunk = None
        self.close()

    def close(self) -> None:
        """Drop what was fetched ahead and stop what is on its way. Never waits; may be called again."""
        for block in list(self._held):
            self._drop(block)
        self._ahead = 0

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _piece_at(self, offset: int, limit: int) -> Slice:
        """The piece that begins exactly at a file offset, at most `limit` bytes of it."""
        index, pos = divmod(offset, CHUNK_SIZE)
        known = self._chunk
        if known is None or known[0] != index or pos >= known[1]:
            # The whole chunk at once: the next requests won't need to ask again.
            end = min(CHUNK_SIZE, self.length - index * CHUNK_SIZE)
            known = self._chunk = (index, end, await self._pieces_of(index, 0, end))
        pieces = known[2]
        piece = pieces[bisect_right(pieces, pos, key=_position) - 1]
        skip = pos - piece.pos
        return Slice(pos, piece.id, piece.size, piece.off + skip, min(piece.length - skip, limit))

    def _locate(self, piece: Slice) -> tuple[BlockId, int, int]:
        """The block in which a piece begins, where in it, and how many bytes of the piece lie in it."""
        index, boff = divmod(piece.off, self._block_size)
        n = min(self._block_size, piece.size - index * self._block_size)
        return (piece.id, index, n), boff, min(piece.length, n - boff)

    async def _local(self, offset: int, limit: int) -> FileRange | None:
        piece = await self._piece_at(offset, limit)
        if not piece.id:
            return None
        n = self._locate(piece)[2]
        return self._store.local_range(piece.id, piece.size, piece.off, n)

    async def _from_held(self, block: BlockId, boff: int, n: int) -> Buffer | None:
        held = self._held.get(block)
        if held is None:
            return None
        try:
            data = await asyncio.shield(held.task)
        except BlockError:
            self._drop(block)  # a demand of its own tries again and tells the error
            return None
        return data if n == len(data) else memoryview(data)[boff : boff + n]

    async def _run_ahead(self, position: int) -> None:
        """Start fetching blocks of [position - 1, position + window) that aren't held or cached."""
        end = min(position + self._window.size, self.length)
        at = max(position - 1, self._ahead)
        # Only within the chunk whose pieces are known: crossing a border costs one wait there, every 64 MiB.
        known = self._chunk
        while at < end and known is not None:
            index, pos = divmod(at, CHUNK_SIZE)
            if index != known[0] or pos >= known[1]:
                break
            piece = await self._piece_at(at, end - at)
            n = piece.length
            if piece.id:
                block, boff, n = self._locate(piece)
                if not self._want(block, at + n):
                    break
                n = min(piece.length, block[2] - boff)
            at += n
        self._ahead = max(at, position)

    def _want(self, block: BlockId, end: int) -> bool:
        """Have a block on its way; False if there is no memory for it."""
        held = self._held.get(block)
        if held is not None:
            if end > held.end:
                self._held[block] = held._replace(end=end)
            return True
        if self._store.read_cached(block[0], block[1] * self._block_size + block[2], block[1] * self._block_size, 1):
            return True
        if not self._budget.try_charge(block[2]):
            return False
        task = asyncio.get_running_loop().create_task(self._fetch(block))
        self._held[block] = _Held(task, end)
        return True

    async def _fetch(self, block: BlockId) -> Buffer:
        cache = self._store.cache
        if cache is not None:
            found = await cache.get(block, 0, block[2])
            if found is not None:
                return found
        return await self._store.reader.fetch(block, charged=True)

    def _let_go(self, position: int) -> None:
        """Drop blocks that lie completely behind the reader (it got its bytes; they live as long as it holds them)."""
        if not self._held:
            return
        for block in [b for b, held in self._held.items() if held.end <= position]:
            self._drop(block)

    def _drop(self, block: BlockId) -> None:
        held = self._held.pop(block, None)
        if held is None:
            return
        budget, n = self._budget, block[2]
        if held.task.done():
            budget.release(n)
            if not held.task.cancelled():
                held.task.exception()
            return

        def ended(task: asyncio.Task[Buffer]) -> None:
            budget.release(n)
            if not task.cancelled():
                task.exception()

        held.task.add_done_callback(ended)
        held.task.cancel()

    def _is_short(self) -> bool:
        return self._budget.used > self._budget.limit * 9 // 10
