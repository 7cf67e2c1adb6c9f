# SPDX-License-Identifier: Apache-2.0
"""S3 gateways side by side: `python -m bench.s3` prints a table of medians and ratios, measured in one run.

Every gateway is up at the same time, idle until its turn; short rounds go over them in alternating order, so that what
else happens on the machine hits all alike. CPU is the growth of user and system time of all processes of a gateway,
its Redis included, per request. The load generator (bench/loadgen) shares the cores.
See bench/README.md for what the figures can and can't say.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.s3_servers import ACCESS_KEY, BUCKET, GATEWAYS, SECRET_KEY, Gateway, Unavailable, build_loadgen

_runs = itertools.count(1)
_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """One workload. objects: number of keys it goes round. fresh: keys that no run before has used."""

    title: str
    method: str
    size: int
    connections: int
    objects: int
    fresh: bool = False


MIB = 1 << 20
LOADS = [
    Load("PUT 1 KiB × 1", "PUT", 1024, 1, 1_000_000, fresh=True),
    Load("GET 1 KiB × 1", "GET", 1024, 1, 500),
    Load("PUT 1 KiB × 32", "PUT", 1024, 32, 1_000_000, fresh=True),
    Load("replace 1 KiB × 32", "PUT", 1024, 32, 500),
    Load("GET 1 KiB × 32", "GET", 1024, 32, 500),
    Load("PUT 64 MiB × 2", "PUT", 64 * MIB, 2, 4),
    Load("GET 64 MiB × 2", "GET", 64 * MIB, 2, 4),
]


class Sample(NamedTuple):
    ops_per_s: float
    mib_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float  # per request
    errors: int


def cpu_ms(gateway: Gateway) -> float:
    """CPU time of a gateway's processes so far."""
    total = 0
    for pid in gateway.pids():
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_MS


def peak_rss_mib(gateway: Gateway) -> float:
    """The largest process of a gateway at its largest."""
    largest = 0
    for pid in gateway.pids():
        try:
            with open(f"/proc/{pid}/status") as file:
                lines = [line for line in file if line.startswith("VmHWM")]
        except FileNotFoundError:
            continue
        largest = max([largest, *[int(line.split()[1]) for line in lines]])
    return largest / 1024


