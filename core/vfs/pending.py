# SPDX-License-Identifier: Apache-2.0
"""Slices that are being written: bytes that some application gave us and nobody recorded yet.

A slice begins as a small buffer, which may still be changed in place and is packed with others' if it stays small;
beyond a quarter of a block it becomes a `SliceWriter`, whose blocks leave as they fill. Frozen means: no more bytes,
the rest is on its way. Source: data-path §7.1–§7.3.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from core.chunk.api import Durability, Piece
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockError
from core.chunk.writer import BlockSliceWriter
from core.meta.records import CHUNK_SIZE
from core.vfs.content import pack_limit
from core.vfs.keeper import Keeper, NoKeeper

T = TypeVar("T")

# When data leaves although nobody asked for it (§7.3).
MAX_AGE_S: Final = 5.0
MAX_IDLE_S: Final = 1.0


class PendingSlice:
    """Bytes [start, start + length) of a chunk. One task at a time writes into it."""

    def __init__(self, table: OpenSlices, seq: int, start: int, now_s: float) -> None:
        self.seq = seq
        self.start = start
        self.born_s = now_s
        self.written_s = now_s
        self.mtime_ns = 0
        self.frozen = False
        self.tokens: list[int] = []  # of the keeper, for the bytes in here
        self.request = 0  # of the latest write, for the keeper
        self.hint = 0  # of bytes that are appended: where their writer believed the end of the file to be
        self.stored: asyncio.Future[Piece] | None = None  # set when the last byte is on its way
        self.durability: Durability | None = None  # None: as this client does it
        self.index = 0  # of its chunk, for who records it
        self.leaves: Callable[[PendingSlice], None] | None = None  # told when `stored` is set
        self._table = table
        self._store = table.store
        self._limit = pack_limit(table.store.block_size)
        self.length = 0
        self._small = bytearray()
        self._charged = 0
        self._writer: BlockSliceWriter | None = None
        self._busy = False
        table.add(self)

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def memory(self) -> int:
        """About how much freezing it will give back."""
        return self._charged if self._writer is None else self._store.block_size

    def accepts(self, pos: int, n: int) -> bool:
        """May bytes [pos, pos + n) of the chunk go into this slice? (Not what lies in other slices: ask the queue.)"""
        if self.frozen:
            return False
        if pos == self.end:
            return True
        return self._writer is None and self.start <= pos < self.end and pos + n - self.start <= self._limit

    async def put(self, pos: int, data: memoryview, now_s: float, mtime_ns: int, paid: int) -> None:
        """Take bytes that it accepts. After an error or a cancellation it is frozen with what it got so far.

        paid: what the caller charged to the memory budget for them; the slice sees to its return."""
        self._busy = True
        self.written_s, self.mtime_ns = now_s, mtime_ns
        try:
            await self._put(pos - self.start, data, paid)
        except BaseException:
            self.freeze()
            raise
        finally:
            self._busy = False
            self.length = len(self._small) if self._writer is None else self._writer.length
            self._table.touch(self)
            if self.end >= CHUNK_SIZE:
                self.freeze()
            if self.frozen:
                self._start_finish()

    def put_nowait(self, pos: int, data: memoryview, now_s: float, mtime_ns: int, paid: int) -> bool:
        """The same if nothing has to be waited for. False: nothing happened."""
        at, n = pos - self.start, len(data)
        writer = self._writer
        if writer is None:
            if at + n > self._limit:
                return False
            if not self._goes_direct(n):
                self._charged += paid
                self._put_small(at, data)
                self.length = len(self._small)
                paid = 0
            else:
                writer = self._writer = finish_now(self._store.writer(durability=self.durability))
        if writer is not None:
            if n >= self._store.block_size - writer.length % self._store.block_size:
                return False
            room = writer.buffer()
            if n > len(room):
                return False
            room[:n] = data
            if paid:
                self._store.budget.release(paid)
            try:
                finish_now(writer.advance(n))
            except BaseException:
                self.freeze()
                raise
            self.length = writer.length
        self.written_s, self.mtime_ns = now_s, mtime_ns
        self._table.touch(self)
        if self.end >= CHUNK_SIZE:
            self.freeze()
        return True

    async def gone(self) -> None:
        """Wait until it is stored, or can't be. Only for one whose last byte is on its way."""
        assert self.stored is not None
        if not self.stored.done():
            try:
                await self.stored
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
            except Exception:
                pass  # `failure` tells

    @property
    def piece(self) -> Piece | None:
        """Where it is stored; None while it isn't or if that failed."""
        task = self.stored
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()

    @property
    def failure(self) -> BaseException:
        assert self.stored is not None
        if self.stored.cancelled():
            return BlockError("the upload was cancelled")
        return self.stored.exception() or BlockError("the upload failed")

    def freeze(self) -> None:
        """No more bytes; the rest leaves now, or when the write under way is through."""
        if not self.frozen:
            self.frozen = True
            self._table.discard(self)
        if not self._busy:
            self._start_finish()

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _put(self, at: int, data: memoryview, paid: int) -> None:
        self._charged += paid
        if self._writer is None:
            if at + len(data) <= self._limit and not self._goes_direct(len(data)):
                self._put_small(at, data)
                return
            self._discharge(paid)  # these bytes are the caller's until there is a block for them
            self._writer = await self._grown()
        self._discharge(self._charged)
        await self._writer.write(data)

    def _goes_direct(self, n: int) -> bool:
        """Who begins with so much goes on with more: then the bytes are copied once, into the block that leaves. Only
        if that block is free at once: who waits for one must be somebody who can't do without."""
        return not self._small and n > self._limit // 2 and self._table.is_comfortable(self._store.block_size)

    def _put_small(self, at: int, data: memoryview) -> None:
        small = self._small
        inside = min(len(data), len(small) - at)
        if inside:
            small[at : at + inside] = data[:inside]
            self._discharge(inside)
            data = data[inside:]
        small += data

    async def _grown(self) -> BlockSliceWriter:
        """Too large to be packed: a real slice that begins with what was gathered."""
        # Those who wait for memory may hold a part of it, and no more, or all might wait for each other: who comes on
        # top of that returns its bytes although they aren't free yet.
        table, held = self._table, self._charged
        if table.held_waiting + held > self._store.budget.limit // 4:
            self._discharge(held)
            held = 0
        table.held_waiting += held
        try:
            writer = await self._store.writer(durability=self.durability)
        finally:
            table.held_waiting -= held
        try:
            await writer.write(self._small)
        except BaseException:
            await writer.abort()
            raise
        self._small = bytearray()
        return writer

    def _start_finish(self) -> None:
        if self.stored is not None:
            return
        if self._writer is not None:
            self.stored = asyncio.get_running_loop().create_task(self._finish(self._writer))
        elif self._small:
            self.stored = self._store.begin_pack(self._small, self.durability)
            self.stored.add_done_callback(self._packed)
        else:
            self.stored = asyncio.get_running_loop().create_future()
            self.stored.set_result(Piece(0, 0, 0, 0, 0))
            self._discharge(self._charged)
        if self.leaves is not None:
            self.leaves(self)

    def _packed(self, _: asyncio.Future[Piece]) -> None:
        self._discharge(self._charged)
        self._small = bytearray()

    async def _finish(self, writer: BlockSliceWriter) -> Piece:
        try:
            return await writer.finish()
        except BaseException:
            await writer.abort()
            raise

    def _discharge(self, n: int) -> None:
        if n:
            self._charged -= n
            self._store.budget.release(n)


