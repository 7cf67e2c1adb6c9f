# SPDX-License-Identifier: Apache-2.0
"""Group commit in SQLite: grouping, processes side by side, kill -9, full disks, locks that others hold.

Real files, real processes, real signals. Promise kept here: what was acknowledged is durable (architecture, promise 1).
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.records import FILE, DirStat, Entry, NodePatch
from core.meta.store import ADD, EXACT, IDENTITY, PATCH, PUT, Tx
from core.meta.stores.sqlite import SQLiteStore
from core.meta.stores.sqlite.turn import _AVAILABLE, Turn
from tests.servers.process import missing, wait_for

from .helpers import attr, child, directory, one, put, write

ROOT = Path(__file__).resolve().parents[3]

#: A process that creates files and says so, one line per acknowledged inode.
CREATOR = """
import asyncio, sys
from core.meta import keys as k
from core.meta.store import ADD, PUT
from core.meta.stores.sqlite import SQLiteStore
from tests.conformance.recordstore.helpers import attr, child

async def main(path, first, tasks):
    store = SQLiteStore(path)
    await store.open()
    async def worker(n):
        ino = first + n
        while True:
            writes = [(PUT, key, value) for key, value in child(1, b"%d" % ino, ino, attr())]
            await store.commit([], [*writes, (ADD, k.counter("totalInodes"), 1)])
            sys.stdout.write(f"{ino}\\n")
            sys.stdout.flush()
            ino += tasks
    await asyncio.gather(*[worker(n) for n in range(tasks)])

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""

#: A process that increments a record by read, check and write, and a counter blindly.
INCREMENTER = """
import asyncio, sys
from core.meta import keys as k
from core.meta.stores.sqlite import SQLiteStore

async def main(path, times):
    store = SQLiteStore(path)
    await store.open()
    async def body(tx):
        (value,) = await tx.read(k.symlink(1))
        tx.put(k.symlink(1), b"%d" % (int(value) + 1))
        tx.add(k.counter("usedSpace"), 1)
    async def worker():
        for _ in range(times):
            await store.transact(body)
    await asyncio.gather(worker(), worker())
    await store.close()

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def python(script: str, *args: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", script, *map(str, args)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(str(tmp_path / "meta.db"), busy_timeout_ms=10_000)
    await store.open()
    await store.prepare()
    await put(store, [(k.node(1), directory()), (k.dirstat(1), DirStat(0, 0, 0))])
    yield store
    await store.close()


# -- grouping ----------------------------------------------------------------------------------------------------


async def test_two_hundred_commits_need_two_transactions(store: SQLiteStore) -> None:
    before = store.transactions

    async def create(ino: int) -> None:
        writes = [(PUT, key, value) for key, value in child(1, b"%d" % ino, ino, attr())]
        more = [(PATCH, k.node(1), NodePatch(1, ino, ino)), (ADD, k.dirstat(1), DirStat(0, 4096, 1))]
        checks = [(IDENTITY, k.node(1), directory()), (EXACT, k.entry(1, b"%d" % ino), None)]
        await store.commit(checks, [*writes, *more, (ADD, k.counter("totalInodes"), 1)])

    await asyncio.gather(*[create(100 + i) for i in range(200)])
    assert store.transactions - before <= 2
    node, stat, total = await store.read(k.node(1), k.dirstat(1), k.counter("totalInodes"))
    assert (node.nlink, node.mtime_ns, stat, total) == (202, 299, DirStat(0, 200 * 4096, 200), 200)


async def test_commits_of_a_group_fail_one_by_one(store: SQLiteStore) -> None:
    """Every third loses, in the check, in the index or for a missing inode; the others don't notice."""
    await put(store, [(k.entry(1, b"taken"), Entry(FILE, 9))])

    async def one_of(i: int) -> str:
        good = [(PUT, k.symlink(100 + i), b"x"), (ADD, k.counter("good"), 1), (PATCH, k.node(1), NodePatch(1))]
        try:
            if i % 6 == 0:
                await store.commit([(EXACT, k.symlink(5), b"?")], good)
            elif i % 6 == 2:
                await store.commit(
                    [(EXACT, k.entry(1, b"taken"), None)], [*good, (PUT, k.entry(1, b"taken"), Entry(1, i))]
                )
            elif i % 6 == 4:
                await store.commit([], [*good, (PATCH, k.node(999), NodePatch(1))])
            else:
                await store.commit([(IDENTITY, k.node(1), directory())], good)
        except Conflict:
            return "conflict"
        return "done"

    before = store.transactions
    results = await asyncio.gather(*[one_of(i) for i in range(60)])
    assert results == ["conflict", "done"] * 30
    assert store.transactions - before == 1
    total, node, entry = await store.read(k.counter("good"), k.node(1), k.entry(1, b"taken"))
    assert (total, node.nlink, entry) == (30, 32, Entry(FILE, 9))
    assert [v is not None for v in await store.read(*[k.symlink(100 + i) for i in range(60)])] == [False, True] * 30


