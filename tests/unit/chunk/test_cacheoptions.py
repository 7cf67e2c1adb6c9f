# SPDX-License-Identifier: Apache-2.0
"""Options of caches and writeback: defaults, nonsense, and that each of them has its effect (data-path §5, §6, §12.3).

Commands are run in this process up to the volume that they would open.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from core.chunk.api import Durability
from core.chunk.cachedir import CacheDir
from core.chunk.cacheoptions import CacheOptions, open_cache
from core.chunk.diskcache import DiskCache
from core.chunk.memcache import OVERHEAD, MemoryCache
from core.chunk.readahead import ReadStream
from core.chunk.uploadhours import UploadHours, parse_upload_hours
from core.errors import ConfigError
from core.meta.format import new_format
from core.meta.records import Slice
from core.volume import Volume, format_volume, open_volume
from sluicefs.fuse_options import mount_options
from sluicefs.options import client_options, volume_options

from .doubles import BLOCK, FaultyStore, make_store, noise, settle

MIB = 1 << 20


def parsed(*flags: str, door: bool = False, options: Any = client_options) -> dict[str, Any]:
    """What a command with these flags gives to `open_volume`."""
    found: dict[str, Any] = {}

    def body(**given: Any) -> None:
        found.update(volume_options(given, door=door) if options is client_options else given)

    result = CliRunner().invoke(click.command()(options(body)), flags, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return found


def settings(*flags: str) -> CacheOptions:
    found = parsed(*flags)["cache"]
    assert isinstance(found, CacheOptions)
    return found


@asynccontextmanager
async def volume(tmp_path: Path, *flags: str, compress: str = "zstd") -> AsyncIterator[Volume]:
    """Compressed, so that objects aren't what the cache would hold."""
    url = f"sqlite3://{tmp_path}/meta.db"
    if not (tmp_path / "meta.db").exists():
        fmt = new_format("options", bucket=f"{tmp_path}/objects/", compression=compress, block_size=BLOCK)
        await format_volume(url, fmt)
    found = parsed(*flags)
    for name in ("backup_meta", "heartbeat_s", "jobs"):
        found.pop(name, None)
    opened = await open_volume(url, session=False, **found)
    try:
        yield opened
    finally:
        await opened.close()


def folder_of(opened: Volume) -> CacheDir:
    assert isinstance(opened.slices.cache, DiskCache)
    (folder,) = opened.slices.cache.directories
    return folder


def test_defaults_are_those_of_the_reference_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings() == CacheOptions()
    assert CacheOptions() == CacheOptions(
        mode=0o600, items=0, free_ratio=0.1, partial_only=False, large_write=False, verify="extend",
        eviction="2-random", scan_interval_s=3600, expire_s=0, prefetch=1, writeback=False, writeback_threshold=0,
        upload_delay_s=0, upload_hours="", max_stage_write=1000,
    )  # fmt: skip
    monkeypatch.delenv("SLUICE_CACHE_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = parsed(door=True)
    assert found["cache_dir"] == "/var/jfsCache" and not found["cache_local"] and "cache_size" not in found
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed(door=True)["cache_dir"] == f"{tmp_path}/.juicefs/cache"
    assert "cache_dir" not in parsed()  # a tool that ends soon
    names = set(parsed(options=mount_options))
    assert {"writeback", "upload_delay", "upload_hours", "cache_eviction", "prefetch", "max_readahead"} <= names


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--free-space-ratio", "1.5"], ["--free-space-ratio", "share"]),
        (["--free-space-ratio", "-0.1"], ["--free-space-ratio"]),
        (["--free-space-ratio", "much"], ["--free-space-ratio", "number"]),
        (["--cache-mode", "0044"], ["--cache-mode", "owner"]),
        (["--cache-mode", "rw"], ["--cache-mode", "octal"]),
        (["--cache-mode", "7777"], ["--cache-mode"]),
        (["--cache-size", "-5"], ["--cache-size"]),
        (["--cache-items", "-1"], ["--cache-items"]),
        (["--cache-eviction", "random"], ["--cache-eviction", "2-random"]),
        (["--cache-expire", "soon"], ["--cache-expire", "duration"]),
        (["--cache-scan-interval", "often"], ["--cache-scan-interval", "duration"]),
        (["--upload-hours", "25,3"], ["--upload-hours", "0 to 23"]),
        (["--upload-hours", "night"], ["--upload-hours"]),
        (["--upload-delay", "x"], ["--upload-delay"]),
        (["--max-stage-write", "-1"], ["--max-stage-write"]),
        (["--writeback-threshold-size", "big"], ["--writeback-threshold-size"]),
        (["--prefetch", "-1"], ["--prefetch"]),
        (["--max-readahead", "x"], ["--max-readahead"]),
        (["--buffer-size", "x"], ["--buffer-size"]),
    ],
)
def test_nonsense_is_refused_by_name(flags: list[str], words: list[str]) -> None:
    with pytest.raises((ConfigError, click.ClickException)) as caught:
        parsed(*flags)
    text = caught.value.format_message() if isinstance(caught.value, click.ClickException) else str(caught.value)
    assert all(word in text for word in words), text


