# SPDX-License-Identifier: Apache-2.0
"""A process that used TiKV exits with its own exit code, however it left the store behind; and in silence, if closed.

Real processes on a real server: the fault is in what the interpreter and the library's threads do at exit, in one of
ten processes before there was `core.meta.stores.tikv.leaving`. Several at once, so that threads have to wait for a
processor.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("tikv_client", reason="pip install tikv-client==0.0.4")

from core.meta.stores.tikv import TiKVStore, leaving, library
from tests.servers.tikv import TiKVServer

AT_ONCE = 3

PROGRAM = """
import asyncio, atexit, logging, random, socket, sys, threading, time
from core.meta import keys as k
from core.meta.store import PUT
from core.meta.stores.tikv import TiKVStore, connection

url, loops = sys.argv[1:]
if loops == "uvloop":
    import uvloop
    run = uvloop.run
else:
    run = asyncio.run

async def operation(store, number):
    if number % 2:
        await store.commit([], [(PUT, k.counter(f"c{number}"), number)])
    else:
        await store.read(k.setting(), k.counter(f"c{number}"))

async def perhaps(store, number):
    try:
        await asyncio.wait_for(operation(store, number), random.random() / 100 if number % 4 < 2 else None)
    except asyncio.TimeoutError:
        pass

async def opened():
    store = TiKVStore.from_url(url)
    await store.open()
    return store

async def busy(store, how_many=200):
    await asyncio.gather(*(perhaps(store, number) for number in range(how_many)))
"""

CLOSED = """
async def main():
    store = await opened()
    await busy(store)
    await store.close()
run(main())
sys.exit(3)
"""
#: Nobody closes the store, and calls are under way: an error elsewhere.
LEFT = """
async def main():
    store = await opened()
    for number in range(0, 100, 2):
        asyncio.create_task(operation(store, number))
    await asyncio.sleep(random.random() / 50)
    sys.exit(3)
run(main())
"""
#: Transactions that are neither committed nor rolled back.
HALF = """
async def main():
    store = await opened()
    for number in range(3):
        attempt = await store.driver._attempt([b"x"], [], 0)
        attempt._raw.put(b"half%d" % number, b"1")
    sys.exit(3)
run(main())
"""
#: An event loop in a daemon thread that never stops calling.
DAEMON = """
ready = threading.Event()
async def main():
    store = await opened()
    ready.set()
    while True:
        await store.read(k.setting())
threading.Thread(target=lambda: run(main()), daemon=True).start()
ready.wait()
sys.exit(3)
"""
#: A handler of `atexit` that runs after ours.
LATE = """
from core.meta.stores.tikv import leaving
atexit.unregister(leaving._at_exit)
async def main():
    store = await opened()
    await busy(store, 20)
    await store.close()
atexit.register(lambda: run(main()))
atexit.register(leaving._at_exit)
sys.exit(3)
"""
#: An exception that nobody catches: traceback and exit code are Python's.
UNCAUGHT = """
async def main():
    store = await opened()
    await busy(store, 20)
    raise SystemExit(3) from KeyError("x")
run(main())
"""
PROGRAMS = {
    "closed": CLOSED, "left": LEFT, "half": HALF, "daemon": DAEMON, "late": LATE, "uncaught": UNCAUGHT,
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[TiKVServer]:
    with TiKVServer() as started:
        assert isinstance(started, TiKVServer)
        yield started


def finish(processes: list[subprocess.Popen[str]], code: int, *, quiet: bool = True) -> None:
    said = [process.communicate(timeout=60) for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [code] * len(codes), said
    assert not quiet or not any(error for _, error in said), said


def start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
@pytest.mark.parametrize("how", PROGRAMS)
def test_exit_code(server: TiKVServer, how: str, loops: str) -> None:
    if loops == "uvloop":
        pytest.importorskip("uvloop", reason="no uvloop on this platform")
    for turn in range(4 if how == "closed" else 2):
        program = [sys.executable, "-c", PROGRAM + PROGRAMS[how]]
        # Of a store that nobody closed, the library may complain that an event loop is closed.
        finish(
            [start(*program, server.url(f"{how}{loops}{turn}{at}"), loops) for at in range(AT_ONCE)],
            3,
            quiet=how in ("closed", "late"),
        )


def test_commands(server: TiKVServer, tmp_path: Path) -> None:
    sluice = [sys.executable, "-m", "sluicefs"]
    url = server.url("commands")
    finish([start(*sluice, "format", url, "exits", "--storage", "file", "--bucket", f"{tmp_path}/")], 0, quiet=False)
    for _ in range(3):
        finish([start(*sluice, "status", url) for _ in range(AT_ONCE)], 0, quiet=False)
    process = start(*sluice, "status", server.url("nothing-here"))
    assert "no volume" in process.communicate(timeout=60)[1].lower()
    assert 0 < process.returncode < 128


async def test_close_waits_for_calls_that_nobody_waits_for(server: TiKVServer) -> None:
    store = TiKVStore.from_url(server.url("abandoned"))
    await store.open()
    calls = store.driver._connection._calls
    reading = asyncio.create_task(store.driver._connection.timestamp())
    await asyncio.sleep(0)
    assert calls.at_work()
    reading.cancel()
    await store.close()
    assert not calls.at_work() and calls not in library.busy


async def test_close_ends_calls_that_are_never_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would come back into a closed event loop."""
    from core.meta.stores.tikv import connection

    monkeypatch.setattr(connection, "DRAIN_S", 0.2)
    calls = library.Calls()
    never = calls.watch(asyncio.get_running_loop().create_future())
    async with asyncio.timeout(60):  # only bounds a failure
        await calls.drain(connection.DRAIN_S)
    assert never.cancelled()


def test_settling_waits_for_calls_of_a_closed_loop(server: TiKVServer) -> None:
    """Cancelled where no event loop could do it any more, and given back by the library."""

    async def leave_one() -> None:
        store = TiKVStore.from_url(server.url("closed-loop"))
        await store.open()
        client = store.driver._connection._client
        assert client
        client.current_timestamp()

    asyncio.run(leave_one())
    assert leaving.settle()
    assert not any(calls.at_work() for calls in library.busy)


def test_settling_is_bounded_and_free_when_nothing_is_left() -> None:
    assert leaving.settle()
    loop = asyncio.new_event_loop()
    calls = library.Calls()
    mine = calls.watch(loop.create_future())  # held by us: never given back
    assert not leaving.settle(0.2)
    assert mine.cancelled()
    loop.close()
    del mine
    assert leaving.settle()


def test_threads_of_python_are_not_waited_for() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert thread.ident not in leaving.foreign_threads()
        assert leaving.settle()
    finally:
        stop.set()
        thread.join()
