# SPDX-License-Identifier: Apache-2.0
"""Slices that are being written: bytes that some application gave us and nobody recorded yet.

A slice begins as a small buffer, which may still be changed in place and is packed with others' if it stays small;
beyond a quarter of a block it becomes a `SliceWriter`, whose blocks leave as they fill. Frozen means: no more bytes,
the rest is on its way. Source: data-path §7.1–§7.3.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from core.chunk.api import Piece
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockError
from core.chunk.writer import BlockSliceWriter
from core.meta.records import CHUNK_SIZE
from core.vfs.content import pack_limit

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
        self.stored: asyncio.Task[Piece] | None = None  # set when the last byte is on its way
        self._table = table
        self._store = table.store
        self._limit = pack_limit(table.store.block_size)
        self.length = 0
        self._small = bytearray()
        self._charged = 0
        self._writer: BlockSliceWriter | None = None
        self._busy = False
        self._leaving = asyncio.Event()
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

    async def gone(self) -> None:
        """Wait until it is stored, or can't be."""
        await self._leaving.wait()
        assert self.stored is not None
        await asyncio.wait([self.stored])

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
            inside = min(len(data), len(self._small) - at)
            if at + len(data) <= self._limit:
                if inside:
                    self._small[at : at + inside] = data[:inside]
                    self._discharge(inside)
                self._small += data[inside:]
                return
            self._writer = await self._grown()
        self._discharge(self._charged)
        await self._writer.write(data)

    async def _grown(self) -> BlockSliceWriter:
        """Too large to be packed: a real slice that begins with what was gathered."""
        # Returned before it is free: who waits for memory must not hold any, or all might wait for each other.
        self._discharge(self._charged)
        writer = await self._store.writer()
        try:
            await writer.write(self._small)
        except BaseException:
            await writer.abort()
            raise
        self._small = bytearray()
        return writer

    def _start_finish(self) -> None:
        if self.stored is None:
            self.stored = asyncio.get_running_loop().create_task(self._finish())
            self._leaving.set()

    async def _finish(self) -> Piece:
        writer = self._writer
        if writer is None:
            try:
                return await self._store.pack(self._small) if self._small else Piece(0, 0, 0, 0, 0)
            finally:
                self._discharge(self._charged)
                self._small = bytearray()
        try:
            return await writer.finish()
        except BaseException:
            await writer.abort()
            raise

    def _discharge(self, n: int) -> None:
        if n:
            self._charged -= n
            self._store.budget.release(n)


class OpenSlices:
    """All slices of this process that still take bytes, least recently written first."""

    def __init__(self, store: BlockSliceStore) -> None:
        self.store = store
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
