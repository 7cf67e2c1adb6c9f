# SPDX-License-Identifier: Apache-2.0
"""The disk cache: limits, eviction, scans, damage, broken disks (data-path §5)."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.chunk import cachedir as cachedir_module, cachefile
from core.chunk.buffers import MemoryBudget
from core.chunk.cachedir import CacheDir, CacheLimits
from core.chunk.cachehealth import Health, HealthLimits, limits_from
from core.chunk.cacheindex import CacheIndex, Entry
from core.chunk.diskcache import DiskCache, split_dirs
from core.chunk.naming import block_key
from core.chunk.ring import legacy_index
from core.errors import ConfigError
from tests.servers.process import wait_for

from .doubles import noise

UUID = "f0e1d2c3-0000-4000-8000-000000000001"
SIZE = 10_000
COST = SIZE + 4096


def block(i: int, n: int = SIZE) -> tuple[int, int, int]:
    return (i, 0, n)


def limits(**changes: Any) -> CacheLimits:
    settings: dict[str, Any] = {"size": 1 << 30, "scan_interval_s": -1, "free_ratio": 0.0001, **changes}
    return CacheLimits(**settings)


class Directory:
    """A cache directory without threads: `put` writes at once."""

    def __init__(self, path: Path, **changes: Any) -> None:
        self.now = 1_800_000_000.0
        self.dir = CacheDir(str(path / UUID), limits(**changes), now=lambda: self.now)
        self.dir.prepare()
        self.dir.scanned = True

    def put(self, i: int, n: int = SIZE) -> bool:
        if not self.dir.offer(block(i, n), noise(n, i)):
            return False
        self.dir._write(block(i, n))
        return True

    def has(self, i: int, n: int = SIZE) -> bool:
        return self.dir.read(block(i, n), 0, n) == noise(n, i)


async def written(cache: DiskCache) -> None:
    await asyncio.to_thread(wait_for, lambda: not any(d.pending for d in cache._dirs.values()), 10, "cache writes")


@pytest.fixture
def folder(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_blocks_lie_where_the_reference_client_looks_for_them(folder: Directory, tmp_path: Path) -> None:
    folder.put(1234567)
    path = tmp_path / UUID / "raw/chunks/1/1234/1234567_0_10000"
    assert path.read_bytes() == noise(SIZE, 1234567) + cachefile.checksums(noise(SIZE, 1234567))
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / UUID).stat().st_mode & 0o777 == 0o700
    lock = (tmp_path / UUID / ".lock").read_text()
    assert lock == folder.dir.id and len(lock) == 36
    assert Directory(tmp_path).dir.id == lock


def test_full_directories_drop_blocks_until_95_percent(tmp_path: Path) -> None:
    for policy in ("2-random", "lru"):
        folder = Directory(tmp_path / policy, size=20 * COST, eviction=policy)
        for i in range(1, 61):
            folder.now += 1
            folder.put(i)
        index = folder.dir.index
        assert index.used <= 20 * COST and index.used >= 18 * COST
        files = [f for f in (tmp_path / policy).rglob("*_*") if f.is_file()]
        assert len(files) == index.items
        assert index.used == index.items * COST


def test_lru_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    folder = Directory(tmp_path, size=3 * COST, eviction="lru")
    for i in (1, 2, 3):
        folder.now += 1
        folder.put(i)
    folder.now += 1
    assert folder.has(1)
    folder.put(4)
    assert [folder.has(i) for i in (1, 2, 3, 4)] == [True, False, False, True]


def test_lru_ties_drop_the_larger_then_the_smaller_id() -> None:
    index = CacheIndex()
    for b, size in ((block(5), 10), (block(3), 10), (block(9), 20)):
        index.add(b, Entry(size, 100))
    out = []
    for b in index.victims("lru", 0, 0):
        index.drop(b)
        out.append(b[0])
    assert out == [9, 3, 5]


def test_two_random_prefers_old_blocks() -> None:
    index = CacheIndex()
    for i in range(1000):
        index.add(block(i), Entry(10, i))
    for b in index.victims("2-random", index.used // 2, 1 << 60):
        index.drop(b)
    ages = [b[0] for b in index.blocks()]
    assert sum(a >= 500 for a in ages) > 280  # 250 would be blind chance, with a deviation of 11


def test_expired_blocks_go_first() -> None:
    index = CacheIndex()
    for i in range(100):
        index.add(block(i), Entry(10, 50 if i % 10 == 0 else 1000 + i))
    gone = []
    for b in index.victims("2-random", 0, 90, expired_before=900):
        index.drop(b)
        gone.append(b[0])
    assert len(gone) == 100
    assert sorted(gone[:10]) == list(range(0, 100, 10))


def test_item_limits_count_too(tmp_path: Path) -> None:
    folder = Directory(tmp_path, items=10)
    for i in range(1, 16):
        folder.put(i)
    assert folder.dir.index.items <= 10


def test_policy_none_ignores_the_size_and_obeys_the_disk(tmp_path: Path) -> None:
    folder = Directory(tmp_path, size=COST, eviction="none")
    for i in range(1, 6):
        assert folder.put(i)
    assert folder.dir.index.items == 5
    folder.dir.full = True
    assert not folder.put(6)


def test_a_disk_short_of_space_makes_the_cache_shrink(folder: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(1, 11):
        folder.put(i)
    shortage = [4 * COST]
    monkeypatch.setattr(folder.dir, "_shortage", lambda part=1.0: (shortage[0], 0))
    real = folder.dir.remove

    def remove(b: tuple[int, int, int]) -> None:
        real(b)
        shortage[0] = max(shortage[0] - COST, 0)

    monkeypatch.setattr(folder.dir, "remove", remove)
    folder.dir.tick()
    assert folder.dir.index.items == 5  # 95 % of what was used, minus what is missing
    assert not folder.dir.full


def test_idle_blocks_expire(tmp_path: Path) -> None:
    folder = Directory(tmp_path, expire_s=60)
    folder.put(1)
    folder.now += 50
    folder.put(2)
    folder.now += 20
    folder.dir.tick()
    assert block(1) not in folder.dir.index and block(2) in folder.dir.index


def test_staged_blocks_of_other_clients_are_never_evicted(tmp_path: Path) -> None:
    folder = Directory(tmp_path, size=3 * COST)
    folder.put(1)
    path = folder.dir.path(block(1))
    staging = tmp_path / "staged"
    os.link(path, staging)
    folder.dir.scan()
    assert folder.dir.index.used == 0
    for i in range(2, 30):
        folder.put(i)
    assert folder.has(1)
    staging.unlink()
    folder.dir.scan()
    entry = folder.dir.index.find(block(1))
    assert entry is not None and entry.size == SIZE


def test_a_scan_finds_files_and_clears_leftovers(folder: Directory, tmp_path: Path) -> None:
    folder.put(1)
    raw = tmp_path / UUID / "raw"
    other = raw / "chunks/0/0/77_0_5"
    other.write_bytes(b"hello")
    for name in ("chunks/0/0/5_0_5.tmp", "chunks/0/0/6_0_5.tmp", "chunks/9/9/notes.txt"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(b"x")
    os.utime(raw / "chunks/0/0/5_0_5.tmp", (1, 1))
    (raw / "chunks/8/8").mkdir(parents=True)
    os.utime(raw / "chunks/8/8", (1, 1))
    os.unlink(folder.dir.path(block(1)))
    folder.now = (raw / "chunks/0/0/6_0_5.tmp").stat().st_mtime + 30
    folder.dir.scan()
    assert folder.dir.index.blocks() == {(77, 0, 5)}
    assert not (raw / "chunks/0/0/5_0_5.tmp").exists() and (raw / "chunks/0/0/6_0_5.tmp").exists()
    assert (raw / "chunks/9/9/notes.txt").exists() and not (raw / "chunks/8/8").exists()
    assert folder.dir.read((77, 0, 5), 1, 3) == b"ell"


def test_before_the_first_scan_files_are_looked_up_directly(folder: Directory, tmp_path: Path) -> None:
    folder.put(1)
    again = Directory(tmp_path)
    again.dir.scanned = False
    assert again.has(1) and not again.has(2)
    assert block(1) in again.dir.index


def test_damaged_blocks_are_dropped_and_never_returned(folder: Directory) -> None:
    folder.put(1)
    path = folder.dir.path(block(1))
    with open(path, "r+b") as f:
        f.seek(5000)
        f.write(b"!")
    assert folder.dir.read(block(1), 0, 100) is None
    assert not os.path.exists(path) and block(1) not in folder.dir.index


def broken(*args: object) -> bool:
    raise OSError(5, "Input/output error")


def sick(path: Path) -> tuple[Directory, list[float]]:
    """A directory whose disk fails from the third operation on, and the clock of its health."""
    clock = [1000.0]
    folder = Directory(path)
    folder.dir.health = Health(HealthLimits(), now=lambda: clock[0])
    return folder, clock


def test_a_broken_disk_is_used_little_and_probed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, clock = sick(tmp_path)
    monkeypatch.setattr(CacheDir, "_probe_loop", lambda self: None)  # the test probes
    folder.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(cachefile, "write", broken)
        patch.setattr(cachefile, "read", broken)
        for i in (2, 3):
            folder.put(i)
        assert folder.dir.read(block(1), 0, 10) is None
        assert folder.dir.health.state == "unstable"
        assert folder.dir.watch() and "unstable" in caplog.text and "Input/output error" in caplog.text
        assert folder.dir.pending == {} and folder.dir.pending_bytes == 0
        tickets = [folder.dir.health.begin() for _ in range(10)]
        assert all(tickets) and folder.dir.read(block(1), 0, 10) is None  # no more than ten at once
        for ticket in tickets:
            folder.dir.health.end(ticket)
        patch.setattr(cachedir_module, "open", broken, raising=False)
        for _ in range(120):
            assert not folder.dir.probe()
        clock[0] += 61
        assert folder.dir.watch() and folder.dir.health.state == "unstable"
    for _ in range(120):  # a minute of probes without an error
        assert folder.dir.probe()
    clock[0] += 61
    assert folder.dir.watch() and str(folder.dir.health.state) == "normal"
    assert folder.has(1) and folder.put(4) and "works again" in caplog.text
    assert not list((Path(folder.dir.folder) / "raw/probe").iterdir())


def test_errors_more_than_a_minute_apart_are_no_sickness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock = sick(tmp_path)
    monkeypatch.setattr(cachefile, "write", broken)
    for i in range(10):
        folder.put(i + 1)
        clock[0] += 31
        assert folder.dir.watch()
    assert folder.dir.health.state == "normal"


def test_half_an_hour_of_errors_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock = sick(tmp_path)
    monkeypatch.setattr(CacheDir, "_probe_loop", lambda self: None)
    folder.put(9)
    with monkeypatch.context() as patch:
        patch.setattr(cachefile, "write", broken)
        for i in range(3):
            folder.put(i + 1)
    for _ in range(30):
        assert folder.dir.watch()
        clock[0] += 60
    assert not folder.dir.watch() and folder.dir.down
    assert folder.dir.read(block(9), 0, 10) is None and not folder.put(4) and not folder.dir.probe()


def test_a_disk_that_hangs_is_noticed_while_it_does(tmp_path: Path) -> None:
    clock = [1000.0]
    health = Health(HealthLimits(max_io_s=30), now=lambda: clock[0])
    tickets = [health.begin() for _ in range(3)]
    clock[0] += 29
    assert health.watch() == "normal"
    clock[0] += 2
    assert health.watch() == "unstable"
    for ticket in tickets:
        health.end(ticket)  # counted already


def test_with_writeback_no_error_makes_a_directory_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Directory(tmp_path, writeback=True)
    folder.put(1)
    with monkeypatch.context() as patch:
        patch.setattr(cachefile, "read", broken)
        for _ in range(50):
            assert folder.dir.read(block(1), 0, 10) is None
    assert folder.dir.health.state == "normal" and folder.has(1)


@pytest.mark.parametrize(
    ("name", "text"),
    [("JFS_MAX_IO_DURATION", "soon"), ("JFS_MAX_IO_ERR_PERCENTAGE", "x"), ("JFS_MAX_DURATION_TO_DOWN", "-"),
     ("JFS_MAX_CONCURRENCY_FOR_UNSTABLE", "-1")],
)  # fmt: skip
def test_health_limits_come_from_the_environment(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=name):
        limits_from({name: text})
    assert limits_from({"JFS_MAX_IO_DURATION": "5s", "JFS_MAX_CONCURRENCY_FOR_UNSTABLE": "3"}) == HealthLimits(
        max_io_s=5, concurrency=3
    )


def test_a_full_disk_is_no_fault(folder: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cachefile, "write", full)
    for i in range(5):
        folder.put(i + 1)
    assert not folder.dir.down and folder.dir.full


def test_the_queue_is_bounded_and_readable(tmp_path: Path) -> None:
    folder = Directory(tmp_path, queue_bytes=3 * SIZE)
    assert [folder.dir.offer(block(i), noise(SIZE, i)) for i in range(1, 6)] == [True, True, True, False, False]
    assert not folder.dir.offer(block(1), noise(SIZE, 1))  # there already
    folder.dir.remove(block(2))
    assert folder.dir.offer(block(4), noise(SIZE, 4))
    folder.dir._write(block(2))  # was removed while it waited
    assert not os.path.exists(folder.dir.path(block(2)))


def test_a_lost_lock_on_the_system_disk_keeps_more_space_free(folder: Directory) -> None:
    os.unlink(os.path.join(folder.dir.folder, ".lock"))
    folder.now += 60
    folder.dir.tick()
    same = os.stat(folder.dir.folder).st_dev == os.stat("/").st_dev
    assert folder.dir._free_ratio == (0.2 if same else pytest.approx(0.0001))


# -- the cache as the slice store sees it ---------------------------------------------------------------------------


@pytest.fixture
def several(tmp_path: Path) -> Iterator[list[str]]:
    yield [str(tmp_path / name) for name in ("a", "b", "c")]


async def test_blocks_spread_over_directories_and_survive_a_restart(several: list[str]) -> None:
    cache = DiskCache(several, UUID, limits())
    budget = MemoryBudget(10 << 20)
    cache.attach(budget)
    await cache.start()
    for i in range(1, 61):
        assert await cache.put_wait(block(i), noise(SIZE, i))
        assert cache.has(block(i))
    await written(cache)
    assert all(d.index.items > 8 for d in cache._dirs.values())
    assert await cache.get(block(7), 100, 50) == noise(SIZE, 7)[100:150]
    await cache.close()
    assert budget.used == 0
    assert await cache.get(block(7), 0, 10) is None  # closed: no cache, no error

    again = DiskCache(several, UUID, limits())
    await again.start()
    for i in range(1, 61):
        assert await again.get(block(i), 0, SIZE) == noise(SIZE, i)
    found = again.local_range(block(3), 10, 20)
    assert found is not None
    with open(found.path, "rb") as f:
        f.seek(found.offset)
        assert f.read(found.length) == noise(SIZE, 3)[10:30]
    again.remove(block(3))
    await asyncio.to_thread(wait_for, lambda: not os.path.exists(found.path))
    assert await again.get(block(3), 0, 10) is None
    await again.close()


async def test_local_files_are_handed_out_only_after_they_were_verified(tmp_path: Path) -> None:
    Directory(tmp_path).put(1)
    cache = DiskCache([str(tmp_path)], UUID, limits())
    await cache.start()
    assert cache.local_range(block(1), 0, 10) is None
    await cache.get(block(1), 0, 100)
    assert cache.local_range(block(1), 0, 10) is None  # only a part was verified
    await cache.get(block(1), 0, SIZE)
    assert cache.local_range(block(1), 0, 10) is not None
    await cache.close()


async def test_who_reads_from_a_disk_that_hangs_is_sent_to_the_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = DiskCache([str(tmp_path)], UUID, limits())
    await cache.start()
    big = (1, 0, 1 << 20)
    assert cache.put(big, noise(1 << 20))
    await written(cache)
    answers = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(cache.directories[0], "read", lambda *args: answers.wait(10))
        cache._io_limit_s = 0.02
        assert await cache.get(big, 0, 1 << 20) is None
    assert "longer than 0.02 s" in caplog.text
    answers.set()
    cache._io_limit_s = 30
    assert await cache.get(big, 0, 1 << 20) == noise(1 << 20)
    await cache.close()


def test_pages_of_cache_files_are_dropped_on_request(folder: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cachefile, "DROP_PAGES", True)
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, off, n, advice: dropped.append(advice))
    assert folder.put(1) and folder.has(1)
    assert dropped == [os.POSIX_FADV_DONTNEED] * 2  # after writing, after reading


async def test_large_reads_happen_in_threads_and_are_verified(tmp_path: Path) -> None:
    cache = DiskCache([str(tmp_path)], UUID, limits())
    await cache.start()
    data = noise(1 << 20)
    big = (1, 0, 1 << 20)
    assert cache.put(big, data)
    await written(cache)
    assert await cache.get(big, 0, 1 << 20) == data
    path = cache._dirs[next(iter(cache._dirs))].path(big)
    with open(path, "r+b") as f:
        f.write(bytes(8))
    assert await cache.get(big, 0, 1 << 20) is None
    await cache.close()


async def test_a_directory_that_cannot_be_used_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = DiskCache([str(tmp_path / "file" / "below"), str(tmp_path / "good")], UUID, limits())
    await cache.start()
    assert "can't be used" in caplog.text
    assert cache.put(block(1), noise(SIZE, 1))
    assert await cache.get(block(1), 0, SIZE) == noise(SIZE, 1)
    await cache.close()
    nothing = DiskCache([str(tmp_path / "file" / "below")], UUID, limits())
    await nothing.start()
    assert "100 MiB of memory" in caplog.text
    assert nothing.put(block(1), b"x" * SIZE) and await nothing.get(block(1), 0, 5) == b"xxxxx"
    nothing.remove(block(1))
    assert not nothing.has(block(1))
    await nothing.close()


async def test_blocks_are_also_looked_for_where_older_clients_put_them(several: list[str]) -> None:
    for folder in several:
        Directory(Path(folder))
    cache = DiskCache(several, UUID, limits(scan_interval_s=0))
    await cache.start()
    folders = {d.folder: d for d in cache.directories}
    found = 0
    for i in range(1, 20):
        legacy = folders[f"{sorted(several)[legacy_index(block_key(*block(i)), 3)]}/{UUID}"]
        if cache.folder_of(block(i)) is not legacy:
            cachefile.write(legacy.path(block(i)), noise(SIZE, i), "extend", 0o600, 0o700)
            legacy.scan()
            assert await cache.get(block(i), 5, 100) == noise(SIZE, i)[5:105]
            found += 1
    assert found > 5
    await cache.close()


def test_who_does_not_upload_says_that_somebody_has_to(folder: Directory, caplog: pytest.LogCaptureFixture) -> None:
    staged = Path(folder.dir.stage_path(block(1)))
    staged.parent.mkdir(parents=True)
    staged.write_bytes(noise(SIZE))
    folder.dir.scanned = False
    folder.dir.scan()
    assert "1 staged blocks wait" in caplog.text and "--writeback" in caplog.text and staged.exists()


async def test_a_directory_that_is_given_up_leaves_the_ring(several: list[str]) -> None:
    cache = DiskCache(several, UUID, limits())
    budget = MemoryBudget(300 << 20)
    cache.attach(budget)
    await cache.start()
    for i in range(1, 31):
        await cache.put_wait(block(i), noise(SIZE, i))
    await written(cache)
    first = cache.directories[0]
    mine = [i for i in range(1, 31) if cache.folder_of(block(i)) is first]
    first.health.state = "down"
    cache._watch()
    assert first not in cache.directories and len(cache.directories) == 2 and mine
    kept = 0
    for i in range(1, 31):
        found = await cache.get(block(i), 0, SIZE)
        assert found is None or (found == noise(SIZE, i) and i not in mine)
        kept += found is not None
    assert kept > (30 - len(mine)) // 2  # few belong elsewhere because the ring is balanced anew
    for i in mine:
        assert await cache.put_wait(block(i), noise(SIZE, i)) and cache.folder_of(block(i)) is not first
        assert await cache.get(block(i), 0, SIZE) == noise(SIZE, i)
    for folder in cache.directories:
        folder.health.state = "down"
    cache._watch()
    assert cache.directories == [] and await cache.get(block(1), 0, SIZE) is None
    big = bytes(4 << 20)
    for i in range(1, 41):
        cache.put(block(i, 4 << 20), big)
    assert not cache.has(block(1, 4 << 20)) and cache.has(block(40, 4 << 20))  # 100 MiB hold 24 of them
    assert await cache.put_wait(block(99), noise(SIZE)) and await cache.get(block(99), 0, SIZE) == noise(SIZE)
    await cache.close()
    assert budget.used == 0


def test_cache_dir_options_are_split_and_expanded(tmp_path: Path) -> None:
    for name in ("d1", "d2"):
        (tmp_path / name).mkdir()
    assert split_dirs(f"{tmp_path}/d*:/x") == [f"{tmp_path}/d1", f"{tmp_path}/d2", "/x"]
    assert split_dirs(f"{tmp_path}/d?/new/cache") == [f"{tmp_path}/d1/new/cache", f"{tmp_path}/d2/new/cache"]
    assert split_dirs(f"{tmp_path}/none*/cache") == [] and split_dirs("") == []
    assert split_dirs("/x,/y") == ["/x", "/y"]
    assert split_dirs("/x,1:/y") == ["/x,1", "/y"]
