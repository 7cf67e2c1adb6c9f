# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a client with --writeback, at any moment and at each step of staging and upload.

Every acknowledged byte is readable at once by the next client on the machine, and after the uploads by one that has no
cache.

`SLUICE_TEST_SEED` repeats a run's choices (not the scheduler's).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from core.chunk.cacheoptions import CacheOptions
from core.chunk.cachescan import iter_staged
from core.errors import FsError
from core.failpoints import POINTS
from core.volume import Volume
from tests.faults.campaign import require_clean
from tests.faults.gateway import TestVolume
from tests.servers.process import wait_for

STEPS = sorted(name for name in POINTS if name.startswith("stage."))


@pytest.fixture
def volume() -> Iterator[TestVolume]:
    # Blocks of 256 KiB: files of several blocks without many bytes. The object store must be as durable as the disk.
    volume = TestVolume(block_size=256 << 10)
    yield volume
    volume.remove()


class Worker:
    """A worker process and what it has said so far."""

    def __init__(
        self, volume: TestVolume, seed: str, *, failpoints: str = "", delay: float = 0, files: int = 1000
    ) -> None:
        self.lines: list[str] = []
        environment = {**os.environ, "SLUICE_FAILPOINTS": failpoints}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.staging_worker", volume.url, str(volume.folder / "cache"),
             "--seed", seed, "--delay", str(delay), "--files", str(files)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip
        self.errors = ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self._draining = threading.Thread(target=self._drain, daemon=True)
        self._draining.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def _drain(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait_for_lines(self, n: int) -> bool:
        """False: it ended before."""
        wait_for(lambda: len(self.lines) >= n or self.process.poll() is not None, 60, f"{n} lines of a worker")
        return len(self.lines) >= n

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        self.process.wait(60)
        self._reading.join()
        self._draining.join()

    def learn(self, files: dict[str, str], doubtful: set[str]) -> None:
        """Every acknowledged file with its hash; those whose removal had begun may be there or not."""
        for line in self.lines:
            word, *rest = line.split()
            if word == "has":
                files[rest[0]] = rest[1]
            elif word == "removing":
                doubtful.add(rest[0])


async def verify(opened: Volume, files: dict[str, str], doubtful: set[str], where: str) -> None:
    gate = asyncio.Semaphore(16)

    async def check(name: str) -> str:
        async with gate:
            try:
                found = await opened.fs.lookup(b"/" + name.encode())
                data = await opened.fs.read(found, 0, found.attr.length)
            except FsError as e:
                missing = e.code == "ENOENT" and name in doubtful
                return "" if missing else f"{where}: {name}: {e.strerror}"
        return "" if hashlib.sha256(data).hexdigest() == files[name] else f"{where}: {name} has other bytes"

    wrong = [text for text in await asyncio.gather(*map(check, files)) if text]
    assert not wrong, "\n".join(wrong[:20])


async def require_everything(volume: TestVolume, files: dict[str, str], doubtful: set[str]) -> int:
    """Locally at once, elsewhere after the uploads. Returns how many blocks had been waiting."""
    cache = str(volume.folder / "cache")
    never = CacheOptions(writeback=True, upload_delay_s=1e6, free_ratio=0.0001)
    opened = await volume.open(cache_dir=cache, cache_size=1 << 30, cache=never)
    try:
        assert opened.slices.staging is not None
        waiting = opened.slices.staging.blocks
        await verify(opened, files, doubtful, "on the machine")
        assert opened.slices.staging.uploaded == 0
    finally:
        await opened.close()
    opened = await volume.open(cache_dir=cache, cache_size=1 << 30, cache=never)
    try:
        assert opened.slices.staging is not None
        await asyncio.wait_for(opened.slices.staging.flush(), 120)
        left = list(iter_staged(str(volume.folder / "cache" / opened.format.uuid), opened.format.hash_prefix))
        assert left == []
    finally:
        await opened.close()
    elsewhere = await volume.open()
    try:
        await verify(elsewhere, files, doubtful, "elsewhere")
    finally:
        await elsewhere.close()
    damaged = volume.folder / "cache" / elsewhere.format.uuid / "damaged"
    assert not damaged.exists(), list(damaged.iterdir())
    return waiting


async def run_rounds(volume: TestVolume, rounds: int, rng: random.Random, *, every: int = 1) -> None:
    """every: so many kills between looks; clients in between take over from one that was killed."""
    files: dict[str, str] = {}
    doubtful: set[str] = set()
    waited = 0
    for number in range(rounds):
        worker = Worker(volume, str(rng.random()), delay=rng.choice((0, 0, 1000)))
        await asyncio.to_thread(worker.wait_for_lines, rng.randint(1, 60))
        await asyncio.to_thread(
            time.sleep, rng.random() * 0.02
        )  # not only when somebody was just told: a random moment
        worker.kill()
        worker.learn(files, doubtful)
        if (number + 1) % every:
            continue
        # Files of earlier rounds are looked at now and then, those of this one always.
        recent = dict(list(files.items())[-400:])
        waited += await require_everything(volume, files if number == rounds - 1 else recent, doubtful)
    print(f"{rounds} kills: {len(files)} files acknowledged, {waited} blocks were waiting")
    assert waited and len(files) > rounds
    await require_clean(volume)


@pytest.mark.timeout(200)
async def test_a_killed_writer_loses_nothing(volume: TestVolume, rng: random.Random) -> None:
    await run_rounds(volume, 20, rng, every=5)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
async def test_a_hundred_killed_writers_lose_nothing(volume: TestVolume, rng: random.Random) -> None:
    await run_rounds(volume, 100, rng)


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.timeout(120)
async def test_killed_at_each_step(volume: TestVolume, rng: random.Random, name: str) -> None:
    files: dict[str, str] = {}
    doubtful: set[str] = set()
    worker = Worker(volume, str(rng.random()), failpoints=f"{name}=kill:{rng.randint(1, 20)}")
    await asyncio.to_thread(worker.wait)
    assert worker.process.returncode == -signal.SIGKILL, worker.errors
    worker.learn(files, doubtful)
    await require_everything(volume, files, doubtful)
    await require_clean(volume)


@pytest.mark.heavy
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.timeout(120)
async def test_failing_at_each_step(volume: TestVolume, rng: random.Random, name: str) -> None:
    """What fails is told, or goes another way; what was acknowledged is there."""
    files: dict[str, str] = {}
    doubtful: set[str] = set()
    worker = Worker(volume, str(rng.random()), failpoints=f"{name}=raise:{rng.randint(1, 8)}", files=4)
    await asyncio.to_thread(worker.wait)
    worker.learn(files, doubtful)
    assert "ready" in worker.lines
    await require_everything(volume, files, doubtful)
    await require_clean(volume)
