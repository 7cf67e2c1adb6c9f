# SPDX-License-Identifier: Apache-2.0
"""WebDAV servers side by side: `python -m bench.webdav` prints a table of medians and ratios, measured in one run.

Requests of 1 KiB at 1 and 8 connections, whole files of 256 MiB, and PROPFIND of a folder with 10,000 members, all
properties and three. All servers are up at the same time and take turns. CPU is that of all of a server's processes,
its Redis included, per request. The load generator (bench/loadgen) shares the cores: look at CPU, too.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.s3 import cpu_ms
from bench.s3_servers import Gateway, Unavailable, build_loadgen
from bench.webdav_servers import PASSWORD, SERVERS, USER

MIB = 1 << 20
MEMBERS = 10_000
LOGIN = {"Authorization": "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
THREE = b'<propfind xmlns="DAV:"><prop><getlastmodified/><getcontentlength/><resourcetype/></prop></propfind>'


class Load(NamedTuple):
    """One workload. fresh: names that no run before has used."""

    title: str
    method: str
    size: int
    connections: int
    fresh: bool = False


LOADS = [
    Load("PUT 1 KiB × 1", "PUT", 1024, 1, fresh=True),
    Load("PUT 1 KiB × 8", "PUT", 1024, 8, fresh=True),
    Load("replace 1 KiB × 8", "PUT", 1024, 8),
    Load("GET 1 KiB × 1", "GET", 1024, 1),
    Load("GET 1 KiB × 8", "GET", 1024, 8),
    Load("PUT 256 MiB × 1", "PUT", 256 * MIB, 1),
    Load("GET 256 MiB × 1", "GET", 256 * MIB, 1),
]
LISTS = {"PROPFIND, all": None, "PROPFIND, three": THREE}


class Sample(NamedTuple):
    """value: requests per second, MiB/s, or seconds of a PROPFIND. cpu_ms: per request. first_ms: first byte."""

    value: float
    cpu_ms: float
    first_ms: float = 0.0


def ask(
    server: Gateway, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request(method, path, headers=LOGIN)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def loadgen(program: str, server: Gateway, folder: str, method: str, size: int, connections: int, *more: str) -> Any:
    command = [
        program, "-address", f"127.0.0.1:{server.port}", "-bucket", folder, "-method", method, "-size", str(size),
        "-connections", str(connections), "-prefix", "f", *more,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LOADGEN_BASIC": f"{USER}:{PASSWORD}"}
    )
    if not done.stdout:
        raise Unavailable(f"load generator failed: {done.stderr[-1000:]}")
    result = json.loads(done.stdout)
    if result["errors"]:
        print(f"{server.name}, {method} {size}: {result['failures']}{server.obituary()}", file=sys.stderr)
    return result


def prepare(program: str, server: Gateway) -> None:
    """Folders, and what is read."""
    for folder in ("small", "large", "many"):
        status = ask(server, "MKCOL", f"/{folder}")
        if status != 201:
            raise Unavailable(f"{server.name}: MKCOL /{folder} was answered {status}{server.obituary()}")
    loadgen(program, server, "small", "PUT", 1024, 8, "-objects", "500", "-count", "500", "-duration", "60s")
    loadgen(program, server, "large", "PUT", 256 * MIB, 1, "-objects", "1", "-count", "1", "-duration", "60s")
    made = loadgen(program, server, "many", "PUT", 1, 16, "-objects", str(MEMBERS), "-count", str(MEMBERS),
                   "-duration", "120s")  # fmt: skip
    if made["ops"] < MEMBERS:
        raise Unavailable(f"{server.name} stored {made['ops']} of {MEMBERS} files: {made.get('failures')}")


def measure(program: str, server: Gateway, load: Load, seconds: float, number: int) -> Sample:
    large = load.size >= MIB
    folder = "large" if large else "small"
    options = ["-objects", "1" if large else "500", "-duration", f"{seconds}s"]
    if load.fresh:
        folder = f"{load.connections}-{number}"
        ask(server, "MKCOL", f"/{folder}")
        options = ["-objects", "1000000", "-duration", f"{seconds}s"]
    before = cpu_ms(server)
    result = loadgen(program, server, folder, load.method, load.size, load.connections, *options)
    spent = (cpu_ms(server) - before) / max(1, result["ops"])
    return Sample(result["mib_per_s"] if large else result["ops_per_s"], spent)


def propfind(server: Gateway, body: bytes | None) -> Sample:
    before = cpu_ms(server)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        began = time.perf_counter()
        connection.request("PROPFIND", "/many/", body, {**LOGIN, "Depth": "1"})
        answer = connection.getresponse()
        text = answer.read(1)
        first = time.perf_counter() - began
        text += answer.read()
        took = time.perf_counter() - began
    finally:
        connection.close()
    found = text.count(b":response>") // 2  # prefixes differ
    if answer.status != 207 or found != MEMBERS + 1:
        raise Unavailable(f"{server.name}: PROPFIND gave status {answer.status} and {found} members")
    return Sample(took, cpu_ms(server) - before, first * 1000)


def compare(args: argparse.Namespace, servers: list[Gateway], program: str) -> dict[str, dict[str, list[Sample]]]:
    samples: dict[str, dict[str, list[Sample]]] = {
        server.name: {title: [] for title in [load.title for load in LOADS] + list(LISTS)} for server in servers
    }
    for number in range(args.rounds):
        order = servers if number % 2 == 0 else servers[::-1]
        for load in LOADS:
            for server in order:
                samples[server.name][load.title].append(measure(program, server, load, args.seconds, number))
        for title, body in LISTS.items():
            for server in order:
                samples[server.name][title].append(propfind(server, body))
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr)
    return samples


def table(samples: dict[str, dict[str, list[Sample]]], base: str) -> str:
    names = list(samples)
    lines = [f"{'':18}" + "".join(f"{name:>32}" for name in names), f"{'':18}" + f"{'×base  CPU ms':>32}" * len(names)]

    def median(name: str, title: str, field: int) -> float:
        return statistics.median(sample[field] for sample in samples[name][title])

    for load in LOADS:
        unit = " MiB/s" if load.size >= MIB else "/s"
        cells = []
        for name in names:
            value, cpu = median(name, load.title, 0), median(name, load.title, 1)
            ratio = value / median(base, load.title, 0)
            cells.append(f"{value:,.0f}{unit} {ratio:>6.2f} {cpu:>8.3f}".rjust(32))
        lines.append(f"{load.title:18}" + "".join(cells))
    for title in LISTS:
        cells = []
        for name in names:
            value, cpu, first = (median(name, title, field) for field in range(3))
            ratio = median(base, title, 0) / value
            cells.append(f"{value:.2f} s, first {first:,.0f} ms {ratio:>6.2f} {cpu:>6,.0f}".rjust(32))
        lines.append(f"{title:18}" + "".join(cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--servers", default=",".join(SERVERS), help=f"some of {','.join(SERVERS)}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="per workload and round")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="workers, and GOMAXPROCS")
    parser.add_argument("--folder", help="for data; put it on the disk in question (default: the temporary folder)")
    parser.add_argument("--base", default="wsgidav files", help="server whose rate is 1.00")
    parser.add_argument("--only", help="only workloads whose title contains this")
    args = parser.parse_args()
    if args.only:
        LOADS[:] = [load for load in LOADS if args.only in load.title]
        for title in [title for title in LISTS if args.only not in title]:
            del LISTS[title]
    program = build_loadgen()
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=args.folder))
    started: list[Gateway] = []
    try:
        for key in args.servers.split(","):
            server = SERVERS[key](folder, args.cores)
            started.append(server)
            try:
                server.start()
                prepare(program, server)
            except Unavailable as error:
                print(f"{server.name} is left out: {error}", file=sys.stderr)
                started.remove(server)
                server.stop()
        if not started:
            return 1
        samples = compare(args, started, program)
    finally:
        for server in started:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    base = args.base if args.base in samples else next(iter(samples))
    print(f"{platform.machine()}, {args.cores} cores, {args.rounds} rounds of {args.seconds:g} s, base: {base}\n")
    print(table(samples, base))
    return 0


if __name__ == "__main__":
    sys.exit(main())
