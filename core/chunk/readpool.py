# SPDX-License-Identifier: Apache-2.0
"""What all read streams of a process have in common: memory, its fair division, and what the link needs.

What streams hold is charged to the memory budget, and it is a cache: whoever needs memory more gets it back, from the
stream first that was used longest ago. Source: data-path §9.3 (80 % of the buffer for reading ahead) and §9.2
(unneeded segments are dropped).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from core.chunk.buffers import MemoryBudget
from core.chunk.link import LinkMeter

#: Blocks ahead of one stream, memory permitting (the reference has 8 by default, §9.3: too few far away). What the link
#: needs may be more.
USUAL_BLOCKS: Final = 16
#: On a slow link not more than it brings in this time, but a few blocks: a reader that stops has asked for it in vain.
AHEAD_S: Final = 1.0
LEAST_BLOCKS: Final = 4
#: A stream that wasn't read for so long has to make room for the read-ahead of others.
IDLE_S: Final = 2.0


class Holder(Protocol):
    """A stream, as the pool sees it."""

    def give_back(self, n: int) -> int:
        """Drop about n bytes that nobody is reading at this moment, last wanted first; how many were dropped."""
        ...


class ReadPool:
    """budget: what streams charge. link: what downloads show of the way to the store."""

    def __init__(
        self, budget: MemoryBudget, block_size: int, link: LinkMeter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.link = link
        self._budget = budget
        self._block_size = block_size
        self._clock = clock
        self._used_at: OrderedDict[Holder, float] = OrderedDict()  # least recently used first
        self._ahead = False  # memory is being asked for reading ahead
        self._total = budget.limit * 4 // 5
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
        return window if self._share() >= 2 * self._block_size else 0

    def cap(self) -> int:
        """Largest window of one stream at the moment: what fills the link, and not more than its share."""
        rate, wanted = self.link.rate, USUAL_BLOCKS * self._block_size
        if rate:
            slow = max(int(rate * AHEAD_S), LEAST_BLOCKS * self._block_size)
            wanted = max(self.link.window(), min(wanted, slow))
        return min(wanted, max(self._share(), self._block_size))

    def _share(self) -> int:
        return self._total // max(len(self._used_at), 1)

    def try_charge(self, n: int) -> bool:
        """Memory for reading ahead; release it at the budget. Of other streams only idle ones have to yield."""
        self._ahead = True
        try:
            return self._budget.try_charge(n)
        finally:
            self._ahead = False

    def _reclaim(self, n: int) -> None:
        before = self._clock() - IDLE_S if self._ahead else float("inf")
        for stream, used_at in list(self._used_at.items()):
            if used_at > before or n <= 0:
                return
            n -= stream.give_back(n)
