# SPDX-License-Identifier: Apache-2.0
"""Reading blocks: one download however many ask, right bytes or a clear error (data-path §9)."""

from __future__ import annotations

import asyncio
import errno
import random
from pathlib import Path

import pytest

from core.chunk.api import Piece
from core.chunk.memcache import MemoryCache
from core.chunk.reader import SMALL_OBJECT
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockMissing
from core.errors import FsError, ObjectError
from core.object.file import FileStore

from .doubles import BLOCK, FaultyStore, NoWait, always, make_store, noise, nth, settle

BIG = 256 << 10  # larger than SMALL_OBJECT


async def saved(store: BlockSliceStore, data: bytes) -> Piece:
    writer = await store.writer()
    await writer.write(data)
    return await writer.finish()


def clear(store: BlockSliceStore) -> None:
    store.reader._hot._shrink(1 << 40)
    store.objects.calls.clear()


@pytest.mark.parametrize("compression", ["none", "lz4"])
async def test_any_range_of_a_slice(compression: str) -> None:
    store = make_store(compression=compression)
    data = noise(3 * BLOCK + 100)
    p = await saved(store, data)
    cuts = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5, 3 * BLOCK, 3 * BLOCK + 100]
    for start in cuts:
        for end in cuts:
            if start < end:
                clear(store)
                assert await store.read(p.id, p.size, start, end - start) == data[start:end]
    assert await store.read(p.id, p.size, 5, 0) == b""
    assert await store.read(0, 0, 0, 10) == bytes(10)


async def test_ranges_outside_the_slice_are_eio() -> None:
    store = make_store()
    p = await saved(store, b"hello")
    for off, length in ((0, 6), (5, 1), (-1, 2)):
        with pytest.raises(FsError, match="outside"):
            await store.read(p.id, p.size, off, length)
        assert store.read_cached(p.id, p.size, off, length) is None
        assert store.local_range(p.id, p.size, off, length) is None


async def test_readers_of_one_block_share_one_download() -> None:
    store = make_store(compression="lz4")
    data = noise(BLOCK)
    p = await saved(store, data)
    clear(store)
    results = await asyncio.gather(*(store.read(p.id, p.size, i * 10, 100) for i in range(50)))
    assert store.objects.calls == {"get": 1}
    assert all(r == data[i * 10 : i * 10 + 100] for i, r in enumerate(results))


async def test_a_cancelled_reader_leaves_the_download_to_the_others() -> None:
    objects = FaultyStore()
    store = make_store(objects)
    p = await saved(store, noise(BLOCK))
    clear(store)
    objects.gates["get"] = asyncio.Event()
    one, two = (asyncio.create_task(store.read(p.id, p.size, 0, 10)) for _ in range(2))
    await settle()
    one.cancel()
    await settle()
    objects.gates["get"].set()
    assert await two == noise(BLOCK)[:10]
    assert objects.calls["get"] == 1


async def test_a_download_that_nobody_waits_for_is_stopped() -> None:
    objects = FaultyStore()
    store = make_store(objects)
    p = await saved(store, noise(BLOCK))
    clear(store)
    used = store.budget.used
    objects.gates["get"] = asyncio.Event()
    task = asyncio.create_task(store.read(p.id, p.size, 0, 10))
    await settle()
    task.cancel()
    await settle()
    assert objects.running["get"] == 0 and store.budget.used == used
    del objects.gates["get"]
    assert await store.read(p.id, p.size, 0, 10) == noise(BLOCK)[:10]


async def test_small_objects_stay_in_memory_and_answer_without_waiting() -> None:
    store = make_store()
    p = await store.pack(b"hello world")
    assert store.read_cached(p.id, p.size, 6, 5) == b"world"  # written here: kept
    clear(store)
    assert store.read_cached(p.id, p.size, 6, 5) is None
    assert await store.read(p.id, p.size, 6, 5) == b"world"
    assert store.read_cached(p.id, p.size, 0, 11) == b"hello world"
    assert store.objects.calls == {"get": 1}
    # Another size is another block name; its bytes aren't these.
    assert store.read_cached(p.id, 12, 0, 12) is None


async def test_small_reads_of_large_blocks_are_range_requests_without_a_cache() -> None:
    store = make_store(block_size=BIG)
    data = noise(BIG)
    p = await saved(store, data)
    clear(store)
    assert await store.read(p.id, p.size, 1000, 50) == data[1000:1050]
    assert await store.read(p.id, p.size, 0, 50) == data[:50]
    assert store.objects.calls == {"range": 2}


