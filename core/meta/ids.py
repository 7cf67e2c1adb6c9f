# SPDX-License-Identifier: Apache-2.0
"""Inode numbers and slice ids, taken from the volume's counters in batches (format §1.9)."""

from __future__ import annotations

import asyncio
from typing import Final

from core.meta.store import RecordStore

INODE_BATCH: Final = 1024
SLICE_BATCH: Final = 4096


class IdPool:
    """Ids of one counter. `take` waits for the store only when the batch is used up; unused ids are lost at exit."""

    def __init__(self, store: RecordStore, counter: str, batch: int, lowest: int) -> None:
        self._store = store
        self._counter = counter
        self._batch = batch
        self._lowest = lowest
        self._next = 0
        self._end = 0
        self._refill: asyncio.Lock = asyncio.Lock()

    def take_nowait(self) -> int | None:
        """The next id, or None if a round trip is needed."""
        if self._next < self._end:
            value = self._next
            self._next += 1
            return value
        return None

    async def take(self) -> int:
        while (value := self.take_nowait()) is None:
            async with self._refill:
                if self._next < self._end:
                    continue
                first = await self._store.allocate(self._counter, self._batch)
                # Ids below `lowest` (0 and the root inode; slice 0) are never handed out.
                self._next, self._end = max(first, self._lowest), first + self._batch
        return value


def inode_pool(store: RecordStore) -> IdPool:
    return IdPool(store, "nextInode", INODE_BATCH, 2)


def slice_pool(store: RecordStore) -> IdPool:
    return IdPool(store, "nextChunk", SLICE_BATCH, 1)
