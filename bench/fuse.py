# SPDX-License-Identifier: Apache-2.0
"""Mounts side by side: ours on each engine, JuiceFS 0.14.2 on the same Redis, tmpfs as the floor.

    python -m bench.fuse                                       # everything: about 12 minutes
    python -m bench.fuse redis --only names --processes 1 --seconds 2 --json out.json
    python -m bench.fuse --only memory                         # resident memory after a million looked-up inodes

Volumes (arguments): redis, redis-1ms (through a delaying proxy), sqlite, postgres; default all. Redis keeps nothing on
disk, SQLite and PostgreSQL run with durable settings. Data goes to --folder (default /dev/shm where there is room).
The right columns compare with JuiceFS 1.4.1, whose figures `fuse_aims.py` carries, because it can't be run from a
registry. `!` marks cells with errors. CPU is that of the serving processes (without the database) per operation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.fuse_aims import JUICEFS_1_4_DATA, PASSTHROUGH, RSS_MIB, SOURCE, aim, known, verdict
from bench.fuse_mounts import Juicefs, Mount, Plain, Sluice, Tmpfs, build_load, settle
from bench.s3_servers import Unavailable
from tests.servers.engines import engine
from tests.servers.proxy import DelayingProxy
from tests.tools import make_million

VOLUMES = {
    "redis": ("redis", 0.0),
    "redis-1ms": ("redis", 1.0),
    "sqlite": ("sqlite", 0.0),
    "postgres": ("postgres", 0.0),
}
#: In this order: what one makes, the next ones use. `expire` lets kernel caches run out.
NAMES = ["mkdir", "rmdir", "create", "expire", "stat", "lookup", "getattr", "rename", "unlink", "create4k", "expire",
         "read4k", "fill", "expire", "list"]  # fmt: skip
SHOWN = {
    "getattr": "getattr", "lookup": "lookup of a missing name", "stat": "stat, entry expired",
    "create": "create+close", "create4k": "create+write 4K+close", "read4k": "open+read 4K+close", "rename": "rename",
    "unlink": "unlink", "mkdir": "mkdir", "rmdir": "rmdir", "list": "`ls -l`, entries",
}  # fmt: skip
KIB, MIB = 1 << 10, 1 << 20
GIB = 1 << 30
DATA = [
    f"{kind}:{block}{how}" for block in (128 * KIB, MIB) for how in ("", ":direct") for kind in ("seqwrite", "seqread")
]
DATA += ["randread:4096", "randread:4096:direct", "randwrite:4096", "randwrite:4096:direct"]


class Settings(NamedTuple):
    load: str
    folder: Path
    seconds: float
    names: int
    rounds: int
    bytes: int


def loaded(
    settings: Settings, mount: Mount, processes: int, phases: Sequence[str], **changed: Any
) -> Iterator[dict[str, Any]]:
    """Results of the phases, one after the other."""
    s = settings._replace(**changed)
    folder = str(mount.point) if "walk" in phases else tempfile.mkdtemp(prefix="run-", dir=mount.point)
    command = [s.load, folder, str(processes), str(s.seconds), str(s.names), str(s.bytes), *phases]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        cpu = mount.cpu_s()
        for line in child.stdout:
            found = json.loads(line)
            spent, cpu = mount.cpu_s() - cpu, mount.cpu_s()
            if found["operations"]:
                found["cpu_us"] = round(1e6 * spent / found["operations"], 1)
            yield found
        if child.wait():
            raise Unavailable(
                f"`{' '.join(command)}` ended with status {child.returncode}; {mount.name} says:\n{mount.log()}"
            )


def value_of(found: dict[str, Any]) -> float:
    """Operations per second, MiB per second for sequential data."""
    amount = found["bytes"] / MIB if found["phase"].startswith("seq") else found["operations"]
    return float(amount / found["seconds"])


def measured(
    settings: Settings, mount: Mount, volume: str, processes: Iterable[int], phases: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """One row per phase and number of processes: the median of the rounds."""
    for count in processes:
        rounds = []
        for _ in range(settings.rounds):
            settle(mount)
            # As many names in all, whatever the number of processes, so that no phase takes for ever.
            each = settings.names if count == 1 else 4 * settings.names // count
            rounds.append(list(loaded(settings, mount, count, phases, names=each)))
        for results in zip(*rounds, strict=True):
            phase = results[0]["phase"]
            if phase in ("expire", "fill"):
                continue
            yield {
                "volume": volume, "mount": mount.name, "phase": phase, "processes": count,
                "value": statistics.median(map(value_of, results)), "errors": sum(r["errors"] for r in results),
                "cpu_us": statistics.median(r.get("cpu_us", 0.0) for r in results),
                "error": next((r["error"] for r in results if r["errors"]), ""),
            }  # fmt: skip


def shown(rows: Iterable[dict[str, Any]], out: list[dict[str, Any]]) -> None:
    for row in rows:
        out.append(row)
        error = f"  {row['errors']} errors: {row['error']}" if row["errors"] else ""
        print(f"  {row['volume']:10} {row['mount']:13} {row['phase']:24} × {row['processes']} {row['value']:12,.0f}"
              f"  {row['cpu_us']:8,.1f} µs CPU{error}", flush=True)  # fmt: skip


@contextmanager
def metadata(volume: str) -> Iterator[Iterator[str]]:
    """Fresh metadata URLs of one volume's engine."""
    name, rtt = VOLUMES[volume]
    with ExitStack() as stack:
        server = stack.enter_context(engine(name, durable=name != "redis"))
        port = stack.enter_context(DelayingProxy(server.port, rtt)).port if rtt else 0
        print(f"{volume}: {server.settings}", flush=True)
        yield (server.fresh_url(port) for _ in itertools.count())