async def test_a_conflict_is_told_when_what_it_tells_of_can_be_read(store: SQLiteStore) -> None:
    """The winner stands in the same group: before its COMMIT nobody could see what the loser is told."""
    name = k.entry(1, b"both")

    async def create(ino: int) -> Entry:
        try:
            await store.commit(
                [(EXACT, name, None)], [(PUT, key, value) for key, value in child(1, b"both", ino, attr())]
            )
        except Conflict:
            pass
        found: Entry = await one(store, name)
        return found

    assert await asyncio.gather(*[create(100 + i) for i in range(8)]) == [Entry(FILE, 100)] * 8


async def test_a_value_that_does_not_fit_hurts_nobody_else(store: SQLiteStore) -> None:
    async def good(i: int) -> None:
        await write(store, (PUT, k.symlink(100 + i), b"x"), (ADD, k.counter("good"), 1))

    bad = write(store, (PUT, k.symlink(99), b"x"), (PUT, k.node(5), attr(length=2**63)))
    strange = write(store, (PUT, k.symlink(98), b"x"), (PUT, k.node(6), "no attribute"))
    results = await asyncio.gather(good(1), bad, good(2), strange, good(3), return_exceptions=True)
    assert isinstance(results[1], MetaError) and results[1].errno == errno.EOVERFLOW
    assert isinstance(results[3], AttributeError)
    assert [results[i] for i in (0, 2, 4)] == [None] * 3
    assert await store.read(k.counter("good"), k.symlink(99), k.symlink(98), k.node(5)) == [3, None, None, None]


async def test_a_group_that_only_conflicts_is_not_committed(store: SQLiteStore) -> None:
    before = store.transactions
    lost = [store.commit([(EXACT, k.symlink(1), b"?")], [(PUT, k.symlink(1), b"x")]) for _ in range(5)]
    assert all(isinstance(r, Conflict) for r in await asyncio.gather(*lost, return_exceptions=True))
    assert store.transactions == before


async def test_close_finishes_what_was_begun(tmp_path: Path, store: SQLiteStore) -> None:
    other = SQLiteStore(store.path)
    await other.open()
    waiting = [asyncio.ensure_future(write(other, (ADD, k.counter("n"), 1))) for _ in range(500)]
    await asyncio.sleep(0)
    await other.close()
    await asyncio.gather(*waiting)
    assert await one(store, k.counter("n")) == 500
    with pytest.raises(MetaError, match="not open"):
        await write(other, (ADD, k.counter("n"), 1))


# -- processes ---------------------------------------------------------------------------------------------------


async def test_kill_loses_nothing_that_was_acknowledged(store: SQLiteStore) -> None:
    for round_number, tasks in enumerate((1, 8, 40)):
        first = 1000 + round_number * 1_000_000
        creator = python(CREATOR, store.path, first, tasks)
        assert creator.stdout
        lines = [await asyncio.to_thread(creator.stdout.readline) for _ in range(300)]
        creator.send_signal(signal.SIGKILL)
        lines += (await asyncio.to_thread(creator.stdout.read)).splitlines(keepends=True)
        creator.wait()
        said = [int(line) for line in lines if line.endswith(b"\n")]
        for at in range(0, len(said), 500):
            some = said[at : at + 500]
            assert all(await store.read(*[k.node(i) for i in some]))
            assert None not in await store.read(*[k.entry(1, b"%d" % i) for i in some])
    entries = [key async for key, _ in store.scan(k.ENTRY)]
    nodes = [key async for key, value in store.scan(k.NODE) if value.is_file]
    assert len(entries) == len(nodes) == await one(store, k.counter("totalInodes"))
    await store.close()
    conn = sqlite3.connect(store.path)
    assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    conn.close()


async def test_processes_increment_side_by_side(store: SQLiteStore) -> None:
    await put(store, [(k.symlink(1), b"0")])
    others = [python(INCREMENTER, store.path, 40) for _ in range(2)]

    async def body(tx: Tx) -> None:
        (value,) = await tx.read(k.symlink(1))
        tx.put(k.symlink(1), b"%d" % (int(value) + 1))
        tx.add(k.counter("usedSpace"), 1)

    for _ in range(40):
        await store.transact(body)
    codes = [await asyncio.to_thread(p.wait) for p in others]
    assert codes == [0, 0]
    assert await store.read(k.symlink(1), k.counter("usedSpace")) == [b"200", 200]


