# SPDX-License-Identifier: Apache-2.0
"""A store that fails on purpose, for tests: the n-th call of a method, or some share of all calls.

Deterministic: rules count calls, and chances come from a seed that `repr` shows.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import NamedTuple

from core.errors import ObjectError
from core.object.api import Buffer, ObjectInfo, ObjectStore
from core.object.buffers import joined, views


class Fault(NamedTuple):
    """What happens to which calls.

    method: put, get, delete, head, list or "*". nth: that call of the method (from 1), 0 = each by `chance`.
    times: how many calls in a row, -1 = from then on. kind: "error" before anything happened, "late" an error after the
    store did it, "delay" by `seconds` (with a small `chance`: a slow tail), "hang" until cancelled; and of the data:
    "truncate" it to half, "flip" one bit of it, "other" bytes of the same length, "extend" it by one byte.
    """

    method: str
    kind: str = "error"
    nth: int = 1
    times: int = 1
    chance: float = 0.0
    seconds: float = 0.0
    retryable: bool = True


KINDS = ("error", "late", "delay", "hang", "truncate", "flip", "other", "extend")
HARMFUL = frozenset({"truncate", "flip", "other", "extend"})


class FaultyStore(ObjectStore):
    """`FaultyStore(store, [Fault("put", nth=3)], seed=1)`. `calls` counts per method, `struck` what was done."""

    def __init__(
        self,
        store: ObjectStore,
        faults: Sequence[Fault] = (),
        *,
        seed: int = 0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        for fault in faults:
            if fault.kind not in KINDS:
                raise ValueError(f"fault kind {fault.kind!r} is not one of {', '.join(KINDS)}")
        self.store = store
        self.name = f"faulty {store.name}"
        self.features = store.features
        self.faults = list(faults)
        self.calls: Counter[str] = Counter()
        self.struck: list[tuple[str, str, int]] = []
        self.seed = seed
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"FaultyStore({self.store.name!r}, seed={self.seed})"

    def _next_faults(self, method: str) -> list[Fault]:
        self.calls[method] += 1
        count = self.calls[method]
        found = []
        for fault in self.faults:
            if fault.method not in (method, "*"):
                continue
            if fault.nth:
                hit = count >= fault.nth and (fault.times < 0 or count < fault.nth + fault.times)
            else:
                hit = self._rng.random() < fault.chance
            if hit:
                self.struck.append((method, fault.kind, count))
                found.append(fault)
        return found

    async def _before(self, method: str, key: str) -> list[Fault]:
        found = self._next_faults(method)
        for fault in found:
            if fault.kind == "delay":
                await self._sleep(fault.seconds)
            elif fault.kind == "hang":
                await asyncio.get_running_loop().create_future()
            elif fault.kind == "error":
                raise self._error(fault, method, key)
        return found

    def _after(self, found: Sequence[Fault], method: str, key: str) -> None:
        for fault in found:
            if fault.kind == "late":
                raise self._error(fault, method, key)

    def _error(self, fault: Fault, method: str, key: str) -> ObjectError:
        return ObjectError(f"injected fault: {method} of {key!r}, call {self.calls[method]}", retryable=fault.retryable)

    def _damage(self, found: Sequence[Fault], data: Buffer) -> Buffer:
        for fault in found:
            size = len(data)
            if fault.kind == "truncate":
                data = bytes(memoryview(data)[: size // 2])
            elif fault.kind == "flip" and size:
                changed = bytearray(data)
                changed[self._rng.randrange(size)] ^= 1 << self._rng.randrange(8)
                data = changed
            elif fault.kind == "other":
                data = self._rng.randbytes(size)
            elif fault.kind == "extend":
                data = bytes(data) + b"\0"
        return data

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        found = await self._before("put", key)
        harmful = any(fault.kind in HARMFUL for fault in found)
        await self.store.put(key, self._damage(found, joined(views(data))) if harmful else data)
        self._after(found, "put", key)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        found = await self._before("get", key)
        data = self._damage(found, await self.store.get(key, start, length))
        self._after(found, "get", key)
        return data

    async def delete(self, key: str) -> None:
        found = await self._before("delete", key)
        await self.store.delete(key)
        self._after(found, "delete", key)

    async def head(self, key: str) -> ObjectInfo:
        found = await self._before("head", key)
        info = await self.store.head(key)
        self._after(found, "head", key)
        return info

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        found = await self._before("list", prefix)
        count = 0
        async for info in self.store.list(prefix, after):
            count += 1
            if count == 2:  # in the middle, where a lost page would hurt most
                self._after(found, "list", prefix)
            yield info
        if count < 2:
            self._after(found, "list", prefix)

    async def create(self) -> None:
        await self.store.create()

    async def close(self) -> None:
        await self.store.close()

    def local_path(self, key: str) -> str | None:
        return self.store.local_path(key)
