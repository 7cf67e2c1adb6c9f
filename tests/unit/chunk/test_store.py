# SPDX-License-Identifier: Apache-2.0
"""The slice store as a whole: its contract, removal, caches under it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from core.chunk.api import SliceStore, SliceWriter
from core.chunk.cachedir import CacheLimits
from core.chunk.diskcache import DiskCache
from core.chunk.memcache import MemoryCache
from core.errors import ConfigError, FsError, ObjectError
from tests.servers.process import wait_for

from .doubles import BLOCK, always, make_store, noise, nth


async def test_it_is_a_slice_store() -> None:
    store: SliceStore = make_store()
    writer: SliceWriter = await store.writer()
    await writer.write(b"x")
    assert (await writer.finish()).length == 1
    await store.close()


@pytest.mark.parametrize("size", [0, 1000, 3 << 20, 32 << 10, 32 << 20])
def test_block_sizes_that_the_format_does_not_know_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="block size"):
        make_store(block_size=size)


@pytest.mark.parametrize("hash_prefix", [False, True])
async def test_removal_deletes_every_block_and_forgets_it(hash_prefix: bool) -> None:
    store = make_store(hash_prefix=hash_prefix)
    writer = await store.writer()
    await writer.write(noise(3 * BLOCK + 5))
    p = await writer.finish()
    assert await store.read(p.id, p.size, 0, 10) == noise(3 * BLOCK + 5)[:10]
    await store.remove(p.id, p.size)
    assert store.objects.objects == {}
    assert store.read_cached(p.id, p.size, 0, 10) is None
    with pytest.raises(FsError, match="missing"):
        await store.read(p.id, p.size, 0, 10)
    await store.remove(p.id, p.size)  # again: fine
    await store.remove(p.id, 0)


async def test_removal_tries_every_block_and_reports_a_failure() -> None:
    store = make_store()
    writer = await store.writer()
    await writer.write(noise(4 * BLOCK))
    p = await writer.finish()
    store.objects.fail["delete"] = nth(1)
    await store.remove(p.id, p.size)  # one hiccup is retried
    assert store.objects.objects == {}
    writer = await store.writer()
    await writer.write(noise(4 * BLOCK))
    p = await writer.finish()
    real = store.objects.fail
    real["delete"] = always(ObjectError("forbidden", retryable=False))
    with pytest.raises(ObjectError, match=r"slice 2 block \d .*deletion failed: forbidden"):
        await store.remove(p.id, p.size)
    assert store.objects.calls["delete"] == 5 + 4


async def test_prefetch_fills_the_cache_and_hides_errors() -> None:
    store = make_store(cache=MemoryCache(8 << 20))
    writer = await store.writer()
    await writer.write(noise(4 * BLOCK))
    p = await writer.finish()
    store.objects.calls.clear()
    await store.prefetch(p.id, p.size, BLOCK + 10, BLOCK)
    assert store.objects.calls["get"] == 2
    assert [store.read_cached(p.id, p.size, i * BLOCK, 5) is not None for i in range(4)] == [False, True, True, False]
    await store.prefetch(12345, BLOCK, 0, 10)
    await store.prefetch(0, 0, 0, 10)


async def test_a_disk_cache_answers_when_the_store_is_gone(tmp_path: Path) -> None:
    cache = DiskCache([str(tmp_path)], "uuid", CacheLimits(size=1 << 30, free_ratio=0.0001))
    store = make_store(cache=cache, compression="lz4")
    await store.start()
    writer = await store.writer()
    data = noise(2 * BLOCK + 5000)
    await writer.write(data)
    p = await writer.finish()
    assert await store.read(p.id, p.size, 0, p.size) == data
    folder = next(iter(cache._dirs.values()))
    await asyncio.to_thread(wait_for, lambda: len(folder.index) == 3, 10, "three cached blocks")
    store.reader._hot._shrink(1 << 40)
    store.objects.objects.clear()
    assert await store.read(p.id, p.size, 10, p.size - 10) == data[10:]
    assert store.local_range(p.id, p.size, BLOCK, 10) is not None  # compressed in the store, plain in the cache
    # Damage: the cached block is dropped, and the store is asked.
    with open(folder.path((p.id, 0, BLOCK)), "r+b") as f:
        f.write(bytes(100))
    with pytest.raises(FsError, match="missing"):
        await store.read(p.id, p.size, 0, 10)
    await store.remove(p.id, p.size)
    await asyncio.to_thread(wait_for, lambda: not list(tmp_path.rglob("*_*_*")), 10, "removal of cached files")
    await store.close()
    assert store.budget.used == 0 or store.reader._hot.used == store.budget.used
