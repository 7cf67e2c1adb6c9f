# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server that is away, refuses, dies and comes back: clear errors, recovery, nothing sent twice."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from core.errors import ConfigError, MetaError
from core.meta import keys as k
from core.meta.records import FILE, Attr, Entry
from core.meta.store import ADD, PUT
from core.meta.stores.postgres import PostgresStore, links, reading, wire
from tests.servers.postgres import PASSWORD, PASSWORD_IN_URL, USER, PostgresServer
from tests.servers.process import free_port

_WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'sluicefs'"
PLAIN = Attr(FILE, 0o644, 0, 0, 0, 0, 0, 1, 0, 0, 1)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:  # with fsync: what it acknowledged must survive
        assert isinstance(server, PostgresServer)
        server.create("v")
        yield server


@pytest.fixture
async def store(server: PostgresServer) -> AsyncIterator[PostgresStore]:
    store = PostgresStore.from_url(server.url("v"))
    await store.open()
    await store.prepare()
    yield store
    await store.close()


async def test_nobody_listens() -> None:
    port = free_port()
    store = PostgresStore.from_url(f"postgres://u:{PASSWORD_IN_URL}@127.0.0.1:{port}/v")
    with pytest.raises(MetaError, match=f"postgres://127.0.0.1:{port}/v.*can't reach PostgreSQL.*refused") as caught:
        await store.open()
    assert caught.value.retryable and PASSWORD not in str(caught.value)


async def test_refusals_at_connecting_say_what_to_do(server: PostgresServer) -> None:
    wrong = server.url("v").replace(PASSWORD_IN_URL, "hush-hush")
    with pytest.raises(MetaError, match=r"user or password are wrong.*META_PASSWORD") as caught:
        await PostgresStore.from_url(wrong).open()
    assert caught.value.errno == errno.EACCES
    assert not caught.value.retryable and "hush-hush" not in str(caught.value)
    with pytest.raises(MetaError, match="does not exist; create it with CREATE DATABASE"):
        await PostgresStore.from_url(server.url("none")).open()
    with pytest.raises(ConfigError, match="SSL was required"):
        await PostgresStore.from_url(server.url("v", "?sslmode=require")).open()


async def test_tls_options_are_those_of_libpq() -> None:
    with PostgresServer(fsync=False, tls=True) as server:
        assert isinstance(server, PostgresServer)
        server.create("v")
        trusted = f"?sslmode=verify-full&sslrootcert={server.folder}/ca.pem"
        store = PostgresStore.from_url(server.url("v", trusted))
        await store.open()
        await store.prepare()
        big = os.urandom(3 << 20)  # many TLS records in each direction
        await store.commit([], [(PUT, k.xattr(1, b"user.big"), big), (PUT, k.symlink(1), b"x")])
        assert await store.read(k.xattr(1, b"user.big"), k.symlink(1)) == [big, b"x"]
        encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl s JOIN pg_stat_activity USING (pid) WHERE client_port > 0"
        assert server.psql(encrypted) == "t"
        await store.close()
        stranger = PostgresStore.from_url(server.url("v", "?sslmode=verify-full&sslrootcert=/nowhere/ca.pem"))
        with pytest.raises(ConfigError, match=r"/nowhere/ca\.pem.*does not exist"):
            await stranger.open()


async def test_a_user_without_privileges_is_told_so(server: PostgresServer, store: PostgresStore) -> None:
    server.psql("CREATE ROLE guest LOGIN PASSWORD 'x'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest", "v")
    guest = PostgresStore.from_url(f"postgres://guest:x@127.0.0.1:{server.port}/v")
    await guest.open()
    assert await guest.read(k.symlink(1)) == [None]
    with pytest.raises(MetaError, match="lacks a privilege; GRANT") as caught:
        await guest.commit([], [(PUT, k.symlink(1), b"x")])
    assert caught.value.errno == errno.EACCES
    await guest.close()


async def test_sessions_ended_by_an_administrator_are_made_again(server: PostgresServer, store: PostgresStore) -> None:
    await store.commit([], [(PUT, k.symlink(1), b"x")])
    assert await store.read(k.symlink(1)) == [b"x"]
    for _ in range(3):
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluicefs'", "v")
        # That shows before anything is sent, or the server says so: certainly not applied, and sent again.
        await store.commit([], [(ADD, k.counter("n"), 1)])
        assert await store.read(k.symlink(1)) == [b"x"]
    assert await store.read(k.counter("n")) == [3]


async def test_killed_and_restarted(server: PostgresServer, store: PostgresStore, monkeypatch: Any) -> None:
    await store.commit([], [(PUT, k.node(5), PLAIN), (PUT, k.entry(1, b"f"), Entry(FILE, 5))])
    monkeypatch.setattr(links, "PAUSES_S", (0.01,))
    server.kill()
    for _ in range(2):
        with pytest.raises(MetaError, match="can't reach PostgreSQL") as caught:
            await store.read(k.node(5))
        assert caught.value.retryable
        with pytest.raises(MetaError) as caught:
            await store.commit([], [(PUT, k.node(6), PLAIN)])
        assert caught.value.retryable and not caught.value.uncertain
    monkeypatch.undo()
    server.start()
    assert await store.read(k.node(5), k.entry(1, b"f"), k.node(6)) == [PLAIN, Entry(FILE, 5), None]
    await store.commit([], [(PUT, k.node(6), PLAIN)])
    assert await store.read(k.node(6)) == [PLAIN]


