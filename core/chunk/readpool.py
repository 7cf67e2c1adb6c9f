# SPDX-License-Identifier: Apache-2.0
"""What all read streams of a process have in common: memory, its fair division, and what the link needs.

What streams hold is charged to the memory budget, and that of idle ones is a cache: whoever needs memory gets it, from
the stream first that was used longest ago. Source: data-path §9.3 (80 % of the buffer for reading ahead) and §9.2
(unneeded segments are dropped).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from core.chunk.buffers import MemoryBudget
from core.chunk.link import LinkMeter

#: Blocks ahead of one stream, memory permitting (the reference has 8 by default, §9.3: too few far away). What the link
#: needs may be more.
USUAL_BLOCKS: Final = 16
#: On a slow link not more than it brings in this time, but a few blocks: a reader that stops has asked for it in vain.
AHEAD_S: Final = 1.0
LEAST_BLOCKS: Final = 4
#: A stream that wasn't read for so long has to make room for others.
IDLE_S: Final = 2.0
#: How long a stream waits for memory for the block that it needs now.
PATIENCE_S: Final = 0.25


class Holder(Protocol):
    """A stream, as the pool sees it."""

    def give_back(self, n: int) -> int:
        """Drop about n bytes that nobody is reading at this moment, last wanted first; how many were dropped."""
        ...


class ReadPool:
    """budget: what streams charge, at most four fifths of it. link: what downloads show of the way to the store.
    maximum: so many bytes may a stream run ahead of its reader, whatever the link needs (`--max-readahead`); less than
    a block is none."""

    def __init__(
        self, budget: MemoryBudget, block_size: int, link: LinkMeter, clock: Callable[[], float] = time.monotonic,
        *, maximum: int | None = None,
    ) -> None:  # fmt: skip
        self._maximum = maximum
        self.link = link
        self.held = 0  # bytes charged by streams
        self._budget = budget
        self._block_size = block_size
        self._clock = clock
        self._used_at: OrderedDict[Holder, float] = OrderedDict()  # least recently used first
        self._total = budget.limit * 4 // 5
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._tidying: asyncio.TimerHandle | None = None
        budget.add_reclaimer(self._reclaim)

    def __len__(self) -> int:
        return len(self._used_at)

    def use(self, stream: Holder) -> None:
        """A stream that holds memory, or wants to, was read."""
        self._used_at[stream] = self._clock()
        self._used_at.move_to_end(stream)

    def leave(self, stream: Holder) -> None:
        """It holds nothing any more."""
        self._used_at.pop(stream, None)

    def ahead(self, window: int) -> int:
        """How far a stream with this window may run ahead of the block it reads: with too many streams not at all, so
        that each of them can hold at least that block."""
        if self._maximum is not None and self._maximum < self._block_size:
            return 0
        return window if self._share() >= 2 * self._block_size else 0

    def cap(self) -> int:
        """Largest window of one stream at the moment: what fills the link, and not more than its share."""
        rate, wanted = self.link.rate, USUAL_BLOCKS * self._block_size
        if rate:
            slow = max(int(rate * AHEAD_S), LEAST_BLOCKS * self._block_size)
            wanted = max(self.link.window(), min(wanted, slow))
        if self._maximum is not None:
            wanted = min(wanted, max(self._maximum, self._block_size))
        return min(wanted, max(self._share(), self._block_size))

    def try_charge(self, n: int) -> bool:
        """Memory for reading ahead, if there is some."""
        if self._waiting or self.held + n > self._total or not self._budget.try_charge(n):
            return False
        self.held += n
        self._tidy_later()
        return True

    async def charge(self, n: int) -> bool:
        """Memory for a block that somebody waits for, in turn with others. False: none came free in time; who waits
        may hold what others wait for, so it must get on without."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._waiting or (self.held and self.held + n > self._total):
                    await self._wait(n)
                else:
                    self.held += n
                try:
                    await self._budget.charge(n)
                except asyncio.CancelledError:
                    self.held -= n
                    self._wake()
                    raise
        except TimeoutError:
            return False
        self._tidy_later()
        return True

    def release(self, n: int) -> None:
        self.held -= n
        self._wake()
        self._budget.release(n)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _share(self) -> int:
        return self._total // max(len(self._used_at), 1)

    async def _wait(self, n: int) -> None:
        """For a place among `held`."""
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = (n, place)
        self._waiting.append(item)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.held -= n
            else:
                with suppress(ValueError):
                    self._waiting.remove(item)
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting:
            n, place = self._waiting[0]
            if not place.done():  # else cancelled, and about to leave
                if self.held and self.held + n > self._total:
                    return
                self.held += n
                place.set_result(None)
            self._waiting.popleft()

    def _reclaim(self, n: int) -> None:
        """Of streams that are being read nothing is taken: they would fetch it again, and again."""
        before = self._clock() - IDLE_S
        for stream, used_at in list(self._used_at.items()):
            if used_at > before or n <= 0:
                return
            n -= stream.give_back(n)

    def _tidy_later(self) -> None:
        if self._tidying is None:
            self._tidying = asyncio.get_running_loop().call_later(IDLE_S, self._tidy)

    def _tidy(self) -> None:
        """Who waits for memory asked idle streams once, when they weren't idle yet."""
        self._tidying = None
        if not self.held:
            return
        if self._waiting or self._budget.has_waiters:
            self._reclaim(self._block_size * 4)
        self._tidy_later()
