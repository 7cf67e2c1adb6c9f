# SPDX-License-Identifier: Apache-2.0
"""A volume in memory for tests of open files: real metadata engine, real data path, a clock that is told the time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from functools import partial
from typing import Any

from core.chunk.merge import merge_pieces
from core.chunk.store import BlockSliceStore
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import ROOT
from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore
from core.vfs.filesystem import FileSystem
from core.vfs.vfs import VFS
from tests.conformance.volume.base import Ticking
from tests.conformance.volume.invariants import check_invariants
from tests.unit.chunk.doubles import BLOCK, FaultyStore, NoWait, settle

__all__ = ["BLOCK", "Client", "ToldClock", "make_client", "new_volume"]


class ToldClock:
    """Time passes in `advance` and nowhere else; sleepers wake in order."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self._count = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def time(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._count), future))
        await future

    async def advance(self, seconds: float) -> None:
        end = self.now + seconds
        await settle()  # tasks that are about to sleep
        while self._sleepers and self._sleepers[0][0] <= end:
            when, _, future = heapq.heappop(self._sleepers)
            self.now = max(self.now, when)
            if not future.done():
                future.set_result(None)
            await settle()
        self.now = end


class Client:
    """One client of a volume: its own session, caches and open files."""

    def __init__(self, meta: Meta, slices: BlockSliceStore, clock: Any) -> None:
        self.meta = meta
        self.slices = slices
        self.clock = clock
        self.vfs = VFS(meta, slices, clock=clock)
        self.fs = FileSystem(meta, slices)

    async def idle(self) -> None:
        while self.meta._background:
            await asyncio.gather(*self.meta._background)

    async def close(self, *, check: bool = False) -> None:
        await self.vfs.close()
        await self.idle()
        if check:
            await check_invariants(self.meta)
        await self.meta.end_session()
        await self.slices.close()


async def new_volume(store: RecordStore | None = None, *, trash_days: int = 0) -> RecordStore:
    store = store or MemoryStore()
    await init_format(store, new_format("suite", bucket="/nowhere/", trash_days=trash_days), Ticking()())
    meta = Meta(store, new_format("suite", bucket="/nowhere/"), clock_ns=Ticking())
    await meta.recount_directory(ROOT)
    return store


async def make_client(
    store: RecordStore, objects: FaultyStore, *, clock: Any = None, clock_ns: Any = None, trash_days: int = 0,
    **options: Any,
) -> Client:  # fmt: skip
    meta = Meta(store, new_format("suite", bucket="/nowhere/", trash_days=trash_days), clock_ns=clock_ns or Ticking())
    settings: dict[str, Any] = {
        "block_size": BLOCK, "compression": "none", "hash_prefix": False, "new_slice_id": meta.slice_ids.take,
        "memory_budget": 16 << 20, "clock": NoWait(), "retries": 1,
    }  # fmt: skip
    settings.update(options)
    slices = BlockSliceStore(objects, **settings)
    await slices.start()
    meta.remove_slice = slices.remove
    meta.merge_slices = partial(merge_pieces, slices)
    meta.on_deleted = meta.delete_data_soon
    meta.on_freed = meta.delete_slices_soon
    await meta.new_session("test", heartbeat_s=0)
    return Client(meta, slices, clock or ToldClock())
