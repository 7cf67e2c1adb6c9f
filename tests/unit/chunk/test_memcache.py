# SPDX-License-Identifier: Apache-2.0
"""Blocks in memory: bounds, order of eviction."""

from __future__ import annotations

from core.chunk.buffers import MemoryBudget
from core.chunk.memcache import OVERHEAD, MemoryCache


async def test_the_capacity_holds_and_the_least_recently_used_goes() -> None:
    cache = MemoryCache(3 * (100 + OVERHEAD))
    for i in range(3):
        assert cache.put((i, 0, 100), bytes([i]) * 100)
    assert cache.get_nowait((0, 0, 100), 10, 5) == b"\0" * 5
    assert cache.put((3, 0, 100), bytes(100))
    assert [cache.has((i, 0, 100)) for i in range(4)] == [True, False, True, True]
    assert not cache.put((9, 0, 100_000), bytes(100_000))
    cache.remove((0, 0, 100))
    cache.remove((0, 0, 100))
    assert cache.used == 2 * (100 + OVERHEAD)
    await cache.close()
    assert cache.used == 0


def test_without_eviction_what_does_not_fit_is_dropped() -> None:
    cache = MemoryCache(2 * (100 + OVERHEAD), eviction="none")
    assert [cache.put((i, 0, 100), bytes(100)) for i in range(3)] == [True, True, False]
    assert cache.put((0, 0, 100), bytes(100))  # there already


def test_large_blocks_are_not_for_the_small_cache() -> None:
    cache = MemoryCache(1 << 20, max_block=1000)
    assert not cache.keeps_blocks and not cache.put((1, 0, 1001), bytes(1001)) and cache.put((1, 0, 1000), bytes(1000))


async def test_memory_returns_to_the_budget() -> None:
    budget = MemoryBudget(1000)
    cache = MemoryCache(10_000)
    cache.attach(budget)
    assert cache.put((1, 0, 100), bytes(100)) and budget.used == 100 + OVERHEAD
    assert cache.put((2, 0, 100), bytes(100))
    assert cache.put((3, 0, 100), bytes(100))  # no room left in the budget: its own oldest makes room
    assert not cache.has((1, 0, 100)) and budget.used == 2 * (100 + OVERHEAD)
    budget.overdraft(1000)
    assert not cache.put((4, 0, 500), bytes(500))  # others need it all
    budget.release(1000)
    await cache.close()
    assert budget.used == 0
