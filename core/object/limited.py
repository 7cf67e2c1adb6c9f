# SPDX-License-Identifier: Apache-2.0
"""Upload and download bandwidth: token buckets around a store.

A limit in Mbps becomes bytes per second × 0.85 (room for protocol overhead); the bucket holds a tenth of a second's
worth; a request is charged as a whole, uploads before they start. Source: spec data-path §10, §9.4.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from core.object.api import Buffer, ObjectInfo, ObjectStore
from core.object.buffers import total
from core.object.names import named_size


def bytes_per_second(mbps: float) -> float:
    return mbps * 1_000_000 / 8 * 0.85


class TokenBucket:
    """`await take(n)` returns when n bytes may pass. A request larger than the bucket waits off its debt."""

    def __init__(
        self,
        rate: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._capacity = rate / 10
        self._clock = clock
        self._sleep = sleep
        self._tokens = self._capacity
        self._then = clock()

    async def take(self, n: int) -> None:
        now = self._clock()
        self._tokens = min(self._capacity, self._tokens + (now - self._then) * self._rate) - n
        self._then = now
        if self._tokens < 0:
            # Later callers see the deeper debt, so waiting is first come, first served.
            await self._sleep(-self._tokens / self._rate)

    def give_back(self, n: int) -> None:
        """n bytes that were taken did not pass."""
        self._tokens = min(self._capacity, self._tokens + n)


class LimitedStore(ObjectStore):
    """`LimitedStore(store, upload, download)`; None = no limit in that direction."""

    def __init__(self, store: ObjectStore, upload: TokenBucket | None, download: TokenBucket | None) -> None:
        self.store = store
        self.name = store.name
        self.features = store.features._replace(local_path=store.features.local_path and download is None)
        self._upload = upload
        self._download = download

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        if self._upload is not None:
            await self._upload.take(total(data))
        await self.store.put(key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        if self._download is None:
            return await self.store.get(key, start, length)
        if length is not None:
            await self._download.take(length)
            return await self.store.get(key, start, length)
        # A block is charged by its name, like an upload before it starts, and what compression saved is given back; of
        # anything else the size is known only afterwards.
        expected = max(0, (named_size(key) or 0) - start)
        await self._download.take(expected)
        try:
            data = await self.store.get(key, start, length)
        except BaseException:
            self._download.give_back(expected)
            raise
        more = total(data) - expected
        if more > 0:
            await self._download.take(more)
        else:
            self._download.give_back(-more)
        return data

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
        return self.store.local_path(key) if self._download is None else None
