# SPDX-License-Identifier: Apache-2.0
"""A clean-up that is killed at each of its steps, started again, and run twice at the same time.

Whatever it had done is right, the next run finishes, and no live object goes.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from core.chunk.cacheoptions import CacheOptions
from core.failpoints import POINTS
from core.gc import collect
from core.meta import keys as k
from core.meta.store import PUT
from core.object.api import Buffer
from core.vfs.filesystem import ImplicitDirs
from core.volume import Volume
from tests.faults.campaign import require_clean, stored, used
from tests.faults.gateway import TestVolume

BLOCK = 64 << 10
STEPS = sorted(n for n in POINTS if n.startswith(("gc.", "delete.", "detached.claimed", "compact.")))
#: Reached only by what isn't in this volume.
STEPS.remove("detached.claimed")
#: Something is half done there.
TELLING = ("gc.count-set", "gc.object-gone", "gc.piece-stored", "gc.piece-moved")


@pytest.fixture
def place() -> Iterator[TestVolume]:
    place = TestVolume(block_size=BLOCK)
    yield place
    place.remove()


async def litter(volume: Volume) -> dict[bytes, bytes]:
    """A volume with everything that a clean-up has to do, and the files that must survive it."""
    fs, kept = volume.fs, {}
    # Packs: one mostly dead, one with a count that is too high, one of which nothing is left.
    for pack in range(3):
        bodies = [os.urandom(12_000) for _ in range(5)]
        pieces = await asyncio.gather(*(fs.content_of(body) for body in bodies))
        for n, (content, body) in enumerate(zip(pieces, bodies, strict=True)):
            if (pack == 1 and n > 2) or pack == 2:
                continue  # never published
            await fs.publish(b"/p%d/f%d" % (pack, n), content, parents=ImplicitDirs())
            kept[b"/p%d/f%d" % (pack, n)] = body
    # A big slice of which somebody has copied a page.
    big = os.urandom(20 * BLOCK)
    made = await fs.publish(b"/big", await fs.content_of(big))
    await fs.publish(b"/page", await fs.clone_content([(made.ino, 7 * BLOCK + 5, 9000)]))
    kept[b"/page"] = big[7 * BLOCK + 5 :][:9000]
    # A file in pieces.
    await fs.publish(b"/pieces", await fs.content_of(b"0" * BLOCK))
    found = await fs.lookup(b"/pieces")
    body = bytearray(b"0" * BLOCK)
    for n in range(4):
        part = os.urandom(5000)
        content = await fs.content_of(part)
        s = content.chunks[0][0]
        await volume.meta.write_slices(found.ino, 0, [s._replace(pos=n * 9000)], volume.meta.clock_ns())
        body[n * 9000 : n * 9000 + 5000] = part
    kept[b"/pieces"] = bytes(body)
    # Objects that nobody knows, and removed files whose client died before it removed the data.
    await fs.content_of(os.urandom(3 * BLOCK))
    volume.meta.on_deleted = None
    for name in (b"/big", b"/p0/f0", b"/p0/f1", b"/p0/f2", b"/p0/f3"):
        await fs.unlink(name, skip_trash=True)
        kept.pop(name, None)
    return kept


async def read_back(volume: Volume, kept: dict[bytes, bytes]) -> None:
    for path, body in kept.items():
        found = await volume.fs.lookup(path)
        assert bytes(await volume.fs.read(found, 0, len(body))) == body, path


def gc(place: TestVolume, *options: str, failpoints: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluicefs", "gc", place.url, "--delete", "--compact", "--output", "json", *options],
        env={**os.environ, "JFS_GC_SKIPPEDTIME": "0", "SLUICE_FAILPOINTS": failpoints}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("step", [pytest.param(n, marks=() if n in TELLING else pytest.mark.heavy) for n in STEPS])
async def test_a_clean_up_that_dies_is_finished_by_the_next(place: TestVolume, step: str) -> None:
    volume = await place.open()
    kept = await litter(volume)
    await volume.close()
    done = await asyncio.to_thread(gc, place, failpoints=f"{step}=kill")
    assert done.returncode == -9, f"{step} was not reached: {done.stdout}{done.stderr}"
    volume = await place.open()
    await read_back(volume, kept)
    assert await used(volume) <= await stored(volume)
    await volume.close()
    again = await asyncio.to_thread(gc, place)
    assert again.returncode == 0, again.stderr
    volume = await place.open()
    await read_back(volume, kept)
    assert await stored(volume) == await used(volume)
    await volume.close()
    await require_clean(place)


async def test_two_clean_ups_at_once_do_no_harm(place: TestVolume) -> None:
    one, two = await place.open(), await place.open()
    try:
        kept = await litter(one)
        reports = await asyncio.gather(
            *(collect(volume, delete=True, compact=True, min_age_s=0) for volume in (one, two, one, two))
        )
        assert not [text for report in reports for text in report.failures if "missing" not in text]
        await read_back(one, kept)
    finally:
        await one.close()
        await two.close()
    await require_clean(place)


# -- mostly unused slices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [0, 1])
async def test_what_is_left_of_large_slices_moves(place: TestVolume, days: int) -> None:
    volume = await place.open()
    try:
        kept = await litter(volume)
        volume.meta.use_format(volume.meta.format.changed(trash_days=days))
        before = len(await stored(volume))
        report = await collect(volume, delete=True, compact=True, min_age_s=0)
        assert report.rewritten.objects >= 1 and not report.failures
        await read_back(volume, kept)
        if days:
            # Replaced slices wait like those of any compaction.
            later = volume.meta.clock_ns() + 50 * 3600 * 10**9
            volume.meta.clock_ns = lambda: later
            await collect(volume, delete=True, min_age_s=0)
            await read_back(volume, kept)
        assert await stored(volume) == await used(volume) and len(await stored(volume)) < before - 20
        assert (await collect(volume, delete=True, compact=True, min_age_s=0)).rewritten.objects == 0
    finally:
        await volume.close()
    if not days:
        await require_clean(place)


async def test_who_writes_meanwhile_wins(place: TestVolume) -> None:
    """The chunk isn't what it was when the copy was made: the copy goes, the file stays."""
    volume = await place.open()
    try:
        kept = await litter(volume)
        read = volume.slices.read

        async def interfering(slice_id: int, size: int, off: int, length: int):  # type: ignore[no-untyped-def]
            data = await read(slice_id, size, off, length)
            if size == 20 * BLOCK:
                await volume.fs.unlink(b"/page", skip_trash=True)
                await volume.fs.publish(b"/page", await volume.fs.content_of(b"new"))
            return data

        volume.slices.read = interfering  # type: ignore[method-assign]
        report = await collect(volume, delete=True, compact=True, min_age_s=0)
        assert not report.failures
        await read_back(volume, {**kept, b"/page": b"new"})
    finally:
        await volume.close()


