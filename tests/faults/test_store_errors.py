# SPDX-License-Identifier: Apache-2.0
"""A bad way to the object store under load: right data or a clear error, never wrong data, and all is well afterwards.

16 tasks write files of known content and read each other's through a proxy that answers with errors, resets, hangs,
cuts bodies short, changes ETags and bytes. What a file system on plain blocks can and can't notice:

- an object that comes whole is checked against the CRC-32C that was stored with it (S3 metadata), and against its
  length; a range request carries no checksum, so on a volume without compression or encryption a changed byte in the
  answer to a range request goes through unless TLS stops it. `flip-range` is therefore tested where objects are always
  fetched whole (compression), and not on plain volumes;
- an ETag isn't looked at: it proves nothing about the bytes with server-side encryption or multipart uploads.
"""

from __future__ import annotations

import asyncio
import errno
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import FsError
from core.meta.format import new_format
from core.meta.records import ROOT
from core.vfs.vfs import VFS
from core.volume import Volume, format_volume, open_volume
from tests.servers.faulty_http import FaultyHttp
from tests.servers.process import Server
from tests.servers.versitygw import ACCESS_KEY, SECRET_KEY, endpoint, versitygw

TASKS = 16
BLOCK = 256 << 10
#: About one request in ten goes wrong.
FAULTS = {
    "500": 0.02, "503": 0.02, "late": 0.01, "reset": 0.02, "cut": 0.01, "hang": 0.003, "short": 0.01, "flip": 0.02,
    "etag": 0.01, "slow": 0.01,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with versitygw("--keep-alive") as running:
        (running.folder / "data" / "bucket").mkdir()
        yield running


class Hurried:
    """A clock on which pauses between attempts are short."""

    def time(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


@asynccontextmanager
async def opened(server: Server, proxy: FaultyHttp, folder: Path, name: str, **settings: Any) -> AsyncIterator[Volume]:
    meta_url = f"sqlite3://{folder}/{name}.db"
    fmt = new_format(
        name, storage="s3", bucket=f"{endpoint(server)}/bucket", access_key=ACCESS_KEY, secret_key=SECRET_KEY,
        trash_days=0, block_size=BLOCK, **settings,
    )  # fmt: skip
    await format_volume(meta_url, fmt)
    volume = await open_volume(
        meta_url, bucket=f"http://127.0.0.1:{proxy.port}/bucket", jobs=False, get_timeout_s=1, put_timeout_s=1,
        io_retries=4, buffer_size=64 << 20,
    )  # fmt: skip
    volume.slices._transfer._clock = Hurried()
    try:
        yield volume
    finally:
        await volume.close()


def content(seed: int, length: int) -> bytes:
    return random.Random(seed).randbytes(length // 2) + bytes(length - length // 2)


class Load:
    """Tasks that write and read; `good` are the files whose flush said that they are stored."""

    def __init__(self, volume: Volume, seed: int) -> None:
        self.volume = volume
        self.vfs = VFS(volume.meta, volume.slices)
        self.seed = seed
        self.good: dict[int, tuple[int, int]] = {}  # inode -> seed and length of its content
        self.counts: Counter[str] = Counter()
        self.complaints: set[str] = set()

    async def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for number in range(TASKS):
                group.create_task(self._task(number, end))

    async def _task(self, number: int, end: float) -> None:
        rng = random.Random(self.seed * 100 + number)
        turn = 0
        while time.monotonic() < end:
            turn += 1
            await self._write(rng, b"%d-%d-%d" % (self.seed, number, turn))
            for _ in range(3):
                if self.good:
                    await self._read(rng, rng.choice(list(self.good)))

    async def _write(self, rng: random.Random, name: bytes) -> None:
        seed, length = rng.randrange(1 << 30), int(2 ** rng.uniform(6, 21))
        data = content(seed, length)
        handle = await self.vfs.create(ROOT, name)
        try:
            step = rng.choice([4 << 10, 128 << 10, 1 << 20])
            for at in range(0, length, step):
                await handle.write(at, data[at : at + step])
            await handle.flush()
        except FsError as e:
            self._refused("write", e)
        else:
            self.counts["written"] += 1
            self.good[handle.ino] = (seed, length)
        finally:
            await handle.release()

    async def _read(self, rng: random.Random, ino: int) -> None:
        seed, length = self.good[ino]
        data = content(seed, length)
        handle = await self.vfs.open(ino)
        try:
            at = rng.choice([0, rng.randrange(length)])
            step = rng.choice([4 << 10, 64 << 10, 1 << 20])
            while at < length:
                found = await handle.read(at, step)
                # The one thing that must never happen:
                assert found == data[at : at + step], f"inode {ino}: wrong bytes at {at}, seed {self.seed}"
                at += len(found)
            self.counts["read"] += 1
        except FsError as e:
            self._refused("read", e)
        finally:
            await handle.release()

    def _refused(self, what: str, error: FsError) -> None:
        """A refusal has a number and says which object of which store, and why."""
        assert error.errno == errno.EIO, error
        text = str(error)
        assert "chunks/" in text and "slice" in text, text
        self.counts[f"{what} refused"] += 1
        self.complaints.add(text)

    async def settle(self) -> None:
        """All that was acknowledged is there, byte for byte, and new files are taken: no restart needed."""
        for ino, (seed, length) in self.good.items():
            handle = await self.vfs.open(ino)
            assert await handle.read(0, length + 1) == content(seed, length)
            await handle.release()
        before = self.counts["write refused"]
        for i in range(TASKS):
            await self._write(random.Random(i), b"after-%d-%d" % (self.seed, i))
        assert self.counts["write refused"] == before
        await self.vfs.close()


async def under_fire(server: Server, folder: Path, seconds: float, seed: int, **settings: Any) -> Load:
    faults = dict(FAULTS)
    if settings.get("compression", "none") != "none":
        faults["flip-range"] = 0.02
    print(f"seed {seed}")
    async with (
        FaultyHttp(server.port, faults, seed=seed, slow_s=0.3) as proxy,
        opened(server, proxy, folder, f"errors-{seed}", **settings) as volume,
    ):
        load = Load(volume, seed)
        await load.run(seconds)
        print(dict(load.counts), dict(proxy.struck), proxy.requests)
        assert load.counts["written"] > 10 and load.counts["read"] > 10
        assert {"500", "503", "reset"} <= set(proxy.struck)
        proxy.faults.clear()
        volume.slices.reader._hot._shrink(1 << 40)  # else many answers would come from memory
        await load.settle()
        volume.slices.reader._hot._shrink(1 << 40)
        assert volume.slices.budget.used == 0
    return load


@pytest.mark.parametrize("compression", ["none", "lz4"])
async def test_a_bad_way_to_the_store_gives_right_data_or_an_error(
    server: Server, tmp_path: Path, compression: str
) -> None:
    await under_fire(server, tmp_path, 2, 1 if compression == "none" else 2, compression=compression)


@pytest.mark.heavy
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("seed", [11, 12])
async def test_the_same_for_a_minute(server: Server, tmp_path: Path, compression: str, seed: int) -> None:
    await under_fire(server, tmp_path, 30, seed + len(compression) * 100, compression=compression)


async def test_a_store_that_is_gone_is_told_with_cause_and_next_step(server: Server, tmp_path: Path) -> None:
    async with (
        FaultyHttp(server.port, {}, seed=0) as proxy,
        opened(server, proxy, tmp_path, "gone") as volume,
    ):
        vfs = VFS(volume.meta, volume.slices)
        handle = await vfs.create(ROOT, b"file")
        proxy.faults["503"] = 1.0
        await handle.write(0, b"x" * 100)
        with pytest.raises(FsError) as told:
            await handle.flush()
        text = str(told.value)
        for part in ("chunks/", "s3://", "bucket", "503", "SlowDown", "5 attempts", "write again"):
            assert part in text, (part, text)
        # Sticky (§7.6) until the last writer is gone, then everything works again.
        proxy.faults.clear()
        with pytest.raises(FsError):
            await handle.write(0, b"y")
        await handle.release()
        again = await vfs.open(handle.ino, 2)
        await again.write(0, b"z" * 10)
        await again.flush()
        assert await again.read(0, 10) == b"z" * 10
        await again.release()
        await vfs.close()
