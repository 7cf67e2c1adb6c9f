# SPDX-License-Identifier: Apache-2.0
"""`sluice restore` over a real volume (cli §2.7)."""

from __future__ import annotations

import os

import pytest

from tests.unit.cli.conftest import Sluice

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="restoring from the trash is root's")


def hour(sluice: Sluice, volume: str) -> str:
    (found,) = sluice("restore", volume, "--output", "json").json
    return str(found["hour"])


@needs_root
def test_a_removed_tree_is_looked_at_and_put_back(sluice: Sluice, volume: str) -> None:
    for name in ("d/a", "d/e/b"):
        sluice("cp", volume, "-", f":/{name}", input=name)
    assert sluice("rmr", volume, "/d").code == 0
    when = hour(sluice, volume)
    rebuilt = sluice("restore", volume, when, "--output", "json")
    assert rebuilt.code == 0 and (rebuilt.json[0]["restored"], rebuilt.json[0]["skipped"]) == (3, 1)
    back = sluice("restore", volume, when, "--put-back")
    assert back.code == 0 and "| 1        | 0       | 0         | 0      |" in back.out
    assert sluice("cp", volume, ":/d/e/b", "-").out == "d/e/b"
    assert sluice("check", volume).code == 0


@needs_root
def test_conflicts_are_counted_and_nothing_is_overwritten(sluice: Sluice, volume: str) -> None:
    sluice("cp", volume, "-", ":/f", input="old")
    sluice("rm", volume, "/f")
    sluice("cp", volume, "-", ":/f", input="new")
    when = hour(sluice, volume)
    done = sluice("restore", volume, when, "--put-back", "--output", "json")
    assert done.code == 1 and done.json[0]["conflicts"] == 1
    assert sluice("cp", volume, ":/f", "-").out == "new"


@needs_root
def test_hours_that_do_not_exist(sluice: Sluice, volume: str) -> None:
    missing = sluice("restore", volume, "2001-01-01-00")
    assert missing.code == 1 and "no such hour" in missing.err
    assert "YYYY-MM-DD-HH" in sluice("restore", volume, "today").err
    assert "The trash is empty." in sluice("restore", volume).err
