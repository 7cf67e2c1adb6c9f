# SPDX-License-Identifier: Apache-2.0
"""`sluice quota` over a real volume (cli §2.3)."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Process, Sluice


def put(sluice: Sluice, volume: str, path: str, text: str = "x") -> None:
    done = sluice("cp", volume, "-", f":{path}", input=text)
    assert done.code == 0, done.err


def test_a_quota_is_set_shown_enforced_and_deleted(sluice: Sluice, volume: str) -> None:
    put(sluice, volume, "/d/a")
    made = sluice("quota", "set", volume, "--path", "/d", "--inodes", 2, "--capacity=1G", "--output", "json")
    (row,) = made.json
    assert row == {
        "path": "/d", "inode": row["inode"], "maxSpace": 1 << 30, "maxInodes": 2, "usedSpace": 4096, "usedInodes": 1,
    }  # fmt: skip
    put(sluice, volume, "/d/b")
    refused = sluice("cp", volume, "-", ":/d/c", input="x")
    assert refused.code == 1 and "quota of directory" in refused.err and "sluice quota set" in refused.err
    shown = sluice("quota", "get", volume, "--path", "/d").out
    assert "| /d   | 1.00 GiB | 8.00 KiB | 0%   | 2      | 2     | 100%  |" in shown
    assert sluice("quota", "set", volume, "--path", "/d", "--inodes", 0).code == 0
    put(sluice, volume, "/d/c")
    assert sluice("quota", "delete", volume, "--path", "/d").code == 0
    assert "has no quota" in sluice("quota", "get", volume, "--path", "/d").err
    assert "There are no quotas" in sluice("quota", "list", volume).err


def test_directories_are_made_only_when_asked(sluice: Sluice, volume: str) -> None:
    missing = sluice("quota", "set", volume, "--path", "/a/b", "--inodes", 5)
    assert missing.code == 1 and "--create" in missing.err
    assert sluice("quota", "set", volume, "--path", "/a/b", "--inodes", 5, "--create").code == 0
    assert sluice("ls", volume, "/a").out == "b/\n"


def test_users_and_groups_are_counted_when_the_first_gets_a_quota(sluice: Sluice, volume: str) -> None:
    put(sluice, volume, "/a")
    set_ = sluice("quota", "set", volume, "--gid", 0, "--inodes", 100, "--output", "json")
    assert set_.json[0]["gid"] == 0 and set_.json[0]["usedInodes"] == 1, set_.err
    assert sluice("config", volume).json["UserGroupQuota"] is True
    assert sluice("quota", "set", volume, "--uid", 7, "--capacity", 1).code == 0
    mixed = sluice("quota", "list", volume).out
    assert "Path/ID" in mixed and "uid:7" in mixed and "gid:0" in mixed


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("set", "--inodes", 1), "needs --path, --uid or --gid"),
        (("set", "--path", "/", "--uid", 1, "--inodes", 1), "exclude each other"),
        (("set", "--uid", 0, "--inodes", 1), "root can't have a quota"),
        (("set", "--path", "/"), "needs --capacity or --inodes"),
        (("set", "--path", "/.trash", "--inodes", 1), "trash"),
        (("get", "--uid", 5), "has no quota"),
    ],
)
def test_what_makes_no_sense_is_refused(sluice: Sluice, volume: str, arguments: tuple[object, ...], words: str) -> None:
    refused = sluice("quota", arguments[0], volume, *arguments[1:])
    assert refused.code == 1 and words in refused.err


def test_wrong_usage_is_found_and_repaired(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    put(sluice, volume, "/d/a")
    sluice("quota", "set", volume, "--path", "/d", "--inodes", 5)
    assert "The stored usage is right." in sluice("quota", "check", volume, "--path", "/d", "--strict").err
    with sqlite3.connect(tmp_path / "meta.db") as db:
        db.execute("UPDATE jfs_dir_quota SET used_space = 1, used_inodes = 9")
    found = sluice("quota", "check", volume, "--output", "json")
    assert found.code == 1
    assert [(r["path"], r["usedInodes"], r["countedInodes"], r["countedSpace"]) for r in found.json] == [
        ("/d", 9, 1, 4096)
    ]
    assert "quota check --repair" in sluice("quota", "check", volume).err
    repaired = sluice("quota", "check", volume, "--repair")
    assert repaired.code == 0 and "repaired" in repaired.out
    assert sluice("quota", "check", volume).code == 0


def test_a_client_at_work_learns_of_a_new_quota_before_set_returns(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    put(sluice, volume, "/bucket/a")
    env = {"MINIO_ROOT_USER": "admin", "MINIO_ROOT_PASSWORD": "password"}
    with Process("gateway", volume, "127.0.0.1:{port}", "--heartbeat", "1s", env=env):
        done = sluice("quota", "set", volume, "--path", "/bucket", "--inodes", 50)
        assert done.code == 0 and "waiting until" in done.err, done.err
        assert "no sign" not in done.err
