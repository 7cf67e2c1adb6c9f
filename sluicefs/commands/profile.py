# SPDX-License-Identifier: Apache-2.0
"""`sluice profile MOUNTPOINT|LOGFILE`: which operations an access log is made of, and how long they took.

Reads lines of SluiceFS and of any JuiceFS client; a file is replayed at the speed at which it was written, or at once
with --interval 0. Source: cli §3 (`profile`), §10.2 (form of a line).
"""

from __future__ import annotations

import datetime
import os
import re
import select
import stat
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import click

from core.errors import ConfigError
from sluicefs.cli import command
from sluicefs.mounts import internal_file, require_root
from sluicefs.options import DURATION, option
from sluicefs.output import note, settings, show

_LINE = re.compile(
    r"(\d{4}\.\d\d\.\d\d \d\d:\d\d:\d\d\.\d+) \[uid:(\d+),gid:(\d+),pid:(\d+)\] (\w+)\b.* <(\d+\.\d+)>\s*"
)


class Entry(NamedTuple):
    when: str
    uid: int
    gid: int
    pid: int
    operation: str
    seconds: float


class Filter(NamedTuple):
    """Empty sets let everything through."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    pids: frozenset[int] = frozenset()

    def takes(self, entry: Entry) -> bool:
        return (
            (not self.uids or entry.uid in self.uids)
            and (not self.gids or entry.gid in self.gids)
            and (not self.pids or entry.pid in self.pids)
        )


class Table:
    """Counts and times by operation."""

    def __init__(self) -> None:
        self.cells: dict[str, list[float]] = {}

    def add(self, entry: Entry) -> None:
        cell = self.cells.setdefault(entry.operation, [0, 0.0])
        cell[0] += 1
        cell[1] += entry.seconds

    def rows(self) -> list[tuple[str, int, int, int, float]]:
        """(operation, count, average µs, total µs, percent), largest total first."""
        whole = sum(seconds for _, seconds in self.cells.values())
        return [
            (
                name,
                int(count),
                round(seconds / count * 1e6),
                round(seconds * 1e6),
                100 * seconds / whole if whole else 0,
            )
            for name, (count, seconds) in sorted(self.cells.items(), key=lambda item: (-item[1][1], item[0]))
        ]

    def text(self, title: str) -> str:
        lines = [title, f"{'Operation':<16} {'Count':>12} {'Average(us)':>14} {'Total(us)':>16} {'Percent(%)':>12}"]
        lines += [f"{n:<16} {c:>12} {a:>14} {t:>16} {p:>12.1f}" for n, c, a, t, p in self.rows()]
        return "\n".join(lines)

    def document(self, when: str) -> dict[str, object]:
        names = ("operation", "count", "average_us", "total_us", "percent")
        return {"until": when, "operations": [dict(zip(names, row, strict=True)) for row in self.rows()]}


@command("profile")
@click.argument("source", metavar="MOUNTPOINT|LOGFILE")
@option("-u", "--uid", metavar="UID,…", help="Only requests of these users.")
@option("-g", "--gid", metavar="GID,…", help="Only requests of these groups.")
@option("-p", "--pid", metavar="PID,…", help="Only requests of these processes.")
@option("--interval", type=DURATION, default="2s", help="Between two tables; 0 replays a file at once.")
def profile_command(source: str, uid: str | None, gid: str | None, pid: str | None, interval: float) -> None:
    """Sum up the access log of a mount as it goes on, or of a file in which somebody kept it. Enter pauses a replay."""
    wanted = Filter(_ids(uid, "--uid"), _ids(gid, "--gid"), _ids(pid, "--pid"))
    status = os.stat(source)
    if stat.S_ISDIR(status.st_mode):
        if interval <= 0:
            raise ConfigError("--interval: 0 is for log files; a mount has no end")
        _follow(internal_file(require_root(source), "accesslog"), wanted, interval)
    elif interval > 0:
        _replay(source, wanted, interval)
    else:
        _at_once(source, wanted)


def _ids(text: str | None, name: str) -> frozenset[int]:
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if any(not part.isascii() or not part.isdigit() for part in parts):
        raise ConfigError(f"{name}: {text!r} is no list of numbers, such as 0,1000")
    return frozenset(map(int, parts))


def parse(line: str) -> Entry | None:
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    when, uid, gid, pid, operation, seconds = found.groups()
    return Entry(when, int(uid), int(gid), int(pid), operation, float(seconds))


def _lines(path: str) -> Iterator[Entry]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            entry = parse(line)
            if entry is not None:
                yield entry


def _at_once(path: str, wanted: Filter) -> None:
    table, last, number = Table(), "", 0
    for entry in _lines(path):
        number += 1
        last = entry.when
        if wanted.takes(entry):
            table.add(entry)
    if not number:
        raise ConfigError(f"{path} holds no line of an access log; `cat MOUNTPOINT/.accesslog > FILE` makes one")
    show(table.document(last), table.text(f"> until {last}"))


def _replay(path: str, wanted: Filter, interval: float) -> None:
    """Tables as somebody would have seen them who looked at the mount when the file was written."""
    table, start, shown, last = Table(), 0.0, 0, ""
    begun = time.monotonic()
    for entry in _lines(path):
        at = datetime.datetime.strptime(entry.when, "%Y.%m.%d %H:%M:%S.%f").timestamp()
        start = start or at
        while at - start >= (shown + 1) * interval:
            shown += 1
            begun = _pause(begun, shown * interval)
            _print(table, last)
            table = Table()
        last = entry.when
        if wanted.takes(entry):
            table.add(entry)
    if not last:
        raise ConfigError(f"{path} holds no line of an access log; `cat MOUNTPOINT/.accesslog > FILE` makes one")
    _print(table, last)


def _pause(begun: float, until: float) -> float:
    """Wait until so many seconds of the file have passed; Enter stops the clock until the next Enter."""
    while (left := begun + until - time.monotonic()) > 0:
        if not sys.stdin.isatty():
            time.sleep(left)
            break
        if select.select([sys.stdin], [], [], left)[0]:
            sys.stdin.readline()
            note("paused; Enter goes on")
            stopped = time.monotonic()
            sys.stdin.readline()
            begun += time.monotonic() - stopped
    return begun


def _follow(path: str, wanted: Filter, interval: float) -> None:
    table = Table()
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        rest, then = b"", time.monotonic()
        while True:
            # A silent log sends `#` every second, so this never waits for long.
            rest += os.read(fd, 1 << 17)
            *lines, rest = rest.split(b"\n")
            for line in lines:
                entry = parse(line.decode("utf-8", "replace"))
                if entry is not None and wanted.takes(entry):
                    table.add(entry)
            if time.monotonic() - then >= interval:
                _print(table, time.strftime("%Y.%m.%d %H:%M:%S"))
                table, then = Table(), time.monotonic()
    finally:
        os.close(fd)


def _print(table: Table, when: str) -> None:
    if sys.stdout.isatty() and not settings.json:
        print("\033[2J\033[H", end="")
    show(table.document(when), table.text(f"> until {when}"))
    sys.stdout.flush()
