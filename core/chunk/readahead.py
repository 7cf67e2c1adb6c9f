# SPDX-License-Identifier: Apache-2.0
"""Read-ahead of one reader: blocks that a sequential stream will want next are fetched before it asks.

`Window` decides how far, `ReadPool` what the link needs and memory allows, `ReadStream` does it. Source: data-path
§9.3. What the first request of a stream wants is fetched beside its block, so that the first byte costs one round trip
and not the time of a block.

Memory: each part that is held or under way is charged to the budget, until the reader comes back for what follows it.
What isn't free isn't fetched ahead. A demand is served in any case (`BlockReader`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Final

from core.chunk.api import FileRange
from core.chunk.buffers import MemoryBudget
from core.chunk.naming import BlockId
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockError
from core.chunk.window import Window
from core.errors import FsError
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, Slice
from core.object.api import Buffer

#: Visible pieces (`slices.pieces_for`) of bytes [start, end) of chunk `index`; id 0 is zeros. May ask the metadata.
PiecesOf = Callable[[int, int, int], Awaitable[Sequence[Slice]]]

#: A first request up to this part of a block travels beside the block, which is fetched whole all the same: its
#: checksum is one of the whole object.
FIRST_SHARE: Final = 16

_position = itemgetter(0)
_ZEROS = memoryview(bytes(1 << 20))


class _Part:
    """Bytes [start, stop) of a block, here or on their way, for file offsets [begin, end)."""

    __slots__ = ("begin", "end", "start", "stop", "task")

    def __init__(self, task: asyncio.Task[Buffer], start: int, stop: int, begin: int, end: int) -> None:
        self.task = task
        self.start, self.stop = start, stop
        self.begin, self.end = begin, end


class _Chunk:
    """Pieces of a chunk, from its begin to `end`."""

    __slots__ = ("end", "pieces")

    def __init__(self, pieces: Sequence[Slice], end: int) -> None:
        self.pieces = pieces
        self.end = end


class ReadStream:
    """Reads one file for one reader (a response body, an open handle). One request at a time; `close` it.

    pieces_of: where the bytes of a chunk lie. length: of the file; nothing is fetched behind it. wanted: so many bytes
    will be read from the first offset on, so there is nothing to find out.
    """

    def __init__(
        self, store: BlockSliceStore, pieces_of: PiecesOf, length: int, *, max_window: int | None = None,
        wanted: int = 0,
    ) -> None:  # fmt: skip
        self.length = length
        self._store = store
        self._budget: MemoryBudget = store.budget
        self._pool = store.streams
        self._pieces_of = pieces_of
        self._block_size = store.block_size
        self._window = Window(store.block_size, min(max_window or 1 << 62, self._budget.limit * 4 // 5))
        self._wanted = wanted
        self._parts: dict[BlockId, list[_Part]] = {}
        self._reading: _Part | None = None  # its bytes are in the reader's hands
        self._whole = False  # all of them
        self._handed: _Part | None = None  # the same of the request before, until this one is answered
        self._ahead = 0  # file offset up to which read-ahead was started
        self._behind = 1 << 62  # the same of a reader that goes backwards
        self._next = 0  # where a sequential reader asks next
        self._waited = True
        self._chunks: dict[int, _Chunk] = {}
        self._looking: asyncio.Task[None] | None = None  # for the pieces of the next chunk

    async def read_some(self, offset: int, limit: int) -> Buffer:
        """Between 1 and `limit` bytes at offset, as many as lie in one block, without copying; b"" at the end."""
        limit = min(limit, self.length - offset)
        if limit <= 0:
            return b""
        piece = await self._piece_at(offset, limit)
        if not piece.id:
            return _ZEROS[: min(piece.length, len(_ZEROS))]
        block, boff, n = self._locate(piece)
        # Handed out as it is, it lives until the reader gets the next one, charged or not.
        self._handed, self._reading = (self._reading if self._whole else None), None
        found = self._store.read_cached(piece.id, piece.size, piece.off, n)
        if self._wanted:
            self._window.open(min(self._wanted, self._pool.cap()))
            self._wanted = 0
        window = self._window.seen(
            offset, n, cap=self._pool.cap(), waited=self._waited, short_of_memory=self._is_short()
        )
        self._waited = False
        self._let_go(offset, n, window)
        if offset != self._next:
            self._ahead, self._behind = 0, 1 << 62  # a jump: look again at everything in the window
        if window:
            self._pool.use(self)
            ahead = self._pool.ahead(window)
            if self._window.direction > 0:
                self._run_ahead(offset, n, ahead)
            else:
                self._run_behind(offset, n, ahead)
        if self._parts and found is None:
            found = await self._from_parts(block, boff, n)
        if found is None:
            self._waited = True
            found = await self._demand(block, boff, n, offset) if window else None
        if found is None:
            found = await self._store.read(piece.id, piece.size, piece.off, n)
        self._next = offset + len(found)
        if self._handed is not None:
            self._handed = None
            self._let_go(offset, n, window)
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
        self._chunks.clear()
        self.close()

    def close(self) -> None:
        """Drop what was fetched ahead and stop what is on its way. Never waits; may be called again."""
        for block, parts in self._parts.items():
            for part in parts:
                self._drop(block, part)
        self._parts.clear()
        self._reading = self._handed = None
        self._ahead, self._behind = 0, 1 << 62
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._pool.leave(self)

    def give_back(self, n: int) -> int:
        """See `readpool.Holder`. What the reader has in hands stays."""
        freed = 0
        rest = [(part.begin, block, part) for block, parts in self._parts.items() for part in parts]
        rest.sort(key=_position, reverse=self._window.direction > 0)
        for begin, block, part in rest:
            if freed >= n:
                break
            if part is self._reading or part is self._handed:
                continue
            if part.task.done():
                freed += part.stop - part.start
            self._forget(block, part)
            if self._window.direction > 0:
                self._ahead = min(self._ahead, begin)
            else:
                self._behind = max(self._behind, part.end)
        return freed

    # -- where the bytes lie ----------------------------------------------------------------------------------------

    async def _piece_at(self, offset: int, limit: int) -> Slice:
        """The piece that begins exactly at a file offset, at most `limit` bytes of it."""
        index, pos = divmod(offset, CHUNK_SIZE)
        known = self._chunks.get(index)
        if known is None or pos >= known.end:
            known = await self._look(index)
        return self._piece_in(known, pos, limit)

    @staticmethod
    def _piece_in(chunk: _Chunk, pos: int, limit: int) -> Slice:
        pieces = chunk.pieces
        piece = pieces[bisect_right(pieces, pos, key=_position) - 1]
        skip = pos - piece.pos
        return Slice(pos, piece.id, piece.size, piece.off + skip, min(piece.length - skip, limit))

    async def _look(self, index: int) -> _Chunk:
        """The pieces of a whole chunk: the next requests won't need to ask again."""
        end = min(CHUNK_SIZE, self.length - index * CHUNK_SIZE)
        found = _Chunk(await self._pieces_of(index, 0, end), end)
        chunks = self._chunks
        for old in [i for i in chunks if abs(i - index) > 1]:
            del chunks[old]
        chunks[index] = found
        return found

    def _chunk_nowait(self, index: int) -> _Chunk | None:
        """The pieces of a chunk if they are known, else somebody goes for them: a wait at each border of chunks would
        let the link run dry every 64 MiB."""
        known = self._chunks.get(index)
        if known is None and self._looking is None:

            async def look() -> None:
                try:
                    await self._look(index)
                except (FsError, OSError):
                    pass  # who reads there will hear of it
                finally:
                    if self._looking is asyncio.current_task():
                        self._looking = None

            self._looking = asyncio.get_running_loop().create_task(look())
        return known

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

    # -- fetching ---------------------------------------------------------------------------------------------------

    def _run_ahead(self, offset: int, n: int, window: int) -> None:
        """Have the parts of [offset, offset + n + window) on their way that aren't held or cached."""
        end = min(offset + n + window, self.length)
        at = max(offset, self._ahead)
        while at < end:
            index, pos = divmod(at, CHUNK_SIZE)
            chunk = self._chunk_nowait(index)
            if chunk is None or pos >= chunk.end:
                break
            piece = self._piece_in(chunk, pos, CHUNK_SIZE)
            if not piece.id:
                at += piece.length
                continue
            block, boff, m = self._locate(piece)
            first = n if at == offset and not self._parts and n * FIRST_SHARE <= m else 0
            if not self._want(block, boff, m, at, first):
                break
            at += m
        self._ahead = max(at, offset)
        # Long before the border of the chunk: while blocks are at hand, a reader doesn't wait, and nothing else runs.
        following = (offset >> CHUNK_BITS) + 1
        if window > self._block_size and following << CHUNK_BITS < self.length:
            self._chunk_nowait(following)

    def _run_behind(self, offset: int, n: int, window: int) -> None:
        """The same for a reader that goes backwards: [offset - window, offset + n), from its end."""
        low = max(offset - window, 0)
        at = min(offset + n, self._behind)
        while at > low:
            index, pos = divmod(at - 1, CHUNK_SIZE)
            chunk = self._chunk_nowait(index)
            if chunk is None or pos >= chunk.end:
                break
            whole = chunk.pieces[bisect_right(chunk.pieces, pos, key=_position) - 1]
            skip = pos - whole.pos  # of the last byte, in its piece
            m = skip + 1
            if whole.id:
                # As much of the piece as lies in the block of that byte.
                m = min(m, (whole.off + skip) % self._block_size + 1)
                part = Slice(whole.pos, whole.id, whole.size, whole.off + skip + 1 - m, m)
                block, boff, m = self._locate(part)
                if not self._want(block, boff, m, at - m, 0):
                    break
            at -= m
        self._behind = min(at, offset + n)

    def _want(self, block: BlockId, boff: int, m: int, at: int, first: int) -> bool:
        """Have bytes [boff, boff + m) of a block on their way, the file's at `at`; False if memory is missing for them.
        first: so many of them in a request of their own as well."""
        for part in self._parts.get(block, ()):
            if part.start <= boff and boff + m <= part.stop:
                part.begin, part.end = min(part.begin, at), max(part.end, at + m)
                return True
        base = block[1] * self._block_size
        if self._store.read_cached(block[0], base + block[2], base + boff, 1):
            return True
        reader = self._store.reader
        start, stop = boff, boff + m
        if not reader.partial(block):
            start, stop = 0, block[2]
        if first and reader.ranges and self._pool.try_charge(first):
            self._add(block, boff, boff + first, at, at + first)
        if not self._pool.try_charge(stop - start):
            return False
        self._add(block, start, stop, at, at + m)
        return True

    def _add(self, block: BlockId, start: int, stop: int, begin: int, end: int) -> None:
        task = asyncio.get_running_loop().create_task(self._store.reader.fetch_part(block, start, stop - start))
        self._parts.setdefault(block, []).append(_Part(task, start, stop, begin, end))

    async def _from_parts(self, block: BlockId, boff: int, n: int) -> Buffer | None:
        for part in self._parts.get(block, ()):
            if part.start <= boff < part.stop:
                break
        else:
            return None
        self._reading = part
        if not part.task.done():
            self._waited = True
        try:
            data = await asyncio.shield(part.task)
        except BlockError:
            self._reading = None
            self._forget(block, part)  # a demand of its own tries again and tells the error
            return None
        boff -= part.start
        n = min(n, len(data) - boff)
        self._whole = n * 2 > len(data)
        if n == len(data):
            return data
        found = memoryview(data)[boff : boff + n]
        # The last of a block would keep all of it alive while the reader waits for the next.
        return bytes(found) if boff + n == len(data) and not self._whole else found

    async def _demand(self, block: BlockId, boff: int, n: int, at: int) -> Buffer | None:
        """There was no memory ahead of time for a block that the next requests want, too: wait for it in turn and hold
        it. None: go without."""
        start = boff if self._store.reader.partial(block) else 0
        stop = block[2]
        if n * 2 > stop - start or not await self._pool.charge(stop - start):
            return None
        self._add(block, start, stop, at, at + stop - boff)
        return await self._from_parts(block, boff, n)

    # -- letting go -------------------------------------------------------------------------------------------------

    def _let_go(self, offset: int, n: int, window: int) -> None:
        """Drop what a reader that asks for [offset, offset + n) won't want: what it has passed, and after a jump what
        lies elsewhere."""
        if not self._parts:
            return
        if self._window.direction > 0:
            low, high = offset, offset + n + window + 2 * self._block_size
        else:
            low, high = offset - window - 2 * self._block_size, offset + n
        passed = [
            (block, part)
            for block, parts in self._parts.items()
            for part in parts
            if (part.end <= low or part.begin >= high) and part is not self._handed
        ]
        for block, part in passed:
            self._forget(block, part)
        if not self._parts and not window:
            self._pool.leave(self)

    def _forget(self, block: BlockId, part: _Part) -> None:
        parts = self._parts.get(block)
        if parts is None or part not in parts:
            return
        parts.remove(part)
        if not parts:
            del self._parts[block]
        self._drop(block, part)

    def _drop(self, block: BlockId, part: _Part) -> None:
        pool, n = self._pool, part.stop - part.start
        if part.task.done():
            pool.release(n)
            if not part.task.cancelled():
                part.task.exception()
            return

        def ended(task: asyncio.Task[Buffer]) -> None:
            pool.release(n)
            if not task.cancelled():
                task.exception()

        part.task.add_done_callback(ended)
        part.task.cancel()

    def _is_short(self) -> bool:
        return self._budget.used > self._budget.limit * 9 // 10


# A chunk is the unit of the metadata, and offsets are split by division above.
assert 1 << CHUNK_BITS == CHUNK_SIZE
