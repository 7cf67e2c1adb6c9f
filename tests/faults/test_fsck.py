# SPDX-License-Identifier: Apache-2.0
"""`fsck` and `scrub` over volumes whose objects were damaged on purpose, in every encoding of interest.

What is lost is told with path, range and cause; what lies in a cache comes back; nothing else is touched.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.check import ObjectCheck, check
from core.check.salvage import put_aside, salvage, told_copies
from core.chunk import cachefile
from core.chunk.naming import block_key, iter_blocks
from core.errors import ObjectError
from core.gc import collect
from core.meta import keys as k
from core.meta.records import decode_slices
from core.object.api import ObjectInfo
from core.scrub import BlockProof, Scrub, ScrubJob, read_state
from core.scrub.sums import PREFIX, read_sums
from core.vfs.filesystem import ImplicitDirs
from core.volume import Volume
from tests.faults.gateway import TestVolume

BLOCK = 64 << 10
ENCODINGS = ("none", "lz4", "zstd", "encrypted")


def new_volume(encoding: str = "none", **settings: object) -> TestVolume:
    if encoding == "encrypted":
        key = rsa.generate_private_key(65537, 2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        return TestVolume(encrypt_key=pem, block_size=BLOCK, **settings)
    return TestVolume(compression=encoding, block_size=BLOCK, **settings)


@pytest.fixture(params=ENCODINGS)
def encoded(request: pytest.FixtureRequest) -> Iterator[TestVolume]:
    place = new_volume(request.param)
    yield place
    place.remove()


@pytest.fixture
def place() -> Iterator[TestVolume]:
    place = new_volume()
    yield place
    place.remove()


async def write(volume: Volume, path: bytes, data: bytes) -> int:
    content = await volume.fs.content_of(data)
    return (await volume.fs.publish(path, content, parents=ImplicitDirs())).ino


async def blocks_of(volume: Volume, ino: int) -> list[tuple[int, int, int]]:
    (raw,) = await volume.meta.store.read(k.chunk(ino, 0))
    return [b for s in decode_slices(raw) if s.id for b in iter_blocks(s.id, s.size, BLOCK)]


def file_of(place: TestVolume, volume: Volume, block: tuple[int, int, int]) -> Path:
    return place.objects / "faults" / block_key(*block, volume.format.hash_prefix)


def proof(volume: Volume) -> BlockProof:
    return BlockProof(volume.objects, volume.format)


async def test_every_damage_is_told_with_path_range_and_cause(encoded: TestVolume) -> None:
    volume = await encoded.open()
    try:
        data = os.urandom(3 * BLOCK + 100)
        ino = await write(volume, b"/d/file", data)
        whole = await write(volume, b"/d/whole", os.urandom(2 * BLOCK))
        first, second, third, _ = await blocks_of(volume, ino)
        looking = ObjectCheck(volume.objects, proof(volume))
        assert await check(volume.meta, objects=looking) == []
        file_of(encoded, volume, first).unlink()
        os.truncate(file_of(encoded, volume, second), 0)
        path = file_of(encoded, volume, third)
        raw = bytearray(path.read_bytes())
        if volume.format.compression != "none":
            raw[:4] = bytes(4)  # random bytes are stored as they are, so only what surrounds them can show it
        raw[-1] ^= 0xFF
        path.write_bytes(raw)
        found = await check(volume.meta, objects=looking)
        told = {(f.kind, f.key[0], f.path): f.ranges for f in found}
        assert told[("object", ino, "/d/file")] == ((0, BLOCK),)
        assert told[("object-size", ino, "/d/file")] == ((BLOCK, BLOCK),)
        if volume.format.compression == "none" and not volume.format.encrypt_key:
            assert len(told) == 2, "without checksum or encoding nobody can see it; a scrub keeps checksums for that"
        else:
            assert told[("object-data", ino, "/d/file")] == ((2 * BLOCK, BLOCK),) and len(told) == 3
        assert all(f.key[0] != whole for f in found) and all(str(f) and not f.repairable for f in found)
    finally:
        await volume.close()


async def test_hidden_bytes_are_nobodys_loss(place: TestVolume) -> None:
    volume = await place.open()
    try:
        ino = await write(volume, b"/f", os.urandom(2 * BLOCK))
        first, _ = await blocks_of(volume, ino)
        over = await volume.fs.content_of(os.urandom(BLOCK))
        await volume.meta.write_slices(ino, 0, over.chunks[0], volume.meta.clock_ns())
        file_of(place, volume, first).unlink()
        (finding,) = await check(volume.meta, objects=volume.objects)
        assert finding.kind == "object" and finding.ranges == () and "no byte of it is visible" in str(finding)
    finally:
        await volume.close()


@pytest.mark.parametrize("room", ["raw", "rawstaging"])
async def test_lost_objects_come_back_from_a_cache(encoded: TestVolume, tmp_path: Path, room: str) -> None:
    volume = await encoded.open()
    try:
        data = os.urandom(3 * BLOCK)
        ino = await write(volume, b"/d/file", data)
        blocks = await blocks_of(volume, ino)
        for index, block in enumerate(blocks):
            copy = tmp_path / volume.format.uuid / room / block_key(*block)
            copy.parent.mkdir(parents=True, exist_ok=True)
            plain = data[index * BLOCK :][:BLOCK]
            if index == 1:  # torn: it proves that it isn't the block
                plain = plain[:-1] + bytes([plain[-1] ^ 1]) + cachefile.checksums(plain)
                copy.write_bytes(plain)
            else:
                cachefile.write(str(copy), plain, "full", 0o600, 0o700)
        file_of(encoded, volume, blocks[0]).unlink()
        file_of(encoded, volume, blocks[1]).unlink()
        os.truncate(file_of(encoded, volume, blocks[2]), 0)
        found = await check(volume.meta, objects=volume.objects)
        assert len(found) == 3
        told = [f.stored for f in await told_copies(volume, found, [str(tmp_path)])]
        assert sum(("staged and not uploaded" if room == "rawstaging" else "has a copy") in text for text in told) == 2
        back = await salvage(volume, found, [str(tmp_path / "nowhere"), str(tmp_path)])
        assert sorted(f.key[1] for f in back) == sorted(block_key(*b) for b in (blocks[0], blocks[2]))
        (left,) = await check(volume.meta, objects=ObjectCheck(volume.objects, proof(volume)))
        assert left.ranges == ((BLOCK, BLOCK),)
    finally:
        await volume.close()


async def test_a_copy_without_checksums_is_used_only_if_a_kept_one_proves_it(place: TestVolume, tmp_path: Path) -> None:
    volume = await place.open()
    try:
        data = os.urandom(BLOCK)
        (block,) = await blocks_of(volume, await write(volume, b"/f", data))
        copy = tmp_path / volume.format.uuid / "raw" / block_key(*block)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(data)
        object_file = file_of(place, volume, block)
        saved = object_file.read_bytes()
        object_file.unlink()
        found = await check(volume.meta, objects=volume.objects)
        assert await salvage(volume, found, [str(tmp_path)]) == []
        object_file.write_bytes(saved)
        assert (await Scrub(volume).run()).new_sums == 1
        object_file.unlink()
        assert len(await salvage(volume, found, [str(tmp_path)])) == 1
        assert object_file.read_bytes() == data
    finally:
        await volume.close()


@pytest.mark.parametrize("what", ["move", "truncate"])
async def test_broken_files_go_out_of_the_way_on_request_only(place: TestVolume, what: str) -> None:
    volume = await place.open()
    try:
        data = os.urandom(3 * BLOCK)
        ino = await write(volume, b"/d/file", data)
        good = await write(volume, b"/d/good", data)
        file_of(place, volume, (await blocks_of(volume, ino))[1]).unlink()
        found = await check(volume.meta, objects=volume.objects)
        settled = await put_aside(volume, found, what)  # type: ignore[arg-type]
        assert settled == found
        if what == "move":
            moved = await volume.fs.lookup(b"/lost+found/%d-file" % ino)
            assert moved.ino == ino and moved.attr.length == len(data)
        else:
            cut = await volume.fs.lookup(b"/d/file")
            assert cut.attr.length == BLOCK and await volume.fs.read(cut, 0, BLOCK) == data[:BLOCK]
        assert await volume.fs.read(await volume.fs.lookup(b"/d/good"), 0, len(data)) == data
        assert good
    finally:
        await volume.close()


# -- scrub -------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True])
def hashed(request: pytest.FixtureRequest) -> Iterator[TestVolume]:
    place = new_volume(hash_prefix=request.param)
    yield place
    place.remove()


async def test_a_second_pass_proves_what_the_first_has_kept(hashed: TestVolume) -> None:
    place = hashed
    volume = await place.open()
    hash_prefix = volume.format.hash_prefix
    try:
        inos = [await write(volume, b"/f%d" % n, os.urandom(2 * BLOCK)) for n in range(20)]
        first = await Scrub(volume).run()
        assert (first.blocks, first.new_sums, first.proven, first.faults) == (40, 40, 0, {})
        block = (await blocks_of(volume, inos[7]))[1]
        path = file_of(place, volume, block)
        saved = path.read_bytes()
        path.write_bytes(bytes(BLOCK))  # of the right size: only a checksum can tell
        assert await check(volume.meta, objects=volume.objects) == []
        second = await Scrub(volume).run()
        assert list(second.faults) == [block_key(*block, hash_prefix)] and second.proven == 39
        assert "have changed" in (await read_state(volume.objects)).faults[block_key(*block, hash_prefix)].cause
        (finding,) = await check(volume.meta, objects=ObjectCheck(volume.objects, proof(volume)))
        assert (finding.kind, finding.path, finding.ranges) == ("object-data", "/f7", ((BLOCK, BLOCK),))
        path.write_bytes(saved)
        third = await Scrub(volume).run()
        assert third.faults == {} and third.state.faults == {} and third.state.passes == 3
        await volume.fs.remove_tree(b"/f3", skip_trash=True)
        while volume.meta._background:
            await next(iter(volume.meta._background))
        await Scrub(volume).run()
        kept = [info.key async for info in volume.objects.list(PREFIX)]
        known = [block async for key in _each(kept) for block in await read_sums(volume.objects, key)]
        assert len(known) == 38, "checksums of blocks that are gone go, too"
    finally:
        await volume.close()


async def _each(keys: list[str]):  # type: ignore[no-untyped-def]
    for key in keys:
        yield key.removeprefix(PREFIX)


async def test_a_scrub_goes_on_where_it_stopped(place: TestVolume) -> None:
    volume = await place.open()
    try:
        for n in range(200):
            await write(volume, b"/f%d" % n, os.urandom(BLOCK))
        clock = [1000.0]
        seen = 0
        for _ in range(40):
            scrub = Scrub(volume, clock=lambda: clock[0], progress=lambda *_: clock.__setitem__(0, clock[0] + 6))
            report = await scrub.run(seconds=6)
            seen += report.blocks
            if report.finished:
                break
        assert report.finished and seen == 200 and report.state.last_blocks == 200
        assert (await read_state(volume.objects)).position == ""
        assert len(await read_sums(volume.objects, "0/0")) == 200
    finally:
        await volume.close()


async def test_a_damaged_book_is_made_anew(place: TestVolume, caplog: pytest.LogCaptureFixture) -> None:
    volume = await place.open()
    try:
        await write(volume, b"/f", os.urandom(BLOCK))
        await Scrub(volume).run()
        path = place.objects / "faults" / PREFIX / "0/0"
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1
        path.write_bytes(raw)
        (place.objects / "faults/sluice/scrub/state.json").write_text("{")
        report = await Scrub(volume).run()
        assert (report.new_sums, report.faults) == (1, {}) and "made anew" in caplog.text
    finally:
        await volume.close()


async def test_one_client_at_a_time_scrubs_in_the_background(place: TestVolume) -> None:
    one, two = await place.open(session=True), await place.open(session=True)
    try:
        await write(one, b"/f", os.urandom(BLOCK))
        first, second = ScrubJob(one, 1 << 30), ScrubJob(two, 1 << 30)
        report = await first()
        assert report is not None and report.finished and first.blocks == 1
        assert await second() is None, "it isn't its turn"
        later = one.meta.clock_ns() + 200 * 10**9
        two.meta.clock_ns = lambda: later
        assert await second() is None, "everything was read this week"
        assert await ScrubJob(two, 1 << 30, rest_s=0)() is None, "and its turn was taken a moment ago"
        much_later = later + 200 * 10**9
        two.meta.clock_ns = lambda: much_later
        again = await ScrubJob(two, 1 << 30, rest_s=0)()
        assert again is not None and again.proven == 1
    finally:
        await one.close()
        await two.close()


async def test_a_serving_client_scrubs_if_it_is_asked_to(place: TestVolume) -> None:
    volume = await place.open(session=True, jobs=True, scrub=1 << 30)
    try:
        assert volume.scrub is not None and len(volume.meta._jobs) == 3
        await write(volume, b"/f", os.urandom(BLOCK))
        report = await volume.scrub()
        assert report is not None and report.blocks == 1
    finally:
        await volume.close()


async def test_the_rate_holds(place: TestVolume) -> None:
    volume = await place.open()
    try:
        for n in range(16):
            await write(volume, b"/f%d" % n, os.urandom(BLOCK))
        import time

        start = time.monotonic()
        await Scrub(volume, bytes_per_s=1 << 20).run()
        assert 0.7 < time.monotonic() - start < 5  # a MiB in a second, less the bucket
    finally:
        await volume.close()


async def test_a_request_that_fails_in_the_middle_of_a_listing_ends_nothing(
    place: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in each listing; clean-up, proof and scrub go on behind the last key."""
    volume = await place.open()
    try:
        for n in range(30):
            await write(volume, b"/f%d" % n, os.urandom(BLOCK))
        real = volume.objects.list
        failed: list[str] = []

        async def failing(prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
            number = 0
            async for info in real(prefix, after):
                number += 1
                if number == 10 and prefix == "chunks/" and not after:
                    failed.append(prefix)
                    raise ObjectError("503 from the store")
                yield info

        monkeypatch.setattr(volume.objects, "list", failing)
        assert (await collect(volume, delete=True, min_age_s=0)).valid.objects == 30
        assert await check(volume.meta, objects=volume.objects) == []
        assert (await Scrub(volume).run()).blocks == 30
        assert len(failed) == 3
    finally:
        await volume.close()
