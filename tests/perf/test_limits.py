# SPDX-License-Identifier: Apache-2.0
"""Bandwidth limits limit: up and down, one stream and sixteen, within a tenth of what was asked for.

A limit in Mbit/s is 0.85 of that in bytes (data-path §10). Too fast is always wrong; too slow may be the machine, so
the lower bound of the short version is wide.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from core.meta.format import new_format
from core.meta.records import ROOT
from core.object.limited import bytes_per_second
from core.vfs.vfs import VFS
from core.volume import format_volume, open_volume

MIB = 1 << 20
#: What a bucket that was full lets through at once: a tenth of a second's worth.
BURST_S = 0.1


async def measured(folder: Path, mbps: float, seconds: float, streams: int, compression: str) -> tuple[float, float]:
    """Rates up and down, as parts of the limit."""
    meta_url = f"sqlite3://{folder}/meta.db"
    bucket = f"{folder}/objects"
    await format_volume(meta_url, new_format("limits", bucket=bucket, block_size=MIB, compression=compression))
    rate = bytes_per_second(mbps)
    size = int(rate * seconds / streams) // MIB * MIB or MIB
    data = bytes(range(256)) * 4096 if compression == "none" else os.urandom(MIB)
    volume = await open_volume(meta_url, jobs=False, upload_limit=mbps, download_limit=mbps)
    vfs = VFS(volume.meta, volume.slices)

    async def write(i: int) -> int:
        handle = await vfs.create(ROOT, b"%d" % i)
        for at in range(0, size, MIB):
            await handle.write(at, data)
        await handle.flush()
        await handle.release()
        return handle.ino

    async def read(ino: int) -> None:
        handle = await vfs.open(ino)
        for at in range(0, size, 256 << 10):
            assert len(await handle.read(at, 256 << 10)) == 256 << 10
        await handle.release()

    async def both() -> tuple[float, float]:
        total = size * streams
        began = time.perf_counter()
        inos = await asyncio.gather(*map(write, range(streams)))
        up = time.perf_counter() - began
        began = time.perf_counter()
        await asyncio.gather(*map(read, inos))
        down = time.perf_counter() - began
        return total / (up + BURST_S) / rate, total / (down + BURST_S) / rate

    try:
        return await both()
    finally:
        await vfs.close()
        await volume.close()


@pytest.mark.parametrize("streams", [1, 16])
async def test_limits_hold(tmp_path: Path, streams: int) -> None:
    up, down = await measured(tmp_path, 160, 1.0, streams, "none")
    print(f"{streams} streams: up {up:.2f}, down {down:.2f} of the limit")
    assert 0.5 < up <= 1.1 and 0.5 < down <= 1.1


@pytest.mark.heavy
@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("streams", [1, 16])
async def test_limits_hold_within_a_tenth(tmp_path: Path, streams: int, compression: str) -> None:
    up, down = await measured(tmp_path, 400, 6.0, streams, compression)
    print(f"{streams} streams, {compression}: up {up:.2f}, down {down:.2f} of the limit")
    assert 0.9 <= up <= 1.1 and 0.9 <= down <= 1.1
