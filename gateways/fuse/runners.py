# SPDX-License-Identifier: Apache-2.0
"""Long-lived tasks that take one request after the other and begin each at once, inside the reader's callback.

A cached answer must not cost a turn of the event loop, yet code below relies on running in a real Task (timeouts,
current_task). Starting a task for each request costs 4–6 µs on Python 3.11, most of it for asyncio's register of tasks,
and its first step comes a turn later. So a task that has nothing to do waits on an awaitable of ours (asyncio's
protocol for foreign futures), whose wake-up we call ourselves: that costs under 1 µs and runs up to the request's first
real wait before it returns. Context variables that a request sets stay set for later requests of the same runner.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final

from gateways.fuse.api import Call, Reply

#: Runners that wait without work; more than this many are let go when a burst is over.
MOST_IDLE: Final = 128
PREPARED: Final = 8
CLOSE_TIMEOUT_S: Final = 5.0

Finished = Callable[["Runner", Reply], None]
Failed = Callable[["Runner", BaseException], None]


class Runner:
    """One task and the request that it runs. Also the foreign future on which the task waits between requests."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_cancelled",
        "_job",
        "_loop",
        "_pool",
        "_wake",
        "args",
        "begun",
        "buffer",
        "busy",
        "call",
        "interrupted",
        "name",
        "started",
        "task",
    )

    def __init__(self, pool: Runners) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._asyncio_future_blocking = False
        self._cancelled = False
        self._wake: Callable[[Runner], object] | None = None
        self._job: Generator[Any, None, Reply] | Coroutine[Any, Any, Reply] | None = None
        #: has a request
        self.busy = False
        #: the task has had its first turn; before that, cancelling it would end it unseen
        self.begun = False
        #: cancelled on behalf of the request: EINTR
        self.interrupted = False
        self.call: Call = _NOBODY
        self.name = ""
        self.args: tuple[Any, ...] = ()
        self.buffer: memoryview | None = None
        self.started = 0.0
        self.task: asyncio.Task[None] = pool.loop.create_task(_work(self))

    def start(self, job: Awaitable[Reply]) -> None:
        """Run a request; returns when it is done or waits (`busy` says which)."""
        self._job = job if isinstance(job, types.CoroutineType) else job.__await__()
        self.busy = True
        if self._wake is not None:  # else the task is new, and will find its job in the next turn of the loop
            wake, self._wake = self._wake, None
            wake(self)

    # What asyncio asks of a foreign future.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[Runner], object], *, context: Context | None = None) -> None:
        self._wake = wake

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError

    def cancel(self, msg: str | None = None) -> bool:
        """The task is cancelled while it has nothing to do: the loop ends."""
        if self._wake is not None:
            self._cancelled = True
            wake, self._wake = self._wake, None
            self._loop.call_soon(wake, self)
        return True


@types.coroutine
def _work(runner: Runner) -> Generator[Any, None, None]:
    pool = runner._pool
    runner.begun = True
    while True:
        if runner._job is None:
            runner._asyncio_future_blocking = True
            yield runner
        try:
            reply = yield from runner._job  # type: ignore[misc]  # coroutines are allowed in a types.coroutine
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:
            runner._job = None
            runner.busy = False
            stop = isinstance(e, asyncio.CancelledError) and not runner.interrupted
            pool.failed(runner, e)
            if stop:  # by the loop or by `close`, not by an interrupt
                raise
        else:
            runner._job = None
            runner.busy = False
            pool.finished(runner, reply)
        if runner.interrupted:
            runner.interrupted = False
            while runner.task.cancelling():
                runner.task.uncancel()
        if not pool.keep(runner):
            return


class Runners:
    """The idle ones. finished and failed are called inside the runner's task, once per request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, finished: Finished, failed: Failed) -> None:
        self.loop = loop
        self.finished = finished
        self.failed = failed
        self._closed = False
        self._all: set[Runner] = set()
        self._idle: list[Runner] = []
        for _ in range(PREPARED):
            runner = Runner(self)
            self._all.add(runner)
            self._idle.append(runner)

    def take(self) -> Runner:
        if self._idle:
            return self._idle.pop()
        runner = Runner(self)
        self._all.add(runner)
        return runner

    def keep(self, runner: Runner) -> bool:
        """A runner has nothing to do any more: does it stay?"""
        if self._closed or len(self._idle) >= MOST_IDLE:
            self._all.discard(runner)
            return False
        # The last one used is the next one used: its memory is warm.
        self._idle.append(runner)
        return True

    async def close(self) -> None:
        """End all tasks; what still runs is cancelled."""
        self._closed = True
        self._idle.clear()
        tasks = [runner.task for runner in self._all]
        for task in tasks:
            task.cancel()
        if tasks:
            # Bounded: a request that swallows its cancellation must not keep the process.
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)
        self._all.clear()


_NOBODY: Final = Call(0, 0, 0, 0, 0)
