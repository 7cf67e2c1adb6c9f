# SPDX-License-Identifier: Apache-2.0
"""Figures of `stats` and `profile` from given samples and lines (cli §3, §10.2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from sluicefs.commands.profile import Filter, Table, parse, profile_command
from sluicefs.commands.stats import SECTIONS, cell, header, line, read_sample, stats_command

OLD = "2026.11.21 21:10:04.394625 [uid:0,gid:5,pid:27386] mkdir (1,d,?rwxr-xr-x:00755): OK (2,[drwx,2]) <0.000741>"
NEW = "2026.11.21 21:10:05.000000 [uid:7,gid:0,pid:1] read (3,4096,0,4): (3) - OK <0.000259>"


def test_lines_of_old_and_new_clients_are_understood() -> None:
    entry = parse(OLD)
    assert entry is not None and (entry.operation, entry.uid, entry.gid, entry.pid) == ("mkdir", 0, 5, 27386)
    assert entry.seconds == 0.000741
    assert parse(NEW + "\n") is not None
    assert parse("#") is None and parse("") is None and parse(OLD[:40]) is None


def test_tables_begin_with_what_took_longest() -> None:
    table = Table()
    for text in (OLD, NEW, NEW):
        entry = parse(text)
        assert entry is not None
        table.add(entry)
    assert table.rows() == [
        ("mkdir", 1, 741, 741, pytest.approx(58.856, abs=0.01)),
        ("read", 2, 259, 518, pytest.approx(41.14, abs=0.01)),
    ]
    assert "mkdir" in table.text("x").splitlines()[2]


def test_filters() -> None:
    entry = parse(NEW)
    assert entry is not None
    assert Filter().takes(entry) and Filter(uids=frozenset((7,))).takes(entry)
    assert not Filter(uids=frozenset((7,)), pids=frozenset((2,))).takes(entry)


def test_a_replay_and_what_is_no_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{OLD}\n#\n{NEW}\n")
    at_once = CliRunner().invoke(profile_command, [str(log), "--interval", "0"])
    assert "mkdir" in at_once.output and "read" in at_once.output
    replayed = CliRunner().invoke(profile_command, [str(log), "--interval", "500ms", "-u", "7"])
    assert len(re.findall("> until", replayed.output)) == 2 and "mkdir" not in replayed.output
    log.write_text("something else\n")
    refused = CliRunner().invoke(profile_command, [str(log), "--interval", "0"])
    assert "no line of an access log" in str(refused.exception)
    bad = CliRunner().invoke(profile_command, [str(log), "-u", "root"])
    assert "no list of numbers" in str(bad.exception)


SAMPLE = """juicefs_cpu_usage {cpu}
juicefs_memory 104857600
juicefs_fuse_ops_durations_histogram_seconds_total {ops}
juicefs_fuse_ops_durations_histogram_seconds_sum {seconds}
juicefs_object_request_data_bytes_GET_STANDARD {got}
juicefs_object_request_data_bytes_GET 0
juicefs_object_request_durations_histogram_seconds_GET_total 5
go_memstats_sys_bytes 2048
not a number x
"""


def test_rates_and_averages_in_between(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    path.write_text(SAMPLE.format(cpu=1, ops=100, seconds=1, got=0))
    old = read_sample(path)
    path.write_text(SAMPLE.format(cpu=2, ops=300, seconds=1.5, got=4 << 20))
    new = read_sample(path)
    sections = [SECTIONS[letter] for letter in "ufog"]
    cells = [text.split() for text in line(sections, old, new, 2.0).split("|")]
    assert cells[0][:2] == ["50.0%", "100M"]
    assert cells[1][:2] == ["100", "2.50"]
    assert cells[2][0] == "2.0M" and cells[3][1] == "2.0K"
    top, titles = header(sections)
    assert len(top) == len(titles) == len(line(sections, old, new, 2.0))


def test_cells_are_short() -> None:
    for kind in ("bytes", "count", "ms", "percent"):
        for value in (0, 0.5, 9.99, 999, 1000, 1023, 1024, 123456, 10**9, 10**15):
            assert len(cell(kind, value)) <= 7 or kind in ("ms", "percent"), (kind, value)


def test_a_wrong_schema_is_refused() -> None:
    refused = CliRunner().invoke(stats_command, ["/", "--schema", "uz"])
    assert "may hold the letters tufmcog only" in str(refused.exception)
