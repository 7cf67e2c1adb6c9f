# SPDX-License-Identifier: Apache-2.0
"""`sluice clone` over a real volume (cli §2.9)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from core.volume import open_volume
from tests.unit.cli.conftest import Sluice


@pytest.fixture
def filled(sluice: Sluice, volume: str, tmp_path: Path) -> str:
    """A volume with /set/a, /set/b/c and an empty /backup."""
    (tmp_path / "set/b").mkdir(parents=True)
    (tmp_path / "set/a").write_bytes(b"a" * 300_000)
    (tmp_path / "set/b/c").write_bytes(b"c")
    (tmp_path / "set/a").chmod(0o604)
    os.utime(tmp_path / "set/a", (1, 1_500_000_000))
    assert sluice("cp", volume, "-rp", tmp_path / "set", ":/set").code == 0
    (tmp_path / "backup").mkdir()
    assert sluice("cp", volume, "-r", tmp_path / "backup", ":/backup").code == 0
    return volume


def objects(tmp_path: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(tmp_path / "data/demo/chunks"))


def test_a_tree_is_cloned_without_new_objects(sluice: Sluice, filled: str, tmp_path: Path) -> None:
    before = objects(tmp_path)
    made = sluice("clone", filled, "/set", "/copy", "--output", "json")
    assert made.code == 0, made.err
    assert made.json["path"] == "/copy" and made.json["nodes"] == 4 and made.json["inode"] > 1
    assert objects(tmp_path) == before
    assert sluice("cp", filled, "-r", ":/copy", tmp_path / "out").code == 0
    assert (tmp_path / "out/a").read_bytes() == b"a" * 300_000
    assert (tmp_path / "out/b/c").read_bytes() == b"c"
    assert sluice("rm", filled, "-r", "--skip-trash", "/set").code == 0
    assert objects(tmp_path) == before
    assert sluice("fsck", filled).code == 0
    assert sluice("rm", filled, "-r", "--skip-trash", "/copy").code == 0
    assert objects(tmp_path) == 0


def test_preserve_and_a_slash_at_the_end(sluice: Sluice, filled: str, tmp_path: Path) -> None:
    assert sluice("clone", filled, "--preserve", "/set/a", "/backup/").code == 0
    assert sluice("clone", filled, "/set/a", "/backup/now").code == 0
    assert sluice("cp", filled, "-rp", ":/backup", tmp_path / "out").code == 0
    kept, now = (tmp_path / "out/a").stat(), (tmp_path / "out/now").stat()
    assert (kept.st_mtime, kept.st_mode & 0o777) == (1_500_000_000, 0o604)
    assert now.st_mtime > 1_700_000_000 and now.st_mode & 0o777 == 0o604 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    "source, target, words",
    [
        ("/set", "/backup", "exists"),
        ("/set", "/set/b/inside", "can't be cloned into itself"),
        ("/", "/all", "root of the volume can't be cloned"),
        ("/missing", "/x", "missing"),
        ("/set", "/nowhere/x", "nowhere"),
        ("/set/a", "/.trash/x", "trash"),
    ],
)
def test_what_is_refused_says_why(sluice: Sluice, filled: str, source: str, target: str, words: str) -> None:
    refused = sluice("clone", filled, source, target)
    assert refused.code == 1 and words in refused.err, refused.err
    assert refused.err.count("\n") == 1


async def abandoned(url: str) -> int:
    """Remove trees that a clone left behind, as the hourly job does a day later."""
    volume = await open_volume(url, jobs=False)
    try:
        return await volume.meta.clean_detached(-60)
    finally:
        await volume.close()


@pytest.mark.parametrize(
    "point, left", [("clone.started", 1), ("clone.batch", 1), ("clone.built", 1), ("clone.attached", 0)]
)
def test_a_clone_that_dies_is_whole_or_invisible(
    sluice: Sluice, filled: str, tmp_path: Path, point: str, left: int
) -> None:
    before = objects(tmp_path)
    assert sluice("clone", filled, "/set", "/copy", env={"SLUICE_FAILPOINTS": f"{point}=kill"}).code == -9
    assert (sluice("ls", filled, "/copy").code == 0) == (left == 0)
    assert sluice("fsck", filled).code == 0
    assert asyncio.run(abandoned(filled)) == left
    assert objects(tmp_path) == before
    assert sluice("fsck", filled).code == 0
    now = {"JFS_GC_SKIPPEDTIME": "0"}
    report = sluice("gc", filled, "--output", "json", env=now).json
    assert (report["detached"], report["leaked"]["objects"], report["miscounted"]) == (0, 0, 0)
    assert "counters" not in report or report["counters"] is None
    assert sluice("cp", filled, "-r", ":/set", tmp_path / "out").code == 0
    assert (tmp_path / "out/b/c").read_bytes() == b"c"
