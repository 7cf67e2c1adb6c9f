# SPDX-License-Identifier: Apache-2.0
"""Writing one slice front to back: fill a pooled buffer, send each block as soon as it is full.

Source: data-path §7 (write pipeline). Upload first, commit after: nothing here is visible to anybody until the piece
that `finish` returns is recorded. The slice id is asked for when the first block leaves, so a writer that is given
up early costs no id.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from core.chunk.api import NewSliceId, Piece
from core.chunk.buffers import BufferPool
from core.chunk.naming import BlockId
from core.chunk.sink import BlockSink
from core.chunk.transfer import BlockError
from core.errors import FsError, ObjectError
from core.failpoints import point
from core.meta.records import CHUNK_SIZE
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk")

_MIN_BUFFER: Final = 4 << 10

#: How long a block waits until fewer are on their way.
SLOT_PATIENCE_S: Final = 1.0
_NOTHING: Final = memoryview(b"")
#: What a slice without bytes is: no object, no record, nothing to register.
EMPTY: Final = Piece(0, 0, 0, 0, 0)


class BlockSliceWriter:
    """A `SliceWriter`; made by `BlockSliceStore.writer`. One task at a time may use it.

    on_stored: told about each block that is stored, with its bytes (valid only during the call).
    on_deleted: told about each block that was uploaded in vain. max_in_flight: blocks of this slice on their way.
    """

    def __init__(
        self,
        transfer: BlockSink,
        pool: BufferPool,
        new_slice_id: NewSliceId,
        buffer: bytearray,
        on_stored: Callable[[BlockId, memoryview], None],
        on_deleted: Callable[[BlockId], None],
        max_in_flight: int,
    ) -> None:
        self.length = 0
        self._transfer = transfer
        self._pool = pool
        self._new_slice_id = new_slice_id
        self._on_stored = on_stored
        self._on_deleted = on_deleted
        self._max_in_flight = max_in_flight
        self._block_size = pool.block_size
        #: The store encrypts: there is a second copy while a block is sent.
        self._copies = transfer.copies
        self._id = 0
        self._buffer: bytearray | None = buffer
        self._view = memoryview(buffer)
        self._filled = 0  # bytes in the current buffer
        self._sent = 0  # blocks handed to a task
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._done = False

    def buffer(self) -> memoryview:
        if self._buffer is None:
            raise FsError(errno.EIO, "slice writer is used after its end or beyond 64 MiB")
        if self._filled == len(self._buffer):
            self._grow()
        return self._view[self._filled :]

    async def advance(self, n: int) -> None:
        if self._buffer is None or not 0 <= n <= len(self._buffer) - self._filled:
            raise ValueError(f"advance({n}): more than the buffer that was handed out")
        self._filled += n
        self.length += n
        if self._error is not None:
            self._raise()
        if self._filled < self._block_size:
            return
        await self._send()
        if self.length < CHUNK_SIZE:
            self._set(await self._pool.acquire())

    async def write(self, data: Buffer) -> None:
        source = memoryview(data)
        if self.length + len(source) > CHUNK_SIZE:
            raise ValueError(f"a slice has at most {CHUNK_SIZE} bytes")
        while len(source):
            # Released before the wait for another one: a view keeps its buffer alive.
            with self.buffer() as target:
                n = min(len(target), len(source))
                target[:n] = source[:n]
            source = source[n:]
            await self.advance(n)

    async def finish(self) -> Piece:
        if self._done:
            raise ValueError("finish() of a slice that is finished or given up")
        if self._error is None and self._filled:
            await self._send()
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._error is not None:
            self._raise()
        self._done = True
        self._drop_buffer()
        if not self.length:
            return EMPTY
        return Piece(self._id, self.length, 0, self.length)

    async def abort(self) -> None:
        """Safe at any time and repeatedly; after `finish` it does nothing (`SliceStore.forget` is for that)."""
        if self._done:
            return
        self._done = True
        self._error = self._error or BlockError("slice was given up")
        for task in self._tasks:
            task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._drop_buffer()
        # Every block that was handed out, stored or not: a cancelled put may have got through.
        lengths = [self._block_size] * self._sent
        if self._sent:
            lengths[-1] = self.length - (self._sent - 1) * self._block_size
            lengths[-1] = min(lengths[-1], self._block_size)
        for index, length in enumerate(lengths):
            self._on_deleted((self._id, index, length))
            try:
                await self._transfer.delete((self._id, index, length))
            except ObjectError as e:
                log.warning("%s; left for gc", e)

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Hand the current buffer to an upload task; afterwards there is none."""
        while len(self._tasks) >= self._max_in_flight:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._error is not None:
                self._raise()
        if not self._id:
            self._id = await self._new_slice_id()
            await point("slice.id-taken")
        slot = await self._take_slot()
        assert self._buffer is not None
        upload = _Upload((self._id, self._sent, self._filled), self._buffer)
        upload.slot = slot
        self._buffer = None
        self._view = _NOTHING  # it would keep the buffer alive
        self._filled = 0
        self._sent += 1
        task = asyncio.get_running_loop().create_task(self._upload(upload))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._uploaded(upload, done))

    async def _take_slot(self) -> bool:
        """Wait for another block to be through, but not for long: those may be waiting for their next attempts, and the
        memory budget is there to stop us."""
        if self._transfer.sending.locked():
            try:
                async with asyncio.timeout(SLOT_PATIENCE_S):
                    await self._transfer.sending.acquire()
            except TimeoutError:
                return False
            return True
        await self._transfer.sending.acquire()  # at once
        return True

    async def _upload(self, upload: _Upload) -> None:
        buffer, block = upload.buffer, upload.block
        assert buffer is not None
        view = memoryview(buffer)[: block[2]]
        await point("block.before-encode")
        async with self._transfer.coding:
            payload = await self._transfer.encode(view)
            plain = payload is view
            if not plain:
                # The plain bytes aren't needed any more: swap the buffer for what the compressed copy takes.
                self._on_stored(block, view)
                upload.payload_bytes = len(payload)
                self._pool.budget.overdraft(upload.payload_bytes)
                upload.buffer = None
                self._pool.release(buffer)
                del view, buffer  # else they would live on behind the budget's back until the upload is through
        await point("block.before-put")
        if plain:
            async with self._copied(upload, block[2]):
                upload.clean = await self._transfer.put(block, payload, self._failed)
            await point("block.put")
            self._on_stored(block, view)
        else:
            async with self._copied(upload, len(payload)):
                await self._transfer.put(block, payload, self._failed)
            await point("block.put")
        await point("block.stored")

    @asynccontextmanager
    async def _copied(self, upload: _Upload, n: int) -> AsyncIterator[None]:
        """Around a `put` that makes a copy. Where memory is used up a few go beyond it, or nobody would get on."""
        if not self._copies:
            yield
        elif self._pool.budget.try_charge(n):
            upload.payload_bytes += n
            yield
        else:
            async with self._transfer.copying:
                upload.payload_bytes += n
                self._pool.budget.overdraft(n)
                yield

    def _uploaded(self, upload: _Upload, task: asyncio.Task[None]) -> None:
        """A callback, because a task that is cancelled before its first step never reaches a `finally`."""
        self._tasks.discard(task)
        if upload.slot:
            self._transfer.sending.release()
        if upload.buffer is not None:
            self._pool.release(upload.buffer, reuse=upload.clean)
        if upload.payload_bytes:
            self._pool.budget.release(upload.payload_bytes)
        if task.cancelled():
            self._error = self._error or BlockError(f"slice {self._id}: upload of a block was cancelled")
        elif task.exception() is not None:
            self._error = self._error or task.exception()

    def _failed(self) -> bool:
        return self._error is not None

    def _raise(self) -> None:
        error = self._error
        if isinstance(error, FsError):
            raise BlockError(error.strerror or str(error), error) from error
        raise BlockError(f"slice {self._id}: upload failed: {error!r}", error) from error

    def _set(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)
        self._filled = 0

    def _grow(self) -> None:
        """A buffer that was small because of a hint turns out to be too small: eight times as large, at once,
        because the old one can't be returned before."""
        old, filled = self._buffer, self._filled
        assert old is not None
        new = self._pool.acquire_overdraft(min(len(old) * 8, self._block_size))
        new[:filled] = old
        self._pool.release(old)
        self._set(new)
        self._filled = filled

    def _drop_buffer(self) -> None:
        if self._buffer is not None:
            self._pool.release(self._buffer)
            self._buffer = None
            self._view = _NOTHING


class _Upload:
    """A block on its way: who owns which memory."""

    __slots__ = ("block", "buffer", "clean", "payload_bytes", "slot")

    def __init__(self, block: BlockId, buffer: bytearray) -> None:
        self.block = block
        self.buffer: bytearray | None = buffer
        self.payload_bytes = 0  # charged for the compressed copy
        self.slot = False  # among those that are sent
        self.clean = False  # nobody can be reading the buffer any more


def first_buffer_size(size_hint: int | None, block_size: int) -> int:
    """Size of a writer's first buffer: the power of two that holds the hint, at most a block."""
    if size_hint is None or size_hint >= block_size:
        return block_size
    return max(1 << (max(size_hint, 1) - 1).bit_length(), _MIN_BUFFER)
