# SPDX-License-Identifier: Apache-2.0
"""TiKV goes away, comes back, falls silent, or its answer to a commit is lost: clear errors, bounded waits, no lies."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("tikv_client", reason="pip install tikv-client==0.0.4")

from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.store import PUT
from core.meta.stores.tikv import TiKVStore, connection
from tests.conformance.volume.invariants import check_invariants
from tests.servers.process import free_port
from tests.servers.proxy import CuttingProxy
from tests.servers.tikv import TiKVServer


async def failure(call: object) -> tuple[MetaError, float]:
    """The error of a call and how long it took."""
    started = time.monotonic()
    with pytest.raises(MetaError) as caught:
        await call  # type: ignore[misc]
    assert caught.value.retryable
    return caught.value, time.monotonic() - started


async def test_nobody_there() -> None:
    store = TiKVStore.from_url(f"tikv://127.0.0.1:{free_port()}/v")
    error, took = await failure(store.open())
    assert took < connection.CALL_TIMEOUT_S
    assert store.driver.url.endpoints[0] in str(error) and "check that PD answers" in str(error)


async def test_somebody_there_who_is_no_tikv(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that accepts and never answers: bounded."""
    monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = TiKVStore.from_url(f"tikv://127.0.0.1:{silent.getsockname()[1]}/v")
        error, took = await failure(store.open())
    assert took < 20 and "TiKV can't be reached" in str(error)


async def test_a_server_that_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is down every call fails in bounded time; afterwards the same store works again, by itself."""
    monkeypatch.setattr(connection, "PATIENCE_S", 0.4)
    with TiKVServer(keep=True) as server:
        store = TiKVStore.from_url(server.url("v"))
        await store.open()
        await store.commit([], [(PUT, k.setting(), b"kept")])
        server.stop()
        for call in (
            store.read(k.setting()),
            store.commit([], [(PUT, k.setting(), b"x")]),
            store.allocate("nextInode", 1),
        ):
            error, took = await failure(call)
            assert took < 5 and server.pd in str(error) and not error.uncertain
        # A read that waits is answered when the server is back.
        monkeypatch.setattr(connection, "PATIENCE_S", 20)
        waiting = asyncio.create_task(store.read(k.setting()))
        await asyncio.to_thread(server.start)
        assert await waiting == [b"kept"]
        await store.commit([], [(PUT, k.setting(), b"changed")])
        assert await store.read(k.setting()) == [b"changed"]
        assert await store.allocate("nextInode", 1) == 2
        await store.close()


async def test_a_server_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a signal: connections stay open, nothing answers. Calls end, and work again when it continues."""
    with TiKVServer() as server:
        store = TiKVStore.from_url(server.url("v"))
        await store.open()
        await store.commit([], [(PUT, k.setting(), b"1")])
        assert server.process
        monkeypatch.setattr(connection, "CALL_TIMEOUT_S", 0.3)
        monkeypatch.setattr(connection, "PATIENCE_S", 0.6)
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            for call in (store.read(k.setting()), store.commit([], [(PUT, k.setting(), b"2")])):
                error, took = await failure(call)
                assert took < 6 and "TiKV can't be reached" in str(error)
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        monkeypatch.undo()
        assert await store.read(k.setting()) == [b"1"]
        await store.commit([], [(PUT, k.setting(), b"3")])
        assert await store.read(k.setting()) == [b"3"]
        await store.close()


@pytest.fixture
async def cut(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Meta, Meta, CuttingProxy]]:
    """Two clients behind a proxy that can cut their connections at any byte."""
    server = TiKVServer()
    async with CuttingProxy(server.port) as proxy:
        server.advertised = proxy.port
        await asyncio.to_thread(server.start)
        try:
            made = []
            fmt = new_format("cut", bucket="/nowhere/").changed(trash_days=0)
            for at in range(2):
                store = TiKVStore.from_url(server.url("cut"))
                await store.open()
                if not at:
                    await init_format(store, fmt, time.time_ns())
                made.append(Meta(store, fmt))
                await made[-1].new_session("cut", heartbeat_s=0)
            yield made[0], made[1], proxy
            for meta in made:
                await meta.close()
        finally:
            server.stop()


async def test_a_connection_cut_on_the_way_of_a_create(cut: tuple[Meta, Meta, CuttingProxy]) -> None:
    """At every so many bytes there and back: done means done, an error means perhaps, never twice and never half."""
    judge, victim, proxy = cut
    proxy.arm()
    await victim.create(1, b"before", exclusive=True)
    sizes = dict(proxy.counted)
    outcomes = {"done": 0, "failed": 0, "uncertain": 0}
    for direction in ("up", "down"):
        for at in range(0, sizes[direction] + 1, 83):
            name = b"%s%d" % (direction.encode(), at)
            proxy.arm(**{direction: at})
            error: FsError | None = None
            try:
                await asyncio.wait_for(victim.create(1, name, exclusive=True), 30)
            except FsError as e:
                error = e
            proxy.arm()
            there = {entry.name for entry in await judge.readdir(1, b"", 1000)}
            if error is None:
                assert name in there, f"cut {direction} at byte {at}: acknowledged, but lost"
                outcomes["done"] += 1
            else:
                assert isinstance(error, MetaError) and error.retryable, error
                assert error.uncertain or name not in there, error
                outcomes["uncertain" if error.uncertain else "failed"] += 1
            assert await victim.getattr(1)
    print(sizes, outcomes)
    assert proxy.cuts > sum(outcomes.values()) / 2, "hardly any cut: nothing was tested"
    for meta in (victim, judge):
        while meta._background:
            await asyncio.gather(*meta._background, return_exceptions=True)
    await check_invariants(judge)
