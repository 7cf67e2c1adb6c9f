# SPDX-License-Identifier: Apache-2.0
"""Commands on a mount point: info, summary, clone, rmr, compact, warmup, stats, profile, debug (cli §2, §3, §6)."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import pytest

from tests.gateways.fuse.internal.conftest import sluice
from tests.gateways.fuse.mounts import Mount


@pytest.fixture
def tree(folder: Path) -> Path:
    top = folder / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_bytes(b"x" * 5000)
    (top / "sub" / "b").write_bytes(b"y" * 100_000)
    return top


def test_info(mount: Mount, tree: Path) -> None:
    os.link(tree / "a", tree / "sub" / "link")
    (found,) = sluice("info", tree / "a", "--output", "json").json
    inner = f"/{tree.relative_to(mount.point)}"
    assert found["inode"] == os.stat(tree / "a").st_ino and found["length"] == 5000 and found["type"] == "file"
    assert found["paths"] == [f"{inner}/a", f"{inner}/sub/link"]
    assert found["objects"][0]["objectName"].startswith("suite/chunks/")
    (raw,) = sluice("info", "--raw", tree / "a", "--output", "json").json
    assert raw["slices"][0]["length"] == 5000
    (below,) = sluice("info", "-r", tree, "--output", "json").json
    assert (below["files"], below["dirs"], below["length"]) == (3, 2, 110_000)
    (by_number,) = sluice("info", "-i", found["inode"], "--output", "json", cwd=tree).json
    assert by_number["paths"] == found["paths"]
    several = sluice("info", tree / "a", tree / "nothing", tree / "sub")
    assert several.code == 1 and several.err.count("error:") == 1 and "No such file" in several.err
    assert several.out.count("inode:") == 2
    # The same through the database.
    (direct,) = sluice("info", mount.meta_url, f"{inner}/a", "--output", "json").json
    assert {**direct, "asked": ""} == {**found, "asked": ""}


def test_summary(tree: Path) -> None:
    rows = sluice("summary", tree, "--csv", "--strict").out.splitlines()
    assert rows == [
        "PATH,SIZE,DIRS,FILES", f"{tree}/,118784,2,2", f"{tree}/sub/,106496,1,1", f"{tree}/sub/b,102400,0,1",
        f"{tree}/a,8192,0,1",
    ]  # fmt: skip
    assert "PATH" in sluice("summary", tree, "-d", 1, cwd=tree.parent).out
    assert sluice("summary", tree / "none").code == 1


def test_clone(tree: Path) -> None:
    copy = tree.parent / "copy"
    made = sluice("clone", tree, copy, "--output", "json")
    assert made.code == 0 and made.json["nodes"] == 4 and made.json["inode"] == os.stat(copy).st_ino
    assert (copy / "sub" / "b").read_bytes() == b"y" * 100_000
    again = sluice("clone", tree, copy)
    assert again.code == 1 and "exists" in again.err
    (tree / "fresh").write_bytes(b"z" * 70_000)  # not flushed by anybody but the close
    into = sluice("clone", f"{tree}/fresh", f"{copy}/")
    assert into.code == 0 and (copy / "fresh").read_bytes() == b"z" * 70_000
    os.chmod(tree / "a", 0o4711)
    assert sluice("clone", "-p", tree / "a", copy / "kept").code == 0
    assert os.stat(copy / "kept").st_mode & 0o7777 == 0o4711
    assert "not below a mount" in sluice("clone", tree / "a", "/dev/x").err


def test_rmr(mount: Mount, tree: Path) -> None:
    done = sluice("rmr", tree, tree.parent / "none", "--output", "json")
    assert done.code == 1 and done.json == {"removed": 4, "failed": 1}
    assert "tree" not in os.listdir(tree.parent)
    assert "root of a mount" in sluice("rmr", mount.point).err


def test_compact(tree: Path) -> None:
    for number in range(4):
        with open(tree / "pieces", "ab") as file:
            file.write(bytes([number]) * 1000)
            file.flush()
            os.fsync(file.fileno())
    done = sluice("compact", tree, "--output", "json")
    assert done.code == 0 and done.json["failed"] == 0
    (raw,) = sluice("info", "--raw", tree / "pieces", "--output", "json").json
    assert len(raw["slices"]) == 1
    assert (tree / "pieces").read_bytes() == b"".join(bytes([n]) * 1000 for n in range(4))


def test_warmup(tree: Path, tmp_path: Path) -> None:
    (tree / "big").write_bytes(os.urandom(9 << 20))
    assert sluice("warmup", "--evict", tree).code == 0
    cold = sluice("warmup", "--check", tree, "--output", "json").json
    assert cold["files"] == 3 and cold["missing"] == cold["bytes"] > 9 << 20
    names = tmp_path / "list"
    names.write_text(f"{tree}/big\n\n{tree}/sub\n")
    done = sluice("warmup", "-f", names, "-p", 4)
    assert done.code == 0 and "2 files" in done.out
    warm = sluice("warmup", "--check", tree)
    assert "Location" in warm.out and "99.9%" in warm.out
    assert sluice("warmup", "-b", tree).code == 0
    assert "nothing to do" in sluice("warmup").err


def test_warmup_of_a_volume_without_a_mount(mount: Mount, tree: Path, tmp_path: Path) -> None:
    inner = f"/{tree.relative_to(mount.point)}"
    cache = ("--cache-dir", tmp_path / "cache", "--cache-size", "1G")
    done = sluice("warmup", mount.meta_url, inner, *cache, "--output", "json")
    assert done.code == 0 and done.json["files"] == 2 and done.json["missing"] == done.json["bytes"] == 105_000
    again = sluice("warmup", mount.meta_url, inner, *cache, "--check", "--output", "json").json
    assert again["missing"] == 0 and again["locations"] == {str(tmp_path / "cache"): 105_000}
    assert "--cache-dir" in sluice("warmup", mount.meta_url, inner).err


def test_stats(mount: Mount) -> None:
    done = sluice("stats", mount.point, "-c", 2, "--interval", "100ms", "--schema", "tufmcog", "-l", 1)
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) == 4 and "fuse" in lines[0] and "txn" in lines[1]
    assert len({line.count("|") for line in lines[1:]}) == 1
    document = json.loads(sluice("stats", mount.point, "-c", 1, "--interval", "100ms", "--output", "json").out)
    assert set(document) == {"usage", "fuse", "meta", "blockcache", "object"} and document["fuse"]["ops"] > 0
    assert "not below a mount" in sluice("stats", "/proc/self").err
    assert "root of a mount" in sluice("stats", mount.point / ".trash").err


def test_profile_of_a_log_file(mount: Mount, folder: Path, tmp_path: Path) -> None:
    fd = os.open(mount.point / ".accesslog", os.O_RDONLY)
    (folder / "f").write_bytes(b"x")
    os.stat(folder / "f")
    data = b""
    while b" release " not in data:
        data += os.read(fd, 1 << 17)
    os.close(fd)
    log = tmp_path / "log"
    log.write_bytes(data)
    document = sluice("profile", log, "--interval", 0, "--output", "json").json
    assert {"create", "write", "flush"} <= {row["operation"] for row in document["operations"]}
    nobody = sluice("profile", log, "--interval", 0, "-u", 4711, "--output", "json").json
    assert nobody["operations"] == []


def test_debug(mount: Mount, tmp_path: Path) -> None:
    done = sluice(
        "debug", mount.point, "--out-dir", tmp_path, "--stats-sec", "100ms", "--trace-sec", "1s", "--profile-sec", 0,
        "--output", "json",
    )  # fmt: skip
    assert done.code == 0, done.err
    with zipfile.ZipFile(done.json["archive"]) as archive:
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"system.txt", "config.json", "stats-1.txt", "stats-2.txt", "accesslog.txt", "process-status.txt"} <= names