async def test_a_server_killed_under_load_loses_nothing_that_was_acknowledged(
    server: PostgresServer, store: PostgresStore
) -> None:
    acknowledged: set[int] = set()
    unknown: set[int] = set()
    stop = asyncio.Event()

    async def worker(number: int) -> None:
        for i in range(100_000):
            ino = 1000 * 1000 * (number + 1) + i
            if stop.is_set():
                return
            try:
                await store.commit([], [(PUT, k.node(ino), PLAIN), (ADD, k.counter("made"), 1)])
                acknowledged.add(ino)
            except MetaError as e:
                assert e.retryable
                if e.uncertain:
                    unknown.add(ino)

    workers = [asyncio.ensure_future(worker(n)) for n in range(8)]
    for _ in range(3):
        before = len(acknowledged)
        while len(acknowledged) < before + 50:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    before = len(acknowledged)
    while len(acknowledged) < before + 50:
        await asyncio.sleep(0.001)
    stop.set()
    await asyncio.gather(*workers)
    present = {key[1] async for key, _ in store.scan(k.NODE)}
    (made,) = await store.read(k.counter("made"))
    assert acknowledged <= present
    assert present <= acknowledged | unknown
    assert made == len(present)  # nothing was applied twice


@pytest.mark.heavy
async def test_a_server_that_hangs_is_given_up(
    server: PostgresServer, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.commit([], [(PUT, k.node(5), PLAIN)])
    assert await store.read(k.node(5)) == [PLAIN]
    monkeypatch.setattr(links, "PAUSES_S", ())
    monkeypatch.setattr(reading, "PAUSES_S", ())
    monkeypatch.setattr(wire, "SILENCE_S", 0.2)
    pids = server.psql("SELECT pid FROM pg_stat_activity WHERE application_name = 'sluicefs'", "v").split()
    for pid in pids:
        os.kill(int(pid), signal.SIGSTOP)
    try:
        with pytest.raises(MetaError, match="has not answered for") as caught:
            await store.read(k.node(5))
        assert caught.value.retryable
        with pytest.raises(MetaError, match="has not answered for") as caught:
            await store.commit([], [(PUT, k.node(6), PLAIN)])
        assert caught.value.uncertain
        # New connections are answered by new processes.
        assert await store.read(k.node(5)) == [PLAIN]
        await store.commit([], [(PUT, k.node(7), PLAIN)])
    finally:
        for pid in pids:
            os.kill(int(pid), signal.SIGCONT)


async def test_a_lost_answer_is_looked_up_not_repeated(server: PostgresServer, store: PostgresStore) -> None:
    """The server dies while the commit waits for a lock: nobody can tell, until somebody looks."""
    await store.commit([], [(PUT, k.node(5), PLAIN)])
    other = await psycopg.AsyncConnection.connect(f"host={server.folder} port={server.port} user={USER} dbname=v")
    try:
        await other.execute("SELECT * FROM jfs_node WHERE inode = 5 FOR UPDATE")
        work = asyncio.ensure_future(store.commit([], [(PUT, k.node(5), PLAIN), (ADD, k.counter("n"), 1)]))
        while not await asyncio.to_thread(server.psql, _WAITING, "v"):
            pass
        await asyncio.to_thread(server.kill)
        with pytest.raises(MetaError, match="may or may not have been applied") as caught:
            await work
        assert caught.value.uncertain and caught.value.retryable
    finally:
        await other.close()
    await asyncio.to_thread(server.start)
    assert await store.read(k.counter("n")) == [0]


async def test_a_session_ended_before_its_commit_is_no_loss(server: PostgresServer, store: PostgresStore) -> None:
    """The server says that it ends the session: the commit has certainly not happened, and is sent again."""
    await store.commit([], [(PUT, k.node(5), PLAIN)])
    place = f"host={server.folder} port={server.port} user={USER} dbname=v"
    async with await psycopg.AsyncConnection.connect(place) as other:
        await other.execute("SELECT * FROM jfs_node WHERE inode = 5 FOR UPDATE")
        works = [store.commit([], [(PUT, k.node(i), PLAIN), (ADD, k.counter("n"), 1)]) for i in (5, 6, 7)]
        waiting = asyncio.gather(*works)
        while not await asyncio.to_thread(server.psql, _WAITING, "v"):
            await asyncio.sleep(0)
        await asyncio.to_thread(server.psql, _WAITING.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"), "v")
        await other.rollback()
        await waiting
    assert await store.read(k.counter("n"), k.node(7)) == [3, PLAIN]
