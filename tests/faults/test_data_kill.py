# SPDX-License-Identifier: Apache-2.0
"""A writer is killed at each named step between buffer and commit: nothing acknowledged is lost, no byte is read that
nobody wrote, a clean-up takes exactly the orphans, and nothing is left to find.

Orphans are counted: what lies in the object store minus what living files refer to, before the clean-up runs. The long
form makes a hundred rounds over SQLite and Redis, a folder and a real S3 server.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.chunk.naming import block_key, iter_blocks
from core.failpoints import POINTS
from core.gc import collect
from core.meta import keys as k
from core.meta.records import decode_slices
from core.volume import Volume
from tests.faults.campaign import require_clean, stored, used
from tests.faults.data_journal import Expected, read_journal
from tests.faults.gateway import TestVolume
from tests.servers.redis import RedisServer
from tests.servers.versitygw import ACCESS_KEY, SECRET_KEY, endpoint, versitygw

#: Steps that a data worker comes by.
STEPS = sorted(
    name for name in POINTS
    if name.startswith(("block.", "pack.", "slice.", "content.", "publish.", "write.", "delete."))
)  # fmt: skip


class Place:
    """A volume somewhere, and the rounds that were made over it."""

    def __init__(self, url: str = "", **settings: object) -> None:
        self.volume = TestVolume(url, block_size=64 << 10, **settings)
        self.rounds: list[Expected] = []
        self.acknowledged = 0
        self.orphans = 0

    def work(self, number: int, point: str, call: int, seed: int, *, seconds: float = 20) -> int:
        """Run a worker until it kills itself; its exit status."""
        journal = self.volume.folder / f"journal{number}"
        cache = self.volume.folder / "cache"
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.data_worker", self.volume.url, f"/r{number}", str(seed),
             str(seconds), str(journal), str(cache)],
            env={**os.environ, "SLUICE_FAILPOINTS": f"{point}=kill:{call}"}, capture_output=True, text=True,
            timeout=seconds + 100,
        )  # fmt: skip
        assert done.returncode in (0, -9), done.stderr[-3000:]
        expected, acknowledged, errors = read_journal(journal)
        assert not errors, errors
        self.rounds.append(expected)
        self.acknowledged += acknowledged
        return done.returncode

    async def verify(self, number: int) -> None:
        """Every file of a round has a content that it may have; what was in doubt is settled now."""
        volume = await self.volume.open()
        try:
            wrong = []
            expected = self.rounds[number]
            settled = {}
            for path in sorted(expected.paths()):
                got = await read_file(volume, path)
                if text := expected.wrong(path, got):
                    wrong.append(text)
                if got is not None:
                    settled[path] = got
            assert not wrong, "\n".join(wrong)
            for page in await listing(volume, f"/r{number}"):
                assert page in settled, f"{page} exists and nobody made it"
            self.rounds[number] = Expected(settled, [])
        finally:
            await volume.close()

    async def clean(self) -> None:
        """A clean-up deletes what nothing refers to, exactly, and nothing is wrong afterwards."""
        volume = await self.volume.open()
        try:
            volume.meta.clock_ns = lambda: time.time_ns() + 3600 * 10**9  # the killed client's session is over
            before, live = await stored(volume), await needed(volume)
            assert live <= before, f"missing before the clean-up: {live - before}"
            report = await collect(volume, delete=True, min_age_s=0)
            assert not report.failures, report.failures
            after = await stored(volume)
            assert after == live == await used(volume), (len(before), len(after), len(live))
            self.orphans += len(before - after)
        finally:
            await volume.close()
        await require_clean(self.volume)


async def read_file(volume: Volume, path: str) -> bytes | None:
    try:
        found = await volume.fs.lookup(path.encode(), chunk=True)
    except OSError as e:
        assert e.errno == 2, e
        return None
    return bytes(await volume.fs.read(found, 0, found.attr.length)) if found.attr.length else b""


async def listing(volume: Volume, folder: str) -> list[str]:
    found = []
    try:
        lanes = await volume.fs.list_dir((await volume.fs.lookup(folder.encode())).ino)
    except OSError:
        return []
    for lane in lanes:
        for entry in await volume.fs.list_dir(lane.ino, limit=100_000):
            found.append(f"{folder}/{lane.name.decode()}/{entry.name.decode()}")
    return found


async def needed(volume: Volume) -> set[str]:
    """Keys of the objects that files with a name refer to."""
    nodes = {key[1] async for key, attr in volume.meta.store.scan(k.NODE) if attr.nlink > 0}
    slices = {
        (s.id, s.size)
        async for key, raw in volume.meta.store.scan(k.CHUNK)
        if key[1] in nodes
        for s in decode_slices(raw)
        if s.id
    }
    fmt = volume.format
    return {block_key(*b, fmt.hash_prefix) for s in slices for b in iter_blocks(*s, fmt.block_size)}


def rounds(place: Place, points: list[str], rng: random.Random) -> list[tuple[str, int]]:
    return [(point, rng.choice((1, 2, 5, 20))) for point in points]


async def campaign(place: Place, points: list[str], rng: random.Random) -> None:
    killed = 0
    for number, (point, call) in enumerate(rounds(place, points, rng)):
        status = place.work(number, point, call, rng.randrange(1 << 30))
        killed += status == -9
        assert status == -9, f"{point} was not reached {call} times"
        await place.verify(number)
        await place.clean()
        await place.verify(rng.randrange(number + 1))
    for number in range(len(place.rounds)):
        await place.verify(number)
    print(f"{len(points)} rounds, {killed} killed: {place.acknowledged} operations acknowledged, none lost; "
          f"{place.orphans} orphaned objects, all of them removed and no other")  # fmt: skip


@pytest.fixture(params=["sqlite+file", "redis+file", "sqlite+s3", "redis+s3"])
def combination(request: pytest.FixtureRequest) -> Iterator[Place]:
    meta, objects = request.param.split("+")
    with ExitStack() as stack:
        url, settings = "", {}
        if meta == "redis":
            server = stack.enter_context(RedisServer(save=True))
            assert isinstance(server, RedisServer)
            url = server.url(1)
        if objects == "s3":
            gateway = stack.enter_context(versitygw())
            Path(gateway.folder, "data", "proof").mkdir(parents=True)
            settings = {
                "storage": "s3", "bucket": f"{endpoint(gateway)}/proof", "access_key": ACCESS_KEY,
                "secret_key": SECRET_KEY,
            }  # fmt: skip
        place = Place(url, **settings)
        yield place
        place.volume.remove()


@pytest.fixture
def sqlite() -> Iterator[Place]:
    place = Place()
    yield place
    place.volume.remove()


def test_every_step_has_a_name() -> None:
    """From the buffer to the commit, in this order."""
    for name in ("slice.id-taken", "block.before-encode", "block.before-put", "block.put", "block.stored",
                 "pack.id-taken", "pack.before-put", "pack.stored", "content.finished", "publish.before-commit",
                 "publish.committed", "write.before-commit", "write.committed"):  # fmt: skip
        assert name in STEPS


@pytest.mark.timeout(200)
async def test_a_writer_that_dies_loses_nothing_and_leaves_what_gc_finds(sqlite: Place, rng: random.Random) -> None:
    await campaign(sqlite, ["block.put", "pack.stored", "write.before-commit", "publish.committed"], rng)


@pytest.mark.heavy
@pytest.mark.timeout(3000)
async def test_a_hundred_deaths(combination: Place, rng: random.Random) -> None:
    """25 rounds each of four volumes; together every step several times."""
    points = (STEPS * (25 // len(STEPS) + 1))[:25]
    rng.shuffle(points)
    await campaign(combination, points, rng)