def test_what_makes_no_sense_together_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def cache(where: str | None, size: int | None, **options: Any) -> Any:
        return open_cache(where, size, CacheOptions(**options), uuid="u", hash_prefix=False, buffer_size=300 * MIB)

    with pytest.raises(ConfigError, match=r"--writeback.*--cache-dir"):
        cache("memory", None, writeback=True)
    with pytest.raises(ConfigError, match=r"--writeback.*--cache-dir"):
        cache(None, None, writeback=True)
    with pytest.raises(ConfigError, match="names no folder"):
        cache(f"{tmp_path}/none*", None)
    found, options = cache(str(tmp_path), 0, writeback=True)
    assert found is None and not options.writeback and "no effect" in caplog.text


@pytest.mark.parametrize(
    ("text", "hours"),
    [("22,6", UploadHours(22, 6)), ("1-5", UploadHours(1, 5)), (" 0 , 23 ", UploadHours(0, 23)), ("7,7", None),
     ("", None), (None, None)],
)  # fmt: skip
def test_upload_hours(text: str | None, hours: UploadHours | None) -> None:
    assert parse_upload_hours(text) == hours


def test_hours_open_and_close(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    night, day = UploadHours(22, 6), UploadHours(9, 17)
    open_at = [h for h in range(24) if night.is_open(h * 3600 + 59)]
    assert open_at == [0, 1, 2, 3, 4, 5, 22, 23]
    assert [h for h in range(24) if day.is_open(h * 3600)] == list(range(9, 17))
    assert night.seconds_to_open(6 * 3600 + 90) == 16 * 3600 - 90
    assert day.seconds_to_open(20 * 3600) == 13 * 3600 and day.seconds_to_open(9 * 3600) == 0


# -- effects --------------------------------------------------------------------------------------------------------


async def write(opened: Volume, n: int, seed: int = 1) -> tuple[int, int]:
    writer = await opened.slices.writer()
    await writer.write(noise(n, seed))
    piece = await writer.finish()
    return piece.id, piece.size


async def read(opened: Volume, piece: tuple[int, int], off: int = 0, length: int | None = None) -> bytes:
    return bytes(await opened.slices.read(*piece, off, piece[1] if length is None else length))


async def wait(folder: CacheDir) -> None:
    """What is queued is written."""
    async with asyncio.timeout(10):
        while folder.pending:
            await asyncio.sleep(0.001)


async def test_memory_takes_the_place_of_the_disk(tmp_path: Path) -> None:
    async with volume(tmp_path, "--cache-dir", "memory", "--cache-size", "1M") as opened:
        cache = opened.slices.cache
        assert isinstance(cache, MemoryCache) and cache.capacity == MIB
        piece = await write(opened, 10 * BLOCK)
        opened.slices.reader._hot._shrink(1 << 30)
        await read(opened, piece)
        assert cache.used == 10 * (BLOCK + OVERHEAD)
        piece = await write(opened, 10 * BLOCK, 2)
        await read(opened, piece)
        assert cache.used <= MIB
        assert opened.slices.budget.used == opened.slices.reader._hot.used  # beside the buffer, as its size says
    async with volume(tmp_path, "--cache-dir", "memory") as opened:
        assert isinstance(opened.slices.cache, MemoryCache) and opened.slices.cache.capacity == 100 * MIB
    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/cache", "--cache-size", "0") as opened:
        assert opened.slices.cache is None and opened.slices.reader._prefetch_workers == 0


def test_memory_expires_and_evicts_as_told() -> None:
    now = [0.0]
    cache = MemoryCache(10_000, expire_s=60, now=lambda: now[0])
    cache.put((1, 0, 100), b"x" * 100)
    now[0] = 50
    cache.put((2, 0, 100), b"y" * 100)
    assert cache.get_nowait((1, 0, 100), 0, 1) == b"x"
    now[0] = 111
    assert cache.get_nowait((2, 0, 100), 0, 1) is None and cache.get_nowait((1, 0, 100), 0, 1) is None
    assert cache.used == 0
    full = MemoryCache(2 * (100 + OVERHEAD), eviction="none")
    assert full.put((1, 0, 100), b"x" * 100) and full.put((2, 0, 100), b"x" * 100)
    assert not full.put((3, 0, 100), b"x" * 100)


async def test_limits_modes_and_levels_reach_the_directories(tmp_path: Path) -> None:
    flags = ["--cache-dir", f"{tmp_path}/a:{tmp_path}/b", "--cache-size", "10M", "--cache-items", "7", "--cache-mode",
             "0644", "--free-space-ratio", "0.002", "--verify-cache-checksum", "full", "--cache-eviction", "lru",
             "--cache-scan-interval", "-1", "--cache-expire", "90", "--buffer-size", "64M"]  # fmt: skip
    async with volume(tmp_path, *flags) as opened:
        assert isinstance(opened.slices.cache, DiskCache)
        for folder in opened.slices.cache.directories:
            limits = folder.limits
            assert (limits.size, limits.items, limits.file_mode) == (5 * MIB, 4, 0o644)
            assert (limits.free_ratio, limits.verify, limits.eviction) == (0.002, "full", "lru")
            assert (limits.scan_interval_s, limits.expire_s) == (-1, 90)
            assert limits.queue_bytes == 64 * MIB // 5 // 2
            assert len(folder._threads) == 1  # nobody scans
        pieces = [await write(opened, 1000, i) for i in range(4)]
        for folder in opened.slices.cache.directories:
            await wait(folder)
        modes = set()
        for slice_id, n in pieces:
            owner = opened.slices.cache.folder_of((slice_id, 0, n))
            assert owner is not None
            modes.add(oct(os.stat(owner.path((slice_id, 0, n))).st_mode & 0o777))
        assert modes == {"0o644"}


async def test_the_free_space_ratio_of_zero_is_a_tenth(tmp_path: Path) -> None:
    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c", "--free-space-ratio", "0") as opened:
        assert folder_of(opened)._free_ratio == 0.1


async def test_an_unknown_checksum_level_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert settings("--verify-cache-checksum", "md5").verify == "extend"


@pytest.mark.parametrize("large", [False, True])
async def test_cache_large_write(tmp_path: Path, large: bool) -> None:
    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c", *(["--cache-large-write"] if large else [])) as opened:
        piece = await write(opened, BLOCK + 1000)
        folder = folder_of(opened)
        await wait(folder)
        assert ((piece[0], 0, BLOCK) in folder.index) is large
        assert (piece[0], 1, 1000) in folder.index  # short blocks always


@pytest.mark.parametrize("partial", [False, True])
async def test_cache_partial_only(tmp_path: Path, partial: bool) -> None:
    flag = ["--cache-partial-only"] if partial else []
    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c", *flag) as opened:
        piece = await write(opened, 2 * BLOCK)
        folder = folder_of(opened)
        opened.slices.reader._hot._shrink(1 << 30)
        await read(opened, piece)
        await wait(folder)
        assert ((piece[0], 0, BLOCK) in folder.index) is not partial
        # What is fetched for the cache's sake is kept in any case.
        opened.slices.reader._hot._shrink(1 << 30)
        await opened.slices.prefetch(*piece, 0, 1)
        await wait(folder)
        assert (piece[0], 0, BLOCK) in folder.index


async def test_buffer_size_and_transfers(tmp_path: Path) -> None:
    flags = ("--buffer-size", "64M", "--prefetch", "3", "--max-readahead", "2M")
    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c", *flags) as opened:
        spare = 64 * MIB // 8 // BLOCK * BLOCK
        assert opened.slices.budget.limit == 64 * MIB - spare
        assert opened.slices.reader._prefetch_workers == 3 and opened.slices.max_readahead == 2 * MIB


@pytest.mark.parametrize(("most", "blocks"), [(None, 8), (3 * BLOCK, 3), (BLOCK, 1), (0, 0)])
async def test_max_readahead(most: int | None, blocks: int) -> None:
    objects = FaultyStore()
    store = make_store(objects, max_readahead=most)
    ahead = store.streams.ahead(store.streams.cap())
    assert ahead >= blocks * BLOCK if most is None else ahead == blocks * BLOCK
    writer = await store.writer()
    await writer.write(noise(32 * BLOCK))
    piece = await writer.finish()

    async def pieces_of(index: int, start: int, end: int) -> list[Slice]:
        return [Slice(start, piece.id, piece.size, start, end - start)]

    stream = ReadStream(store, pieces_of, 32 * BLOCK)
    await stream.read_some(0, BLOCK)
    await settle()
    assert (objects.calls["get"] > 1) is (blocks > 0)
    stream.close()
    await store.close()


async def test_writeback_and_what_belongs_to_it(tmp_path: Path) -> None:
    flags = ["--cache-dir", f"{tmp_path}/c", "--writeback", "--writeback-threshold-size", "32K", "--upload-delay", "1h",
             "--upload-hours", "3,4", "--max-stage-write", "5"]  # fmt: skip
    async with volume(tmp_path, *flags) as opened:
        staging = opened.slices.staging
        assert staging is not None and opened.slices.durability is Durability.STAGED
        assert staging.options.threshold == 32 << 10 and staging.options.delay_s == 3600
        assert staging.options.hours == UploadHours(3, 4) and staging.options.max_writes == 5
        await write(opened, 1000)
        await write(opened, BLOCK)
        assert staging.blocks == 1 and folder_of(opened).limits.writeback
    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c") as opened:
        assert opened.slices.staging is None  # and what waits stays where it is
        assert folder_of(opened).index.items == 0


async def test_who_may_not_write_does_not_upload_either(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = ("--cache-dir", f"{tmp_path}/c", "--writeback", "--upload-delay", "1h")
    async with volume(tmp_path, *flags) as opened:
        piece = await write(opened, 1000)
    async with volume(tmp_path, *flags, "--read-only") as opened:
        assert opened.slices.staging is None and "--read-only" in caplog.text
        assert await read(opened, piece) == noise(1000)


async def test_files_opened_for_synchronous_writing_are_stored(tmp_path: Path) -> None:
    from core.vfs.vfs import VFS

    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c", "--writeback", "--upload-delay", "1h") as opened:
        staging = opened.slices.staging
        assert staging is not None
        vfs = VFS(opened.meta, opened.slices)
        for number, (flags, staged) in enumerate(((0, 1), (os.O_DSYNC, 0), (os.O_SYNC, 0))):
            for n in (1000, 3 * BLOCK):
                before = staging.blocks
                handle = await vfs.create(1, b"f%d-%d" % (number, n), os.O_RDWR | flags)
                await handle.write(0, noise(n))
                await handle.fsync()
                assert (staging.blocks > before) is bool(staged), (flags, n)
                await handle.release()
        # Bytes that wait already when somebody wants it safe leave by themselves; the next ones are stored.
        lax = await vfs.create(1, b"both", os.O_RDWR)
        await lax.write(0, noise(500))
        strict = await vfs.open(lax.ino, os.O_RDWR | os.O_DSYNC)
        before = staging.blocks
        await lax.flush()
        assert staging.blocks == before + 1
        await strict.write(500, noise(500))
        await strict.fsync()
        assert staging.blocks == before + 1
        await strict.release()
        await lax.release()
        await vfs.close()


async def test_doors_need_no_second_copy_of_local_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicefs.options.default_cache_dir", lambda: f"{tmp_path}/default")
    found = parsed(door=True)
    for name in ("backup_meta", "heartbeat_s", "jobs"):
        found.pop(name, None)
    for compress, cached in (("none", False), ("zstd", True)):
        url = f"sqlite3://{tmp_path}/{compress}.db"
        fmt = new_format("door", bucket=f"{tmp_path}/{compress}/", compression=compress, block_size=BLOCK)
        await format_volume(url, fmt)
        opened = await open_volume(url, session=False, **found)
        assert (opened.slices.cache is not None) is cached
        await opened.close()


async def test_a_merge_is_never_staged(tmp_path: Path) -> None:
    from core.chunk.merge import merge_pieces
    from core.meta.records import Slice

    async with volume(tmp_path, "--cache-dir", f"{tmp_path}/c", "--writeback", "--upload-delay", "1h") as opened:
        first, second = await write(opened, 1000), await write(opened, 1000, 2)
        staging = opened.slices.staging
        assert staging is not None and staging.blocks == 2
        pieces = [Slice(0, *first, 0, 1000), Slice(1000, *second, 0, 1000)]
        merged = await merge_pieces(opened.slices, pieces)
        assert merged is not None and staging.blocks == 2
        assert await read(opened, merged) == noise(1000) + noise(1000, 2)


async def test_clients_without_a_cache_ask_for_parts(tmp_path: Path) -> None:
    objects = FaultyStore()
    store = make_store(objects, block_size=4 * MIB)
    writer = await store.writer()
    await writer.write(noise(4 * MIB))
    piece = await writer.finish()
    await store.read(piece.id, piece.size, 0, 4096)
    assert objects.calls["range"] == 1 and objects.calls["get"] == 0
    await store.close()
