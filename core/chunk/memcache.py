# SPDX-License-Identifier: Apache-2.0
"""Blocks in memory, bounded by its own capacity and by the budget it shares with everybody else.

Event-loop only. Source: data-path §5.9. The reference evicts by random pairs; here the order of use is kept by the
dict itself, which costs 0.1 µs per hit and needs no search at eviction.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from core.chunk.blockcache import BlockCache
from core.chunk.buffers import MemoryBudget
from core.chunk.cacheindex import Eviction
from core.chunk.naming import BlockId
from core.object.api import Buffer

#: What a small entry costs beside its bytes: key tuple, three ints, bytes header, dict slot (measured: 330 bytes).
OVERHEAD: Final = 384


class MemoryCache(BlockCache):
    """eviction: "none": what doesn't fit isn't kept; any other drops what was used longest ago. max_block: larger
    blocks aren't kept. expire_s: blocks that weren't used for so long are dropped (0: never). separate: `capacity` is
    memory beside the budget of everybody else (`--cache-dir memory` names its own size)."""

    def __init__(
        self,
        capacity: int,
        *,
        max_block: int | None = None,
        eviction: Eviction = "lru",
        expire_s: float = 0,
        separate: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.capacity = capacity
        self.keeps_blocks = max_block is None
        self.used = 0
        self._max_block = capacity if max_block is None else max_block
        self._evicts = eviction != "none"
        self._blocks: OrderedDict[BlockId, bytes] = OrderedDict()
        self._budget: MemoryBudget | None = None
        self._separate = separate
        self._expire_s = max(expire_s, 1) if expire_s > 0 else 0  # as on disk (§5.6)
        self._used_at: OrderedDict[BlockId, float] = OrderedDict()  # only with expire_s; in order of use
        self._now = now

    def attach(self, budget: MemoryBudget) -> None:
        if self._separate:
            return
        self._budget = budget
        budget.overdraft(self.used)
        budget.add_reclaimer(self._shrink)

    def get_nowait(self, block: BlockId, off: int, length: int) -> Buffer | None:
        if self._expire_s:
            self._expire()
        data = self._blocks.get(block)
        if data is None:
            return None
        self._blocks.move_to_end(block)
        if self._expire_s:
            self._used_at[block] = self._now()
            self._used_at.move_to_end(block)
        if length == len(data):
            return data
        return memoryview(data)[off : off + length]

    async def get(self, block: BlockId, off: int, length: int) -> Buffer | None:
        return self.get_nowait(block, off, length)

    def put(self, block: BlockId, data: bytes) -> bool:
        if self._expire_s:
            self._expire()
        size = len(data)
        if size > self._max_block or block in self._blocks:
            return block in self._blocks
        cost = size + OVERHEAD
        if self.used + cost > self.capacity:
            if not self._evicts or cost > self.capacity:
                return False
            self._shrink(self.used + cost - self.capacity)
        # Others' need goes first: a cache takes what is free and makes nobody shrink but itself.
        if self._budget is not None and not self._budget.try_charge(cost, reclaim=False):
            if not self._evicts or self.used < cost:
                return False
            self._shrink(cost)
            if not self._budget.try_charge(cost, reclaim=False):
                return False
        self._blocks[block] = data
        self.used += cost
        if self._expire_s:
            self._used_at[block] = self._now()
        return True

    def has(self, block: BlockId) -> bool:
        return block in self._blocks

    def remove(self, block: BlockId) -> None:
        data = self._blocks.pop(block, None)
        self._used_at.pop(block, None)
        if data is not None:
            self._give_back(len(data) + OVERHEAD)

    async def close(self) -> None:
        self._blocks.clear()
        self._used_at.clear()
        self._give_back(self.used)

    def _shrink(self, n: int) -> None:
        """Drop what was used longest ago until n bytes are free."""
        freed = 0
        while freed < n and self._blocks:
            block, data = self._blocks.popitem(last=False)
            self._used_at.pop(block, None)
            freed += len(data) + OVERHEAD
        if freed:
            self._give_back(freed)

    def _expire(self) -> None:
        """In order of use, so that one look suffices when nothing has expired."""
        before = self._now() - self._expire_s
        while self._used_at:
            block, used_at = next(iter(self._used_at.items()))
            if used_at >= before:
                break
            self.remove(block)

    def _give_back(self, n: int) -> None:
        self.used -= n
        if self._budget is not None:
            self._budget.release(n)
