# SPDX-License-Identifier: Apache-2.0
"""All keys of a store under one prefix: a volume lives below `<volume name>/` of its bucket.

Source: spec data-path §1.2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from core.object.api import Buffer, ObjectInfo, ObjectStore


class PrefixStore(ObjectStore):
    """`PrefixStore(store, "volname/")`: what callers name `k` is `volname/k` in the store."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self.name = f"{store.name.rstrip('/')}/{prefix}"
        self.features = store.features

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await self.store.put(self.prefix + key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        return await self.store.get(self.prefix + key, start, length)

    async def delete(self, key: str) -> None:
        await self.store.delete(self.prefix + key)

    async def head(self, key: str) -> ObjectInfo:
        info = await self.store.head(self.prefix + key)
        return info._replace(key=key)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        cut = len(self.prefix)
        async for info in self.store.list(self.prefix + prefix, self.prefix + after if after else ""):
            yield info._replace(key=info.key[cut:])

    async def create(self) -> None:
        await self.store.create()

    async def close(self) -> None:
        await self.store.close()

    def local_path(self, key: str) -> str | None:
        return self.store.local_path(self.prefix + key)
