# SPDX-License-Identifier: Apache-2.0
"""Hedged reads: who asks twice, when, and what it may cost. Time is given by hand where a test depends on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from core.errors import ObjectError, ObjectNotFound
from core.object.api import Buffer
from core.object.faulty import Fault, FaultyStore
from core.object.hedged import ENOUGH, LEAST_S, HedgedStore, Tail, find_hedges
from core.object.memory import MemStore
from core.object.prefix import PrefixStore


class Gated(MemStore):
    """Every get waits until the test lets it go; cancelled ones are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.open = True
        self.waiting: list[asyncio.Future[Exception | None]] = []
        self.cancelled = 0

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        if not self.open:
            gate: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
            self.waiting.append(gate)
            try:
                error = await gate
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if error is not None:
                raise error
        return await super().get(key, start, length)


async def warm(store: HedgedStore, gated: Gated, reads: int = 64) -> None:
    for _ in range(reads):
        await store.get("k")
    gated.open = False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
async def gated() -> Gated:
    store = Gated()
    await store.put("k", b"data")
    return store


async def test_a_late_read_is_asked_twice_and_the_first_answer_wins(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated)
    task = asyncio.ensure_future(store.get("k"))
    await until(lambda: len(gated.waiting) == 2)
    gated.waiting[1].set_result(None)
    assert bytes(await task) == b"data"
    assert store.counts()[1:] == (1, 1, 0)
    assert gated.cancelled == 1  # the loser


async def test_the_first_request_may_win_after_all(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated)
    task = asyncio.ensure_future(store.get("k"))
    await until(lambda: len(gated.waiting) == 2)
    gated.waiting[0].set_result(None)
    assert bytes(await task) == b"data"
    assert store.counts()[1:] == (1, 0, 0)
    assert gated.cancelled == 1


async def test_one_failing_request_leaves_it_to_the_other(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated)
    for failing, other in ((0, 1), (1, 0)):
        gated.waiting.clear()
        task = asyncio.ensure_future(store.get("k"))
        await until(lambda: len(gated.waiting) == 2)
        gated.waiting[failing].set_result(ObjectError("broken"))
        await asyncio.sleep(0)
        gated.waiting[other].set_result(None)
        assert bytes(await task) == b"data"


async def test_if_both_fail_the_first_error_is_raised(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated)
    task = asyncio.ensure_future(store.get("k"))
    await until(lambda: len(gated.waiting) == 2)
    gated.waiting[1].set_result(ObjectError("second"))
    gated.waiting[0].set_result(ObjectError("first"))
    with pytest.raises(ObjectError, match="first"):
        await task


async def test_an_error_in_time_is_raised_at_once(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated)
    gated.open = True
    with pytest.raises(ObjectNotFound):
        await store.get("gone")
    assert store.counts().hedged == 0


async def test_a_cancelled_read_cancels_both(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated)
    task = asyncio.ensure_future(store.get("k"))
    await until(lambda: len(gated.waiting) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gated.cancelled == 2


async def test_nothing_is_hedged_before_enough_was_seen(gated: Gated) -> None:
    store = HedgedStore(gated, budget=1)
    await warm(store, gated, ENOUGH - 1)
    task = asyncio.ensure_future(store.get("k"))
    await until(lambda: len(gated.waiting) == 1)
    await asyncio.sleep(4 * LEAST_S)
    assert len(gated.waiting) == 1
    gated.waiting[0].set_result(None)
    await task


async def test_a_store_that_is_slow_as_a_whole_gets_no_more_than_the_budget(gated: Gated) -> None:
    store = HedgedStore(gated)
    await warm(store, gated, 100)  # five are saved up
    tasks = [asyncio.ensure_future(store.get("k")) for _ in range(40)]
    # 40 more reads earn two; all others are denied.
    await until(lambda: store.counts().denied + store.counts().hedged == 40)
    assert store.counts().hedged in (6, 7)  # a sum of 140 twentieths
    await until(lambda: len(gated.waiting) == 40 + store.counts().hedged)
    for gate in gated.waiting:
        gate.cancelled() or gate.set_result(None)
    await asyncio.gather(*tasks)
    assert store.counts().hedged <= store.counts().reads * 0.05 + 1


def test_the_threshold_is_above_what_most_reads_take() -> None:
    tail = Tail()
    for i in range(ENOUGH):
        assert tail.threshold_s is None
        tail.add(0.010 + i * 1e-5)
    assert tail.threshold_s is not None
    assert 0.015 < tail.threshold_s < 0.016
    for _ in range(1000):
        tail.add(0.1)
    assert tail.threshold_s == pytest.approx(0.15)
    for _ in range(1000):
        tail.add(0.0001)
    assert tail.threshold_s == LEAST_S


async def test_sizes_have_thresholds_of_their_own(gated: Gated) -> None:
    store = HedgedStore(gated)
    await gated.put("chunks/0/0/1_0_4194304", b"x")
    await warm(store, gated)
    gated.open = True
    await store.get("chunks/0/0/1_0_4194304")
    gated.open = False
    task = asyncio.ensure_future(store.get("chunks/0/0/1_0_4194304"))
    await until(lambda: len(gated.waiting) == 1)
    await asyncio.sleep(4 * LEAST_S)
    assert len(gated.waiting) == 1
    gated.waiting[0].set_result(None)
    await task


async def test_the_layer_is_found_below_others() -> None:
    hedged = HedgedStore(FaultyStore(MemStore(), [Fault("get")]))
    assert find_hedges(PrefixStore(hedged, "v/")) is hedged
    assert find_hedges(PrefixStore(MemStore(), "v/")) is None