def loadgen(program: str, gateway: Gateway, load: Load, *options: str) -> dict[str, Any]:
    command = [
        program, "-address", f"127.0.0.1:{gateway.port}", "-bucket", BUCKET, "-access-key", ACCESS_KEY,
        "-method", load.method, "-size", str(load.size), "-connections", str(load.connections),
        "-objects", str(load.objects), "-prefix", f"{load.size}-{next(_runs) if load.fresh else 0}/", *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LOADGEN_SECRET_KEY": SECRET_KEY})
    if not done.stdout:
        raise Unavailable(f"load generator failed: {done.stderr[-1000:]}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(program: str, gateway: Gateway, load: Load, seconds: float, signed: bool) -> Sample:
    before = cpu_ms(gateway)
    options = ["-duration", f"{seconds}s", *(["-signed-hash"] if signed else [])]
    result = loadgen(program, gateway, load, *options)
    spent = cpu_ms(gateway) - before
    if result["errors"]:
        print(f"{gateway.name}, {load.title}: {result['failures']}{gateway.obituary()}", file=sys.stderr)
    return Sample(
        result["ops_per_s"], result["mib_per_s"], result["p50_ms"], result["p99_ms"], spent / max(1, result["ops"]),
        result["errors"],
    )  # fmt: skip


def prepare(program: str, gateway: Gateway) -> None:
    """Make the bucket where it isn't the volume, and every object that will be read."""
    loadgen(program, gateway, Load("", "MAKE-BUCKET", 0, 1, 1))
    for load in {load.size: load for load in LOADS if not load.fresh}.values():
        fill = load._replace(method="PUT", connections=2)
        filled = loadgen(program, gateway, fill, "-count", str(load.objects), "-duration", "60s")
        if filled["errors"] or filled["ops"] < load.objects:
            raise Unavailable(
                f"{gateway.name} stored {filled['ops']} of {load.objects} objects: {filled.get('failures')}"
            )


def compare(args: argparse.Namespace, gateways: list[Gateway], program: str) -> dict[str, dict[str, list[Sample]]]:
    samples: dict[str, dict[str, list[Sample]]] = {g.name: {load.title: [] for load in LOADS} for g in gateways}
    for number in range(args.rounds):
        for load in LOADS:
            order = gateways if number % 2 == 0 else gateways[::-1]
            for gateway in order:
                seconds = args.seconds if load.size < MIB else args.seconds * 1.5
                sample = measure(program, gateway, load, seconds, args.signed)
                samples[gateway.name][load.title].append(sample)
                time.sleep(0.2)  # lets what the last one left behind (flushes, deletions) settle for the next
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    return samples


def median(samples: list[Sample]) -> Sample:
    columns = list(zip(*samples, strict=True))
    return Sample(*[statistics.median(column) for column in columns[:5]], errors=sum(columns[5]))


def table(medians: dict[str, dict[str, Sample]], rss: dict[str, float], base: str) -> str:
    names = list(medians)
    lines = [
        f"{'':16}" + "".join(f"{name:>26}" for name in names),
        f"{'':16}" + f"{'rate   ×base  CPU ms':>26}" * len(names),
    ]
    for load in LOADS:
        cells = []
        for name in names:
            sample = medians[name][load.title]
            reference = medians[base][load.title].ops_per_s if base in medians else 0
            rate = f"{sample.mib_per_s:,.0f} MiB/s" if load.size >= MIB else f"{sample.ops_per_s:,.0f}/s"
            ratio = f"{sample.ops_per_s / reference:.2f}" if reference else "-"
            flag = "!" if sample.errors else ""
            cells.append(f"{rate}{flag} {ratio:>6} {sample.cpu_ms:>8.3f}".rjust(26))
        lines.append(f"{load.title:16}" + "".join(cells))
    lines.append(f"{'p99 ms 1 KiB×32':16}" + "".join(
        f"{medians[name]['PUT 1 KiB × 32'].p99_ms:.1f} / {medians[name]['GET 1 KiB × 32'].p99_ms:.1f}".rjust(26)
        for name in names))  # fmt: skip
    lines.append(f"{'peak RSS':16}" + "".join(f"{rss[name]:,.0f} MiB".rjust(26) for name in names))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gateways", default=",".join(GATEWAYS), help=f"some of {','.join(GATEWAYS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="per workload and round")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="workers, and GOMAXPROCS")
    parser.add_argument("--folder", help="for data; put it on the disk in question (default: the temporary folder)")
    parser.add_argument("--only", help="only workloads whose title contains this")
    parser.add_argument("--signed", action="store_true", help="sign the payload's SHA-256 instead of UNSIGNED-PAYLOAD")
    parser.add_argument("--base", default="juicefs 0.14", help="gateway whose rate is 1.00")
    parser.add_argument("--json", metavar="FILE", help="write all samples there, too (- for standard output)")
    args = parser.parse_args()
    if args.only:
        LOADS[:] = [load for load in LOADS if args.only in load.title]

    program = build_loadgen()
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=args.folder))
    started: list[Gateway] = []
    left_out: dict[str, str] = {}
    rss: dict[str, float] = {}
    try:
        for key in args.gateways.split(","):
            gateway = GATEWAYS[key](folder, args.cores)
            try:
                gateway.start()
                prepare(program, gateway)
                started.append(gateway)
            except Unavailable as error:
                left_out[gateway.name] = str(error)
                print(f"{gateway.name} is left out: {error}", file=sys.stderr)
                gateway.stop()
        samples = compare(args, started, program)
        rss = {gateway.name: peak_rss_mib(gateway) for gateway in started}
    finally:
        for gateway in started:
            gateway.stop()
        folder.rmdir()
    medians = {name: {title: median(each) for title, each in loads.items()} for name, loads in samples.items()}
    base = args.base if args.base in medians else next(iter(medians), "")
    print(f"{platform.machine()}, {args.cores} cores, {args.rounds} rounds of {args.seconds:g} s, base: {base}\n")
    print(table(medians, rss, base))
    if args.json:
        document = {
            "cores": args.cores, "rounds": args.rounds, "seconds": args.seconds, "signed": args.signed,
            "left_out": left_out, "peak_rss_mib": rss,
            "samples": {name: {title: [each._asdict() for each in list_] for title, list_ in loads.items()}
                        for name, loads in samples.items()},
            "medians": {name: {title: each._asdict() for title, each in loads.items()}
                        for name, loads in medians.items()},
        }  # fmt: skip
        if args.json == "-":
            json.dump(document, sys.stdout, indent=1)
        else:
            Path(args.json).write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
