# SPDX-License-Identifier: Apache-2.0
"""Staging and caching on real small disks: the power fails, the disk is full, the disk is in the way.

What was acknowledged survives; what wasn't may be gone or torn, and torn bytes are never uploaded and never read.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from core.chunk.api import Piece
from core.chunk.cachedir import CacheLimits
from core.chunk.diskcache import DiskCache
from core.chunk.naming import block_key, parse_block_key
from core.chunk.staging import StagingOptions
from core.chunk.store import BlockSliceStore
from core.object.memory import MemStore
from tests.faults.disks import disk, require_loop, small_memory, snapshot
from tests.unit.chunk.doubles import make_store

UUID = "f0e1d2c3-0000-4000-8000-000000000001"
BLOCK = 256 << 10


def store_on(folder: Path, objects: Any, options: StagingOptions, **more: Any) -> BlockSliceStore:
    settings: dict[str, Any] = {"size": 1 << 30, "free_ratio": 0.0001, "writeback": True, **more}
    cache = DiskCache([str(folder)], UUID, CacheLimits(**settings))
    return make_store(objects, cache=cache, staging=options, block_size=BLOCK, share_slices=False, clock=None)


async def staged_until_power_fails(tmp_path: Path, rng: random.Random, *, synced: bool) -> tuple[int, int]:
    """(acknowledged pieces, how many of them the disk has lost). Fails if anything wrong is read or uploaded."""
    gate = threading.Lock()
    real = os.fsync

    def fsync(fd: int) -> None:
        with gate:  # the disk stands still while it is copied
            if synced:
                real(fd)

    written: dict[int, bytes] = {}
    acknowledged: dict[int, Piece] = {}
    image, copy = tmp_path / f"disk-{synced}.img", tmp_path / f"copy-{synced}.img"
    failed = asyncio.Event()
    with pytest.MonkeyPatch.context() as patch, disk(image, tmp_path / "disk"):
        subprocess.run(["sync", "-f", str(tmp_path / "disk")], check=True)
        patch.setattr(os, "fsync", fsync)
        store = store_on(tmp_path / "disk", MemStore(), StagingOptions(delay_s=1e6))
        take = store._new_slice_id
        await store.start()

        async def lane(r: random.Random) -> None:
            while not failed.is_set():
                data = r.randbytes(r.randint(1, 60_000) if r.random() < 0.8 else BLOCK)
                slice_id = 0

                async def new_slice_id() -> int:
                    nonlocal slice_id
                    slice_id = await take()
                    written[slice_id] = data  # noqa: B023 - of this turn
                    return slice_id

                writer = await store.writer()
                writer._new_slice_id = new_slice_id
                await writer.write(data)
                piece = await writer.finish()
                if not failed.is_set():
                    acknowledged[piece.id] = piece

        lanes = [asyncio.ensure_future(lane(random.Random(rng.random()))) for _ in range(8)]
        while len(acknowledged) < 60 + rng.randint(0, 40):
            await asyncio.sleep(0.001)
        with gate:
            survivors = dict(acknowledged)
            snapshot(image, copy)
            failed.set()
        await asyncio.gather(*lanes)
        await store.close()

    lost = 0
    objects = MemStore()
    with disk(copy, tmp_path / "copy"):
        store = store_on(tmp_path / "copy", objects, StagingOptions())
        await store.start()
        for piece in survivors.values():
            try:
                assert await store.read(piece.id, piece.size, 0, piece.size) == written[piece.id]
            except OSError:
                lost += 1
        assert store.staging is not None
        await asyncio.wait_for(store.staging.flush(), 30)
        async for info in objects.list():
            block = parse_block_key(info.key)
            assert block is not None and await objects.get(info.key) == written[block[0]]
        for piece in survivors.values():
            if not lost:
                await objects.head(block_key(piece.id, 0, piece.size))
        await store.close()
    return len(survivors), lost


async def test_what_was_acknowledged_survives_a_power_failure(tmp_path: Path, rng: random.Random) -> None:
    require_loop()
    number, lost = await staged_until_power_fails(tmp_path, rng, synced=True)
    assert number >= 60 and not lost
    # The same without the promise, to show that this test can tell.
    number, lost = await staged_until_power_fails(tmp_path, rng, synced=False)
    assert lost > number // 2
    print(f"without fsync {lost} of {number} are lost")


async def test_a_full_disk_only_means_that_blocks_are_uploaded_at_once(tmp_path: Path) -> None:
    require_loop()
    objects = MemStore()
    with small_memory(tmp_path / "small", 4 << 10) as folder:
        store = store_on(folder, objects, StagingOptions(delay_s=1e6), scan_interval_s=-1, free_ratio=0.3)
        await store.start()
        assert store.staging is not None and isinstance(store.cache, DiskCache)
        contents = [random.Random(i).randbytes(200_000) for i in range(40)]
        pieces = []
        for data in contents:
            pieces.append(await store.pack(data))
        assert len([i async for i in objects.list()]) >= 20  # those that had no room, and those that made room
        for piece, data in zip(pieces, contents, strict=True):
            assert await store.read(piece.id, piece.size, 0, piece.size) == data
        # The disk stays full: what waits leaves before its time.
        async with asyncio.timeout(20):
            while store.staging.uploaded == 0:
                await asyncio.sleep(0.01)
        await store.staging.flush()
        await store.close()
        assert not list((folder / UUID).rglob("*.tmp"))
    assert len([i async for i in objects.list()]) == 40


async def test_a_full_disk_costs_the_cache_nothing_but_its_use(tmp_path: Path) -> None:
    require_loop()
    objects = MemStore()
    with small_memory(tmp_path / "small", 2 << 10) as folder:
        cache = DiskCache([str(folder)], UUID, CacheLimits(size=1 << 30, free_ratio=0.0001, eviction="none"))
        store = make_store(objects, cache=cache, block_size=BLOCK, share_slices=False, cache_large_write=True)
        await store.start()
        contents = [random.Random(i).randbytes(BLOCK) for i in range(30)]
        pieces = []
        for data in contents:
            writer = await store.writer()
            await writer.write(data)
            pieces.append(await writer.finish())
        for _ in range(2):
            for piece, data in zip(pieces, contents, strict=True):
                assert await store.read(piece.id, piece.size, 0, piece.size) == data
        assert cache.directories[0].health.state == "normal"
        await store.close()
        assert not list((folder / UUID).rglob("*.tmp"))
