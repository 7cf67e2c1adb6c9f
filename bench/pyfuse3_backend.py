# SPDX-License-Identifier: Apache-2.0
"""Our channel to the kernel against pyfuse3, over the same handlers: `python -m bench.pyfuse3_backend`.

Redis on this machine, kernel caches off, so that each operation is a request; both in turns. Beside the rate it prints
the processor time of the mount's processes per operation, which neighbours of a shared machine change less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.fuse_mounts import build_load
from bench.s3_servers import ROOT
from tests.servers.process import wait_for
from tests.servers.redis import RedisServer

BACKENDS = ("builtin", "pyfuse3")
PHASES = ("create", "getattr", "stat", "unlink")
_TICK_US = 1e6 / os.sysconf("SC_CLK_TCK")
_UNCACHED = ("--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0", "--metrics", "off")


def processor_us(point: Path) -> float:
    """Of all processes that name this mount point."""
    total = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(point) in (process / "cmdline").read_bytes():
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) * _TICK_US
        except OSError:
            continue
    return total


def measure(backend: str, url: str, seconds: float, count: int) -> dict[str, tuple[float, float]]:
    """phase -> (operations per second, microseconds of processor time each)."""
    sluice = [sys.executable, "-m", "sluicefs"]
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        # The load program's command line must not name the mount point, or its time would count.
        point, alias = Path(folder, "mnt"), Path(folder, "load")
        point.mkdir()
        alias.symlink_to("mnt")
        made = [*sluice, "format", url, "bench", "--storage", "file", "--bucket", f"{folder}/objects/"]
        subprocess.run(made, check=True, capture_output=True, cwd=ROOT)
        server = subprocess.Popen(
            [*sluice, "mount", url, str(point), "--fuse-backend", backend, *_UNCACHED],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(lambda: os.path.ismount(point) or server.poll() is not None, what="the mount")
            if server.poll() is not None:
                raise SystemExit(f"sluice mount --fuse-backend {backend} ended at once")
            found = {}
            with subprocess.Popen(
                [build_load(), str(alias), "1", str(seconds), str(count), "0", *PHASES], stdout=subprocess.PIPE
            ) as load:
                assert load.stdout
                before = processor_us(point)
                for line in load.stdout:
                    result, after = json.loads(line), processor_us(point)
                    done = max(1, result["operations"])
                    found[result["phase"]] = (done / result["seconds"], (after - before) / done)
                    before = after
            return found
        finally:
            subprocess.run(["umount", "-l", str(point)], check=False)
            server.wait(30)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--count", type=int, default=4000)
    args = parser.parse_args()
    if shutil.which("umount") is None or os.geteuid() != 0:
        raise SystemExit("run it as root: it mounts")
    results: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with RedisServer() as redis:
        for number in range(args.rounds):
            for at, backend in enumerate(BACKENDS):
                for phase, figures in measure(
                    backend, redis.url(number * len(BACKENDS) + at), args.seconds, args.count
                ).items():
                    results[phase, backend].append(figures)
    print(f"{'':10}{'builtin/s':>12}{'pyfuse3/s':>12}{'builtin us':>12}{'pyfuse3 us':>12}")
    for phase in PHASES:
        rates = [max(rate for rate, _ in results[phase, backend]) for backend in BACKENDS]
        costs = [min(cost for _, cost in results[phase, backend]) for backend in BACKENDS]
        print(f"{phase:10}" + "".join(f"{rate:12.0f}" for rate in rates) + "".join(f"{cost:12.0f}" for cost in costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
