# SPDX-License-Identifier: Apache-2.0
"""Each combination of encodings: written through the vfs, read back whole by another process, gc and fsck find nothing.

A few combinations run always, all of them (84) in the heavy run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.check import ObjectCheck, check
from core.chunk.naming import parse_block_key
from core.errors import ConfigError
from core.gc import collect
from core.scrub import BlockProof, Scrub
from core.volume import format_volume, open_volume
from tests.conformance.encodings.matrix import CELLS, FEW, PASSPHRASE, Cell, fill, unsupported, volume_format
from tests.faults.campaign import stored, used

CASES = [pytest.param(cell, id=str(cell), marks=() if cell in FEW else pytest.mark.heavy) for cell in CELLS]


async def made(cell: Cell, folder: Path, rng: random.Random) -> tuple[str, dict[str, str]]:
    """A filled volume: its address and what is in it."""
    reason = unsupported(cell)
    if reason:
        pytest.skip(f"{cell.encryption}: {reason}")
    url = f"sqlite3://{folder}/meta.db"
    await format_volume(url, volume_format(cell, folder))
    volume = await open_volume(url, session=False)
    try:
        known = await fill(volume, rng)
    finally:
        await volume.close()
    return url, known


def another_process(url: str, passphrase: str | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "JFS_RSA_PASSPHRASE"}
    if passphrase:
        env["JFS_RSA_PASSPHRASE"] = passphrase
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance.encodings.matrix", url], capture_output=True, text=True, env=env,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("cell", CASES)
async def test_what_is_written_is_read_back_whole(
    cell: Cell, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cell.passphrase:
        monkeypatch.setenv("JFS_RSA_PASSPHRASE", cell.passphrase)
    url, known = await made(cell, tmp_path, rng)
    assert await asyncio.to_thread(another_process, url, cell.passphrase) == known
    volume = await open_volume(url, session=False)
    try:
        keys = await stored(volume)
        assert all(parse_block_key(key) for key in keys)
        if cell.shards:
            assert all(any((tmp_path / f"shard{n}").rglob("*_*_*")) for n in range(cell.shards))
        volume.meta.clock_ns = lambda: time.time_ns() + 10**9
        report = await collect(volume, delete=True, compact=True, min_age_s=0)
        assert not report.failures
        assert (report.leaked.objects, report.skipped.objects, report.miscounted) == (0, 0, 0)
        proof = BlockProof(volume.objects, volume.format)
        assert await check(volume.meta, objects=ObjectCheck(volume.objects, proof), confirm=False) == []
        assert await stored(volume) == await used(volume)
        assert (await Scrub(volume).run()).faults == {}
        assert (await Scrub(volume).run()).proven == len(await stored(volume))
    finally:
        await volume.close()
    assert await asyncio.to_thread(another_process, url, cell.passphrase) == known, "and after a compaction"


async def test_a_key_needs_its_pass_phrase(tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("none", "gcm-pkcs8-phrase", False, 0)
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", PASSPHRASE)
    url, _ = await made(cell, tmp_path, rng)
    monkeypatch.delenv("JFS_RSA_PASSPHRASE")
    with pytest.raises(ConfigError, match="set JFS_RSA_PASSPHRASE"):
        await open_volume(url, session=False)
    monkeypatch.setenv("JFS_RSA_PASSPHRASE", "another one")
    with pytest.raises(ConfigError, match="wrong pass phrase") as caught:
        await open_volume(url, session=False)
    assert "another one" not in str(caught.value)


async def test_an_object_of_another_key_is_told_as_such(tmp_path: Path, rng: random.Random) -> None:
    """Two volumes of two keys; an object of one put into the other."""
    for name in "ab":
        (tmp_path / name).mkdir()
    ours, _ = await made(Cell("none", "gcm-pkcs8", False, 0), tmp_path / "a", rng)
    theirs, _ = await made(Cell("none", "gcm-pkcs1", False, 0), tmp_path / "b", rng)
    volume, other = await open_volume(ours, session=False), await open_volume(theirs, session=False)
    try:
        key = sorted(await stored(volume) & await stored(other))[0]
        path = tmp_path / "a/objects/matrix" / key
        path.write_bytes((tmp_path / "b/objects/matrix" / key).read_bytes())
        proof = BlockProof(volume.objects, volume.format)
        found = await check(volume.meta, objects=ObjectCheck(volume.objects, proof), confirm=False)
        assert found and all(f.kind == "object-data" and "another RSA key" in f.stored for f in found)
    finally:
        await volume.close()
        await other.close()


async def test_reading_again_unwraps_no_key_twice(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    from core.object import encrypted

    url, known = await made(Cell("none", "gcm-pkcs8", False, 0), tmp_path, rng)
    volume = await open_volume(url, session=False)
    try:
        envelope = volume.objects._envelope  # type: ignore[attr-defined]
        keys = sorted(await stored(volume))
        for _ in range(3):
            for key in keys:
                await volume.objects.get(key)
        assert len(envelope._keys) == len(keys)
        monkeypatch.setattr(encrypted, "MOST_KEYS", 5)
        for key in keys:
            envelope._keys.clear()
            await volume.objects.get(key)
        for key in keys[:20]:
            await volume.objects.get(key)
        assert len(envelope._keys) <= 5 and known
    finally:
        await volume.close()
