# SPDX-License-Identifier: Apache-2.0
"""Packing: small pieces that are written at the same moment share one slice, that is one object.

Group commit, as databases do it for their logs: a lone caller's object leaves at the end of the current loop turn;
who comes during an upload gathers in the next pack. A slice record carries `size, off, len`, and slices are counted,
so every JuiceFS client reads packed files as they are (design §4).

Where a request costs a round trip (and money), `company` makes packs worth one: a second pack leaves beside another
only with enough members or bytes, or when the other one is late. After a pack of many, the first of them to come back
waits a fraction of a put for the others; a lone writer never waits.

Counting: each piece says `refs`, the number of callers that wait for this pack when it is stored; whoever commits one
registers the slice with that count. A piece that is then never committed leaves the registered count one too high:
its bytes stay until gc finds them. It is never too low, so nothing that is in use can be deleted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from core.chunk.api import NewSliceId, Piece
from core.chunk.buffers import MemoryBudget
from core.chunk.naming import BlockId
from core.chunk.sink import BlockSink
from core.chunk.transfer import BlockError
from core.errors import FsError, ObjectError
from core.failpoints import point
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk")

# Packs under way at once. On a local disk more packs only mean more files (bench/chunk.py jitter). Far away more than
# one is for those that are worth it.
IN_FLIGHT_REMOTE: Final = 8
IN_FLIGHT_LOCAL: Final = 2
#: Members that make a pack worth a request of its own beside another: 32 writers shall need at most 0.05 per file.
COMPANY_REMOTE: Final = 24
#: Or this part of a block in bytes: then it is the bandwidth that counts, not the number of requests.
_FULL_ENOUGH: Final = 4
#: Who comes first of a crowd waits this part of a put's time for the others, within bounds.
_PATIENCE: Final = 0.25
_LEAST_PATIENCE_S: Final = 0.004
_MOST_PATIENCE_S: Final = 0.02
_LEAST_CROWD: Final = 4
#: A pack that takes this many times as long as usual doesn't hold up the next one.
_LATE: Final = 3
_LEAST_LATE_S: Final = 0.05
_UNKNOWN_LATE_S: Final = 0.5


class _Member(NamedTuple):
    data: Buffer
    length: int
    stored: asyncio.Future[Piece]


class Packer:
    """max_in_flight: packs being uploaded at once. on_stored: told about each stored pack with its bytes.

    share: False gives every piece an object of its own. company: members that a pack beside another should have.
    """

    def __init__(
        self,
        transfer: BlockSink,
        budget: MemoryBudget,
        new_slice_id: NewSliceId,
        block_size: int,
        on_stored: Callable[[BlockId, bytes], None],
        max_in_flight: int = IN_FLIGHT_REMOTE,
        *,
        share: bool = True,
        company: int = 1,
    ) -> None:
        self._transfer = transfer
        self._budget = budget
        self._new_slice_id = new_slice_id
        self._block_size = block_size
        self._on_stored = on_stored
        self._max_in_flight = max_in_flight
        self._share = share
        self._company = company
        self._waiting: deque[_Member] = deque()
        self._waiting_bytes = 0
        self._uploads: dict[asyncio.Task[None], float] = {}  # and when they began
        self._due = False  # an upload is about to begin and takes who waits
        self._timer: asyncio.TimerHandle | None = None  # until somebody has waited long enough for company
        self._put_s = 0.0  # how long a put takes, smoothed
        self._crowd = 0.0  # how many write at the same time, as recent packs show
        self._crowd_at = 0.0
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
        self._waiting_bytes += length
        if not self._due:
            self._consider()
        return stored

    async def close(self) -> None:
        """Wait for everything that is under way."""
        self._closed = True
        if self._waiting and not self._due:
            self._depart()
        while self._uploads:
            await asyncio.wait(self._uploads)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _consider(self) -> None:
        """Have who waits leave, if it is time."""
        if self._due or not self._waiting or len(self._uploads) >= self._max_in_flight:
            return
        if not self._is_worth_it():
            if self._uploads:
                if not self._are_late():
                    return
            elif len(self._waiting) < self._expected():
                if self._timer is None:
                    patience = min(max(self._put_s * _PATIENCE, _LEAST_PATIENCE_S), _MOST_PATIENCE_S)
                    self._timer = asyncio.get_running_loop().call_later(patience, self._waited_enough)
                return
        self._depart()

    def _is_worth_it(self) -> bool:
        return (
            len(self._waiting) >= self._company
            or self._waiting_bytes * _FULL_ENOUGH >= self._block_size
            or self._closed
        )

    def _expected(self) -> int:
        """How many come together, judged by the packs a moment ago; 0 if there is no crowd."""
        if self._crowd < _LEAST_CROWD or time.monotonic() - self._crowd_at > 2 * self._put_s + _LEAST_LATE_S:
            return 0
        return int(self._crowd * 0.9)

    def _are_late(self) -> bool:
        return time.monotonic() - max(self._uploads.values()) >= self._late_s()

    def _late_s(self) -> float:
        return max(self._put_s * _LATE, _LEAST_LATE_S) if self._put_s else _UNKNOWN_LATE_S

    def _waited_enough(self) -> None:
        self._timer = None
        if self._waiting and not self._due and len(self._uploads) < self._max_in_flight:
            self._depart()

    def _depart(self) -> None:
        """The next pack. It begins in the next turn of the loop, so that everybody who becomes ready in this one is in
        it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = True
        task = asyncio.get_running_loop().create_task(self._upload())
        self._uploads[task] = time.monotonic()
        task.add_done_callback(self._arrived)

    async def _upload(self) -> None:
        self._due = False
        members = self._take()
        self._consider()  # if there was more than one block
        if not members:
            return
        watch = None
        if self._company > 1:
            watch = asyncio.get_running_loop().call_later(self._late_s(), self._consider)
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
        finally:
            if watch is not None:
                watch.cancel()

    def _arrived(self, task: asyncio.Task[None]) -> None:
        del self._uploads[task]
        if task.cancelled():
            self._due = False  # it may have been this one's, before it began
        self._consider()

    def _take(self) -> list[_Member]:
        """The next pack: callers in order of arrival, as many as fit into one block."""
        waiting = self._waiting
        members: list[_Member] = []
        size = 0
        while waiting and size + waiting[0].length <= self._block_size:
            member = waiting.popleft()
            self._waiting_bytes -= member.length
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
            began = time.monotonic()
            payload = await self._transfer.encode(data)
            await point("pack.before-put")
            await self._transfer.put(block, payload)
            self._learn(time.monotonic() - began, len(members))
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

    def _learn(self, seconds: float, members: int) -> None:
        self._put_s = (self._put_s * 7 + seconds) / 8 if self._put_s else seconds
        # Those who came during the upload belong to the crowd; who stays alone is soon believed to be.
        self._crowd = max(members + len(self._waiting), self._crowd / 4)
        self._crowd_at = time.monotonic()

    async def _delete(self, block: BlockId) -> None:
        """Everybody left during the upload."""
        try:
            await self._transfer.delete(block)
        except ObjectError as e:
            log.warning("%s; left for gc", e)
