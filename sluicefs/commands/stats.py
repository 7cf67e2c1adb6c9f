# SPDX-License-Identifier: Apache-2.0
"""`sluice stats MOUNTPOINT`: what a mount does, second by second, from its `.stats` file.

Works on mounts of SluiceFS and of JuiceFS, whose names are the same. Source: cli §3 (`stats`: schema letters, columns).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from core.errors import ConfigError
from sluicefs.cli import command
from sluicefs.mounts import internal_file, require_root
from sluicefs.options import DURATION, option
from sluicefs.output import settings, show

Sample = dict[str, float]

_P: Final = "juicefs_"
_HEADER_EVERY: Final = 30


class Column(NamedTuple):
    """level: verbosity from which on it is shown. value: of the sample before, the one now, and the seconds between."""

    title: str
    level: int
    kind: str  # bytes, count, ms, percent, text
    value: Callable[[Sample, Sample, float], float]


def _named(sample: Sample, *names: str) -> float:
    """The first of several names that is there: clients of different age call some things differently."""
    return next((sample[name] for name in names if name in sample), 0.0)


def _summed(sample: Sample, stem: str, suffix: str = "") -> float:
    """A metric summed up over its labels, which are appended to its name."""
    return sum(value for name, value in sample.items() if name.startswith(stem) and name.endswith(suffix))


def _now(*names: str) -> Callable[[Sample, Sample, float], float]:
    return lambda old, new, seconds: _named(new, *(_P + name if "go_" not in name else name for name in names))


def _rate(name: str, factor: float = 1) -> Callable[[Sample, Sample, float], float]:
    return lambda old, new, seconds: (_named(new, _P + name) - _named(old, _P + name)) / seconds * factor


def _rates(stem: str, suffix: str = "") -> Callable[[Sample, Sample, float], float]:
    return lambda old, new, seconds: (_summed(new, _P + stem, suffix) - _summed(old, _P + stem, suffix)) / seconds


def _mean_ms(stem: str) -> Callable[[Sample, Sample, float], float]:
    """Average of a histogram in between, in milliseconds."""

    def mean(old: Sample, new: Sample, seconds: float) -> float:
        count = _summed(new, _P + stem, "_total") - _summed(old, _P + stem, "_total")
        total = _summed(new, _P + stem, "_sum") - _summed(old, _P + stem, "_sum")
        return total / count * 1000 if count > 0 else 0.0

    return mean


_FUSE: Final = "fuse_ops_durations_histogram_seconds"
_META: Final = "meta_ops_durations_histogram_seconds"
_TXN: Final = "transaction_durations_histogram_seconds"
_OBJECT: Final = "object_request_durations_histogram_seconds_"
_OBJECT_BYTES: Final = "object_request_data_bytes_"

SECTIONS: Final[dict[str, tuple[str, tuple[Column, ...]]]] = {
    "t": ("system", (Column("time", 0, "text", lambda old, new, seconds: 0.0),)),
    "u": (
        "usage",
        (
            Column("cpu", 0, "percent", _rate("cpu_usage", 100)),
            Column("mem", 0, "bytes", _now("memory")),
            Column("buf", 0, "bytes", _now("used_buffer_size_bytes")),
            Column("cache", 1, "bytes", _now("store_cache_size_bytes")),
        ),
    ),
    "f": (
        "fuse",
        (
            Column("ops", 0, "count", _rate(_FUSE + "_total")),
            Column("lat", 0, "ms", _mean_ms(_FUSE)),
            Column("read", 0, "bytes", _rate("fuse_read_size_bytes_sum")),
            Column("write", 0, "bytes", _rate("fuse_written_size_bytes_sum")),
        ),
    ),
    "m": (
        "meta",
        (
            Column("ops", 0, "count", _rate(_META + "_total")),
            Column("lat", 0, "ms", _mean_ms(_META)),
            Column("txn", 1, "count", _rate(_TXN + "_total")),
            Column("lat", 1, "ms", _mean_ms(_TXN)),
            Column("retry", 1, "count", _rates("transaction_restart")),
        ),
    ),
    "c": (
        "blockcache",
        (
            Column("read", 0, "bytes", _rate("blockcache_hit_bytes")),
            Column("write", 0, "bytes", _rate("blockcache_write_bytes")),
        ),
    ),
    "o": (
        "object",
        (
            Column("get", 0, "bytes", _rates(_OBJECT_BYTES + "GET")),
            Column("get_c", 1, "count", _rates(_OBJECT + "GET", "_total")),
            Column("lat", 1, "ms", _mean_ms(_OBJECT + "GET")),
            Column("put", 0, "bytes", _rates(_OBJECT_BYTES + "PUT")),
            Column("put_c", 1, "count", _rates(_OBJECT + "PUT", "_total")),
            Column("lat", 1, "ms", _mean_ms(_OBJECT + "PUT")),
            Column("del_c", 1, "count", _rates(_OBJECT + "DELETE", "_total")),
        ),
    ),
    "g": (
        "go",
        (
            Column("alloc", 0, "bytes", _now("go_memstats_alloc_bytes")),
            Column("sys", 0, "bytes", _now("go_memstats_sys_bytes")),
        ),
    ),
}  # fmt: skip


@command("stats")
@click.argument("mountpoint")
@option(
    "--schema", default="ufmco", help="Sections in order: t time, u usage, f fuse, m meta, c cache, o object, g go."
)
@option("--interval", type=DURATION, default="1s", help="Between two lines.")
@option("-l", "--verbosity", type=click.IntRange(0, 1), default=0, help="1 shows more columns.")
@option("-c", "--count", type=click.IntRange(0), default=0, help="Lines to show; 0 is no end.")
def stats_command(mountpoint: str, schema: str, interval: float, verbosity: int, count: int) -> None:
    """Show what a mount does, one line per interval: rates since the line before, averages in milliseconds."""
    unknown = [letter for letter in schema if letter not in SECTIONS]
    if unknown or not schema:
        raise ConfigError(f"--schema: {schema!r} may hold the letters {''.join(SECTIONS)} only")
    if interval <= 0:
        raise ConfigError("--interval: it must be longer than 0")
    path = Path(internal_file(require_root(mountpoint), "stats"))
    _follow(path, schema, interval, verbosity, count)


def read_sample(path: Path) -> Sample:
    """`name value` lines; what is no number is left out."""
    sample: Sample = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.rpartition(" ")
        try:
            sample[name] = float(value)
        except ValueError:
            continue
    return sample


def _follow(path: Path, schema: str, interval: float, verbosity: int, count: int) -> None:
    chosen = (SECTIONS[letter] for letter in schema)
    sections = [(name, [c for c in columns if c.level <= verbosity]) for name, columns in chosen]
    before, then = read_sample(path), time.monotonic()
    shown = 0
    live = sys.stdout.isatty() and not settings.json
    while not count or shown < count:
        if not settings.json and shown % _HEADER_EVERY == 0:
            print("\n".join(header(sections)), flush=True)
        wait = then + interval
        while live and (left := wait - time.monotonic()) > 0:
            time.sleep(min(left, max(interval / 5, 0.2)))
            now, at = read_sample(path), time.monotonic()
            if at < wait:
                print("\r" + line(sections, before, now, max(at - then, 1e-6)), end="", flush=True)
        time.sleep(max(wait - time.monotonic(), 0))
        now, at = read_sample(path), time.monotonic()
        seconds = max(at - then, 1e-6)
        if settings.json:
            show({name: {c.title: c.value(before, now, seconds) for c in columns} for name, columns in sections})
        else:
            print(("\r" if live else "") + line(sections, before, now, seconds), flush=True)
        before, then = now, at
        shown += 1


_WIDTH: Final = {"bytes": 6, "count": 6, "ms": 6, "percent": 6, "text": 8}

Sections = Sequence[tuple[str, Sequence[Column]]]


def header(sections: Sections) -> list[str]:
    top, titles = [], []
    for name, columns in sections:
        width = sum(_WIDTH[c.kind] + 1 for c in columns) - 1
        top.append(name.center(width, "-"))
        titles.append(" ".join(f"{c.title:>{_WIDTH[c.kind]}}" for c in columns))
    return [" ".join(top), "|".join(titles)]


def line(sections: Sections, old: Sample, new: Sample, seconds: float) -> str:
    return "|".join(
        " ".join(f"{cell(c.kind, c.value(old, new, seconds)):>{_WIDTH[c.kind]}}" for c in columns)
        for _, columns in sections
    )


def cell(kind: str, value: float) -> str:
    """A number in at most six characters."""
    if kind == "text":
        return time.strftime("%H:%M:%S")
    if kind == "percent":
        return f"{value:.1f}%" if value < 1000 else f"{value:.0f}%"
    if kind == "ms":
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    base = 1024 if kind == "bytes" else 1000
    value = max(value, 0.0)
    for unit in ("", "K", "M", "G", "T", "P"):
        if value < 1000 or unit == "P":
            digits = 0 if unit == "" or value >= 100 else 1
            return f"{value:.{digits}f}{unit}"
        value /= base
    raise AssertionError("unreachable")
