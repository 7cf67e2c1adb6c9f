# SPDX-License-Identifier: Apache-2.0
"""dbench: the file operations of a NetBench run, by several clients at once. It stops at the first one that fails."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import Place, sizes
from tests.gateways.fuse.programs.run import run
from tests.servers.process import missing, require

LOADS = [Path("/usr/share/dbench/client.txt"), Path("/usr/local/share/client.txt")]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="plain"),
        pytest.param(["-x"], id="xattrs", marks=pytest.mark.heavy),
        pytest.param(["-S", "-F"], id="synced", marks=pytest.mark.heavy),
    ],
)
@pytest.mark.heavy
@sizes(fast=6, heavy=200)
def test_dbench(place: Place, size: int, options: list[str]) -> None:
    require("dbench", "apt-get install dbench")
    load = next((path for path in LOADS if path.exists()), None)
    if load is None:
        missing("dbench's client.txt", "apt-get install dbench")
    command = ["dbench", "-D", str(place.folder), "-c", str(load), "-t", str(size), *options, "4"]
    report = run(*command, timeout_s=size * 3 + 120).stdout
    assert re.search(r"Throughput [1-9.][0-9.]* MB/sec", report), report[-3000:]
    assert "ERROR" not in report and "failed" not in report, report[-3000:]
