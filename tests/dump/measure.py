# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of dump and load in processes of their own: `python -m tests.dump.measure 1000000 [META-URL]`.

META-URL is a database that may be emptied (default: SQLite in the temporary folder). Prints one line per step and
proves that what comes out is what went in.
"""

from __future__ import annotations

import asyncio
import filecmp
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from core.volume import open_record_store
from tests.dump.generate import write

ROOT = Path(__file__).parents[2]


class Cost(NamedTuple):
    seconds: float
    cpu_s: float
    peak_mib: float


class Costs(dict[str, Cost]):
    """Tells each step as it ends."""

    def __setitem__(self, step: str, cost: Cost) -> None:
        super().__setitem__(step, cost)
        print(f"{step:18} {cost.seconds:7.1f} s {cost.cpu_s:7.1f} s CPU {cost.peak_mib:7.0f} MiB", flush=True)


#: Starts the command from a process that is small itself: a child's peak begins with what its parent had in memory.
_LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "sluicefs", "--quiet", *sys.argv[1:]])
_, status, usage = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, file=sys.stderr)
"""


def sluice(*arguments: str) -> Cost:
    """Run a command; its time and its own peak of resident memory."""
    begin = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _LAUNCHER, *arguments], env=env, stderr=subprocess.PIPE, text=True)
    *messages, last = done.stderr.splitlines()
    code, cpu_s, peak_mib = last.split()
    if int(code):
        raise RuntimeError(f"sluice {' '.join(arguments)} ended with {code}: {messages}")
    return Cost(time.monotonic() - begin, float(cpu_s), float(peak_mib))


async def _wipe(url: str) -> None:
    store = open_record_store(url)
    await store.open()
    await store.prepare()
    await store.wipe()
    await store.close()


def measure(files: int, folder: Path, url: str | None = None) -> dict[str, Cost]:
    def empty(name: str) -> str:
        if url is None:
            return f"sqlite3://{folder}/{name}.db"
        asyncio.run(_wipe(url))
        return url

    start, again, backup, last = (folder / name for name in ("start.json", "again.json", "all.bin", "last.json"))
    write(files, start)
    costs = Costs()
    first = empty("json")
    costs["load JSON"] = sluice("load", first, str(start))
    costs["dump JSON"] = sluice("dump", first, str(again))
    assert filecmp.cmp(start, again, shallow=False), "a dump of what was loaded differs"
    costs["dump JSON --fast"] = sluice("dump", "--fast", first, str(again))
    assert filecmp.cmp(start, again, shallow=False), "a fast dump of what was loaded differs"
    costs["dump binary"] = sluice("dump", "--binary", first, str(backup))
    second = empty("binary")
    costs["load binary"] = sluice("load", second, str(backup))
    sluice("dump", second, str(last))
    assert filecmp.cmp(start, last, shallow=False), "a dump of what was loaded from the backup differs"
    return costs


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        measure(int(sys.argv[1]), Path(place), sys.argv[2] if len(sys.argv) > 2 else None)
