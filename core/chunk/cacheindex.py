# SPDX-License-Identifier: Apache-2.0
"""Which blocks a cache directory holds, how much that is, and which of them have to go.

No IO, no clock; locked, because the loop looks up while the writer thread adds and evicts. Source: data-path §5.6.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal

from core.chunk.naming import BlockId

Eviction = Literal["2-random", "lru", "none"]

#: Charged for each cached block beside its length (§0).
BLOCK_OVERHEAD: Final = 4096


class Entry:
    """size < 0: a staged block, waiting for its upload: not counted, never evicted. verified: its file was checked
    as a whole, or written, by this process."""

    __slots__ = ("atime", "size", "verified")

    def __init__(self, size: int, atime: float, verified: bool = False) -> None:
        self.size = size
        self.atime = atime
        self.verified = verified


class CacheIndex:
    """used: Σ (size + 4096) over blocks that aren't staged; items: how many those are."""

    def __init__(self) -> None:
        self.used = 0
        self.items = 0
        self._entries: dict[BlockId, Entry] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, block: BlockId) -> bool:
        return block in self._entries

    def find(self, block: BlockId) -> Entry | None:
        return self._entries.get(block)

    def blocks(self) -> set[BlockId]:
        with self._lock:
            return set(self._entries)

    def add(self, block: BlockId, entry: Entry) -> None:
        with self._lock:
            self._count(self._entries.pop(block, None), -1)
            self._entries[block] = entry
            self._count(entry, 1)

    def drop(self, block: BlockId) -> Entry | None:
        with self._lock:
            entry = self._entries.pop(block, None)
            self._count(entry, -1)
            return entry

    def expired(self, before: float, limit: int = 1000) -> list[BlockId]:
        """Blocks idle since `before`, out of at most `limit` entries that start at a random one (§5.6)."""
        with self._lock:
            start = random.randrange(max(len(self._entries) - limit, 0) + 1)  # noqa: S311
            some = islice(self._entries.items(), start, start + limit)
            return [block for block, entry in some if entry.size >= 0 and entry.atime < before]

    def victims(
        self, policy: Eviction, used_goal: int, items_goal: int, expired_before: float = 0
    ) -> Iterator[BlockId]:
        """Blocks to drop, one after another, until both goals are met; the caller drops each before asking on.
        expired_before: blocks that weren't used since then go before all others."""
        with self._lock:
            candidates = [(block, entry) for block, entry in self._entries.items() if entry.size >= 0]
        order = _by_age(candidates) if policy == "lru" else _by_random_pairs(candidates, expired_before)
        for block in order:
            if self.used <= used_goal and self.items <= items_goal:
                return
            yield block

    def _count(self, entry: Entry | None, sign: int) -> None:
        if entry is not None and entry.size >= 0:
            self.used += sign * (entry.size + BLOCK_OVERHEAD)
            self.items += sign


def _by_age(candidates: list[tuple[BlockId, Entry]]) -> Iterator[BlockId]:
    """Oldest access first (seconds); ties: larger first, then the smaller id."""
    heap = [(int(entry.atime), -entry.size, block) for block, entry in candidates]
    heapq.heapify(heap)
    while heap:
        yield heapq.heappop(heap)[2]


def _by_random_pairs(candidates: list[tuple[BlockId, Entry]], expired_before: float) -> Iterator[BlockId]:
    """Of every two random blocks the one that was used longer ago; the other one may be drawn again."""
    if expired_before:
        expired = {block for block, entry in candidates if entry.atime < expired_before}
        yield from expired
        candidates = [item for item in candidates if item[0] not in expired]
    while candidates:
        chosen = random.randrange(len(candidates))  # noqa: S311
        other = random.randrange(len(candidates))  # noqa: S311
        if candidates[other][1].atime < candidates[chosen][1].atime:
            chosen = other
        block = candidates[chosen][0]
        candidates[chosen] = candidates[-1]
        candidates.pop()
        yield block
