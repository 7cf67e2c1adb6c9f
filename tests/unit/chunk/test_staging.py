# SPDX-License-Identifier: Apache-2.0
"""Writeback staging (data-path §6): what is acknowledged is on the disk, and gets into the object store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.chunk import stagefile
from core.chunk.api import Durability
from core.chunk.cachedir import CacheLimits
from core.chunk.cachefile import checksums
from core.chunk.diskcache import DiskCache
from core.chunk.naming import block_key
from core.chunk.stagewriter import StageWriter
from core.chunk.staging import Staging, StagingOptions
from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockMissing
from core.chunk.uploadhours import UploadHours
from core.errors import ConfigError, ObjectError

from .doubles import BLOCK, FaultyStore, NoWait, always, ids, make_store, noise, nth, settle

UUID = "f0e1d2c3-0000-4000-8000-000000000001"


class Patient(NoWait):
    """A clock whose sleeps end when the test moves the time on."""

    def __init__(self) -> None:
        super().__init__()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until = self.now + seconds
        while self.now < until:
            await self._moved.wait()

    def move(self, seconds: float) -> None:
        self.now += seconds
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def cache_at(path: Path, **changes: Any) -> DiskCache:
    settings: dict[str, Any] = {"size": 1 << 30, "scan_interval_s": -1, "free_ratio": 0.0001, "writeback": True}
    return DiskCache([str(path)], UUID, CacheLimits(**{**settings, **changes}))


@asynccontextmanager
async def opened(
    path: Path,
    objects: Any = None,
    options: StagingOptions | None = None,
    *,
    cache: DiskCache | None = None,
    **more: Any,
) -> AsyncIterator[BlockSliceStore]:
    store = make_store(objects, cache=cache or cache_at(path), staging=options or StagingOptions(), **more)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def staging_of(store: BlockSliceStore) -> Staging:
    assert store.staging is not None
    return store.staging


async def until(condition: Callable[[], object], what: str = "condition") -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
    assert condition(), what


def staged_files(path: Path) -> list[str]:
    root = path / UUID / "rawstaging"
    return sorted(str(f.relative_to(root)) for f in root.rglob("*_*") if f.is_file())


NEVER = StagingOptions(delay_s=1e6)


async def test_a_staged_block_is_a_file_under_two_names_and_no_object(tmp_path: Path) -> None:
    objects = FaultyStore()
    data = noise(3 * BLOCK + 1000)
    async with opened(tmp_path, objects, NEVER, clock=Patient()) as store:
        writer = await store.writer()
        await writer.write(data)
        piece = await writer.finish()
        assert objects.calls["put"] == 0
        for index, n in ((0, BLOCK), (3, 1000)):
            key = block_key(piece.id, index, n)
            staged, raw = tmp_path / UUID / "rawstaging" / key, tmp_path / UUID / "raw" / key
            part = data[index * BLOCK :][:n]
            assert staged.read_bytes() == part + checksums(part)
            assert os.path.samefile(staged, raw) and staged.stat().st_mode & 0o777 == 0o600
        assert await store.read(piece.id, piece.size, 0, piece.size) == data
        assert (staging_of(store).blocks, staging_of(store).bytes) == (4, len(data))
        assert store.cache is not None and store.cache.is_pinned((piece.id, 0, BLOCK))
        store.cache.remove((piece.id, 0, BLOCK))
        assert await store.read(piece.id, piece.size, 5, 10) == data[5:15]


async def test_staged_blocks_are_uploaded_and_become_ordinary_cached_ones(tmp_path: Path) -> None:
    objects = FaultyStore()
    async with opened(tmp_path, objects, compression="zstd") as store:
        piece = await store.pack(noise(5000))
        await until(lambda: not staging_of(store).blocks)
        assert objects.calls["put"] == 1 and staged_files(tmp_path) == []
        assert store.cache is not None and not store.cache.is_pinned((piece.id, 0, 5000))
        assert os.path.exists(tmp_path / UUID / "raw" / block_key(piece.id, 0, 5000))
    async with make(objects, compression="zstd") as other:
        assert await other.read(piece.id, piece.size, 0, 5000) == noise(5000)


@asynccontextmanager
async def make(objects: Any, **options: Any) -> AsyncIterator[BlockSliceStore]:
    store = make_store(objects, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def test_a_write_may_ask_for_the_object_store(tmp_path: Path) -> None:
    objects = FaultyStore()
    async with opened(tmp_path, objects, NEVER, clock=Patient()) as store:
        assert store.durability is Durability.STAGED
        await store.pack(noise(100), Durability.STORED)
        writer = await store.writer(durability=Durability.STORED)
        await writer.write(noise(BLOCK))
        await writer.finish()
        assert objects.calls["put"] == 2 and not staging_of(store).blocks
    async with make(objects) as plain:
        await plain.pack(noise(100), Durability.STAGED)  # it can't: stored, which is more
        assert objects.calls["put"] == 3


async def test_packs_are_staged_as_packs(tmp_path: Path) -> None:
    async with opened(tmp_path, FaultyStore(), NEVER, clock=Patient()) as store:
        pieces = await asyncio.gather(*(store.pack(noise(100, i)) for i in range(20)))
        assert len({p.id for p in pieces}) <= 3 and staging_of(store).blocks <= 3
        for i, p in enumerate(pieces):
            assert await store.read(p.id, p.size, p.off, p.length) == noise(100, i)


async def test_many_writers_share_the_waits_for_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path, FaultyStore(), NEVER, clock=Patient(), share_slices=False, max_uploads=64) as store:
        await asyncio.gather(*(store.pack(noise(100, i)) for i in range(64)))
        (writer,) = staging_of(store)._writers.values()
        assert staging_of(store).blocks == 64 and writer.rounds < 32


async def test_the_order_on_the_disk_is_file_folder_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), tmp_path))

    monkeypatch.setattr(os, "fsync", fsync)
    async with opened(tmp_path, FaultyStore(), NEVER, clock=Patient()) as store:
        piece = await store.pack(noise(100))
        key = block_key(piece.id, 0, 100)
        path = f"{UUID}/rawstaging/{key}"
        assert synced[0] == path
        folders = [os.path.dirname(path)]
        while folders[-1]:
            folders.append(os.path.dirname(folders[-1]))
        assert [f if f != "." else "" for f in synced[1 : len(folders) + 1]] == folders
        synced.clear()
        await store.pack(noise(100, 2))
        assert len(synced) == 2  # a file, its folder; those above are known


@pytest.mark.parametrize("how", ["threshold", "too many", "disk full", "write error", "link error", "sync error"])
async def test_what_cannot_be_staged_is_uploaded_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    objects, options = FaultyStore(), NEVER
    if how == "threshold":
        options = StagingOptions(threshold=1000, delay_s=1e6)
    async with opened(tmp_path, objects, options, clock=Patient()) as store:
        assert isinstance(store.cache, DiskCache)
        (folder,) = store.cache.directories

        def broken(*args: Any) -> None:
            raise OSError(5, "Input/output error")

        if how == "too many":
            staging_of(store).writing = 1000
        elif how == "disk full":
            folder.stage_full = True
        elif how == "write error":
            monkeypatch.setattr(stagefile, "create", broken)
        elif how == "link error":
            monkeypatch.setattr(folder, "link", broken)
        elif how == "sync error":
            monkeypatch.setattr(StageWriter, "_sync_folder", broken)
        piece = await store.pack(noise(1000))
        assert objects.calls["put"] == 1 and staging_of(store).blocks == 0
        assert staged_files(tmp_path) == [] and not list((tmp_path / UUID / "rawstaging").rglob("*.tmp"))
        assert await store.read(piece.id, piece.size, 0, 1000) == noise(1000)
        if how == "threshold":
            await store.pack(noise(999))
            assert staging_of(store).blocks == 1


async def test_a_disk_that_does_not_answer_in_time_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    objects, go = FaultyStore(), threading.Event()
    real = stagefile.create

    def slow(*args: Any) -> Any:
        go.wait(10)
        return real(*args)

    monkeypatch.setattr(stagefile, "create", slow)
    async with opened(tmp_path, objects, NEVER, clock=Patient(), put_timeout_s=0.05) as store:
        piece = await store.pack(noise(1000))
        assert objects.calls["put"] == 1
        go.set()
        # What is written late is removed: nobody waits for it.
        await until(lambda: (tmp_path / UUID / "rawstaging/chunks/0/0").is_dir() and not staged_files(tmp_path))
        assert await store.read(piece.id, piece.size, 0, 1000) == noise(1000)
        assert staging_of(store).blocks == 0


async def test_the_next_client_uploads_what_the_last_one_left(tmp_path: Path) -> None:
    objects = FaultyStore()
    async with opened(tmp_path, objects, NEVER, clock=Patient()) as store:
        pieces = [await store.pack(noise(1000 + i, i)) for i in range(5)]
    assert len(staged_files(tmp_path)) == 5 and objects.calls["put"] == 0
    os.unlink(tmp_path / UUID / "raw" / block_key(pieces[2].id, 0, 1002))  # a power loss may cost the second name
    (tmp_path / UUID / "rawstaging/chunks/0/0/notes.txt").write_text("not ours")
    clock = Patient()
    async with opened(tmp_path, objects, StagingOptions(delay_s=1e5), clock=clock, new_slice_id=ids(100)) as again:
        clock.now = os.stat(tmp_path / UUID / "rawstaging" / staged_files(tmp_path)[0]).st_mtime
        for i, p in enumerate(pieces):  # readable at once
            assert await again.read(p.id, p.size, 0, p.size) == noise(1000 + i, i)
        assert staging_of(again).blocks == 5 and objects.calls["put"] == 0
        clock.move(2e5)
        await until(lambda: not staging_of(again).blocks)
    async with make(objects) as other:
        for i, p in enumerate(pieces):
            assert await other.read(p.id, p.size, 0, p.size) == noise(1000 + i, i)
    assert (tmp_path / UUID / "rawstaging/chunks/0/0/notes.txt").exists()


async def test_files_of_the_reference_client_are_uploaded(tmp_path: Path) -> None:
    """Without checksums, with a footer that names a tier, with both."""
    data = noise(40_000)
    parts = {1: data, 2: data + stagefile.footer(2, summed=False),
             3: data + checksums(data) + stagefile.footer(2, summed=True), 4: data + checksums(data)}  # fmt: skip
    for i, content in parts.items():
        path = tmp_path / UUID / "rawstaging" / block_key(i, 0, 40_000)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    objects = FaultyStore()
    async with opened(tmp_path, objects) as store:
        await until(lambda: not staging_of(store).blocks and staging_of(store).uploaded)
    for i in parts:
        assert await objects.get(block_key(i, 0, 40_000)) == data


async def test_torn_files_are_set_aside_and_never_uploaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = noise(40_000)
    good = data + checksums(data)
    torn = {1: good[:20_000], 2: good[:39_999], 3: good[:40_004], 4: b"", 5: bytes(40_000) + good[40_000:],
            6: data[:-1] + b"!" + good[40_000:]}  # fmt: skip
    for i, content in torn.items():
        path = tmp_path / UUID / "rawstaging" / block_key(i, 0, 40_000)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    objects = FaultyStore()
    async with opened(tmp_path, objects) as store:
        await until(lambda: not staging_of(store).blocks)
        for i in torn:
            with pytest.raises(BlockMissing):
                await store.read(i, 40_000, 0, 100)
    assert objects.calls["put"] == 0 and staged_files(tmp_path) == []
    assert len(list((tmp_path / UUID / "damaged").iterdir())) == len(torn)
    assert "isn't uploaded" in caplog.text and "sluice fsck" in caplog.text


async def test_a_failed_upload_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    objects = FaultyStore()
    objects.fail["put"] = nth(1, 2, 3, 4, error=ObjectError("503 slow down"))
    async with opened(tmp_path, objects) as store:
        await store.pack(noise(1000))
        await until(lambda: not staging_of(store).blocks)
    assert objects.calls["put"] == 5 and staged_files(tmp_path) == []
    assert "isn't uploaded" in caplog.text and "503" in caplog.text


async def test_deleting_a_slice_ends_its_wait(tmp_path: Path) -> None:
    objects = FaultyStore()
    async with opened(tmp_path, objects, NEVER, clock=Patient()) as store:
        writer = await store.writer()
        await writer.write(noise(2 * BLOCK))
        piece = await writer.finish()
        await store.remove(piece.id, piece.size)
        assert staged_files(tmp_path) == [] and staging_of(store).blocks == 0
        assert not list((tmp_path / UUID / "raw").rglob("*_*"))
        await staging_of(store).flush()
    assert objects.calls["put"] == 0


async def test_a_slice_deleted_while_it_is_uploaded_leaves_no_object(tmp_path: Path) -> None:
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    async with opened(tmp_path, objects) as store:
        piece = await store.pack(noise(1000))
        await until(lambda: objects.running["put"])
        await store.remove(piece.id, piece.size)
        objects.gates["put"].set()
        await until(lambda: not staging_of(store).blocks)
        await until(lambda: objects.calls["delete"] >= 2)
        assert [info async for info in objects.list()] == []
    assert staged_files(tmp_path) == []


async def test_a_writer_that_gives_up_leaves_nothing_staged(tmp_path: Path) -> None:
    async with opened(tmp_path, FaultyStore(), NEVER, clock=Patient()) as store:
        writer = await store.writer()
        await writer.write(noise(3 * BLOCK))
        await writer.abort()
        await until(lambda: not staged_files(tmp_path) and not staging_of(store).blocks)
        assert store.budget.used <= store._hot.used


async def test_the_delay_holds_and_flush_does_not_wait_for_it(tmp_path: Path) -> None:
    objects, clock = FaultyStore(), Patient()
    async with opened(tmp_path, objects, StagingOptions(delay_s=60), clock=clock) as store:
        await store.pack(noise(100))
        await settle()
        clock.move(30)
        await store.pack(noise(100, 2))
        assert objects.calls["put"] == 0
        await settle()
        clock.move(31)
        await until(lambda: staging_of(store).blocks == 1)
        await staging_of(store).flush()
        assert objects.calls["put"] == 2


async def test_uploads_keep_to_their_hours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    import time

    time.tzset()
    objects, clock = FaultyStore(), Patient()
    clock.now = 1_800_000_000.0 // 86400 * 86400 + 20 * 3600
    async with opened(tmp_path, objects, StagingOptions(hours=UploadHours(22, 6)), clock=clock) as store:
        await store.pack(noise(100))
        await settle()
        clock.move(2 * 3600 - 10)
        await settle()
        assert staging_of(store).blocks == 1 and objects.calls["put"] == 0
        clock.move(11)
        await until(lambda: not staging_of(store).blocks)


async def test_what_is_forced_is_tried_again_outside_of_the_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UploadHours, "seconds_to_open", lambda self, now: 3600.0)
    objects, clock = FaultyStore(), Patient()
    objects.fail["put"] = nth(1, error=ObjectError("denied", retryable=False))
    async with opened(tmp_path, objects, StagingOptions(hours=UploadHours(1, 2)), clock=clock) as store:
        await store.pack(noise(100))
        await store.pack(noise(100, 2))
        await settle()
        assert isinstance(store.cache, DiskCache) and not objects.calls["put"]
        (folder,) = store.cache.directories
        staging_of(store)._pressed(folder, 1, 0)
        await until(lambda: objects.calls["put"] == 1 and not staging_of(store)._uploads)
        await settle()
        clock.move(6)
        await until(lambda: staging_of(store).blocks == 1)
    assert len(staged_files(tmp_path)) == 1


async def test_a_scan_in_the_middle_counts_nothing_twice(tmp_path: Path) -> None:
    async with opened(tmp_path, FaultyStore(), NEVER, clock=Patient(), share_slices=False) as store:
        assert isinstance(store.cache, DiskCache)
        (folder,) = store.cache.directories
        stop = asyncio.Event()

        async def scan() -> None:
            while not stop.is_set():
                await asyncio.to_thread(folder.scan)

        scanning = asyncio.ensure_future(scan())
        await asyncio.gather(*(store.pack(noise(100, i)) for i in range(50)))
        stop.set()
        await scanning
        await settle()
        assert staging_of(store).blocks == 50 and staging_of(store).bytes == 5000
        await staging_of(store).flush()
        assert staging_of(store).blocks == 0 and staged_files(tmp_path) == []


async def test_a_disk_short_of_space_sends_blocks_before_their_time(tmp_path: Path) -> None:
    objects, clock = FaultyStore(), Patient()
    async with opened(tmp_path, objects, NEVER, clock=clock, share_slices=False) as store:
        for i in range(10):
            await store.pack(noise(1000, i))
            clock.now += 120
        assert isinstance(store.cache, DiskCache)
        (folder,) = store.cache.directories
        staging_of(store)._pressed(folder, 2500, 0)
        await until(lambda: staging_of(store).blocks == 7)
        staging_of(store)._pressed(folder, 0, 2)
        await until(lambda: staging_of(store).blocks == 5)
        left = {item.staged_s for item in staging_of(store)._waiting.values()}
        assert max(left) == max(clock.now - 120 * (i + 1) for i in range(10))  # the youngest is never the older one


async def test_two_processes_share_a_directory(tmp_path: Path) -> None:
    """What one stages the other one reads, and each block is uploaded once."""
    objects, first = FaultyStore(), Patient()
    async with opened(tmp_path, objects, NEVER, clock=first) as one:
        early = await one.pack(noise(1000, 1))
        clock = Patient()
        async with opened(tmp_path, objects, NEVER, clock=clock, new_slice_id=ids(100)) as other:
            late = await one.pack(noise(2000, 2))
            for p, i in ((early, 1), (late, 2)):
                assert await other.read(p.id, p.size, 0, p.size) == noise(i * 1000, i)
            assert staging_of(other).blocks == 1
            flushes = asyncio.gather(staging_of(one).flush(), staging_of(other).flush())
            while not flushes.done():  # who finds a file busy looks again later
                clock.move(11)
                first.move(11)
                await asyncio.sleep(0.001)
            await flushes
    assert objects.calls["put"] in (2, 3) and staged_files(tmp_path) == []


async def test_a_client_without_writeback_reads_what_waits_on_its_machine(tmp_path: Path) -> None:
    objects = FaultyStore()
    async with opened(tmp_path, objects, NEVER, clock=Patient()) as store:
        cache = cache_at(tmp_path, writeback=False, scan_interval_s=0)
        async with make(objects, cache=cache, new_slice_id=ids(100)) as other:
            await until(lambda: cache.directories[0].scanned)
            piece = await store.pack(noise(60_000), Durability.STAGED)
            assert await other.read(piece.id, piece.size, 0, 60_000) == noise(60_000)


async def test_what_waits_is_told_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(tmp_path, FaultyStore(), NEVER, clock=Patient()) as store:
        await store.pack(noise(1000))
    assert "1 blocks with 1000 bytes stay staged" in caplog.text and "--writeback" in caplog.text


async def test_an_upload_that_never_ends_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.chunk.staging.CLOSE_GRACE_S", 0.05)
    objects = FaultyStore()
    objects.gates["put"] = asyncio.Event()
    async with opened(tmp_path, objects) as store:
        await store.pack(noise(1000))
        await until(lambda: objects.running["put"])
    assert len(staged_files(tmp_path)) == 1


def test_writeback_needs_a_disk() -> None:
    with pytest.raises(ConfigError, match="--writeback needs a disk cache"):
        make_store(staging=StagingOptions())


def test_store_errors_do_not_matter_to_staged_writes() -> None:
    async def run(path: Path) -> None:
        objects = FaultyStore()
        objects.fail["put"] = always()
        async with opened(path, objects, clock=Patient()) as store:
            piece = await store.pack(noise(1000))
            assert await store.read(piece.id, piece.size, 0, 1000) == noise(1000)

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))
