# SPDX-License-Identifier: Apache-2.0
"""Garbage collection and recount against volumes that were damaged on purpose, and against clients at work.

A live object must never go, whatever the run sees; what is nobody's must go once it is older than the fence.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from core.check import KINDS, check, repair
from core.gc import collect, set_references
from core.meta import keys as k
from core.meta.records import ROOT, DirStat, decode_slices
from core.meta.store import ADD, DELETE, PUT
from core.vfs.filesystem import ImplicitDirs
from core.volume import Volume
from tests.faults.campaign import stored, used
from tests.faults.gateway import TestVolume
from tests.servers.redis import RedisServer


@pytest.fixture(params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[TestVolume]:
    if request.param == "sqlite":
        volume = TestVolume()
        yield volume
        volume.remove()
        return
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        volume = TestVolume(server.url(1), hash_prefix=True)
        yield volume
        volume.remove()


@pytest.fixture
async def volume(place: TestVolume) -> AsyncIterator[Volume]:
    opened = await place.open(session=True)
    yield opened
    await opened.close()


async def fill(volume: Volume, folder: bytes = b"/d", *, abandoned: int = 4) -> None:
    """Packs of ten; every `abandoned`th member is never published."""
    for pack in range(5):
        pieces = await asyncio.gather(*(volume.fs.content_of(os.urandom(1000 + n)) for n in range(10)))
        for n, content in enumerate(pieces):
            if not abandoned or n % abandoned:
                await volume.fs.publish(b"%s/f%d" % (folder, pack * 10 + n), content, parents=ImplicitDirs())


async def idle(volume: Volume) -> None:
    while volume.meta._background:
        await asyncio.wait(set(volume.meta._background))


async def test_slices_of_files_that_do_not_exist_go(volume: Volume) -> None:
    """As JuiceFS leaves them on Redis: the file was cut before it was removed."""
    meta = volume.meta
    await fill(volume, abandoned=0)
    content = await volume.fs.content_of(os.urandom(3 << 20))
    made = await volume.fs.publish(b"/d/lost", content, parents=ImplicitDirs())
    (raw,) = await meta.store.read(k.chunk(made.ino, 0))
    await meta.store.commit([], [(PUT, k.chunk(made.ino, 7), raw), (DELETE, k.chunk(made.ino, 0), None)])
    (attr,) = await meta.store.read(k.node(made.ino))
    gone = (k.node(made.ino), k.entry(attr.parent, b"lost"))
    await meta.store.commit([], [(DELETE, key, None) for key in gone])
    before = await stored(volume)
    assert ("lost-chunk", (made.ino, 7)) in {(finding.kind, finding.key) for finding in await check(meta)}
    report = await collect(volume, min_age_s=0)
    assert report.lost_files == 1 and await stored(volume) == before
    report = await collect(volume, delete=True, min_age_s=0)
    assert (report.lost_files, report.failures) == (1, [])
    assert len(before) - len(await stored(volume)) == 1
    assert (await collect(volume, delete=True, min_age_s=0)).lost_files == 0
    assert "lost-chunk" not in {finding.kind for finding in await check(meta)}


async def test_counts_of_packs_are_set_right_behind_the_fence_only(volume: Volume) -> None:
    await fill(volume)
    young = await collect(volume, delete=True)
    assert (young.miscounted, young.corrected, young.deleted.objects) == (0, 0, 0)
    assert {f.kind for f in await check(volume.meta)} == {"overcounted"}
    old = await collect(volume, delete=True, min_age_s=0)
    assert old.corrected == 5 and not old.failures
    assert await check(volume.meta, objects=volume.objects) == []
    for n in range(50):
        if n % 10 % 4:
            await volume.fs.unlink(b"/d/f%d" % n, skip_trash=True)
    await idle(volume)
    assert await stored(volume) == set(), "the last member takes the pack with it once the count is right"


async def test_a_pack_of_which_nothing_is_left_goes(volume: Volume) -> None:
    await fill(volume)
    await volume.fs.remove_tree(b"/d", skip_trash=True)
    await idle(volume)
    assert len(await stored(volume)) == 5  # the abandoned members still count
    report = await collect(volume, min_age_s=0)
    assert report.pending.objects == 5 and len(await stored(volume)) == 5
    report = await collect(volume, delete=True, min_age_s=0)
    assert report.deleted.objects == 5 and await stored(volume) == set()
    assert [key async for key, _ in volume.meta.store.scan(k.SLICEREF)] == []


async def test_a_count_that_changed_meanwhile_is_left_alone(volume: Volume) -> None:
    content = await volume.fs.content_of(b"x" * 1000)
    await volume.fs.publish(b"/f", content)
    ((slice_id, size, _),) = content.fresh
    assert not await set_references(volume.meta.store, slice_id, size, 7, 0)
    assert (await volume.meta.store.read(k.sliceref(slice_id, size)))[0] in (None, 1)


async def test_leaked_blocks_wait_for_the_fence(volume: Volume, place: TestVolume) -> None:
    await fill(volume, abandoned=0)
    before = await used(volume)
    lost = await volume.fs.content_of(os.urandom(3 << 20))  # stored, bound to nothing
    assert (await collect(volume, delete=True)).leaked.objects == 0
    report = await collect(volume, delete=True, min_age_s=0)
    assert report.leaked.objects == 1 and report.deleted.bytes == lost.length
    assert await stored(volume) == before


async def test_foreign_names_and_temporary_files(volume: Volume, place: TestVolume) -> None:
    await fill(volume, abandoned=0)
    folder = place.objects / "faults/chunks/0/0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes.txt").write_text("mine")
    (folder / ".jfs.1_0_5.tmp.99").write_text("half")
    os.utime(folder / ".jfs.1_0_5.tmp.99", (1, 1))
    report = await collect(volume, delete=True, min_age_s=0)
    assert report.temporary_files == 1 and report.skipped.objects == 1
    assert [p.name for p in folder.iterdir() if p.name.startswith((".jfs", "notes"))] == ["notes.txt"]


async def test_collecting_beside_writers_never_takes_a_live_object(volume: Volume, rng: random.Random) -> None:
    """Writers publish, copy and remove while gc runs all the time. The fence is shorter than any publish here takes
    at most, which is what a fence is."""
    done = asyncio.Event()
    names = [b"/w/f%d" % n for n in range(30)]
    await volume.fs.publish(b"/w/start", await volume.fs.content_of(b"s" * 500), parents=ImplicitDirs())

    async def work(seed: float) -> None:
        mine = random.Random(seed)
        for _ in range(60):
            name, step = mine.choice(names), mine.random()
            try:
                if step < 0.5:
                    await volume.fs.publish(name, await volume.fs.content_of(mine.randbytes(mine.randint(1, 9000))))
                elif step < 0.7:
                    await volume.fs.unlink(name, skip_trash=True)
                else:
                    source = await volume.fs.lookup(mine.choice(names))
                    copy = await volume.fs.clone_content([(source.ino, 0, source.attr.length)])
                    await volume.fs.publish(name, copy)
            except OSError as e:
                assert e.errno in (2, 116), e  # ENOENT, ESTALE: somebody was faster

    async def sweep() -> None:
        while not done.is_set():
            report = await collect(volume, delete=True, min_age_s=2)
            assert not report.failures, report.failures

    sweeping = asyncio.ensure_future(sweep())
    try:
        await asyncio.gather(*(work(rng.random()) for _ in range(8)))
    finally:
        done.set()
        await sweeping
    await idle(volume)
    findings = await check(volume.meta, objects=volume.objects)
    assert {f.kind for f in findings} <= {"overcounted"}, findings


async def test_every_damage_is_found_and_what_can_be_is_repaired(volume: Volume, place: TestVolume) -> None:
    await fill(volume, b"/a", abandoned=0)
    await fill(volume, b"/b", abandoned=0)
    meta, fs = volume.meta, volume.fs
    assert await check(meta, objects=volume.objects) == []
    a, b, f = await fs.lookup(b"/a"), await fs.lookup(b"/b"), await fs.lookup(b"/a/f1")
    raw = (await meta.store.read(k.chunk(f.ino, 0)))[0]
    s = decode_slices(raw)[0]
    await meta.store.commit([], [
        (PUT, k.counter("usedSpace"), 12345),
        (ADD, k.dirstat(a.ino), DirStat(1, 2, 3)),
        (PUT, k.node(a.ino), msgspec.structs.replace(a.attr, nlink=9)),
        (PUT, k.node(f.ino), msgspec.structs.replace(f.attr, parent=ROOT, nlink=3)),
        (DELETE, k.node(b.ino), None),
        (DELETE, k.entry(a.ino, b"f2"), None),
        (PUT, k.sliceref(s.id, s.size), 1),
    ])  # fmt: skip
    kinds = {"counters", "dirstat", "nlink", "parent", "no-inode", "no-entry", "references"}
    findings = await check(meta, objects=volume.objects)
    assert {finding.kind for finding in findings} == kinds
    assert all(str(finding) and finding.kind in KINDS for finding in findings)
    for _ in range(4):
        for finding in await check(meta, objects=volume.objects):
            await repair(meta, finding)
    assert await check(meta, objects=volume.objects) == []
    assert (await fs.lookup(b"/b/f1")).attr.length > 0
    assert len(await meta.readdir((await fs.lookup(b"/lost+found")).ino)) == 1


async def test_missing_objects_are_named_with_their_file(volume: Volume, place: TestVolume) -> None:
    await fs_put(volume, b"/d/file", 5 << 20)
    victim = next(p for p in place.objects.rglob("*_*_*") if p.stat().st_size == 1 << 20)
    victim.unlink()
    assert await check(volume.meta) == []
    (finding,) = await check(volume.meta, objects=volume.objects)
    assert (finding.kind, finding.path) == ("object", "/d/file") and not finding.repairable
    assert victim.name in finding.key[1]


async def fs_put(volume: Volume, path: bytes, size: int) -> None:
    await volume.fs.publish(path, await volume.fs.content_of(os.urandom(size)), parents=ImplicitDirs())


async def test_expired_trash_and_dead_clients(place: TestVolume) -> None:
    opened = await place.open(session=True)
    opened.meta.use_format(opened.meta.format.changed(trash_days=1))
    await opened.meta.store.commit([], [(PUT, k.node(0x7FFFFFFF10000000), (await opened.meta.getattr(ROOT)))])
    await fs_put(opened, b"/f", 1000)
    await opened.fs.unlink(b"/f")
    report = await collect(opened, min_age_s=0)
    assert (report.expired_trash, report.stale_sessions) == (0, 0)
    opened.meta.clock_ns = lambda: time.time_ns() + 50 * 3600 * 10**9
    report = await collect(opened, min_age_s=0)
    assert (report.expired_trash, report.stale_sessions) == (1, 1)
    opened.meta.clock_ns = time.time_ns
    await opened.close()
