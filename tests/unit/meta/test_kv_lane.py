# SPDX-License-Identifier: Apache-2.0
"""Grouping of what many tasks ask for, and the short way for who is alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from core.meta.stores.kv.lane import Lane


class Server:
    """Answers items doubled; holds groups until `go` is set. running: groups under way; most: ever."""

    def __init__(self) -> None:
        self.groups: list[tuple[int, ...]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.running = self.most = 0
        self.tasks: list[asyncio.Task[None] | None] = []

    async def run(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        self.groups.append(tuple(items))
        self.tasks.append(asyncio.current_task())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
            await asyncio.sleep(0)
        finally:
            self.running -= 1
        return [ValueError(item) if item < 0 else item * 2 for item in items]


async def test_who_is_alone_runs_in_its_own_task() -> None:
    server = Server()
    lane = Lane(server.run)
    assert [await lane.submit(i) for i in (1, 2, 3)] == [2, 4, 6]
    assert server.groups == [(1,), (2,), (3,)]
    assert set(server.tasks) == {asyncio.current_task()}


async def test_company_makes_groups_that_never_overlap() -> None:
    server = Server()
    lane = Lane(server.run)
    server.go.clear()
    first = asyncio.ensure_future(lane.submit(0))
    await asyncio.sleep(0)
    rest = [asyncio.ensure_future(lane.submit(i)) for i in range(1, 6)]
    await asyncio.sleep(0)
    server.go.set()
    assert await asyncio.gather(first, *rest) == [0, 2, 4, 6, 8, 10]
    assert server.groups == [(0,), (1, 2, 3, 4, 5)]
    assert server.most == 1
    assert await asyncio.gather(*(lane.submit(i) for i in range(20))) == [2 * i for i in range(20)]
    assert server.groups[2:] == [tuple(range(20))]  # in company lately: nobody runs ahead
    assert await lane.submit(7) == 14 and await lane.submit(8) == 16
    assert server.tasks[-1] is asyncio.current_task()
    assert server.most == 1


async def test_an_error_is_for_its_own_item() -> None:
    lane = Lane(Server().run)
    with pytest.raises(ValueError, match="-1"):
        await lane.submit(-1)
    done = await asyncio.gather(*(lane.submit(i) for i in (1, -2, 3)), return_exceptions=True)
    assert done[0] == 2 and isinstance(done[1], ValueError) and done[2] == 6


async def test_a_cancelled_item_lets_others_go_on() -> None:
    server = Server()
    lane = Lane(server.run)
    server.go.clear()
    alone = asyncio.ensure_future(lane.submit(1))
    await asyncio.sleep(0)
    queued = [asyncio.ensure_future(lane.submit(i)) for i in (2, 3)]
    await asyncio.sleep(0)
    alone.cancel()
    queued[0].cancel()
    server.go.set()
    done = await asyncio.gather(alone, *queued, return_exceptions=True)
    assert isinstance(done[0], asyncio.CancelledError) and isinstance(done[1], asyncio.CancelledError)
    assert done[2] == 6
    await lane.drain()
    assert await lane.submit(4) == 8


async def test_items_that_must_not_be_cancelled_never_run_in_their_own_task() -> None:
    server = Server()
    lane = Lane(server.run, direct=False)
    server.go.clear()
    commit = asyncio.ensure_future(lane.submit(1))
    while not server.groups:
        await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait([commit])
    assert server.running == 1  # goes on
    server.go.set()
    await lane.drain()
    assert server.running == 0