def finish_now(coro: Coroutine[Any, Any, T]) -> T:
    """Run what is known not to wait."""
    try:
        coro.send(None)
    except StopIteration as e:
        result: T = e.value
        return result
    coro.close()
    raise AssertionError("waits although it had room")


class OpenSlices:
    """All slices of this process that still take bytes, least recently written first; and what is kept of them in case
    this process dies (`core/vfs/keeper.py`)."""

    def __init__(self, store: BlockSliceStore, keeper: Keeper | None = None) -> None:
        self.store = store
        self.keeper = keeper or NoKeeper()
        #: Whether anything is kept at all: most processes have nobody to take over from them.
        self.keeps = not isinstance(self.keeper, NoKeeper)
        #: Space that files will need more than now once everything is recorded.
        self.growth = 0
        #: Bytes of slices that wait for their first block.
        self.held_waiting = 0
        self.lost: list[list[int]] = []  # tokens of bytes whose loss nobody was told yet
        self._kept = 0
        self._let_go: asyncio.Future[None] | None = None
        self._slices: OrderedDict[int, PendingSlice] = OrderedDict()
        # What is left is for blocks under way and readers; memory they wait for comes back by itself.
        self._comfortable = store.budget.limit * 3 // 4

    def __len__(self) -> int:
        return len(self._slices)

    def add(self, s: PendingSlice) -> None:
        self._slices[id(s)] = s

    def touch(self, s: PendingSlice) -> None:
        if id(s) in self._slices:
            self._slices.move_to_end(id(s))

    def discard(self, s: PendingSlice) -> None:
        self._slices.pop(id(s), None)

    def is_comfortable(self, n: int) -> bool:
        """Are n more bytes surely free?"""
        return self.store.budget.used + n <= self._comfortable

    def make_room(self, n: int) -> None:
        """Called before n more bytes are taken: when memory gets short, what was written least recently leaves.
        Else many half-filled slices would hold everything until they are a second old."""
        missing = self.store.budget.used + n - self._comfortable
        if missing <= 0:
            return
        for s in list(self._slices.values())[:-1]:
            missing -= s.memory
            s.freeze()
            if missing <= 0:
                return

    def freeze_due(self, now_s: float) -> None:
        """Freeze what is idle or old."""
        for s in list(self._slices.values()):
            if now_s - s.written_s > MAX_IDLE_S or now_s - s.born_s > MAX_AGE_S:
                s.freeze()

    # -- what outlives this process ----------------------------------------------------------------------------------

    def keep_nowait(self, ino: int, offset: int, data: memoryview, request: int) -> int:
        """Keep bytes before they are acknowledged; a token, or 0 if there is no room."""
        token = self.keeper.wrote(ino, offset, data, request)
        if token:
            self._kept += 1
        return token

    async def keep(self, ino: int, offset: int, data: memoryview, request: int) -> int:
        """The same; without room what is oldest is recorded first. 0: it can't be kept, and nothing else is: the
        caller must have it recorded before it is acknowledged."""
        while not (token := self.keep_nowait(ino, offset, data, request)):
            if not self._kept:
                return 0
            freed = 0
            for s in list(self._slices.values()):
                s.freeze()
                freed += s.length
                if freed >= 2 * len(data):
                    break
            if not freed and self.lost:
                self.release(self.lost.pop(0))  # nobody asks what became of them
                continue
            if self._let_go is None:
                self._let_go = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._let_go)
        return token

    def release(self, tokens: list[int]) -> None:
        """Recorded, or their loss was told."""
        if not tokens:
            return
        for token in tokens:
            self.keeper.recorded(token)
        self._kept -= len(tokens)
        tokens.clear()
        waiting, self._let_go = self._let_go, None
        if waiting is not None:
            waiting.set_result(None)
