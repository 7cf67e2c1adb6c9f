# SPDX-License-Identifier: Apache-2.0
"""`sluice summary` over a real volume (cli §3)."""

from __future__ import annotations

from tests.unit.cli.conftest import Sluice


def test_the_largest_come_first_and_the_rest_is_summed_up(sluice: Sluice, volume: str) -> None:
    for number in range(4):
        sluice("cp", volume, "-", f":/d/f{number}", input="x" * (number * 10_000 + 1))
    sluice("cp", volume, "-", ":/small", input="x")
    text = sluice("summary", volume, "-e", 2).out
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert [line[0] for line in lines] == ["PATH", "/", "/d/", "/d/f3", "/d/f2", "/d/...", "/small"]
    assert lines[1][2:] == ["2", "5"] and lines[5][3] == "2"
    rows = sluice("summary", volume, "/d", "--csv", "--strict", "-d", 1).out.splitlines()
    assert rows[0] == "PATH,SIZE,DIRS,FILES"
    assert rows[1:3] == ["/d/,73728,1,4", "/d/f3,32768,0,1"]
    document = sluice("summary", volume, "/d", "--output", "json", "--depth", 0).json
    assert document == {"path": "/d", "type": "dir", "length": 60_004, "size": 73728, "files": 4, "dirs": 1}


def test_a_file_and_a_missing_path(sluice: Sluice, volume: str) -> None:
    sluice("cp", volume, "-", ":/f", input="12345")
    assert sluice("summary", volume, "/f", "--output", "json").json["length"] == 5
    assert sluice("summary", volume, "/nothing").code == 1
