# SPDX-License-Identifier: Apache-2.0
"""One volume over several buckets: FNV-1a-32 of the full key chooses the bucket.

The hash is taken over the key with the volume prefix, so this store lies below `PrefixStore`.
Source: spec data-path §1.4.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence

from core.errors import ConfigError
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore

MAX_SHARDS = 256


def fnv1a_32(text: str) -> int:
    """FNV-1a, 32 bits: keys have some 40 bytes, 3 µs."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def shard_buckets(bucket: str, shards: int) -> list[str]:
    """The buckets named by a pattern with one `%d`."""
    if not 2 <= shards <= MAX_SHARDS:
        raise ConfigError(f"--shards {shards}: a volume has 2 to {MAX_SHARDS} shards")
    if bucket.count("%d") != 1:
        raise ConfigError(
            f"a volume with {shards} shards needs exactly one %d in its bucket, for the number of the shard"
        )
    return [bucket.replace("%d", str(index)) for index in range(shards)]


class ShardedStore(ObjectStore):
    """`ShardedStore([store0, store1, …])`."""

    def __init__(self, stores: Sequence[ObjectStore]) -> None:
        self.stores = list(stores)
        self.name = f"{stores[0].name} and {len(stores) - 1} more shards"
        self.features = Features(
            ranges=all(store.features.ranges for store in stores),
            local_path=all(store.features.local_path for store in stores),
            times=all(store.features.times for store in stores),
        )

    def store_of(self, key: str) -> ObjectStore:
        return self.stores[fnv1a_32(key) % len(self.stores)]

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await self.store_of(key).put(key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        return await self.store_of(key).get(key, start, length)

    async def delete(self, key: str) -> None:
        await self.store_of(key).delete(key)

    async def head(self, key: str) -> ObjectInfo:
        return await self.store_of(key).head(key)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        """A merge of the sorted lists; the first pages are fetched at the same time."""
        sources = [store.list(prefix, after) for store in self.stores]
        first = await asyncio.gather(*(anext(source, None) for source in sources))
        heads = [(info, index) for index, info in enumerate(first) if info is not None]
        heapq.heapify(heads)
        while heads:
            info, index = heads[0]
            yield info
            following = await anext(sources[index], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (following, index))

    async def create(self) -> None:
        await asyncio.gather(*(store.create() for store in self.stores))

    async def close(self) -> None:
        await asyncio.gather(*(store.close() for store in self.stores))

    def local_path(self, key: str) -> str | None:
        return self.store_of(key).local_path(key)
