# SPDX-License-Identifier: Apache-2.0
"""Warm-up, check and eviction over real disk caches: several folders, shared slices, blocks that wait for their upload
(data-path §11.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from core.chunk.cacheoptions import CacheOptions
from core.chunk.diskcache import DiskCache
from core.meta.format import new_format
from core.vfs.internal.protocol import CHECK, EVICT, WARM
from core.vfs.internal.warmup import Warmed, Warmer
from core.volume import Volume, format_volume, open_volume
from tests.unit.chunk.doubles import noise

BLOCK = 64 << 10


@asynccontextmanager
async def opened(tmp_path: Path, **cache: object) -> AsyncIterator[Volume]:
    url = f"sqlite3://{tmp_path}/meta.db"
    if not (tmp_path / "meta.db").exists():
        await format_volume(url, new_format("warm", bucket=f"{tmp_path}/objects/", compression="lz4", block_size=BLOCK))
    folders = f"{tmp_path}/a:{tmp_path}/b"
    options = CacheOptions(free_ratio=0.0001, **cache)  # type: ignore[arg-type]
    volume = await open_volume(url, session=False, cache_dir=folders, cache_size=1 << 30, cache=options)
    try:
        yield volume
    finally:
        await volume.close()


async def put(volume: Volume, *files: tuple[str, bytes]) -> None:
    contents = await asyncio.gather(*(volume.fs.content_of(data) for _, data in files))
    for (name, _), content in zip(files, contents, strict=True):
        await volume.fs.publish(name.encode(), content)


async def run(volume: Volume, action: int) -> Warmed:
    return await Warmer(volume.meta, volume.slices, action, 8).run([1])


async def test_whole_slices_in_several_folders_each_looked_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as volume:
        small = [(f"/s{i}", noise(500, i)) for i in range(8)]  # they share slices
        await put(volume, *small)
        await put(volume, ("/large", noise(10 * BLOCK)))
        slices = {s.id for i in range(2, 11) for s in await volume.meta.read_chunk(i, 0)}
        total = 8 * 500 + 10 * BLOCK

        evicted = await run(volume, EVICT)
        assert evicted.files == 9 and evicted.total == total
        cold = await run(volume, CHECK)
        assert (cold.files, cold.slices, cold.total) == (9, len(slices), total)
        assert cold.missing == total and not cold.locations

        warm = await run(volume, WARM)
        assert warm.missing == total and not warm.failed
        assert isinstance(volume.slices.cache, DiskCache)
        checked = await run(volume, CHECK)
        assert checked.missing == 0 and set(checked.locations) == {f"{tmp_path}/a", f"{tmp_path}/b"}
        assert sum(checked.locations.values()) == total
        again = await run(volume, WARM)
        assert again.missing == 0
    async with opened(tmp_path) as volume:  # also for the next client
        assert (await run(volume, CHECK)).missing == 0


async def test_what_waits_for_its_upload_counts_as_cached_and_is_not_evicted(tmp_path: Path) -> None:
    async with opened(tmp_path, writeback=True, upload_delay_s=1e6) as volume:
        await put(volume, ("/f", noise(500)), ("/g", noise(3 * BLOCK)))
        staging = volume.slices.staging
        assert staging is not None
        waiting = staging.blocks
        assert waiting
        assert (await run(volume, CHECK)).missing == 0
        async with asyncio.timeout(5):  # not a look each millisecond at what will never go
            evicted = await run(volume, EVICT)
        assert evicted.missing == evicted.total and staging.blocks == waiting
        found = await volume.fs.lookup(b"/g")
        assert await volume.fs.read(found, 0, 3 * BLOCK) == noise(3 * BLOCK)
        await staging.flush()
        evicted = await run(volume, EVICT)
        assert evicted.missing == 0
        assert (await run(volume, CHECK)).missing == evicted.total


async def test_memory_can_be_warmed_up_too(tmp_path: Path) -> None:
    async with opened(tmp_path) as volume:
        await put(volume, ("/f", noise(500)), ("/g", noise(3 * BLOCK)))
    url = f"sqlite3://{tmp_path}/meta.db"
    volume = await open_volume(url, session=False, cache_dir="memory", cache_size=1 << 20)
    warm = await run(volume, WARM)
    assert warm.missing == warm.total > 0
    checked = await run(volume, CHECK)
    assert checked.missing == 0 and checked.locations == {"memory": checked.total}
    await volume.close()
