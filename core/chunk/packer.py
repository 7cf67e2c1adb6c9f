# SPDX-License-Identifier: Apache-2.0
"""Packing: small pieces that are written at the same moment share one slice, that is one object.

Group commit, as databases do it for their logs: a lone caller's object leaves at the end of the current loop turn;
who comes during an upload gathers in the next pack. A slice record carries `size, off, len`, and slices are counted,
so every JuiceFS client reads packed files as they are (design §4).

Counting: each piece says `refs`, the number of callers that wait for this pack when it is stored; whoever commits one
registers the slice with that count. A piece that is then never committed leaves the registered count one too high:
its bytes stay until gc finds them. It is never too low, so nothing that is in use can be deleted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from core.chunk.api import NewSliceId, Piece
from core.chunk.buffers import MemoryBudget
from core.chunk.naming import BlockId
from core.chunk.transfer import BlockError, Transfer
from core.errors import FsError, ObjectError
from core.failpoints import point
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk")

# Packs under way at once, measured with 32 callers that don't march in step (bench/chunk.py jitter). Over a network
# (puts of 3-50 ms) eight give 1.2-1.6 times the rate of one and two thirds of the latency, at 0.3 puts per call
# instead of 0.06; sixteen add 15 % and cost twice the requests. On a local disk more packs only mean more files.
IN_FLIGHT_REMOTE: Final = 8
IN_FLIGHT_LOCAL: Final = 2


class _Member(NamedTuple):
    data: Buffer
    length: int
    stored: asyncio.Future[Piece]


class Packer:
    """max_in_flight: packs being uploaded at once. on_stored: told about each stored pack with its bytes.

    share: False gives every piece an object of its own.
    """

    def __init__(
        self,
        transfer: Transfer,
        budget: MemoryBudget,
        new_slice_id: NewSliceId,
        block_size: int,
        on_stored: Callable[[BlockId, bytes], None],
        max_in_flight: int = IN_FLIGHT_REMOTE,
        *,
        share: bool = True,
    ) -> None:
        self._transfer = transfer
        self._budget = budget
        self._new_slice_id = new_slice_id
        self._block_size = block_size
        self._on_stored = on_stored
        self._max_in_flight = max_in_flight
        self._share = share
        self._waiting: deque[_Member] = deque()
        self._uploads: set[asyncio.Task[None]] = set()
        self._due = False  # an upload is about to begin and takes who waits
        self._closed = False

    async def pack(self, data: Buffer) -> Piece:
        """Store 1 … block size bytes. The buffer must not change before this returns; FsError(EIO) on failure."""
        return await self.begin(data)

    def begin(self, data: Buffer) -> asyncio.Future[Piece]:
        """The same without a task that waits. Who cancels the future does without the piece."""
        length = len(data)
        if not 0 < length <= self._block_size:
            raise ValueError(f"pack takes 1 to {self._block_size} bytes, not {length}")
        stored: asyncio.Future[Piece] = asyncio.get_running_loop().create_future()
        if self._closed:
            stored.set_exception(FsError(errno.EIO, "the data path is closed"))
            return stored
        self._waiting.append(_Member(data, length, stored))
        if not self._due:
            self._depart()
        return stored

    async def close(self) -> None:
        """Wait for everything that is under way."""
        self._closed = True
        while self._uploads:
            await asyncio.wait(self._uploads)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _depart(self) -> None:
        """Another pack, unless there are enough. It begins in the next turn of the loop, so that everybody who becomes
        ready in this one is in it."""
        if len(self._uploads) < self._max_in_flight:
            self._due = True
            task = asyncio.get_running_loop().create_task(self._upload())
            self._uploads.add(task)
            task.add_done_callback(self._arrived)

    async def _upload(self) -> None:
        self._due = False
        members = self._take()
        if self._waiting:
            self._depart()  # more than one block
        if not members:
            return
        # A cancelled member cancels only its own future; `_take` and `_store` look at that.
        try:
            await self._store(members)
        except BaseException as e:
            text = (e.strerror if isinstance(e, FsError) else None) or repr(e)
            for member in members:
                if not member.stored.done():
                    # One exception each: they are raised in different tasks and collect different tracebacks.
                    failure = BlockError(text, e)
                    failure.__cause__ = e
                    member.stored.set_exception(failure)
            if not isinstance(e, Exception):
                raise

    def _arrived(self, task: asyncio.Task[None]) -> None:
        self._uploads.discard(task)
        if task.cancelled():
            self._due = False  # it may have been this one's, before it began
        if self._waiting and not self._due:
            self._depart()

    def _take(self) -> list[_Member]:
        """The next pack: callers in order of arrival, as many as fit into one block."""
        waiting = self._waiting
        members: list[_Member] = []
        size = 0
        while waiting and size + waiting[0].length <= self._block_size:
            member = waiting.popleft()
            if not member.stored.done():  # else cancelled while it waited
                members.append(member)
                size += member.length
                if not self._share:
                    break
        return members

    async def _store(self, members: list[_Member]) -> None:
        # One copy of small data buys three things: callers may reuse their buffers although an abandoned attempt
        # still reads, the codec and the store get one buffer, and the cache has the object to keep.
        data = bytes(members[0].data) if len(members) == 1 else b"".join([m.data for m in members])
        size = len(data)
        self._budget.overdraft(size)  # at most max_in_flight blocks, and their owners can't free theirs before
        try:
            slice_id = await self._new_slice_id()
            block = (slice_id, 0, size)
            await point("pack.id-taken")
            payload = await self._transfer.encode(data)
            await point("pack.before-put")
            await self._transfer.put(block, payload)
            await point("pack.stored")
        finally:
            self._budget.release(size)
        live = [m for m in members if not m.stored.done()]
        refs = len(live)
        off = 0
        for member in members:
            if not member.stored.done():
                member.stored.set_result(Piece(slice_id, size, off, member.length, refs))
            off += member.length
        if live:
            self._on_stored(block, data)
        else:
            await self._delete(block)

    async def _delete(self, block: BlockId) -> None:
        """Everybody left during the upload."""
        try:
            await self._transfer.delete(block)
        except ObjectError as e:
            log.warning("%s; left for gc", e)