async def test_with_a_cache_the_block_follows_when_half_of_it_was_fetched_in_parts() -> None:
    store = make_store(block_size=BIG, cache=MemoryCache(8 << 20))
    data = noise(BIG)
    p = await saved(store, data)
    clear(store)
    for i in range(3):
        assert await store.read(p.id, p.size, i * 40_000, 40_000) == data[i * 40_000 : (i + 1) * 40_000]
    await settle()
    assert store.objects.calls == {"range": 3}
    assert await store.read(p.id, p.size, 120_000, 40_000) == data[120_000:160_000]
    await settle()
    assert store.objects.calls == {"range": 4, "get": 1}
    assert store.read_cached(p.id, p.size, 77, 50) == data[77:127]
    store.cache.remove((p.id, 0, BIG))
    clear(store)
    await store.read(p.id, p.size, 1000, BIG // 2)  # a large part: the block at once
    assert store.objects.calls == {"get": 1}


async def test_reads_at_random_fetch_little_more_than_they_ask_for() -> None:
    store = make_store(block_size=BIG, cache=MemoryCache(1 << 20), memory_budget=64 << 20)
    slices = [await saved(store, noise(BIG, i)) for i in range(40)]
    store.cache._shrink(1 << 40)
    clear(store)
    rng = random.Random(3)
    for _ in range(200):
        p, off = rng.choice(slices), rng.randrange(32) * 8192
        assert await store.read(p.id, p.size, off, 8192) == noise(BIG, slices.index(p))[off : off + 8192]
    await settle()
    assert store.objects.calls == {"range": 200}


async def test_compressed_blocks_are_never_read_in_parts() -> None:
    store = make_store(block_size=BIG, compression="lz4")
    p = await saved(store, noise(BIG))
    clear(store)
    assert await store.read(p.id, p.size, 1000, 50) == noise(BIG)[1000:1050]
    assert store.objects.calls == {"get": 1}


async def test_a_failing_range_request_falls_back_to_the_block() -> None:
    store = make_store(block_size=BIG)
    p = await saved(store, noise(BIG))
    clear(store)
    store.objects.fail["range"] = always()
    assert await store.read(p.id, p.size, 1000, 50) == noise(BIG)[1000:1050]
    del store.objects.fail["range"]
    store.objects.change_get = lambda d: d[:-1] if len(d) == 50 else d
    assert await store.read(p.id, p.size, 1000, 50) == noise(BIG)[1000:1050]


async def test_failed_downloads_are_tried_again_with_capped_pauses() -> None:
    clock = NoWait()
    store = make_store(clock=clock, retries=40)
    p = await saved(store, noise(BLOCK))
    clear(store)
    store.objects.fail["get"] = nth(*range(1, 40))
    assert await store.read(p.id, p.size, 0, 10) == noise(BLOCK)[:10]
    assert clock.slept[:3] == [0.001, 0.301, 0.601] and max(clock.slept) == 10


async def test_a_lasting_failure_is_eio_that_names_slice_block_and_cause() -> None:
    store = make_store()
    p = await saved(store, noise(2 * BLOCK))
    clear(store)
    store.objects.fail["get"] = always()
    results = await asyncio.gather(*(store.read(p.id, p.size, BLOCK, 10) for _ in range(3)), return_exceptions=True)
    for e in results:
        assert isinstance(e, FsError) and e.errno == errno.EIO
        assert "slice 1 block 1 (chunks/0/0/1_1_65536)" in str(e) and "disk is on fire" in str(e)
        assert isinstance(e.__cause__, ObjectError)
    assert store.objects.calls["get"] == 4


async def test_a_missing_object_is_told_apart_and_not_waited_for() -> None:
    clock = NoWait()
    store = make_store(clock=clock)
    with pytest.raises(BlockMissing, match=r"slice 99 block 0 .*missing") as e:
        await store.read(99, 10, 0, 10)
    assert e.value.errno == errno.EIO and clock.slept == []


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_truncated_and_damaged_objects_never_become_data(compression: str) -> None:
    store = make_store(compression=compression)
    data = b"text " * 10_000
    p = await saved(store, data)
    key = next(iter(store.objects.objects))
    raw, mtime = store.objects.objects[key]
    for bad in (b"", raw[:-1], raw[: len(raw) // 2]):
        clear(store)
        store.objects.objects[key] = (bad, mtime)
        with pytest.raises(FsError, match="slice 1 block 0") as e:
            await store.read(p.id, p.size, 0, p.size)
        assert e.value.errno == errno.EIO
        assert store.read_cached(p.id, p.size, 0, 1) is None
    store.objects.objects[key] = (raw, mtime)
    assert await store.read(p.id, p.size, 0, p.size) == data


async def test_a_body_that_was_cut_once_is_fetched_again() -> None:
    store = make_store()
    p = await saved(store, noise(BLOCK))
    clear(store)
    store.objects.change_get = lambda d: d[:100] if store.objects.calls["get"] == 1 else d
    assert await store.read(p.id, p.size, 0, BLOCK) == noise(BLOCK)


async def test_the_nth_get_failing_never_yields_wrong_bytes() -> None:
    store = make_store(retries=0)
    data = noise(5 * BLOCK)
    p = await saved(store, data)
    for n in range(1, 6):
        clear(store)
        store.objects.fail["get"] = nth(n)
        with pytest.raises(FsError, match="disk is on fire"):
            await store.read(p.id, p.size, 10, p.size - 20)
        store.objects.fail.clear()
        assert await store.read(p.id, p.size, 10, p.size - 20) == data[10:-10]


async def test_downloads_are_limited() -> None:
    store = make_store(max_downloads=2)
    p = await saved(store, noise(10 * BLOCK))
    clear(store)
    await store.read(p.id, p.size, 0, p.size)
    assert store.objects.most["get"] == 2


async def test_reads_get_on_while_writers_hold_all_memory() -> None:
    store = make_store(memory_budget=8 * BLOCK)
    p = await saved(store, noise(BLOCK))
    clear(store)
    writers = []
    while store.budget.used + BLOCK <= store.budget.limit:
        writers.append(await store.writer())
    assert await asyncio.wait_for(store.read(p.id, p.size, 0, 10), 5) == noise(BLOCK)[:10]
    for writer in writers:
        await writer.abort()


# -- local files ----------------------------------------------------------------------------------------------------


async def test_small_local_objects_are_read_on_the_spot_and_kept(tmp_path: Path) -> None:
    store = make_store(FileStore(str(tmp_path)))
    p = await store.pack(b"hello world")
    store.reader._hot._shrink(1 << 40)
    read = store.read(p.id, p.size, 6, 5)
    with pytest.raises(StopIteration) as done:  # finishes in its first step: no task, no thread
        read.send(None)
    assert done.value.value == b"world"
    assert store.read_cached(p.id, p.size, 0, 5) == b"hello"
    await store.close()


async def test_local_ranges_name_the_objects_file(tmp_path: Path) -> None:
    store = make_store(FileStore(str(tmp_path)))
    data = noise(BLOCK + 100)
    p = await saved(store, data)
    found = store.local_range(p.id, p.size, BLOCK + 10, 50)
    assert found is not None and found.path.endswith("chunks/0/0/1_1_100")
    with open(found.path, "rb") as f:
        f.seek(found.offset)
        assert f.read(found.length) == data[BLOCK + 10 : BLOCK + 60]
    assert store.local_range(p.id, p.size, BLOCK - 1, 2) is None  # two blocks
    with open(found.path, "r+b") as f:
        f.truncate(99)
    assert store.local_range(p.id, p.size, BLOCK + 10, 50) is None  # damaged: `read` says so
    store.reader._hot._shrink(1 << 40)
    with pytest.raises(FsError, match="shorter"):
        await store.read(p.id, p.size, BLOCK + 10, 50)
    await store.remove(p.id, p.size)
    assert store.local_range(p.id, p.size, 0, 10) is None
    await store.close()


async def test_compressed_objects_are_no_local_ranges(tmp_path: Path) -> None:
    store = make_store(FileStore(str(tmp_path)), compression="lz4")
    p = await saved(store, noise(1000))
    assert store.local_range(p.id, p.size, 0, 10) is None
    await store.close()


async def test_large_local_blocks_are_read_in_parts(tmp_path: Path) -> None:
    store = make_store(FileStore(str(tmp_path)), block_size=4 << 20, memory_budget=64 << 20)
    data = noise(4 << 20)
    p = await saved(store, data)
    assert await store.read(p.id, p.size, 12345, 4096) == data[12345 : 12345 + 4096]
    assert await store.read(p.id, p.size, 0, 4 << 20) == data
    assert store.read_cached(p.id, p.size, 0, 10) is None and p.size > SMALL_OBJECT
    await store.close()
