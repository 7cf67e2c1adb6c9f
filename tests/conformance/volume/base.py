# SPDX-License-Identifier: Apache-2.0
"""What the parts of the suite share: a clock that always moves, a caller, the volume under test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from core.meta.caller import Caller
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.publish import Content
from core.meta.records import Slice
from core.meta.store import RecordStore
from tests.conformance.volume.invariants import check_invariants

USER = Caller(1000, (1000,))
NOW = 1_800_000_000_000_000_000


class Ticking:
    """A clock that moves by one millisecond per look, so that every time is different and known to be later."""

    def __init__(self, now_ns: int = NOW) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        self.now_ns += 1_000_000
        return self.now_ns


class VolumeBase:
    @pytest.fixture
    async def meta(self, store: RecordStore) -> AsyncIterator[Meta]:
        fmt = new_format("suite", bucket="/nowhere/")
        clock = Ticking()
        await init_format(store, fmt, clock())
        meta = Meta(store, fmt, clock_ns=clock)
        self.removed: list[tuple[int, int]] = []

        async def remove(slice_id: int, size: int) -> None:
            self.removed.append((slice_id, size))

        meta.remove_slice = remove
        meta.on_deleted = meta.delete_data_soon
        meta.on_freed = meta.delete_slices_soon
        await meta.new_session("suite", heartbeat_s=0)
        yield meta
        await self.idle(meta)
        await check_invariants(meta)
        await meta.end_session()

    async def idle(self, meta: Meta) -> None:
        while meta._background:
            await asyncio.gather(*meta._background)

    async def set_trash(self, meta: Meta, days: int) -> None:
        meta.use_format(meta.format.changed(trash_days=days))

    def content(self, meta_slice: int, length: int, refs: int = 1) -> Content:
        return Content(length, {0: [Slice(0, meta_slice, length, 0, length)]}, fresh=((meta_slice, length, refs),))
