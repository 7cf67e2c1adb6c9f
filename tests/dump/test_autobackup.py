# SPDX-License-Identifier: Apache-2.0
"""Automatic backups: when one is due, what is in it, and a year and more of keeping the right ones."""

from __future__ import annotations

import asyncio
import calendar
import gzip
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from core.dump.autobackup import autobackup, backup_name, expired, parse_time, rotate
from core.dump.reading import Reading
from core.errors import ObjectError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import ROOT
from core.meta.store import PUT
from core.meta.stores.memory import MemoryStore
from core.object.api import Buffer
from core.object.file import FileStore
from tests.dump.support import read_in

DAY = 86400
START = 1_790_000_000  # 2026-09-21


class Clock:
    def __init__(self) -> None:
        self.now_s = START

    def __call__(self) -> int:
        return self.now_s * 1_000_000_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def meta(clock: Clock) -> AsyncIterator[Meta]:
    store = MemoryStore()
    fmt = new_format("backups", bucket="/x", secret_key="hush", access_key="A")
    await init_format(store, fmt, clock())
    made = Meta(store, fmt, clock_ns=clock)
    await made.mkdir(ROOT, b"folder", 0o755)
    yield made
    await made.close()


@pytest.fixture
async def objects(tmp_path: Path) -> AsyncIterator[FileStore]:
    store = FileStore(str(tmp_path / "objects"))
    yield store
    await store.close()


async def keys(objects: FileStore) -> list[str]:
    return [info.key async for info in objects.list()]


async def test_a_backup_is_a_dump_without_credentials_that_loads(meta: Meta, objects: FileStore) -> None:
    assert await autobackup(meta, objects, 3600) == "meta/dump-2026-09-21-141320.json.gz"
    raw = gzip.decompress(bytes(await objects.get("meta/dump-2026-09-21-141320.json.gz")))
    document = json.loads(raw)
    assert document["Setting"]["SecretKey"] == "removed" and b"hush" not in raw
    assert list(document["FSTree"]["entries"]) == ["folder"]
    with Reading() as reading:
        await read_in(raw, reading)
        assert reading.problems.errors == []


async def test_it_is_due_again_after_the_interval(meta: Meta, objects: FileStore, clock: Clock) -> None:
    assert await autobackup(meta, objects, 3600)
    for minutes in range(6, 60, 6):
        clock.now_s = START + 60 * minutes
        assert await autobackup(meta, objects, 3600) is None
    clock.now_s = START + 3600
    assert await autobackup(meta, objects, 3600)
    assert len(await keys(objects)) == 2


async def test_the_root_tells_all_clients_of_the_volume(meta: Meta, objects: FileStore, clock: Clock) -> None:
    other = Meta(meta.store, meta.format, clock_ns=clock)
    made = await asyncio.gather(*(autobackup(m, objects, 3600) for m in (meta, other, meta, other)))
    assert len([key for key in made if key]) == 1
    (value,) = await meta.store.read(k.xattr(ROOT, b"lastBackup"))
    assert value == b"2026-09-21T14:13:20Z"
    # As the original writes it, by a clock that is a little ahead.
    await meta.store.commit([], [(PUT, k.xattr(ROOT, b"lastBackup"), b"2026-09-21T17:13:20.123456789+02:00")])
    clock.now_s += 3500
    assert await autobackup(meta, objects, 3600) is None


async def test_nothing_when_off_or_read_only(meta: Meta, objects: FileStore) -> None:
    assert await autobackup(meta, objects, 0) is None
    assert await autobackup(Meta(meta.store, meta.format, read_only=True), objects, 3600) is None
    assert await keys(objects) == []


async def test_large_volumes_only_with_a_longer_interval(meta: Meta, objects: FileStore) -> None:
    await meta.store.commit([], [(PUT, k.counter("totalInodes"), 1_000_001)])
    assert await autobackup(meta, objects, 3600) is None
    assert await autobackup(meta, objects, 3601)


async def test_an_interval_below_five_minutes_counts_as_five(meta: Meta, objects: FileStore, clock: Clock) -> None:
    assert await autobackup(meta, objects, 1)
    clock.now_s += 299
    assert await autobackup(meta, objects, 1) is None
    clock.now_s += 1
    assert await autobackup(meta, objects, 1)


async def test_a_store_that_fails_keeps_the_old_backups(meta: Meta, tmp_path: Path, clock: Clock) -> None:
    class Full(FileStore):
        async def put(self, key: str, data: Buffer | object) -> None:  # type: ignore[override]
            raise ObjectError("the bucket is full")

    good = FileStore(str(tmp_path / "objects"))
    assert await autobackup(meta, good, 3600)
    clock.now_s += 800 * DAY
    full = Full(str(tmp_path / "objects"))
    with pytest.raises(ObjectError):
        await autobackup(meta, full, 3600)
    assert len(await keys(good)) == 1
    await full.close()
    await good.close()


async def test_rotation_leaves_strangers_alone(objects: FileStore) -> None:
    for key in ("meta/dump-2020-01-01-000000.json.gz", "meta/dump-2020-01-01-000000.json", "meta/notes",
                "meta/dump-2020-99-01-000000.json.gz", "meta/dump-2026-09-21-000000.json.gz", "chunks/x"):  # fmt: skip
        await objects.put(key, b"x")
    assert await rotate(objects, START * 1_000_000_000) == ["meta/dump-2020-01-01-000000.json.gz"]
    assert len(await keys(objects)) == 5


def test_three_years_of_hourly_backups_taper_as_promised() -> None:
    kept: list[str] = []
    ages: Counter[str] = Counter()
    for hour in range(24 * 365 * 3):
        now = START + 3600 * hour
        kept.append(backup_name(now * 1_000_000_000))
        gone = set(expired(kept, now))
        kept = [name for name in kept if name not in gone]
    now_s = now
    for name in kept:
        age = now_s - calendar.timegm(time.strptime(name[5:22], "%Y-%m-%d-%H%M%S"))
        ages[
            "hours" if age <= 2 * DAY else "days" if age <= 14 * DAY else "weeks" if age <= 60 * DAY else "months"
        ] += 1
        assert age <= 730 * DAY
    assert ages["hours"] == 49  # both ends
    assert ages["days"] in (12, 13)
    assert ages["weeks"] in (6, 7, 8)
    assert 22 <= ages["months"] <= 24


def test_daily_backups_leave_no_gap_longer_than_a_step() -> None:
    kept: list[str] = []
    for day in range(900):
        now = START + DAY * day
        kept.append(backup_name(now * 1_000_000_000))
        gone = set(expired(kept, now))
        kept = [name for name in kept if name not in gone]
        when = [calendar.timegm(time.strptime(name[5:22], "%Y-%m-%d-%H%M%S")) for name in kept]
        for older, newer in pairwise(when):
            age = now - older
            step = DAY if age <= 14 * DAY else 7 * DAY if age <= 60 * DAY else 30 * DAY
            assert newer - older < 2 * step + 7 * DAY * (step > 7 * DAY), (day, older, newer)
    assert expired(["dump-2001-01-01-000000.json.gz"], START) == []  # the only one there is


@pytest.mark.parametrize(
    "text, seconds",
    [
        (b"2026-09-21T14:13:20Z", START),
        (b"2026-09-21T16:13:20+02:00", START),
        (b"2026-09-21T16:13:20.000000000+02:00", START),
        (b"yesterday", None),
        (b"\xff", None),
    ],
)
def test_times_are_read_as_anybody_writes_them(text: bytes, seconds: int | None) -> None:
    assert parse_time(text) == seconds
