# SPDX-License-Identifier: Apache-2.0
"""Tasks that begin a request at once: what code below relies on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateways.fuse.api import Reply
from gateways.fuse.runners import MOST_IDLE, Runner, Runners


class Pool:
    """Runners whose requests are started from a callback of the loop, as the reader does."""

    def __init__(self) -> None:
        self.results: list[Reply] = []
        self.errors: list[BaseException] = []
        self.loop = asyncio.get_running_loop()
        self.runners = Runners(
            self.loop, lambda runner, reply: self.results.append(reply), lambda runner, e: self.errors.append(e)
        )

    async def call(self, function: Callable[[], Awaitable[Reply]]) -> tuple[Runner, bool]:
        """The runner, and whether the request was done within the callback."""
        found: asyncio.Future[tuple[Runner, bool]] = self.loop.create_future()

        def begin() -> None:
            runner = self.runners.take()
            runner.start(function())
            found.set_result((runner, not runner.busy))

        await asyncio.sleep(0)  # prepared tasks need one turn
        self.loop.call_soon(begin)
        return await found


async def test_a_request_that_need_not_wait_is_done_at_once_in_a_real_task() -> None:
    pool = Pool()
    tasks = []

    async def request() -> bytes:
        tasks.append(asyncio.current_task())
        return b"answer"

    runner, at_once = await pool.call(request)
    assert at_once
    assert pool.results == [b"answer"]
    assert tasks == [runner.task]
    assert asyncio.current_task() is not runner.task
    await pool.runners.close()


async def test_timeouts_work_from_the_first_step_on() -> None:
    pool = Pool()
    done = asyncio.Event()

    async def request() -> bytes:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            done.set()
            return b"late"
        return b""

    runner, at_once = await pool.call(request)
    assert not at_once
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0)
    assert pool.results == [b"late"]
    assert runner.task.cancelling() == 0
    await pool.runners.close()


async def test_task_groups_and_nested_tasks_work() -> None:
    pool = Pool()

    async def part(n: int) -> int:
        await asyncio.sleep(0)
        return n

    async def request() -> bytes:
        async with asyncio.TaskGroup() as group:
            parts = [group.create_task(part(n)) for n in range(3)]
        return bytes(part.result() for part in parts)

    await pool.call(request)
    while not pool.results:
        await asyncio.sleep(0)
    assert pool.results == [b"\0\1\2"]
    await pool.runners.close()


async def test_a_cancelled_request_leaves_its_task_usable() -> None:
    pool = Pool()
    ended = asyncio.Event()

    async def hangs() -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    runner, _ = await pool.call(hangs)
    runner.interrupted = True
    runner.task.cancel()
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.sleep(0)
    assert isinstance(pool.errors[0], asyncio.CancelledError)
    assert runner.task.cancelling() == 0
    assert not runner.task.done()

    async def quick() -> bytes:
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return b"fine"

    again, _ = await pool.call(quick)
    assert again is runner
    while not pool.results:
        await asyncio.sleep(0)
    assert pool.results == [b"fine"]
    await pool.runners.close()


async def test_futures_are_answers_too() -> None:
    pool = Pool()
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    await pool.call(lambda: future)
    future.set_result(b"later")
    while not pool.results:
        await asyncio.sleep(0)
    assert pool.results == [b"later"]
    await pool.runners.close()


async def test_a_burst_makes_more_tasks_and_they_go_again() -> None:
    pool = Pool()
    gate = asyncio.Event()

    async def waits() -> bytes:
        await gate.wait()
        return b"x"

    for _ in range(MOST_IDLE + 50):
        await pool.call(waits)
    assert len(pool.runners._all) >= MOST_IDLE + 50
    gate.set()
    while len(pool.results) < MOST_IDLE + 50:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(pool.runners._all) == len(pool.runners._idle) == MOST_IDLE
    await pool.runners.close()
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_closing_cancels_what_runs() -> None:
    pool = Pool()

    async def hangs() -> bytes:
        await asyncio.Event().wait()
        return b""

    runner, _ = await pool.call(hangs)
    await asyncio.wait_for(pool.runners.close(), 5)
    assert runner.task.cancelled()
    assert [type(e) for e in pool.errors] == [asyncio.CancelledError]


def test_the_loop_can_end_with_tasks_parked() -> None:
    async def main() -> None:
        Pool()
        await asyncio.sleep(0)

    asyncio.run(main())  # cancels all tasks and waits for them


@pytest.mark.parametrize("debug", [False, True])
def test_uvloop_runs_them_too(debug: bool) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> tuple[bool, list[Reply]]:
        asyncio.get_running_loop().set_debug(debug)
        pool = Pool()

        async def request() -> bytes:
            return b"x"

        _, at_once = await pool.call(request)
        await pool.runners.close()
        return at_once, pool.results

    assert uvloop.run(main()) == (True, [b"x"])
