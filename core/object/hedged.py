# SPDX-License-Identifier: Apache-2.0
"""A second request when the first one is unusually late, for stores whose front ends have a slow tail.

A read that takes longer than most recent reads of its size did is asked once more; the first answer wins, the other
request is cancelled. What that may cost is bounded: a budget of extra requests per request, so that a store that is
slow as a whole gets at most that much more load. Only reads: objects don't change, so either answer is right. Reads
that fail are not repeated here, that is the retries' matter. Design: Dean and Barroso, "The Tail at Scale" (2013),
"hedged requests"; thresholds by measurement (docs/object-stores.md).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from core.object.api import Buffer, ObjectInfo, ObjectStore
from core.object.names import named_size

#: Extra requests per request, and how many of them may be saved up for a bad moment.
BUDGET = 0.05
MAX_SAVED = 10.0
#: Reads of a size class that are remembered, how many it takes to have an opinion, and after how many it is renewed.
WINDOW = 256
ENOUGH = 32
RENEW = 16
QUANTILE = 0.95
#: Some room above the quantile: without it a store without a tail is asked twice for one read in twenty, for nothing.
ROOM = 1.5
#: Below this nothing can be won: a request takes longer than that to be cancelled and asked anew.
LEAST_S = 0.005


class HedgeCounts(NamedTuple):
    reads: int
    hedged: int  # reads that were asked twice
    won: int  # … and answered by the second request
    denied: int  # late reads that the budget did not let be asked twice


class Tail:
    """How late is late, for reads of one size class."""

    __slots__ = ("_at", "_seen", "_times", "threshold_s")

    def __init__(self) -> None:
        self._times: list[float] = []
        self._at = 0
        self._seen = 0
        self.threshold_s: float | None = None  # None: too few reads seen

    def add(self, seconds: float) -> None:
        if len(self._times) < WINDOW:
            self._times.append(seconds)
        else:
            self._times[self._at] = seconds
            self._at = (self._at + 1) % WINDOW
        self._seen += 1
        if self._seen >= ENOUGH and self._seen % RENEW == 0:
            ordered = sorted(self._times)
            self.threshold_s = max(LEAST_S, ROOM * ordered[int(QUANTILE * (len(ordered) - 1))])


class HedgedStore(ObjectStore):
    """`HedgedStore(store)`. `counts()` says what it did; budget=0 turns it into a watcher."""

    def __init__(
        self, store: ObjectStore, *, budget: float = BUDGET, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.store = store
        self.name = store.name
        self.features = store.features
        self._budget = budget
        self._clock = clock
        self._saved = 0.0
        self._tails: dict[int, Tail] = {}
        self._reads = self._hedged = self._won = self._denied = 0

    def counts(self) -> HedgeCounts:
        return HedgeCounts(self._reads, self._hedged, self._won, self._denied)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        self._reads += 1
        self._saved = min(MAX_SAVED, self._saved + self._budget)
        tail = self._tails.setdefault(_size_class(key, length), Tail())
        begin = self._clock()
        threshold_s = tail.threshold_s
        if threshold_s is None or self._saved < 1:
            data = await self.store.get(key, start, length)
            seconds = self._clock() - begin
            if threshold_s is not None and seconds > threshold_s:
                self._denied += 1
        else:
            data = await self._get_hedged(key, start, length, threshold_s)
            seconds = self._clock() - begin
        tail.add(seconds)
        return data

    async def _get_hedged(self, key: str, start: int, length: int | None, threshold_s: float) -> Buffer:
        first = asyncio.ensure_future(self.store.get(key, start, length))
        tasks = [first]
        try:
            done, _ = await asyncio.wait(tasks, timeout=threshold_s)
            if done:
                return first.result()
            if self._saved < 1:  # others were late at the same time
                self._denied += 1
                return await first
            self._saved -= 1
            self._hedged += 1
            second = asyncio.ensure_future(self.store.get(key, start, length))
            tasks.append(second)
            waiting = set(tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in (first, second):
                    if task in done and task.exception() is None:
                        self._won += task is second
                        return task.result()
            return first.result()  # both failed: the first one's error, which nothing here has caused
        finally:
            late = [task for task in tasks if not task.done()]
            for task in late:
                task.cancel()
            if late:
                await asyncio.gather(*late, return_exceptions=True)
            for task in tasks:
                if task.done() and not task.cancelled():
                    task.exception()  # seen: nobody else asks for the loser's error

    # ---- everything else goes through

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await self.store.put(key, data)

    async def delete(self, key: str) -> None:
        await self.store.delete(key)

    async def head(self, key: str) -> ObjectInfo:
        return await self.store.head(key)

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        return self.store.list(prefix, after)

    async def create(self) -> None:
        await self.store.create()

    async def close(self) -> None:
        await self.store.close()

    def local_path(self, key: str) -> str | None:
        return self.store.local_path(key)


def find_hedges(store: ObjectStore | None) -> HedgedStore | None:
    """The hedging layer of a stack of stores, for whoever shows its counts."""
    while store is not None and not isinstance(store, HedgedStore):
        store = getattr(store, "store", None)
    return store


def _size_class(key: str, length: int | None) -> int:
    """Reads of about the same size take about as long."""
    if length is None:
        length = named_size(key) or 0
    return length.bit_length() >> 1  # steps of four
