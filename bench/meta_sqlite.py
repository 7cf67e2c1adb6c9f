# SPDX-License-Identifier: Apache-2.0
"""What the SQLite record store can do: creates and reads per second, beside the floor of the machine (fsync).

    python bench/meta_sqlite.py [--folder DIR] [--seconds 3] [--synchronous FULL]

A create is what `namespace.create` commits: the parent is still what it was and the name is free; write node and
entry, patch the parent, add to usedSpace, totalInodes and the parent's statistics.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.meta import keys as k
from core.meta.records import DIRECTORY, FILE, Attr, DirStat, Entry, NodePatch
from core.meta.store import ADD, EXACT, IDENTITY, PATCH, PUT, Check, Write
from core.meta.stores.sqlite import SQLiteStore

NOW = 1_700_000_000_123_456_789
ROOT = Attr(DIRECTORY, 0o755, 0, 0, NOW, NOW, NOW, 2, 4096, parent=1)
STAT = DirStat(0, 4096, 1)


def create(ino: int) -> tuple[list[Check], list[Write]]:
    name = b"file-%d" % ino
    entry = k.entry(1, name)
    node = Attr(FILE, 0o644, 1000, 1000, NOW, NOW, NOW, 1, 0, parent=1)
    return [(IDENTITY, k.node(1), ROOT), (EXACT, entry, None)], [
        (PUT, k.node(ino), node),
        (PUT, entry, Entry(FILE, ino)),
        (PATCH, k.node(1), NodePatch(0, NOW + ino, NOW + ino)),
        (ADD, k.counter("usedSpace"), 4096),
        (ADD, k.counter("totalInodes"), 1),
        (ADD, k.dirstat(1), STAT),
    ]


def fsyncs(folder: str, seconds: float) -> float:
    """Appends of two pages with fdatasync per second: the floor of one commit after another."""
    path = os.path.join(folder, "floor")
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    count, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        os.write(fd, bytes(8192))
        os.fdatasync(fd)
        count += 1
    os.close(fd)
    os.unlink(path)
    return count / seconds


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--folder", default=None)
    options.add_argument("--seconds", type=float, default=3)
    options.add_argument("--synchronous", default="FULL")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        floor = fsyncs(folder, 1)
        print(f"fdatasync of 8 KiB: {floor:,.0f}/s")
        store = SQLiteStore(os.path.join(folder, "meta.db"), synchronous=args.synchronous)
        await store.open()
        await store.prepare()
        await store.commit([], [(PUT, k.node(1), ROOT), (PUT, k.dirstat(1), DirStat(0, 0, 0))])
        ino = 1
        for tasks in (1, 8, 32, 128):
            before, commits = ino, store.transactions
            cpu, start = time.process_time(), time.perf_counter()
            until = start + args.seconds

            async def worker(until: float) -> None:
                nonlocal ino
                while time.perf_counter() < until:
                    ino += 1
                    await store.commit(*create(ino))

            await asyncio.gather(*[worker(until) for _ in range(tasks)])
            took, used = time.perf_counter() - start, time.process_time() - cpu
            done, groups = ino - before, store.transactions - commits
            print(
                f"create, {tasks:3} tasks: {done / took:8,.0f}/s  {done / took / floor:5.2f} x floor  "
                f"{done / groups:5.1f} per COMMIT  {used / done * 1e6:5.0f} us CPU each"
            )
        names = [b"file-%d" % i for i in range(2, min(ino, 20000))]
        attr_keys = [k.node(i) for i in range(2, min(ino, 20000))]

        async def measure(label: str, call) -> None:  # type: ignore[no-untyped-def]
            count, start = 0, time.perf_counter()
            while time.perf_counter() - start < min(1.0, args.seconds):
                for _ in range(50):
                    await call(count)
                    count += 1
            took = time.perf_counter() - start
            print(f"{label}: {count / took:9,.0f}/s  {took / count * 1e6:7.1f} us each")

        size = len(names)

        def name(i: int) -> bytes:
            return names[i * 7919 % size]

        three = k.node(1), k.dirstat(1)
        await measure("read one node          ", lambda i: store.read(attr_keys[i * 7919 % size]))
        await measure("read one entry         ", lambda i: store.read(k.entry(1, name(i))))
        await measure("read node, entry, stat ", lambda i: store.read(*three, k.entry(1, name(i))))
        await measure("resolve one name       ", lambda i: store.resolve(1, [name(i)]))
        await measure("resolve, xattrs, chunk ", lambda i: store.resolve(1, [name(i)], xattrs=True, chunk=True))
        await measure("list 1000              ", lambda i: store.list_entries(1, names[i % 10]))
        await measure("list 1000 with attrs   ", lambda i: store.list_entries(1, names[i % 10], attrs=True))
        await store.close()


if __name__ == "__main__":
    asyncio.run(main())
