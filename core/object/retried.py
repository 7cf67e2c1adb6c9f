# SPDX-License-Identifier: Apache-2.0
"""Another try for what may pass by itself: time-outs, resets, 5xx.

Attempt k (from 0) follows a pause of k² s, shortened at random by up to a quarter so that many clients don't come back
at once, and capped: who waits here is a command or a listing, not an upload that may take its time. Only errors with
`retryable` are tried again; a deadline bounds everything.
Source: spec data-path §7.4 (attempts = io-retries + 1, k² seconds, time-out per attempt).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from core.errors import ObjectError
from core.object.api import Buffer, ObjectInfo, ObjectStore

T = TypeVar("T")


class RetriedStore(ObjectStore):
    """`RetriedStore(store, attempts=11)`.

    attempt_timeout_s: one attempt, 0 = none. deadline_s: all attempts and pauses of one call, 0 = none; a pause that
    would end after it is not begun, and an attempt that goes on at that time is given up. The last error is raised,
    with the number of attempts.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        attempts: int = 11,
        attempt_timeout_s: float = 60.0,
        deadline_s: float = 0.0,
        max_pause_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.store = store
        self.name = store.name
        self.features = store.features
        self._attempts = max(1, attempts)
        self._timeout_s = attempt_timeout_s
        self._deadline_s = deadline_s
        self._max_pause_s = max_pause_s
        self._clock = clock
        self._sleep = sleep
        self._rng = rng or random.Random()  # noqa: S311 - spreads pauses, keeps no secret

    async def _try(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        begin = self._clock()
        attempt = 0
        while True:
            limit_s = self._timeout_s
            if self._deadline_s:
                # Never nothing at all: the first attempt has not been tried yet.
                left_s = max(0.001, begin + self._deadline_s - self._clock())
                limit_s = min(limit_s, left_s) if limit_s else left_s
            try:
                if not limit_s:
                    return await call()
                try:
                    async with asyncio.timeout(limit_s) as scope:
                        return await call()
                except TimeoutError as error:
                    if not scope.expired():
                        raise
                    raise ObjectError(f"{self.name}: {what} took longer than {limit_s:.3g} s") from error
            except ObjectError as error:
                attempt += 1
                pause = min(float(attempt * attempt), self._max_pause_s) * (1 - self._rng.random() / 4)
                late = self._deadline_s and self._clock() - begin + pause > self._deadline_s
                if not error.retryable:
                    raise
                if attempt >= self._attempts or late:
                    if attempt > 1:
                        error.add_note(f"given up after {attempt} attempts in {self._clock() - begin:.1f} s")
                    raise
            await self._sleep(pause)

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await self._try(f"put of {key!r}", lambda: self.store.put(key, data))

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        return await self._try(f"get of {key!r}", lambda: self.store.get(key, start, length))

    async def delete(self, key: str) -> None:
        await self._try(f"delete of {key!r}", lambda: self.store.delete(key))

    async def head(self, key: str) -> ObjectInfo:
        return await self._try(f"head of {key!r}", lambda: self.store.head(key))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        """Goes on behind the last key it gave out."""
        source = self.store.list(prefix, after)
        failed = False

        async def step() -> ObjectInfo | None:
            nonlocal source, failed
            if failed:  # a generator that raised is finished
                source, failed = self.store.list(prefix, after), False
            try:
                return await anext(source, None)
            except BaseException:
                failed = True
                raise

        while (info := await self._try(f"list of {prefix!r}", step)) is not None:
            after = info.key
            yield info

    async def create(self) -> None:
        await self._try("create", self.store.create)

    async def close(self) -> None:
        await self.store.close()

    def local_path(self, key: str) -> str | None:
        return self.store.local_path(key)