def compare(settings: Settings, volumes: Sequence[str], kinds: Sequence[type[Mount]], processes: Sequence[int],
            phases: Sequence[str], options: Sequence[str]) -> list[dict[str, Any]]:  # fmt: skip
    rows: list[dict[str, Any]] = []
    if Tmpfs in kinds:
        with Tmpfs(settings.folder) as mount:
            shown(measured(settings, mount, "", processes, phases), rows)
    for volume in volumes:
        with metadata(volume) as urls:
            for kind in kinds:
                if kind is Tmpfs or (kind is Juicefs and not volume.startswith("redis")):
                    continue  # 0.14.2 knows Redis only
                try:
                    with kind(settings.folder, next(urls), options if issubclass(kind, Sluice) else ()) as mount:
                        shown(measured(settings, mount, volume, processes, phases), rows)
                        print(f"  {volume:10} {mount.name:13} peak memory {mount.peak_mib():,.0f} MiB", flush=True)
                except Unavailable as error:
                    print(f"  {volume:10} {kind.name}: {error}", file=sys.stderr, flush=True)
    return rows


def passthrough(settings: Settings, kinds: Sequence[type[Mount]]) -> list[dict[str, Any]]:
    """Random 4 KiB reads of a 4 MiB file at hand. Without passthrough they are direct, or the kernel's pages of the
    file would answer; with it the kernel asks nobody in any case."""
    rows: list[dict[str, Any]] = []
    with metadata("sqlite") as urls:
        for kind in kinds:
            for how, option, direct in (("on", "--passthrough", ""), ("off", "--no-passthrough", ":direct")):
                if not issubclass(kind, Sluice):
                    continue
                with kind(settings.folder, next(urls), [option]) as mount:
                    once = ["seqwrite:1048576", "expire", "seqread:1048576", "expire"]
                    found = list(loaded(settings, mount, 1, [*once, "randread:4096" + direct], bytes=4 * MIB))[-1]
                    value = value_of(found)
                    print(f"  {mount.name}: passthrough {how}: {value:,.0f}/s, "
                          f"{value / JUICEFS_1_4_DATA['randread']:.1f} × {SOURCE} (aim {PASSTHROUGH:g})")  # fmt: skip
                    rows.append({"volume": "sqlite", "mount": mount.name, "phase": f"passthrough {how}",
                                 "processes": 1, "value": value, "errors": found["errors"]})  # fmt: skip
    return rows


