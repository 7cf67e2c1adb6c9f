# SPDX-License-Identifier: Apache-2.0
"""`sluice compact` and `sluice gc --compact` over a real volume (cli §2.5, §2.12)."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from core.meta.records import ROOT, Slice
from core.volume import open_volume
from tests.unit.cli.conftest import Sluice


async def write_in_pieces(url: str, pieces: int) -> dict[str, bytes]:
    """Files /d/f0 … /d/f2 that were written here and there; their contents."""
    rng = random.Random(pieces)
    contents: dict[str, bytes] = {}
    volume = await open_volume(url, jobs=False)
    try:
        d, _ = await volume.meta.mkdir(ROOT, b"d")
        for number in range(3):
            ino, _ = await volume.meta.create(d, b"f%d" % number)
            content = bytearray()
            for _ in range(pieces):
                at, data = rng.randrange(200_000), rng.randbytes(rng.randrange(1, 100_000))
                writer = await volume.slices.writer(len(data))
                await writer.write(data)
                piece = await writer.finish()
                record = Slice(at, piece.id, piece.size, piece.off, piece.length)
                await volume.meta.write_slices(ino, 0, [record], volume.meta.clock_ns())
                content.extend(bytes(max(0, at + len(data) - len(content))))
                content[at : at + len(data)] = data
            contents[f"f{number}"] = bytes(content)
    finally:
        await volume.close()
    return contents


def slices(tmp_path: Path) -> int:
    """Slices that have objects."""
    names = {name.split("_")[0] for _, _, files in os.walk(tmp_path / "data/demo/chunks") for name in files}
    return len(names)


def require_contents(sluice: Sluice, url: str, tmp_path: Path, contents: dict[str, bytes]) -> None:
    assert sluice("cp", url, "-r", ":/d", tmp_path / "out").code == 0
    for name, content in contents.items():
        assert (tmp_path / "out" / name).read_bytes() == content


def test_compact_merges_and_keeps_the_old_for_the_trash_days(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    contents = asyncio.run(write_in_pieces(volume, 6))
    assert slices(tmp_path) == 18
    done = sluice("compact", volume, "/d/f0", "/d", "--output", "json")
    assert done.code == 0, done.err
    assert done.json == {"files": 4, "chunks": 4, "compacted": 3, "merged": 15, "failed": 0}
    assert slices(tmp_path) == 21  # the volume keeps its trash for a day
    require_contents(sluice, volume, tmp_path, contents)
    again = sluice("compact", volume, "/")
    assert again.code == 0 and "compacted 0 of 3 chunks in 3 files" in again.err
    report = sluice("gc", volume, "--output", "json").json
    assert report["leaked"]["objects"] == 0 and report["compacted"]["objects"] > 0


def test_gc_compact_works_on_the_whole_volume(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    assert sluice("config", volume, "--trash-days", 0, "--yes").code == 0
    contents = asyncio.run(write_in_pieces(volume, 4))
    plain = sluice("gc", volume, "--output", "json").json
    assert "compactedChunks" not in plain
    done = sluice("gc", volume, "--compact", "--output", "json")
    assert done.code == 0, done.err
    assert (done.json["compactedChunks"], done.json["mergedSlices"], done.json["leaked"]["objects"]) == (3, 9, 0)
    assert slices(tmp_path) == 3
    assert "compacted: 0 chunks, 0 slices fewer" in sluice("gc", volume, "--compact").out
    require_contents(sluice, volume, tmp_path, contents)


@pytest.mark.parametrize("path, words", [("/missing", "missing"), ("/d/f0/x", "f0")])
def test_one_bad_path_does_not_stop_the_others(sluice: Sluice, volume: str, path: str, words: str) -> None:
    asyncio.run(write_in_pieces(volume, 3))
    done = sluice("compact", volume, path, "/d")
    assert done.code == 1 and words in done.err and "compacted 3 of 3 chunks" in done.err


@pytest.mark.parametrize("point", ["compact.stored", "compact.committed"])
def test_a_compaction_that_dies_leaves_what_gc_finds(sluice: Sluice, volume: str, tmp_path: Path, point: str) -> None:
    assert sluice("config", volume, "--trash-days", 0, "--yes").code == 0
    contents = asyncio.run(write_in_pieces(volume, 6))
    assert sluice("compact", volume, "/d", env={"SLUICE_FAILPOINTS": f"{point}=kill:2"}).code == -9
    assert slices(tmp_path) > 3
    require_contents(sluice, volume, tmp_path, contents)
    now = {"JFS_GC_SKIPPEDTIME": "0"}
    report = sluice("gc", volume, "--output", "json", env=now).json
    assert report["leaked"]["objects"] > 0 or report["unusedSlices"] > 0
    assert sluice("gc", volume, "--delete", "--compact", "--force", env=now).code == 0
    assert slices(tmp_path) == 3
    assert sluice("fsck", volume).code == 0
    report = sluice("gc", volume, "--output", "json", env=now).json
    assert (report["leaked"]["objects"], report["pending"]["objects"], report["miscounted"]) == (0, 0, 0)
