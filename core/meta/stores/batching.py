# SPDX-License-Identifier: Apache-2.0
"""Grouping for servers: what many tasks ask for while a batch is under way leaves together as the next batch.

One round trip then serves them all, and a lone caller never waits for company. Used for commits (one transaction, one
fsync on the server) and for reads (one query per table). SQLite has its own form of this, because it is no server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

#: Gives one answer per item, in order. An exception as an answer is raised to that caller alone; one that is raised
#: goes to every caller of the batch.
Run = Callable[[Sequence[A]], Awaitable[Sequence[R | BaseException]]]


class Batcher(Generic[A, R]):
    """`await submit(item)`; at most `in_flight` batches of at most `most` items run at once.

    weight: how much of `most` an item takes (a number of records, say); an item that is larger goes alone.
    """

    def __init__(
        self, run: Run[A, R], *, most: int = 256, in_flight: int = 1, weight: Callable[[A], int] | None = None
    ) -> None:
        self._run = run
        self._most = most
        self._in_flight = in_flight
        self._weight = weight
        self._queue: deque[tuple[A, asyncio.Future[R]]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._scheduled = False

    def submit(self, item: A) -> asyncio.Future[R]:
        """The future of this item's answer. What is submitted in one turn of the loop leaves together."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._queue.append((item, future))
        if not self._scheduled and len(self._running) < self._in_flight:
            self._scheduled = True
            loop.call_soon(self._start)
        return future

    def _start(self) -> None:
        self._scheduled = False
        while self._queue and len(self._running) < self._in_flight:
            batch = self._take()
            if batch:
                task = asyncio.ensure_future(self._serve(batch))
                self._running.add(task)
                task.add_done_callback(self._done)

    def _take(self) -> list[tuple[A, asyncio.Future[R]]]:
        batch: list[tuple[A, asyncio.Future[R]]] = []
        taken = 0
        while self._queue:
            item, future = self._queue[0]
            if future.done():  # cancelled while it waited
                self._queue.popleft()
                continue
            taken += 1 if self._weight is None else self._weight(item)
            if batch and taken > self._most:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _serve(self, batch: list[tuple[A, asyncio.Future[R]]]) -> None:
        try:
            answers = await self._run([item for item, _ in batch])
        except BaseException as e:
            answers = [e] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, asyncio.CancelledError):
                future.cancel()
            elif isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # After the answers' own callbacks: tasks that ask again at once join one batch.
        if self._queue and not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    async def drain(self) -> None:
        """Wait until nothing is queued or running."""
        while self._queue or self._running:
            await asyncio.gather(*self._running, return_exceptions=True)
            await asyncio.sleep(0)