async def test_who_removes_meanwhile_is_no_failure(place: TestVolume) -> None:
    """What was to be moved is gone when it is read, and so is the file."""
    volume = await place.open()
    try:
        kept = await litter(volume)
        read, remove = volume.slices.read, volume.slices.remove

        async def interfering(slice_id: int, size: int, off: int, length: int) -> Buffer:
            if size == 20 * BLOCK:
                volume.meta.on_deleted = volume.meta.delete_data_soon
                await volume.fs.unlink(b"/page", skip_trash=True)
                while volume.meta._background:
                    await asyncio.wait(set(volume.meta._background))
                await remove(slice_id, size)
            return await read(slice_id, size, off, length)

        volume.slices.read = interfering  # type: ignore[method-assign]
        report = await collect(volume, delete=True, compact=True, min_age_s=0)
        assert not report.failures
        kept.pop(b"/page")
        await read_back(volume, kept)
    finally:
        await volume.close()


# -- ages --------------------------------------------------------------------------------------------------------------


async def test_a_store_without_times_needs_two_runs(place: TestVolume) -> None:
    volume = await place.open()
    try:
        await volume.fs.publish(b"/live", await volume.fs.content_of(b"x" * 1000))
        lost = await volume.fs.content_of(os.urandom(3 * BLOCK))
        pieces = await asyncio.gather(*(volume.fs.content_of(b"%d" % n * 1000) for n in range(3)))
        await volume.fs.publish(b"/member", pieces[0])  # the others never come
        store = volume.objects
        store.features = store.features._replace(times=False)
        start = volume.meta.clock_ns()
        first = await collect(volume, delete=True)
        assert (first.deleted.objects, first.corrected, first.leaked.objects) == (0, 0, 0)
        assert first.remembered == 4, "three blocks and the pack"
        dry = await collect(volume)
        assert dry.remembered == 0 and dry.leaked.objects == 0
        volume.meta.clock_ns = lambda: start + 1800 * 10**9
        fresh = await volume.fs.content_of(os.urandom(100_000))  # nobody has seen it yet
        second = await collect(volume, delete=True)
        assert (second.deleted.objects, second.remembered) == (0, 6)
        volume.meta.clock_ns = lambda: start + 3700 * 10**9
        third = await collect(volume, delete=True)
        assert (third.deleted.objects, third.corrected, third.remembered) == (3, 1, 6)
        await volume.fs.publish(b"/late", fresh)
        assert lost and await collect(volume, delete=True)
        live = await volume.fs.lookup(b"/live")
        assert bytes(await volume.fs.read(live, 0, 1000)) == b"x" * 1000
        assert await used(volume) <= await stored(volume)
    finally:
        await volume.close()


