# SPDX-License-Identifier: Apache-2.0
"""Grouping that doesn't slow down who is alone.

Under load it is a `Batcher`: what many tasks ask for leaves together. A task that has had no company lately runs its
item itself, which saves two tasks and four turns of the loop (220 µs of 730 µs per read of etcd).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from core.meta.stores.batching import Batcher, Run

A = TypeVar("A")
R = TypeVar("R")


class Lane(Generic[A, R]):
    """`await submit(item)`. With in_flight 1, groups never overlap, not even with an item that runs by itself.

    direct: an item may run in the task that submits it, and is cancelled with it.
    """

    def __init__(
        self,
        run: Run[A, R],
        *,
        most: int = 256,
        in_flight: int = 1,
        weight: Callable[[A], int] | None = None,
        direct: bool = True,
    ) -> None:
        self._run = run
        self._direct = direct
        self._serial = in_flight == 1
        self._batcher: Batcher[A, R] = Batcher(self._together, most=most, in_flight=in_flight, weight=weight)
        self._queued = 0  # items in the batcher
        self._last = 1  # size of the last group
        self._single: asyncio.Future[None] | None = None  # set while an item runs by itself; done when it ends

    async def submit(self, item: A) -> R:
        if not self._direct or self._last > 1 or self._queued or self._single is not None:
            self._queued += 1
            try:
                return await self._batcher.submit(item)
            finally:
                self._queued -= 1
        self._single = asyncio.get_running_loop().create_future()
        try:
            (answer,) = await self._run((item,))
        finally:
            self._single.set_result(None)
            self._single = None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _together(self, items: Sequence[A]) -> Sequence[R | BaseException]:
        if self._serial and self._single is not None:
            await asyncio.shield(self._single)
        self._last = len(items)
        return await self._run(items)

    async def drain(self) -> None:
        if self._single is not None:
            await asyncio.shield(self._single)
        await self._batcher.drain()
