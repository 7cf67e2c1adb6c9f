# SPDX-License-Identifier: Apache-2.0
"""The memory budget holds, and nobody waits forever."""

from __future__ import annotations

import asyncio

import pytest

from core.chunk.buffers import BufferPool, MemoryBudget
from core.chunk.memcache import OVERHEAD, MemoryCache

from .doubles import settle


async def test_charges_wait_in_order_until_memory_comes_back() -> None:
    budget = MemoryBudget(100)
    await budget.charge(80)
    order: list[int] = []

    async def take(n: int) -> None:
        await budget.charge(n)
        order.append(n)

    tasks = [asyncio.create_task(take(n)) for n in (60, 10, 30)]
    await settle()
    assert order == [] and not budget.try_charge(1)  # 10 would fit, but 60 was first
    budget.release(80)
    await settle()
    assert order == [60, 10, 30] and budget.used == 100
    await asyncio.gather(*tasks)


async def test_a_charge_larger_than_the_budget_is_granted_when_nothing_else_is_used() -> None:
    budget = MemoryBudget(100)
    await asyncio.wait_for(budget.charge(500), 5)
    assert not budget.try_charge(1)
    budget.release(500)
    assert budget.used == 0


async def test_readers_get_on_while_writers_hold_everything() -> None:
    budget = MemoryBudget(100, read_reserve=20)
    await budget.charge(100)
    await budget.charge_read(10)
    await budget.charge_read(10)
    third = asyncio.create_task(budget.charge_read(10))
    await settle()
    assert not third.done() and budget.used == 120
    budget.release_read(10)
    await settle()
    assert third.done() and budget.used == 120


async def test_a_single_read_larger_than_the_reserve_is_granted() -> None:
    budget = MemoryBudget(100, read_reserve=20)
    await budget.charge(100)
    await asyncio.wait_for(budget.charge_read(50), 5)
    budget.release_read(50)
    assert (budget.used, budget.reads) == (100, 0)


@pytest.mark.parametrize("granted", [False, True])
async def test_a_cancelled_waiter_leaves_no_trace(granted: bool) -> None:
    budget = MemoryBudget(100)
    await budget.charge(100)
    first = asyncio.create_task(budget.charge(90))
    second = asyncio.create_task(budget.charge(5))
    await settle()
    if granted:
        budget.release(100)  # granted, but the task hasn't run yet
    first.cancel()
    await settle()
    if not granted:
        assert budget.used == 100
        budget.release(100)
        await settle()
    assert second.done() and budget.used == 5


async def test_the_cache_gives_its_memory_to_those_who_need_it() -> None:
    budget = MemoryBudget(100_000)
    cache = MemoryCache(100_000)
    cache.attach(budget)
    for i in range(9):
        assert cache.put((i, 0, 10_000), bytes(10_000))
    assert budget.used == 9 * (10_000 + OVERHEAD)
    await asyncio.wait_for(budget.charge(70_000), 5)
    assert budget.used <= 100_000
    assert cache.get_nowait((8, 0, 10_000), 0, 5) is not None  # the youngest stayed
    assert cache.get_nowait((0, 0, 10_000), 0, 5) is None
    assert not cache.put((99, 0, 90_000), bytes(90_000))  # a cache never pushes anybody out


async def test_buffers_are_used_again_unless_somebody_may_still_read_them() -> None:
    budget = MemoryBudget(400)
    pool = BufferPool(100, budget, spare_bytes=200)
    one, two = await pool.acquire(), await pool.acquire()
    pool.release(one)
    pool.release(two, reuse=False)
    assert await pool.acquire() is one
    assert await pool.acquire() is not two
    assert budget.used == 200
    small = await pool.acquire(30)
    assert len(small) == 30 and budget.used == 230
    pool.release(small)
    grown = pool.acquire_overdraft(1000)
    assert budget.used == 1200
    pool.release(grown)
    assert budget.used == 200


async def test_no_more_idle_buffers_are_kept_than_allowed() -> None:
    pool = BufferPool(100, MemoryBudget(1000), spare_bytes=250)
    buffers = [await pool.acquire() for _ in range(5)]
    for b in buffers:
        pool.release(b)
    assert len(pool._idle) == 2
    assert pool.budget.used == 0
