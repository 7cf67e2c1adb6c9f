# SPDX-License-Identifier: Apache-2.0
"""What hedged reads win and cost: latency of reads from a store of which one read in a hundred is slow.

    python -m bench.hedged [reads]

The store answers in 10 ms, give or take a third, and one time in a hundred in 500 ms; 16 readers. Then the same without
a slow tail (nothing to win: what is wasted?), and a store that becomes ten times slower as a whole in the middle (does
hedging stay within its budget?). Seeds are fixed; latencies are real sleeps.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable, Iterator

from core.object.api import Buffer, ObjectStore
from core.object.hedged import HedgedStore
from core.object.memory import MemStore

READERS = 16


class Slow(MemStore):
    """delay(n) is the time that the n-th read takes."""

    def __init__(self, delay: Callable[[int], float]) -> None:
        super().__init__()
        self._delay = delay
        self.asked = 0

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        self.asked += 1
        await asyncio.sleep(self._delay(self.asked))
        return await super().get(key, start, length)


async def read(store: ObjectStore, numbers: Iterator[int], times: list[float]) -> None:
    for _ in numbers:
        begin = time.perf_counter()
        await store.get("chunks/0/0/1_0_131072")
        times.append(time.perf_counter() - begin)


async def run(name: str, delay: Callable[[int], float], reads: int) -> None:
    for hedged in (False, True):
        slow = Slow(delay)
        await slow.put("chunks/0/0/1_0_131072", b"x")
        store: ObjectStore = HedgedStore(slow) if hedged else slow
        times: list[float] = []
        numbers = iter(range(reads))
        begin, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(read(store, numbers, times) for _ in range(READERS)))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        times.sort()
        shown = " ".join(f"p{p * 100:g} {times[int(p * (reads - 1))] * 1e3:6.1f}" for p in (0.5, 0.95, 0.99, 0.999))
        more = f"{store.counts().won} of {store.counts().hedged} won" if isinstance(store, HedgedStore) else ""
        print(
            f"{name:14} {'hedged' if hedged else 'plain':7} {shown} ms | {reads / seconds:6.0f} reads/s | "
            f"{cpu / reads * 1e6:4.0f} µs CPU | {(slow.asked / reads - 1) * 100:4.1f} % more requests {more}",
            flush=True,
        )


async def main(reads: int) -> None:
    rng = random.Random(1)

    def usual() -> float:
        return 0.010 * rng.uniform(0.67, 1.33)

    await run("1 % slow", lambda _: 0.5 if rng.random() < 0.01 else usual(), reads)
    await run("no tail", lambda _: usual(), reads)
    await run("all slow later", lambda n: usual() * (10 if n > reads / 8 else 1), reads // 4)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 10000))
