# SPDX-License-Identifier: Apache-2.0
"""`sluice check` and `sluice fsck` over a damaged volume."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tests.unit.cli.conftest import Sluice


def damage(path: Path, *statements: str) -> None:
    with sqlite3.connect(path / "meta.db") as db:
        for statement in statements:
            db.execute(statement)


def content(path: Path) -> list[str]:
    with sqlite3.connect(path / "meta.db") as db:
        return list(db.iterdump())


def test_check_proves_and_changes_nothing_fsck_repairs(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    sluice("cp", volume, "-", ":/d/f", input="x")
    assert sluice("check", volume, "--objects").code == 0
    damage(
        tmp_path,
        "UPDATE jfs_counter SET value = value + 4096 WHERE name = 'usedSpace'",
        "UPDATE jfs_node SET nlink = 7 WHERE inode != 1 AND type = 2",
        "UPDATE jfs_dir_stats SET used_inodes = 5 WHERE inode != 1",
    )
    before = content(tmp_path)
    found = sluice("check", volume, "--output", "json")
    assert found.code == 1
    assert {f["kind"]: f["path"] for f in found.json["found"]} == {"counters": "", "nlink": "/d", "dirstat": "/d"}
    assert content(tmp_path) == before
    text = sluice("check", volume)
    assert "/d: a link count differs" in text.out and "`sluice fsck --repair` can set 3 of them right" in text.err
    here = sluice("fsck", volume, "--path", "/d", "--recursive", "--output", "json")
    assert here.code == 1 and len(here.json["found"]) == 2
    assert sluice("fsck", volume, "--path", "/elsewhere").code == 0
    mended = sluice("fsck", volume, "--repair", "--output", "json")
    assert mended.code == 0 and len(mended.json["repaired"]) == 3 and mended.json["found"] == []
    assert sluice("check", volume).err.endswith("Nothing is wrong.\n")


def test_lost_attributes_of_directories_get_the_mode_that_was_asked_for(
    sluice: Sluice, volume: str, tmp_path: Path
) -> None:
    sluice("cp", volume, "-", ":/d/f", input="content")
    damage(tmp_path, "DELETE FROM jfs_node WHERE inode != 1 AND type = 2")
    assert sluice("check", volume).code == 1
    assert "octal" in sluice("fsck", volume, "--repair", "--repair-dir-mode", "9").err
    assert sluice("fsck", volume, "--repair", "--repair-dir-mode", "0700").code == 0
    assert sluice("cp", volume, ":/d/f", "-").out == "content"
    assert "drwx------" in sluice("ls", volume, "-l").out
