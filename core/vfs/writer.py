# SPDX-License-Identifier: Apache-2.0
"""The write side of an open inode, shared by all its handles in this process.

Bytes go into pending slices, slices are stored, then recorded. What readers of any client may rely on (data-path §7.5):
- a slice is recorded only when every block of it is stored;
- slices of one chunk are recorded in the order in which they were begun;
- the length never grows over bytes of ours that aren't recorded yet, also not over those that failed.

Appended bytes have no place before they are recorded: they gather in slices of their own, and the commit puts them
where the file ends by then (`core/meta/recording.py`), so that records of several clients are all kept. Bytes with an
offset and bytes without one aren't pending at the same time.

A failure is told to every later write and flush until the last writer is gone (§7.6).
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from core.chunk.api import Durability
from core.chunk.clock import Clock
from core.errors import FsError
from core.meta.meta import Meta
from core.meta.recording import Recorded
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, MAX_FILE_LENGTH, Slice, align4k
from core.object.api import Buffer
from core.vfs.content import pack_limit
from core.vfs.journal import APPENDED_AT, AppendNote
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
#: After these the user makes room and goes on.
_PASSING: Final = (errno.ENOSPC, errno.EDQUOT)
#: Takes the place of a chunk's index for slices that go to the end of the file.
APPENDED: Final = -1


class FileWriter:
    """begun: told when a slice is begun, so that somebody watches its age. changed: told an offset from which on others
    changed the file, or our bytes went elsewhere than their writer believed."""

    def __init__(
        self, meta: Meta, state: FileState, table: OpenSlices, clock: Clock, begun: Callable[[], None],
        flush_timeout_s: float = FLUSH_TIMEOUT_S, changed: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.error: FsError | None = None
        #: Failures so far, and the latest one: who remembers the number is told each of them once.
        self.failures = 0
        self.failure: FsError | None = None
        self.mtime_ns = 0  # of the latest write
        self._meta = meta
        self._state = state
        self._table = table
        self._budget = table.store.budget
        self._pack_limit = pack_limit(table.store.block_size)
        self._clock = clock
        self._begun = begun
        self._changed = changed
        self._flush_timeout_s = flush_timeout_s
        self._chunks: dict[int, deque[PendingSlice]] = {}
        self._workers: dict[int, asyncio.Task[None]] = {}  # by chunk
        self._durability: Durability | None = None
        self._count = 0
        self._seq = 0
        self._end = 0
        self._appended = 0  # bytes that wait to be appended
        self._growth = 0  # our part of `OpenSlices.growth`
        self._broken_at: int | None = None  # begin of bytes that were lost behind the recorded length
        self._reported = False
        self._unheard: list[list[int]] = []  # what the keeper holds of lost bytes
        self._last_mtime_ns = 0
        self._writing = asyncio.Lock()
        # Records of one inode change one by one in any case; in turn they don't lose races against each other.
        self._committing = asyncio.Lock()
        self._moved: list[asyncio.Future[None]] = []  # of those who wait for a slice to be recorded or lost

    @property
    def pending(self) -> int:
        """Slices that aren't recorded yet."""
        return self._count

    @property
    def end(self) -> int:
        """End of the bytes that aren't recorded yet; 0 if there are none."""
        if not self._count:
            return 0
        return self._end if not self._appended else self._state.length + self._appended

    def touches(self, start: int, end: int) -> bool:
        """Is some byte of this range of the file not recorded yet?"""
        if self._appended:
            return end > self._state.length
        for index in range(start >> CHUNK_BITS, (end - 1 >> CHUNK_BITS) + 1):
            base = index << CHUNK_BITS
            for s in self._chunks.get(index, ()):
                if base + s.start < end and start < base + s.end:
                    return True
        return False

    # -- for handles ------------------------------------------------------------------------------------------------

    async def write(self, offset: int, data: Buffer, *, append: bool = False, request: int = 0) -> int:
        """Take all bytes (a copy of them); returns their number. append: they go to the end of the file, `offset` is
        only where the caller believes that to be. request: see `core/vfs/keeper.py`.

        Waits while memory is used up, as long as a flush would. EFBIG, EINVAL, ENOSPC, EDQUOT, EIO, or the error of an
        earlier write. After a cancellation or a time-out some of the bytes may be taken.
        """
        try:
            async with asyncio.timeout(self._flush_timeout_s):
                return await self._write(offset, memoryview(data).cast("B"), append, request)
        except TimeoutError as e:
            budget = self._budget
            raise FsError(
                errno.EIO,
                f"inode {self._state.ino}: a write found no room for {self._flush_timeout_s:g} s:"
                f" {budget.used >> 20} of {budget.limit >> 20} MiB wait for the object store; the uploads go on, the"
                " log says what they wait for; see whether the store can be reached, then write again",
            ) from e

    async def _write(self, offset: int, view: memoryview, append: bool, request: int) -> int:
        async with self._writing:
            if offset < 0:
                raise FsError(errno.EINVAL, f"inode {self._state.ino}: negative offset {offset}")
            if offset + len(view) >= MAX_FILE_LENGTH:
                raise FsError(errno.EFBIG, f"inode {self._state.ino}: write beyond the limit of 2^57 - 1 bytes")
            self.raise_error()
            if self._count and append != (APPENDED in self._chunks):
                await self._drain(self._seq)
            await self._require_room(self._reach(offset, len(view), append))
            done, kept = 0, True
            while done < len(view):
                index, pos = (APPENDED, 0) if append else divmod(offset + done, CHUNK_SIZE)
                part = view[done : done + CHUNK_SIZE - pos]
                kept &= await self._place(index, pos, part, offset + done, request)
                done += len(part)
            if not kept:
                await self._drain(self._seq)
            self.raise_error()
        return done

    def write_nowait(self, offset: int, view: memoryview, *, append: bool = False, request: int = 0) -> bool:
        """The same if nothing has to be waited for. False: nothing happened, `write` will tell. Bytes, 1 to 64 Mi."""
        n = len(view)
        if (
            self._writing.locked()
            or self.error is not None
            or self._count >= MAX_PENDING
            or (self._count and append != (APPENDED in self._chunks))
            or not 0 <= offset < MAX_FILE_LENGTH - n
        ):
            return False
        index, pos = (APPENDED, 0) if append else divmod(offset, CHUNK_SIZE)
        reach = self._reach(offset, n, append)
        if pos + n > CHUNK_SIZE or not self._has_room(reach):
            return False
        self._table.make_room(n)
        paid = n if n <= self._pack_limit else 0
        if paid and not self._budget.try_charge(paid):
            return False
        s = self._find(index, pos, n)
        token = 0
        if self._table.keeps:
            token = self._table.keep_nowait(self._state.ino, offset | APPENDED_AT if append else offset, view, request)
        if (s is None and n > self._pack_limit) or (self._table.keeps and not token):
            self._budget.release(paid)
            self._table.release([token] if token else [])
            return False
        now_ns = self._meta.clock_ns()
        if s is None:
            s = self._begin(index, pos, self._clock.time(), offset)
        try:
            taken = s.put_nowait(s.end if append else pos, view, self._clock.time(), now_ns, paid)
        except BaseException:
            self._table.release([token] if token else [])
            raise
        if not taken:
            self._budget.release(paid)
            self._table.release([token] if token else [])
            return False
        self._took(s, index, n, now_ns, token, request)
        return True

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

    def require_stored(self) -> None:
        """Somebody opened the file with O_SYNC or O_DSYNC: from now on no byte of it is only staged (data-path §6)."""
        if self._durability is None:
            self._durability = Durability.STORED
            self.freeze_all()  # what goes on in a slice that was begun otherwise would be staged

    def freeze_all(self) -> None:
        for queue in self._chunks.values():
            for s in queue:
                if not s.frozen:
                    s.freeze()

    def raise_error(self) -> None:
        error = self.error
        if error is not None:
            self._told()
            raise FsError(error.errno or errno.EIO, error.strerror or str(error)) from error

    def failed_since(self, failures: int) -> FsError | None:
        """What happened after so many failures, for a descriptor that is told each once. Lack of space is over then:
        the next write tries again."""
        if failures == self.failures:
            return None
        error = self.failure
        assert error is not None
        self._told()
        if error.errno in _PASSING and not self._count:
            self.error = self._broken_at = None
        return FsError(error.errno or errno.EIO, error.strerror or str(error))

    async def close(self) -> None:
        """The last writer leaves. An error that nobody was told is at least logged."""
        try:
            await self._drain(self._seq)
        except FsError as e:
            log.error("%s", e)
        if self.failure is not None and not self._reported:
            log.error("%s; no flush or write was left to be told", self.failure.strerror)
        self._told()

    # -- placing bytes ----------------------------------------------------------------------------------------------

    async def _place(self, index: int, pos: int, part: memoryview, offset: int, request: int) -> bool:
        """False: the bytes couldn't be kept and must be recorded before they are acknowledged."""
        while self._count >= MAX_PENDING:
            self.freeze_all()
            await self._next_move()
        self._table.make_room(len(part))
        token = 0
        if self._table.keeps:
            at = offset | APPENDED_AT if index == APPENDED else offset
            token = await self._table.keep(self._state.ino, at, part, request)
        paid = 0
        try:
            if len(part) <= self._pack_limit:
                # Waits here if at all, where no slice is held up by it.
                if not self._budget.try_charge(len(part)):
                    await self._budget.charge(len(part))
                paid = len(part)
            now, now_ns = self._clock.time(), self._meta.clock_ns()
            s = self._find(index, pos, len(part)) or self._begin(index, pos, now, offset)
            before = s.length
            try:
                await s.put(s.end if index == APPENDED else pos, part, now, now_ns, paid)
            finally:
                self._took(s, index, s.length - before, now_ns, 0, request)
        except BaseException:
            self._table.release([token] if token else [])
            raise
        if token:
            s.tokens.append(token)
        return bool(token) or not self._table.keeps

    def _took(self, s: PendingSlice, index: int, n: int, now_ns: int, token: int, request: int) -> None:
        self.mtime_ns = now_ns
        s.request = request
        if token:
            s.tokens.append(token)
        if index == APPENDED:
            self._appended += n
        else:
            self._end = max(self._end, (index << CHUNK_BITS) + s.end)
        self._set_growth()

    def _find(self, index: int, pos: int, n: int) -> PendingSlice | None:
        """A slice that may take these bytes, newest first, unless a newer one has bytes of the same range."""
        queue = self._chunks.get(index)
        if queue is None:
            return None
        if index == APPENDED:
            last = queue[-1]
            if not last.frozen and last.length + n <= CHUNK_SIZE:
                return last
            last.freeze()  # what one call writes stays in one piece
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

    def _begin(self, index: int, pos: int, now: float, hint: int) -> PendingSlice:
        self._seq += 1
        s = PendingSlice(self._table, self._seq, pos, now)
        s.durability = self._durability
        s.hint = hint
        self._count += 1
        s.index = index
        s.leaves = self._left
        queue = self._chunks.get(index)
        if queue is None:
            queue = self._chunks[index] = deque()
        queue.append(s)
        self._begun()
        return s

    # -- room -------------------------------------------------------------------------------------------------------

    def _reach(self, offset: int, n: int, append: bool) -> int:
        return max(self._state.length, self.end) + n if append else offset + n

    def _has_room(self, reach: int) -> bool:
        length = self._state.length
        if reach <= length:
            return True
        own = align4k(reach) - align4k(length)
        return own <= self._growth or self._meta.room_nowait(
            self._state.attr, own, self._table.growth - self._growth + own
        )

    async def _require_room(self, reach: int) -> None:
        if not self._has_room(reach):
            own = align4k(reach) - align4k(self._state.length)
            await self._meta.require_growth(self._state.attr, own, self._table.growth - self._growth + own)

    def _set_growth(self) -> None:
        end = self.end
        growth = align4k(end) - align4k(self._state.length) if end > self._state.length else 0
        self._table.growth += growth - self._growth
        self._growth = growth

    # -- recording --------------------------------------------------------------------------------------------------

    def _left(self, s: PendingSlice) -> None:
        """A slice is on its way to the store: from then on somebody waits for it."""
        if s.index not in self._workers:
            queue = self._chunks[s.index]
            if queue[0].stored is not None:
                worker = asyncio.get_running_loop().create_task(self._record_chunk(s.index, queue))
                self._workers[s.index] = worker

    async def _record_chunk(self, index: int, queue: deque[PendingSlice]) -> None:
        """Record the slices of one chunk in order, as far as they are on their way."""
        try:
            await self._record_left(index, queue)
        finally:
            del self._workers[index]

    async def _record_left(self, index: int, queue: deque[PendingSlice]) -> None:
        while queue and queue[0].stored is not None:
            await queue[0].gone()
            batch = self._ready(queue)
            try:
                if not batch:
                    batch = [queue[0]]
                    raise queue[0].failure
                if index == APPENDED:
                    await self._append(batch)
                else:
                    await self._record(index, batch)
                for s in batch:
                    self._table.release(s.tokens)
            except Exception as e:
                self._lost(index, batch, e)
            for s in batch:
                queue.popleft()
                if index == APPENDED:
                    self._appended -= s.length
            self._count -= len(batch)
            if not self._count:
                self._end = 0
            self._set_growth()
            if not queue:
                del self._chunks[index]  # before anybody else runs: the next slice starts a new queue
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
            mtime = self._commit_time(batch)
            try:
                done = await self._meta.record_slices(
                    self._state.ino, index, [r for r, _ in records], mtime, refs=[n for _, n in records]
                )
            except FsError as e:
                self._not_recorded(batch, e)
                raise
            start, end = _solid(records)
            self._committed(done, mtime, base + start, base + end)

    async def _append(self, batch: list[PendingSlice]) -> None:
        ino = self._state.ino
        async with self._committing:
            pieces = [p for s in batch if (p := s.piece) is not None and p.length]
            if not pieces:
                return
            mtime = self._commit_time(batch)
            hint = batch[0].hint
            note: list[int] = []
            if self._table.keeps:
                # Whoever takes over can tell whether this very commit has happened.
                taken = self._table.keep_nowait(ino, *AppendNote(hint, batch[-1].request, pieces[-1]).packed(), 0)
                note = [taken] if taken else []
            try:
                done = await self._meta.append_pieces(ino, pieces, mtime, hint=self._state.length)
            except FsError as e:
                self._not_recorded(batch, e)
                raise
            finally:
                batch[-1].tokens += note  # goes last: what it is about goes before
            total = sum(p.length for p in pieces)
            self._committed(done, mtime, done.offset, done.offset + total)
            if done.offset != hint and self._changed is not None:
                self._changed(min(done.offset, hint))

    def _commit_time(self, batch: list[PendingSlice]) -> int:
        # Equal times would hide this change from clients that saw the one before (semantics §11).
        return max(self._last_mtime_ns + 1, *(s.mtime_ns for s in batch))

    def _committed(self, done: Recorded, mtime: int, start: int, end: int) -> None:
        self._last_mtime_ns = mtime
        old = self._state.length
        if self._state.committed(done, start, end) and self._changed is not None:
            self._changed(min(old, done.before.length if done.before else 0))

    def _not_recorded(self, batch: list[PendingSlice], error: FsError) -> None:
        if error.errno in _KEPT:
            for s in batch:
                self._discard(s)
        # Else it may be recorded all the same: the objects stay, gc finds out.

    def _lower_pending(self, index: int, seq: int) -> bool:
        """Are there older slices in lower chunks? They are older, so that nobody waits in a circle."""
        return any(i < index and queue[0].seq < seq for i, queue in self._chunks.items())

    def _lost(self, index: int, batch: list[PendingSlice], error: BaseException) -> None:
        ino, base = self._state.ino, index << CHUNK_BITS
        code = error.errno if isinstance(error, FsError) and error.errno in _KEPT else errno.EIO
        if error is not self.error:
            text = (error.strerror if isinstance(error, OSError) else None) or repr(error)
            self.error = self.failure = FsError(code, f"inode {ino}: written data was lost: {text}")
            self.error.__cause__ = error
            self.failures += 1
            self._reported = False
        for s in batch:
            if s.tokens:
                self._unheard.append(s.tokens)
                self._table.lost.append(s.tokens)
                s.tokens = []
            if index != APPENDED and base + s.end > self._state.length:
                at = max(base + s.start, self._state.length)
                self._broken_at = at if self._broken_at is None else min(self._broken_at, at)

    def _told(self) -> None:
        self._reported = True
        if self._unheard:
            for tokens in self._unheard:
                self._table.release(tokens)  # empties the list
            self._unheard.clear()
            self._table.lost[:] = [tokens for tokens in self._table.lost if tokens]

    def _discard(self, s: PendingSlice) -> None:
        if s.piece is not None and s.piece.length:
            self._meta.spawn(self._table.store.forget(s.piece))

    # -- waiting ----------------------------------------------------------------------------------------------------

    async def _drain(self, upto: int) -> None:
        """Freeze everything and wait until slices begun so far are recorded or lost."""
        self.freeze_all()
        if not self._oldest(upto):
            return
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            self._move()

        # A plain timer: every close of a written file comes here, and asyncio.timeout costs 5 µs.
        timer = asyncio.get_running_loop().call_later(self._flush_timeout_s, give_up)
        try:
            while self._oldest(upto):
                if late:
                    raise FsError(
                        errno.EIO,
                        f"inode {self._state.ino}: {self._count} slices aren't stored after"
                        f" {self._flush_timeout_s:g} s; the uploads go on, the log says what they wait for; see whether"
                        " the object store can be reached, then flush again",
                    )
                await self._next_move()
        finally:
            timer.cancel()

    def _oldest(self, upto: int) -> bool:
        return any(queue[0].seq <= upto for queue in self._chunks.values())

    async def _next_move(self) -> None:
        """Wait until some slice is recorded or lost."""
        moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._moved.append(moved)
        await moved

    def _move(self) -> None:
        waiting, self._moved = self._moved, []
        for moved in waiting:
            if not moved.done():  # else its caller was cancelled
                moved.set_result(None)


def _solid(records: list[tuple[Slice, int]]) -> tuple[int, int]:
    """The first gapless range of a chunk that these cover."""
    spans = sorted((s.pos, s.pos + s.length) for s, _ in records)
    start, end = spans[0]
    for low, high in spans[1:]:
        if low > end:
            break
        end = max(end, high)
    return start, end