async def test_a_stopped_process_does_not_stop_the_others(store: SQLiteStore, tmp_path: Path) -> None:
    """It holds the turn, but no lock of SQLite's: after a while we go on without a queue."""
    if not _AVAILABLE:
        missing("open-file-description locks", "the queue between processes exists on Linux only")
    holder = python(
        "import sys, time; from core.meta.stores.sqlite.turn import Turn; t = Turn(sys.argv[1]);"
        "print(t.try_acquire(), flush=True); time.sleep(600)",
        f"{store.path}-sluice.lock",
    )
    try:
        assert holder.stdout and await asyncio.to_thread(holder.stdout.readline) == b"True\n"
        holder.send_signal(signal.SIGSTOP)
        patient = SQLiteStore(store.path, busy_timeout_ms=200)
        await patient.open()
        for i in range(3):
            await write(patient, (PUT, k.symlink(5), b"%d" % i))
        assert await one(patient, k.symlink(5)) == b"2"
        await patient.close()
    finally:
        holder.kill()
        holder.wait()


def test_turns_alternate(tmp_path: Path) -> None:
    if not _AVAILABLE:
        missing("open-file-description locks", "the queue between processes exists on Linux only")
    first, second, third = (Turn(str(tmp_path / "lock")) for _ in range(3))
    assert first.try_acquire()
    assert not second.try_acquire()
    got = threading.Event()
    waiter = threading.Thread(target=lambda: (second.acquire(30), got.set()))
    waiter.start()
    # Once somebody waits, nobody overtakes: not even the one that has just had its turn.
    wait_for(lambda: second._waiting is not None and not third.try_acquire(), what="the second to queue up")
    first.release()
    assert got.wait(30)
    assert not first.try_acquire()
    waiter.join()
    second.release()
    assert first.try_acquire()
    first.release()
    for turn in (first, second, third):
        turn.close()


# -- locks and disks ---------------------------------------------------------------------------------------------


async def test_a_lock_of_another_client_is_waited_for(store: SQLiteStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO jfs_symlink VALUES (77, x'61')")
    mine = asyncio.ensure_future(write(store, (PUT, k.symlink(78), b"b")))
    for _ in range(5):
        assert await one(store, k.symlink(77)) is None  # readers don't wait
        await asyncio.sleep(0)
    assert not mine.done()
    other.execute("COMMIT")
    await mine
    assert await store.read(k.symlink(77), k.symlink(78)) == [b"a", b"b"]
    other.close()


async def test_a_lock_that_stays_becomes_a_retryable_error(store: SQLiteStore) -> None:
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    hasty = SQLiteStore(store.path, busy_timeout_ms=50)
    await hasty.open()
    results = await asyncio.gather(*[write(hasty, (ADD, k.counter("n"), 1)) for _ in range(3)], return_exceptions=True)
    assert all(isinstance(r, MetaError) and r.retryable and r.errno == errno.EIO for r in results)
    assert "another process keeps it locked" in str(results[0]) and store.path in str(results[0])
    other.execute("ROLLBACK")
    await write(hasty, (ADD, k.counter("n"), 1))
    assert await one(store, k.counter("n")) == 1
    await hasty.close()
    other.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)], capture_output=True)
    if done.returncode:
        missing("a small file system", f"needs root to mount a tmpfs ({done.stderr.decode().strip()})")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk_fails_the_group_and_nothing_else(small_disk: Path) -> None:
    store = SQLiteStore(str(small_disk / "meta.db"))
    await store.open()
    await store.prepare()
    await put(store, [(k.symlink(1), b"kept")])
    ballast = small_disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                break
    before = await one(store, k.counter("n"))
    big = [write(store, (PUT, k.symlink(100 + i), os.urandom(4000)), (ADD, k.counter("n"), 1)) for i in range(60)]
    results = await asyncio.gather(*big, return_exceptions=True)
    assert all(isinstance(r, MetaError) and r.errno == errno.ENOSPC for r in results)
    assert "full; free some space" in str(results[0])
    assert await store.read(k.symlink(1), k.symlink(100), k.counter("n")) == [b"kept", None, before]
    ballast.unlink()
    await write(store, (PUT, k.symlink(100), b"again"), (ADD, k.counter("n"), 1))
    assert await store.read(k.symlink(100), k.counter("n")) == [b"again", before + 1]
    await store.close()
