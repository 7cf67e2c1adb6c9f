# SPDX-License-Identifier: Apache-2.0
"""`sluice rmr` over a real volume (cli §6.5)."""

from __future__ import annotations

from tests.unit.cli.conftest import Sluice


def test_trees_go_and_the_rest_stays(sluice: Sluice, volume: str) -> None:
    for name in ("a/b/c/1", "a/2", "x/3", "4"):
        sluice("cp", volume, "-", f":/{name}", input=name)
    done = sluice("rmr", volume, "/a", "4", "--threads", 3, "--output", "json")
    assert done.code == 0 and done.json == {"removed": 6, "failed": 0}
    assert sluice("ls", volume).out == "x/\n"
    assert len(sluice("ls", volume, "-R", "/.trash", "--output", "json").json) == 7
    emptied = sluice("rmr", volume, "/.trash")
    assert emptied.code == 0 and "removed 6" in emptied.err
    assert sluice("rmr", volume, "/x", "--skip-trash").code == 0
    assert sluice("check", volume, "--objects").code == 0


def test_rmr_refuses(sluice: Sluice, volume: str) -> None:
    assert "root of the volume" in sluice("rmr", volume, "/").err
    missing = sluice("rmr", volume, "/nothing")
    assert missing.code == 1 and "no such name" in missing.err
    assert sluice("rmr", volume, "/a", "--threads", 300).code != 0
