# SPDX-License-Identifier: Apache-2.0
"""The recount on volumes that were damaged on purpose, one kind of damage at a time, and on busy ones."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.check import KINDS, OBJECTS, Finding, check, recount, recounting, repair
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.quota import DIRECTORY, USER
from core.meta.records import ROOT, TRASH, Attr, DirStat, Entry, Quota, Slice, encode_slices
from core.meta.store import ADD, DELETE, PUT, RecordStore, Write
from core.meta.stores.memory import MemoryStore
from core.meta.stores.sqlite import SQLiteStore
from tests.conformance.volume.base import NOW, Ticking


class Damaged:
    """A small healthy volume: /d (quota) with f and the link l, /d/sub with g."""

    def __init__(self, meta: Meta) -> None:
        self.meta = meta
        self.clock = meta.clock_ns

    async def plant(self) -> None:
        meta = self.meta
        self.d, _ = await meta.mkdir(ROOT, b"d")
        self.sub, _ = await meta.mkdir(self.d, b"sub")
        self.f, _ = await meta.create(self.d, b"f")
        self.g, _ = await meta.create(self.sub, b"g")
        self.l, _ = await meta.symlink(self.d, b"l", b"f")
        await meta.write_slices(self.f, 0, [Slice(0, 500, 1000, 0, 1000)], meta.clock_ns())
        await meta.set_quota(DIRECTORY, self.d, max_inodes=1_000_000)
        await meta.set_quota(USER, 1000, max_inodes=1_000_000)

    async def write(self, *writes: Write) -> None:
        await self.meta.store.commit([], writes)

    async def changed(self, ino: int, **fields: Any) -> Write:
        return (PUT, k.node(ino), msgspec.structs.replace(await self.meta.getattr(ino), **fields))


@pytest.fixture
async def volume() -> AsyncIterator[Damaged]:
    async for damaged in planted(MemoryStore()):
        yield damaged


@pytest.fixture
async def paged(tmp_path: Path) -> AsyncIterator[Damaged]:
    """On a store whose scans come in pages, with others at work in between."""
    async for damaged in planted(SQLiteStore(str(tmp_path / "meta.db"))):
        yield damaged


async def planted(store: RecordStore) -> AsyncIterator[Damaged]:
    await store.open()
    fmt = new_format("check", bucket="/nowhere/")
    await init_format(store, fmt, NOW)
    meta = Meta(store, fmt, clock_ns=Ticking())
    meta.on_deleted = meta.delete_data_soon
    await meta.new_session("check", heartbeat_s=0)
    damaged = Damaged(meta)
    await damaged.plant()
    yield damaged
    await meta.close()


async def test_a_healthy_volume_has_no_findings(volume: Damaged) -> None:
    assert await check(volume.meta) == []


Damage = Callable[[Damaged], Any]

#: kind -> how to bring it about, and whether repair must leave a clean volume.
DAMAGE: dict[str, tuple[Damage, bool]] = {
    "counters": (lambda v: v.write((ADD, k.counter("usedSpace"), -4096), (ADD, k.counter("totalInodes"), 3)), True),
    "type": (lambda v: v.write((PUT, k.entry(v.d, b"f"), Entry(3, v.f))), True),
    "dirstat": (lambda v: v.write((ADD, k.dirstat(v.sub), DirStat(1, -2, 3))), True),
    "quota": (lambda v: v.write((ADD, k.quota(DIRECTORY, v.d), (4096, -2))), True),
    "no-quota-directory": (lambda v: v.write((PUT, k.quota(DIRECTORY, 77), Quota(0, 5, 0, 0))), True),
    "owner-quota": (lambda v: v.write((ADD, k.quota(USER, 1000), (4096, 2))), True),
    "lost-chunk": (lambda v: v.write((PUT, k.chunk(888, 2), encode_slices([Slice(0, 600, 10, 0, 10)]))), True),
    "references": (lambda v: v.write((PUT, k.sliceref(500, 1000), 0)), True),
    "overcounted": (lambda v: v.write((PUT, k.sliceref(500, 1000), 2)), False),
    "chunk": (lambda v: v.write((PUT, k.chunk(v.g, 0), b"x" * 23)), False),
    "delayed": (lambda v: v.write((PUT, k.delslices(5, NOW // 10**9), struct.pack(">QI", 500, 1000)[:11])), False),
    "symlink": (lambda v: v.write((DELETE, k.symlink(v.l), None)), False),
    "no-directory": (lambda v: v.write((PUT, k.entry(999, b"x"), Entry(1, v.f))), False),
    "session": (lambda v: held_by_a_stranger(v), True),
    "detached": (lambda v: unfinished_clone(v), True),
    "nlink": (lambda v: patched(v, v.sub, nlink=5), True),
    "parent": (lambda v: patched(v, v.g, parent=v.d), True),
    "acl": (lambda v: patched(v, v.f, access_acl=42), False),
    "no-entry": (lambda v: v.write((DELETE, k.entry(v.sub, b"g"), None)), True),
    "no-inode": (lambda v: v.write((DELETE, k.node(v.sub), None)), True),
    "twice": (lambda v: v.write((PUT, k.entry(ROOT, b"again"), Entry(2, v.sub))), False),
}


async def patched(v: Damaged, ino: int, **fields: Any) -> None:
    await v.write(await v.changed(ino, **fields))


async def held_by_a_stranger(v: Damaged) -> None:
    v.meta.opened(v.g)
    await v.meta.unlink(v.sub, b"g", skip_trash=True)
    v.meta.open_files.clear()
    v.meta.sustained.clear()
    await v.write((DELETE, k.sustained(v.meta.sid, v.g), None), (PUT, k.sustained(4711, v.g), True))


async def unfinished_clone(v: Damaged) -> None:
    old = v.meta.clock_ns() // 10**9 - 2 * 86400
    top = Attr(2, 0o755, 0, 0, NOW, NOW, NOW, 2, 4096, 0, ROOT)
    await v.write(
        (PUT, k.node(9000), top), (PUT, k.dirstat(9000), DirStat(0, 0, 0)), (PUT, k.detached(9000), old),
        (ADD, k.counter("usedSpace"), 4096), (ADD, k.counter("totalInodes"), 1), (ADD, k.quota(USER, 0), (4096, 1)),
        (ADD, k.quota(2, 0), (4096, 1)),
    )  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
async def test_damage_is_found_and_repaired(volume: Damaged, kind: str) -> None:
    damage, repairable = DAMAGE[kind]
    await damage(volume)
    found = await check(volume.meta)
    assert kind in {finding.kind for finding in found}, found
    assert all(str(finding) for finding in found)
    left, repaired = await recount(volume.meta)
    while volume.meta._background:
        await asyncio.gather(*volume.meta._background)
    assert (kind in {f.kind for f in repaired}) == repairable, repaired
    assert (left == []) == repairable, left
    if repairable:
        assert await check(volume.meta) == []


def test_every_kind_of_damage_is_tried() -> None:
    assert set(KINDS) - set(DAMAGE) == set(OBJECTS)  # these need an object store: tests/faults/test_fsck.py


async def test_checking_changes_nothing(volume: Damaged) -> None:
    for kind in ("counters", "dirstat", "quota", "nlink"):
        await DAMAGE[kind][0](volume)
    assert isinstance(volume.meta.store, MemoryStore)
    before = dict(volume.meta.store._records)
    reader = Meta(volume.meta.store, volume.meta.format, clock_ns=volume.meta.clock_ns, read_only=True)
    await reader.reload_usage()
    assert len(await check(reader)) >= 4
    assert volume.meta.store._records == before


async def test_findings_of_one_kind_are_bounded_and_repaired_in_rounds(
    volume: Damaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recounting, "LIMIT", 3)
    dirs = [(await volume.meta.mkdir(volume.d, b"%d" % n))[0] for n in range(10)]
    await volume.write(*((ADD, k.dirstat(ino), DirStat(1, 2, 3)) for ino in dirs))
    assert len([f for f in await check(volume.meta) if f.kind == "dirstat"]) == 3
    left, repaired = await recount(volume.meta)
    assert left == [] and len([f for f in repaired if f.kind == "dirstat"]) == 10


async def test_what_is_repaired_already_is_left_alone(volume: Damaged) -> None:
    await DAMAGE["parent"][0](volume)
    (finding,) = [f for f in await check(volume.meta) if f.kind == "parent"]
    assert await repair(volume.meta, finding)
    assert not await repair(volume.meta, finding)
    assert not await repair(volume.meta, Finding("twice", (1,), 2, 1))


async def test_paths_in_the_trash_are_told(volume: Damaged) -> None:
    await volume.meta.unlink(volume.sub, b"g")
    (hour,) = await volume.meta.readdir(TRASH)
    await patched(volume, volume.g, nlink=4)
    (finding,) = [f for f in await check(volume.meta) if f.kind == "nlink"]
    assert finding.path == f"/.trash/{hour.name.decode()}/{volume.sub}-{volume.g}-g"


class Busy:
    """Clients that create, write, move and remove all the time."""

    def __init__(self, meta: Meta, dirs: list[int]) -> None:
        self.meta = meta
        self.dirs = dirs
        self.stop = asyncio.Event()

    async def __aenter__(self) -> Busy:
        self.tasks = [asyncio.create_task(self._work(n)) for n in range(3)]
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.stop.set()
        await asyncio.gather(*self.tasks)
        while self.meta._background:
            await asyncio.gather(*self.meta._background)

    async def _work(self, number: int) -> None:
        rng = random.Random(number)
        names: list[tuple[int, bytes]] = []
        for count in range(1 << 20):
            if self.stop.is_set():
                return
            where, name = rng.choice(self.dirs), b"%d-%d" % (number, count)
            ino, _ = await self.meta.create(where, name)
            await self.meta.truncate(ino, rng.randrange(100_000))
            names.append((where, name))
            if len(names) > 20:
                await self.meta.unlink(*names.pop(rng.randrange(len(names))), skip_trash=True)
            await asyncio.sleep(0)


@pytest.mark.parametrize("wrong", [0, 1])
async def test_totals_of_a_busy_volume_are_repaired_and_right_ones_left_alone(paged: Damaged, wrong: int) -> None:
    volume, meta = paged, paged.meta
    dirs = [(await meta.mkdir(volume.d, b"busy%d" % n))[0] for n in range(4)]
    await asyncio.gather(*(meta.create(dirs[n % 4], b"old%d" % n) for n in range(4000)))
    async with Busy(meta, dirs):
        for _ in range(30):
            await asyncio.sleep(0)
        if wrong:
            # Far more than what is in flight at a time.
            await volume.write(
                (ADD, k.counter("usedSpace"), 1 << 30), (ADD, k.counter("totalInodes"), -100_000),
                (ADD, k.quota(DIRECTORY, volume.d), (1 << 30, -1000)), (ADD, k.quota(USER, 1000), (-(1 << 30), 1000)),
                (ADD, k.dirstat(dirs[0]), DirStat(1 << 30, -(1 << 30), 1000)),
                await volume.changed(volume.sub, nlink=9),
            )  # fmt: skip
        for _ in range(1 + wrong):
            await recount(meta)
    # What was less than the movement may be left; a recount of the quiet volume is exact.
    space, inodes = await meta.store.read(k.counter("usedSpace"), k.counter("totalInodes"))
    counted = await meta.count_all()
    if wrong:
        assert abs(space - counted[0]) < 1 << 24 and abs(inodes - counted[1]) < 200
        (stat,) = await meta.store.read(k.dirstat(dirs[0]))
        assert abs(stat.space) < 1 << 29 and stat.inodes < 2000
        await recount(meta)
    assert await check(meta) == []
