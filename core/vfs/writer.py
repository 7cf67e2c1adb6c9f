# SPDX-License-Identifier: Apache-2.0
"""The write side of an open inode, shared by all its handles in this process.

Bytes go into pending slices, slices are stored, then recorded. What readers of any client may rely on (data-path §7.5):
- a slice is recorded only when every block of it is stored;
- slices of one chunk are recorded in the order in which they were begun;
- the length never grows over bytes of ours that aren't recorded yet, also not over those that failed.

A failure is told to every later write and flush until the last writer is gone (§7.6).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from core.chunk.clock import Clock
from core.errors import FsError
from core.meta.meta import Meta
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, MAX_FILE_LENGTH, Slice
from core.object.api import Buffer
from core.vfs.content import pack_limit
from core.vfs.pending import OpenSlices, PendingSlice
from core.vfs.state import FileState

log = logging.getLogger("sluice.vfs")

#: Slices of one file that may wait; a writer beyond that waits with them (§7.2).
MAX_PENDING: Final = 1000
#: Slices of one chunk that take bytes at the same time: so many interleaved sequential writers stay cheap (§7.2).
MAX_OPEN: Final = 4
#: How far back a write looks for a slice to continue.
_LOOK_BACK: Final = 32
#: Slices recorded in one transaction.
MAX_BATCH: Final = 64
FLUSH_TIMEOUT_S: Final = 300.0
#: These say what is wrong and are told as they are; the data is surely not recorded (§7.5).
_KEPT: Final = (errno.ENOENT, errno.ENOSPC, errno.EDQUOT)


class FileWriter:
    """begun: told when a slice is begun, so that somebody watches its age."""

    def __init__(
        self, meta: Meta, state: FileState, table: OpenSlices, clock: Clock, begun: Callable[[], None],
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self.error: FsError | None = None
        self._meta = meta
        self._state = state
        self._table = table
        self._budget = table.store.budget
        self._pack_limit = pack_limit(table.store.block_size)
        self._clock = clock
        self._begun = begun
        self._flush_timeout_s = flush_timeout_s
        self._chunks: dict[int, deque[PendingSlice]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._count = 0
        self._seq = 0
        self._end = 0
        self._broken_at: int | None = None  # begin of bytes that were lost behind the recorded length
        self._reported = False
        self._last_mtime_ns = 0
        self._writing = asyncio.Lock()
        # Records of one inode change one by one in any case; in turn they don't lose races against each other.
        self._committing = asyncio.Lock()
        self._moved: asyncio.Future[None] | None = None

    @property
    def pending(self) -> int:
        """Slices that aren't recorded yet."""
        return self._count

    @property
    def end(self) -> int:
        """End of the bytes that aren't recorded yet; 0 if there are none."""
        return self._end if self._count else 0

    # -- for handles ------------------------------------------------------------------------------------------------

    async def write(self, offset: int, data: Buffer, at_end: Callable[[], Awaitable[int]] | None = None) -> int:
        """Take all bytes (a copy of them); returns their number. at_end: gives the offset instead (appending).

        Waits while memory is used up. EFBIG, EINVAL, or the error of an earlier write. After a cancellation some of
        the bytes may be taken.
        """
        view = memoryview(data).cast("B")
        async with self._writing:
            if at_end is not None:
                offset = await at_end()
            if offset < 0:
                raise FsError(errno.EINVAL, f"inode {self._state.ino}: negative offset {offset}")
            if offset + len(view) >= MAX_FILE_LENGTH:
                raise FsError(errno.EFBIG, f"inode {self._state.ino}: write beyond the limit of 2^57 - 1 bytes")
            self.raise_error()
            done = 0
            while done < len(view):
                index, pos = divmod(offset + done, CHUNK_SIZE)
                part = view[done : done + CHUNK_SIZE - pos]
                await self._place(index, pos, part)
                done += len(part)
            self.raise_error()
        return done

    async def flush(self) -> None:
        """Everything taken so far is stored and recorded when this returns. Raises the writer's error, or EIO after
        five minutes (the work goes on)."""
        await self._drain(self._seq)
        self.raise_error()

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Nothing is pending and nobody writes inside the block (truncate and friends). Errors aren't raised."""
        async with self._writing:
            await self._drain(self._seq)
            yield

    def freeze_all(self) -> None:
        for queue in self._chunks.values():
            for s in queue:
                if not s.frozen:
                    s.freeze()

    def raise_error(self) -> None:
        error = self.error
        if error is not None:
            self._reported = True
            raise FsError(error.errno or errno.EIO, error.strerror or str(error)) from error

    async def close(self) -> None:
        """The last writer leaves. An error that nobody was told is at least logged."""
        try:
            await self._drain(self._seq)
        except FsError as e:
            log.error("%s", e)
        if self.error is not None and not self._reported:
            log.error("%s; no flush or write was left to be told", self.error.strerror)

    # -- placing bytes ----------------------------------------------------------------------------------------------

    async def _place(self, index: int, pos: int, part: memoryview) -> None:
        while self._count >= MAX_PENDING:
            self.freeze_all()
            await self._next_move()
        self._table.make_room(len(part))
        paid = 0
        if len(part) <= self._pack_limit:
            # Waits here if at all, where no slice is held up by it.
            paid = len(part)
            if not self._budget.try_charge(paid):
                await self._budget.charge(paid)
        now = self._clock.time()
        s = self._find(index, pos, len(part)) or self._begin(index, pos, now)
        try:
            await s.put(pos, part, now, self._meta.clock_ns(), paid)
        finally:
            self._end = max(self._end, (index << CHUNK_BITS) + s.end)

    def _find(self, index: int, pos: int, n: int) -> PendingSlice | None:
        """A slice that may take these bytes, newest first, unless a newer one has bytes of the same range."""
        queue = self._chunks.get(index)
        if queue is None:
            return None
        opened = 0
        for seen, s in enumerate(reversed(queue)):
            if s.accepts(pos, n):
                return s
            if not s.frozen:
                opened += 1
                if opened >= MAX_OPEN:
                    s.freeze()
            if seen == _LOOK_BACK or (s.start < pos + n and pos < s.end):
                break
        return None

    def _begin(self, index: int, pos: int, now: float) -> PendingSlice:
        self._seq += 1
        s = PendingSlice(self._table, self._seq, pos, now)
        self._count += 1
        queue = self._chunks.get(index)
        if queue is None:
            queue = self._chunks[index] = deque()
            worker = asyncio.get_running_loop().create_task(self._record_chunk(index, queue))
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        queue.append(s)
        self._begun()
        return s

    # -- recording --------------------------------------------------------------------------------------------------

    async def _record_chunk(self, index: int, queue: deque[PendingSlice]) -> None:
        """Record the slices of one chunk in order until there are none."""
        while queue:
            await queue[0].gone()
            batch = self._ready(queue)
            try:
                if batch:
                    await self._record(index, batch)
                else:
                    batch = [queue[0]]
                    raise queue[0].failure
            except Exception as e:
                self._lost(index, batch, e)
            for _ in batch:
                queue.popleft()
            self._count -= len(batch)
            if not self._count:
                self._end = 0
            if not queue:
                del self._chunks[index]  # before anybody else runs: the next slice starts a new worker
            self._move()

    @staticmethod
    def _ready(queue: deque[PendingSlice]) -> list[PendingSlice]:
        """Slices at the head that are stored; empty if the first one failed."""
        batch: list[PendingSlice] = []
        for s in queue:
            if s.piece is None or len(batch) == MAX_BATCH:
                break
            batch.append(s)
        return batch

    async def _record(self, index: int, batch: list[PendingSlice]) -> None:
        base = index << CHUNK_BITS
        if any(base + s.end > self._state.length for s in batch):
            while self._lower_pending(index, batch[-1].seq):
                await self._next_move()
        async with self._committing:
            if self._broken_at is not None and any(base + s.end > self._broken_at for s in batch):
                assert self.error is not None
                for s in batch:
                    self._discard(s)
                raise self.error
            pieces = [(s.start, s.piece) for s in batch]
            records = [(Slice(at, p.id, p.size, p.off, p.length), p.refs) for at, p in pieces if p and p.length]
            if not records:
                return
            # Equal times would hide this change from clients that saw the one before (semantics §11).
            mtime = max(self._last_mtime_ns + 1, *(s.mtime_ns for s in batch))
            try:
                attr = await self._meta.write_slices(
                    self._state.ino, index, [r for r, _ in records], mtime, refs=[n for _, n in records]
                )
            except FsError as e:
                if e.errno in _KEPT:
                    for s in batch:
                        self._discard(s)
                # Else it may be recorded all the same: the objects stay, gc finds out.
                raise
            self._last_mtime_ns = mtime
            self._state.committed(index, attr)

    def _lower_pending(self, index: int, seq: int) -> bool:
        """Are there older slices in lower chunks? They are older, so that nobody waits in a circle."""
        return any(i < index and queue[0].seq < seq for i, queue in self._chunks.items())

    def _lost(self, index: int, batch: list[PendingSlice], error: BaseException) -> None:
        ino, base = self._state.ino, index << CHUNK_BITS
        code = error.errno if isinstance(error, FsError) and error.errno in _KEPT else errno.EIO
        if error is not self.error:
            text = (error.strerror if isinstance(error, OSError) else None) or repr(error)
            self.error = FsError(code, f"inode {ino}: written data was lost: {text}")
            self.error.__cause__ = error
            self._reported = False
        for s in batch:
            if base + s.end > self._state.length:
                at = max(base + s.start, self._state.length)
                self._broken_at = at if self._broken_at is None else min(self._broken_at, at)

    def _discard(self, s: PendingSlice) -> None:
        if s.piece is not None and s.piece.length:
            self._meta.spawn(self._table.store.forget(s.piece))

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def _drain(self, upto: int) -> None:
        """Freeze everything and wait until slices begun so far are recorded or lost."""
        self.freeze_all()
        if not self._oldest(upto):
            return
        try:
            async with asyncio.timeout(self._flush_timeout_s):
                while self._oldest(upto):
                    await self._next_move()
        except TimeoutError as e:
            raise FsError(
                errno.EIO,
                f"inode {self._state.ino}: {self._count} slices aren't stored after {self._flush_timeout_s:g} s;"
                " the uploads go on, the log says what they wait for",
            ) from e

    def _oldest(self, upto: int) -> bool:
        return any(queue[0].seq <= upto for queue in self._chunks.values())

    async def _next_move(self) -> None:
        """Wait until some slice is recorded or lost."""
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._moved)

    def _move(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None:
            moved.set_result(None)