async def test_the_fence_goes_by_the_clock_of_the_store(place: TestVolume, caplog: pytest.LogCaptureFixture) -> None:
    """A server two hours behind: what was stored a moment ago looks old, and isn't."""
    volume = await place.open()
    try:
        await volume.fs.content_of(os.urandom(3 * BLOCK))
        real = volume.meta.clock_ns
        volume.meta.clock_ns = lambda: real() + 2 * 3600 * 10**9
        report = await collect(volume, delete=True)
        assert report.deleted.objects == 0 and report.skipped.objects == 3
        assert "clock" in caplog.text
    finally:
        await volume.close()


async def test_deletions_keep_to_a_pace(place: TestVolume) -> None:
    volume = await place.open()
    try:
        for _ in range(4):
            await volume.fs.content_of(os.urandom(5 * BLOCK))
        start = asyncio.get_running_loop().time()
        report = await collect(volume, delete=True, min_age_s=0, deletions_per_s=20)
        took = asyncio.get_running_loop().time() - start
        assert report.deleted.objects == 20 and 0.7 < took < 10
    finally:
        await volume.close()


async def test_no_fence_is_refused_while_clients_are_at_work(place: TestVolume) -> None:
    client = await place.open(session=True, heartbeat_s=60)
    try:
        refused = await asyncio.to_thread(gc, place)
        assert refused.returncode == 1 and "1 client(s) are at work" in refused.stderr
        assert (await asyncio.to_thread(gc, place, "--force")).returncode == 0
    finally:
        await client.close()
    assert (await asyncio.to_thread(gc, place)).returncode == 0


async def test_a_damaged_chunk_record_stops_the_run(place: TestVolume) -> None:
    """What it named would look like nobody's."""
    volume = await place.open()
    try:
        ino = (await volume.fs.publish(b"/f", await volume.fs.content_of(os.urandom(BLOCK)))).ino
        (raw,) = await volume.meta.store.read(k.chunk(ino, 0))
        await volume.meta.store.commit([], [(PUT, k.chunk(ino, 0), raw[:-1])])
        with pytest.raises(OSError, match="sluice fsck"):
            await collect(volume, delete=True, min_age_s=0)
        assert len(await stored(volume)) == 1
    finally:
        await volume.close()


# -- staged blocks -----------------------------------------------------------------------------------------------------


async def test_what_is_staged_and_not_uploaded_is_left_alone(place: TestVolume) -> None:
    """Committed long before it is uploaded: neither its count nor, later, its objects are taken for leftovers; what was
    removed meanwhile leaves nothing."""
    lazily = {"cache_dir": str(place.folder / "cache"), "session": True}
    client = await place.open(**lazily, cache=CacheOptions(writeback=True, upload_delay_s=3600))
    cleaner = await place.open()
    bodies = {b"/f%d" % n: os.urandom(9000 + n) for n in range(10)} | {b"/big": os.urandom(5 * BLOCK)}
    try:
        for path, body in bodies.items():
            await client.fs.publish(path, await client.fs.content_of(body))
        assert await stored(cleaner) == set()
        for _ in range(2):
            report = await collect(cleaner, delete=True, compact=True, min_age_s=0)
            assert (report.deleted.objects, report.corrected, report.rewritten.objects) == (0, 0, 0)
        await client.fs.unlink(b"/f3", skip_trash=True)
        bodies.pop(b"/f3")
        await read_back(client, bodies)
    finally:
        await client.close()
    again = await place.open(**lazily, cache=CacheOptions(writeback=True))
    try:
        deadline = asyncio.get_running_loop().time() + 60
        while not await used(again) <= await stored(again):
            assert asyncio.get_running_loop().time() < deadline, "the staged blocks weren't uploaded"
            await collect(cleaner, delete=True, min_age_s=0)
        await read_back(cleaner, bodies)
    finally:
        await again.close()
        await cleaner.close()
    await require_clean(place)
