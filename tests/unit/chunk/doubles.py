# SPDX-License-Identifier: Apache-2.0
"""An object store that fails on command, a clock that doesn't wait, and a store made of both."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from core.chunk.store import BlockSliceStore
from core.errors import ObjectError
from core.object.api import Buffer
from core.object.memory import MemStore

KIB = 1024
BLOCK = 64 * KIB


class NoWait:
    """A clock whose sleeps return at once and are written down."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class FaultyStore(MemStore):
    """Counts calls; `fail[op]` is asked before each call with the number of the call (from 1) and may return an
    exception; `change_get` may damage what a get returns; gates hold calls back until they are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, Callable[[int], BaseException | None]] = {}
        self.change_get: Callable[[Buffer], Buffer] = lambda data: data
        self.gates: dict[str, asyncio.Event] = {}
        self.running: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def _enter(self, op: str) -> None:
        self.calls[op] += 1
        error = self.fail[op](self.calls[op]) if op in self.fail else None
        self.running[op] += 1
        self.most[op] = max(self.most[op], self.running[op])
        try:
            if op in self.gates:
                await self.gates[op].wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.running[op] -= 1
        if error is not None:
            raise error

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await self._enter("put")
        await super().put(key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        await self._enter("get" if length is None else "range")
        return self.change_get(await super().get(key, start, length))

    async def delete(self, key: str) -> None:
        await self._enter("delete")
        await super().delete(key)


def nth(*numbers: int, error: BaseException | None = None) -> Callable[[int], BaseException | None]:
    """Fail the calls with these numbers."""
    failure = error or ObjectError("the disk is on fire")
    return lambda n: failure if n in numbers else None


def always(error: BaseException | None = None) -> Callable[[int], BaseException | None]:
    failure = error or ObjectError("the disk is on fire")
    return lambda n: failure


def ids(start: int = 1) -> Callable[[], Any]:
    counter = itertools.count(start)

    async def new_slice_id() -> int:
        return next(counter)

    return new_slice_id


def make_store(objects: Any = None, **options: Any) -> BlockSliceStore:
    settings: dict[str, Any] = {
        "block_size": BLOCK,
        "compression": "none",
        "hash_prefix": False,
        "new_slice_id": ids(),
        "memory_budget": 16 << 20,
        "clock": NoWait(),
        "retries": 3,
    }
    settings.update(options)
    return BlockSliceStore(objects if objects is not None else FaultyStore(), **settings)


def noise(n: int, seed: int = 1) -> bytes:
    """Bytes that differ everywhere and compress badly."""
    import random

    return random.Random(seed).randbytes(n)


async def settle(turns: int = 20) -> None:
    """Let every task that can run do so."""
    for _ in range(turns):
        await asyncio.sleep(0)