def memory(settings: Settings, kinds: Sequence[type[Mount]], inodes: int) -> list[dict[str, Any]]:
    """Resident memory of the largest serving process after so many inodes were looked up."""
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        if not issubclass(kind, Sluice):
            continue
        path = settings.folder / "million.db"
        path.unlink(missing_ok=True)
        make_million.make(str(path), inodes, max(1, inodes // 1000))
        with existing(kind, settings.folder, f"sqlite3://{path}") as mount:
            before = mount.rss_mib()
            for found in loaded(settings, mount, 1, ["walk"], seconds=600):
                after, peak = mount.rss_mib(), mount.peak_mib()
                print(f"  {mount.name}: {found['operations']:,} inodes in {found['seconds']:.0f} s; memory "
                      f"{before:.0f} MiB, then {after:.0f}, peak {peak:.0f} (aim {RSS_MIB})")  # fmt: skip
                rows.append({"volume": "sqlite", "mount": mount.name, "phase": "memory", "processes": 1,
                             "value": after, "peak": peak, "errors": found["errors"]})  # fmt: skip
        path.unlink()
    return rows


def existing(kind: type[Sluice], folder: Path, meta: str) -> Mount:
    """A mount of a volume that exists already."""
    mount = kind(folder, meta)
    mount.up = lambda: mount.serve([sys.executable, "-m", "sluicefs"])  # type: ignore[method-assign]
    return mount


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per volume, operation and number of processes; a column per mount; ratios on the right."""
    mounts = [name for name in dict.fromkeys(row["mount"] for row in rows) if name != Tmpfs.name]
    found = {(r["volume"], r["mount"], r["phase"], r["processes"]): r for r in rows}
    ours = next((name for name in mounts if name in (Sluice.name, Plain.name)), "")
    lines = [
        f"| per second (sequential: MiB/s) | × | tmpfs | {' | '.join(mounts)} | ÷ 0.14.2 | {SOURCE} | ÷ 1.4.1 | aim |"
        " |",
        "|---|---:|---:|" + "---:|" * len(mounts) + "---:|---:|---:|---:|---|",
    ]
    verdicts: list[str] = []
    for volume in dict.fromkeys(row["volume"] for row in rows if row["volume"]):
        of_volume = [row for row in rows if row["volume"] == volume]
        for phase, count in dict.fromkeys((row["phase"], row["processes"]) for row in of_volume):
            cells = [found.get((volume, name, phase, count)) for name in mounts]
            own, old = found.get((volume, ours, phase, count)), found.get((volume, Juicefs.name, phase, count))
            name, rtt = VOLUMES[volume]
            operation = phase.split(":")[0]
            peer, wanted = known(name, rtt, operation, count), aim(name, rtt, operation)
            floor = found.get(("", Tmpfs.name, phase, count))
            verdicts.append(verdict(own["value"] / peer if own and peer else None, wanted))
            lines.append(
                f"| {volume}: {SHOWN.get(phase, phase)} | {count} | {_cell(floor)} | "
                + " | ".join(map(_cell, cells))
                + f" | {_ratio(own, old['value'] if old else None)} | {f'{peer:,.0f}' if peer else ''} | "
                + f"{_ratio(own, peer)} | {f'{wanted:g}' if wanted and peer else ''} | {verdicts[-1]} |"
            )
    judged = [v for v in verdicts if v]
    lines.append(f"\n{judged.count('met')} of {len(judged)} aims met; load of the machine at the end: {_load()}")
    return "\n".join(lines)


def _load() -> str:
    """What else runs here makes every figure smaller; a reader should know."""
    return ", ".join(f"{n:.1f}" for n in os.getloadavg()) + f" on {os.cpu_count()} processors"


def _cell(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:,.0f}{'!' if row['errors'] else ''}"


def _ratio(row: dict[str, Any] | None, other: float | None) -> str:
    return f"{row['value'] / other:.2f}" if row and other else ""


def place() -> Path:
    shm = Path("/dev/shm")
    return shm if shm.is_dir() and shutil.disk_usage(shm).free > 6 * GIB else Path(tempfile.gettempdir())


MOUNTS: dict[str, type[Mount]] = {"tmpfs": Tmpfs, "juicefs": Juicefs, "sluicefs": Sluice, "plain": Plain}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("volumes", nargs="*", help=f"of {', '.join(VOLUMES)}; default all")
    parser.add_argument("--mounts", default="tmpfs,juicefs,sluicefs", help=f"of {', '.join(MOUNTS)}")
    parser.add_argument("--only", action="append", choices=["names", "data", "passthrough", "memory"])
    parser.add_argument("--phases", help="of bench/fuse_load.c, instead of all; PHASE[:BLOCK[:direct]],…")
    parser.add_argument("--processes", type=int, action="append", help="default 1 and 8")
    parser.add_argument("--seconds", type=float, default=2, help="longest time of a phase")
    parser.add_argument("--count", type=int, default=4000, help="most names of a phase, one process")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size-mib", type=int, default=1024, help="of the data files, all processes together")
    parser.add_argument("--inodes", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=place())
    parser.add_argument("--json", type=Path)
    parser.add_argument("-o", dest="mount_options", action="append", default=[], help="for our mounts")
    options = parser.parse_args()
    began = time.monotonic()
    tempfile.tempdir = str(options.folder)  # of servers, too
    only = options.only or ["names", "data", "passthrough", "memory"]
    kinds = [MOUNTS[name] for name in options.mounts.split(",")]
    volumes, processes = options.volumes or list(VOLUMES), options.processes or [1, 8]
    given = [part for option in options.mount_options for part in ("-o", option)]
    rows: list[dict[str, Any]] = []
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=options.folder))
    folder.chmod(0o755)
    settings = Settings(build_load(), folder, options.seconds, options.count, options.rounds, options.size_mib * MIB)
    phases = options.phases.split(",") if options.phases else None
    try:
        if "names" in only:
            rows += compare(settings, volumes, kinds, processes, phases or NAMES, given)
        if "data" in only:
            near = [volume for volume in volumes if volume == "redis"] or volumes[:1]
            rows += compare(settings, near, kinds, processes, phases or DATA, given)
        if rows:
            print("\n" + table(rows))
        if "passthrough" in only:
            rows += passthrough(settings, kinds)
        if "memory" in only:
            rows += memory(settings, kinds, options.inodes)
        print(f"took {time.monotonic() - began:.0f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if options.json:
            options.json.write_text(json.dumps({"peer": SOURCE, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
