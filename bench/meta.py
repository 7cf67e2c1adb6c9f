# SPDX-License-Identifier: Apache-2.0
"""What each metadata engine can do: operations per second, near and one millisecond of network away.

    python -m bench.meta [ENGINE …] [--seconds 2] [--rtt-ms 0 --rtt-ms 1] [--tasks 1 --tasks 32] [--json FILE]

Every engine runs with durable settings (printed). Operations go through `Meta`, as the doors use it, each task in its
own directory for what changes names, so that nothing but the engine is shared. `naive` is the same work for create
and lookup with the engine's plain client, one statement per round trip (`bench/meta_naive.py`), in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from bench.meta_naive import NAIVE, Naive
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import Slice
from core.volume import open_record_store
from tests.servers.engines import ENGINES, DurableEngine, durable_engine
from tests.servers.proxy import DelayingProxy

OPERATIONS = ("lookup", "getattr", "create", "unlink", "rename", "readdir", "slice commit")
FILES = 1000


async def rate(tasks: int, seconds: float, work: Callable[[int], Callable[[], Awaitable[object]]]) -> float:
    """Calls per second of `tasks` tasks that call again as soon as they are answered."""
    until = time.perf_counter() + seconds
    counts = [0] * tasks

    async def run(number: int) -> None:
        step = work(number)
        while time.perf_counter() < until:
            await step()
            counts[number] += 1

    began = time.perf_counter()
    await asyncio.gather(*(run(number) for number in range(tasks)))
    return sum(counts) / (time.perf_counter() - began)


class Bench:
    """One volume, one directory per task."""

    def __init__(self, meta: Meta) -> None:
        self.meta = meta
        self.dirs: list[int] = []
        self.names = itertools.count()
        self.listed = 0
        self.inode = 0

    async def prepare(self, tasks: int) -> None:
        while len(self.dirs) < tasks:
            self.dirs.append((await self.meta.mkdir(1, b"dir%d" % len(self.dirs)))[0])
        if not self.listed:
            self.listed, _ = await self.meta.mkdir(1, b"listed")
            for at in range(0, FILES, 100):
                await asyncio.gather(*(self.meta.create(self.listed, b"file%04d" % i) for i in range(at, at + 100)))
            self.inode, _ = await self.meta.lookup(self.listed, b"file0500")

    def work(self, operation: str) -> Callable[[int], Callable[[], Awaitable[object]]]:
        meta = self.meta

        def of(number: int) -> Callable[[], Awaitable[object]]:
            directory = self.dirs[number]
            own: list[bytes] = []

            async def create() -> None:
                name = b"n%d" % next(self.names)
                await meta.create(directory, name)
                own.append(name)

            async def unlink() -> None:
                await meta.unlink(directory, self.stock[number].pop(), skip_trash=True)

            async def rename() -> None:
                old = self.stock[number].pop()
                new = b"r%d" % next(self.names)
                await meta.rename(directory, old, directory, new)
                self.stock[number].append(new)

            async def commit() -> None:
                ident = meta.slice_ids.take_nowait() or await meta.slice_ids.take()
                index = next(self.names)
                piece = Slice(index % 1000 * 4096, ident, 4096, 0, 4096)
                await meta.write_slices(self.files[number], index // 1000 % 64, [piece], time.time_ns())

            steps: dict[str, Callable[[], Awaitable[object]]] = {
                "lookup": lambda: meta.lookup(self.listed, b"file%04d" % (next(self.names) % FILES)),
                "getattr": lambda: meta.getattr(self.inode),
                "create": create,
                "unlink": unlink,
                "rename": rename,
                "readdir": lambda: meta.readdir(self.listed, b"", FILES, attrs=True),
                "slice commit": commit,
            }
            return steps[operation]

        return of

    async def measure(self, operation: str, tasks: int, seconds: float) -> float:
        await self.prepare(tasks)
        self.stock: list[list[bytes]] = [[] for _ in range(tasks)]
        self.files: list[int] = []
        if operation in ("unlink", "rename"):
            # Enough names for the time at hand, made in the same way for every engine.
            each = max(4, int(8_000 * seconds) // tasks) if operation == "unlink" else 4
            for at in range(tasks):
                self.stock[at] = [b"s%d" % next(self.names) for _ in range(each)]
            todo = [(self.dirs[at], name) for at in range(tasks) for name in self.stock[at]]
            began, made = time.perf_counter(), 0
            for at in range(0, len(todo), 256):
                await asyncio.gather(*(self.meta.create(*one) for one in todo[at : at + 256]))
                made = at + 256
                if time.perf_counter() - began > 4 * seconds:
                    break
            for directory, name in todo[made:]:
                self.stock[self.dirs.index(directory)].remove(name)
            if operation == "unlink":
                return await self._unlink_all(tasks)
        if operation == "slice commit":
            self.files = [(await self.meta.create(d, b"f%d" % next(self.names)))[0] for d in self.dirs[:tasks]]
        return await rate(tasks, seconds, self.work(operation))

    async def _unlink_all(self, tasks: int) -> float:
        total = sum(map(len, self.stock))
        began = time.perf_counter()

        async def run(number: int) -> None:
            while self.stock[number]:
                await self.meta.unlink(self.dirs[number], self.stock[number].pop(), skip_trash=True)

        await asyncio.gather(*(run(number) for number in range(tasks)))
        return total / (time.perf_counter() - began)


async def opened(url: str) -> Meta:
    store = open_record_store(url)
    await store.open()
    await store.prepare()
    fmt = new_format("bench", bucket="/nowhere/")
    await init_format(store, fmt, time.time_ns())
    meta = Meta(store, fmt.changed(trash_days=0))
    await meta.new_session("bench", heartbeat_s=0)
    return meta


async def one_engine(
    engine: DurableEngine, rtts: list[float], tasks: list[int], seconds: float, only: list[str]
) -> list[dict[str, Any]]:
    rows = []
    for rtt in rtts:
        if rtt and not engine.proxied:
            continue  # no network in between, or none that a proxy can stand in
        proxy = DelayingProxy(engine.port, rtt) if rtt else None
        if proxy:
            proxy.start()
        try:
            port = proxy.port if proxy else engine.port
            meta = await opened(engine.fresh_url(port))
            bench = Bench(meta)
            for operation in only:
                for count in tasks:
                    value = await bench.measure(operation, count, seconds)
                    rows.append({"engine": engine.name, "rtt_ms": rtt, "operation": operation, "tasks": count,
                                 "per_s": round(value)})  # fmt: skip
                    print(f"  {engine.name:14} {rtt:g} ms  {operation:13} × {count:<3} {value:10,.0f}/s", flush=True)
            await meta.close()
            if engine.name in NAIVE:
                rows += await naive_rows(engine, NAIVE[engine.name], engine.fresh_url(port), rtt, tasks, seconds)
        finally:
            if proxy:
                proxy.__exit__()
    return rows


async def naive_rows(
    engine: DurableEngine, make: Callable[[str], Awaitable[Naive]], url: str, rtt: float, tasks: list[int],
    seconds: float,
) -> list[dict[str, Any]]:  # fmt: skip
    meta = await opened(url)
    bench = Bench(meta)
    await bench.prepare(max(tasks))
    rows = []
    for count in tasks:
        clients = [await make(url) for _ in range(count)]
        for operation in ("lookup", "create"):

            def of(number: int, operation: str = operation, clients: list[Naive] = clients):  # type: ignore[no-untyped-def]
                client, directory = clients[number], bench.dirs[number]
                if operation == "lookup":
                    return lambda: client.lookup(bench.listed, b"file0500")
                return lambda: client.create(directory, b"x%d" % next(bench.names), 10_000_000 + next(bench.names))

            value = await rate(count, seconds, of)
            rows.append({"engine": engine.name, "rtt_ms": rtt, "operation": f"naive {operation}", "tasks": count,
                         "per_s": round(value)})  # fmt: skip
            label = "naive " + operation
            print(f"  {engine.name:14} {rtt:g} ms  {label:13} × {count:<3} {value:10,.0f}/s", flush=True)
        for client in clients:
            await client.close()
    await meta.close()
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """One line per operation and distance, one column per engine and number of tasks; ratios to naive below."""
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    tasks = sorted({row["tasks"] for row in rows})
    found = {(r["engine"], r["rtt_ms"], r["operation"], r["tasks"]): r["per_s"] for r in rows}
    head = [f"{e} × {t}" for e in engines for t in tasks]
    lines = ["| operations per second | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for rtt in sorted({row["rtt_ms"] for row in rows}):
        for operation in dict.fromkeys(row["operation"] for row in rows):
            cells = []
            for e in engines:
                for t in tasks:
                    value = found.get((e, rtt, operation, t))
                    naive = found.get((e, rtt, f"naive {operation}", t))
                    ratio = f" ({value / naive:.1f} × naive)" if value and naive else ""
                    cells.append("" if value is None else f"{value:,}{ratio}")
            if any(cells):
                lines.append(f"| {operation}, {rtt:g} ms | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engines", nargs="*", help=f"of {', '.join(ENGINES)}; default all")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rtt-ms", type=float, action="append")
    parser.add_argument("--tasks", type=int, action="append")
    parser.add_argument("--only", action="append", choices=OPERATIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.engines or ENGINES:
        with durable_engine(name) as engine:
            print(f"{name}: {engine.settings}", flush=True)
            rows += uvloop.run(
                one_engine(
                    engine, options.rtt_ms or [0, 1], options.tasks or [1, 32], options.seconds,
                    options.only or list(OPERATIONS),
                )
            )  # fmt: skip
    print("\n" + table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
