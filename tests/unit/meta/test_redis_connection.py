# SPDX-License-Identifier: Apache-2.0
"""The pipelining connection against real servers: one write per turn, losses, restarts, refusals, limits.

A small proxy stands between store and server where an answer has to get lost at a chosen moment.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.lockranges import Range
from core.meta.meta import Meta, init_format
from core.meta.store import ADD, PUT, RecordStore, Tx
from core.meta.stores.redis import RedisStore, wire as wire_module
from tests.conformance.recordstore.helpers import attr
from tests.servers.process import free_port
from tests.servers.redis import PASSWORD, PASSWORD_IN_URL, RedisServer, Sentinel

MARK = k.counter("marks")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def count(store: RecordStore) -> int:
    (value,) = await store.read(MARK)
    assert isinstance(value, int)
    return value


class Proxy:
    """Passes bytes on until told to cut: `swallow` loses requests, `mute` loses answers; both then close."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.requests = 0  # reads from the client
        self.swallow = self.mute = False
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.close()

    def url(self, db: int, options: str = "") -> str:
        return f"redis://:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/{db}{options}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers += [writer, up_writer]
        await asyncio.gather(self._pump(reader, up_writer, True), self._pump(up_reader, writer, False))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 20):
                self.requests += request
                if self.swallow if request else self.mute:
                    for each in self._writers:
                        each.transport.abort()
                    self._writers.clear()
                    self.swallow = self.mute = False
                    return
                writer.write(data)
                await writer.drain()
        writer.close()


async def test_commands_of_one_turn_leave_in_one_write(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(1)) as store:
        await store.wipe()
        before = proxy.requests
        await asyncio.gather(*[store.commit([], [(ADD, MARK, 1)]) for _ in range(50)])
        assert proxy.requests - before == 1
        with store.round_trips() as n:
            assert await asyncio.gather(*[count(store) for _ in range(50)]) == [50] * 50
        assert n.count == 50  # each caller waited once …
        assert proxy.requests - before == 2  # … but they travelled together


@pytest.mark.parametrize(("where", "applied"), [("swallow", 0), ("mute", 1)])
async def test_a_commit_whose_connection_is_cut_is_reported_and_never_repeated(
    server: RedisServer, where: str, applied: int
) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(2)) as store:
        await store.wipe()
        setattr(proxy, where, True)
        with pytest.raises(MetaError) as caught:
            await store.commit([], [(ADD, MARK, 1)])
        text = str(caught.value)
        assert caught.value.retryable
        assert caught.value.uncertain
        assert caught.value.errno == errno.EIO
        assert f"127.0.0.1:{proxy.port}" in text
        assert "may or may not have happened" in text
        assert PASSWORD not in text
        assert PASSWORD_IN_URL not in text
        assert await count(store) == applied
        await store.commit([], [(ADD, MARK, 1)])  # the store goes on
        assert await count(store) == applied + 1


async def test_a_lost_answer_is_cleared_up_by_what_was_written(server: RedisServer) -> None:
    """`transact` looks: a record that only this client can have written proves its commit."""
    async with Proxy(server.port) as proxy, opened(proxy.url(2)) as store:
        await store.wipe()

        async def body(tx: Tx) -> None:
            tx.put(k.symlink(5), b"mine")
            tx.add(MARK, 1)

        proxy.mute = True
        await store.transact(body)
        assert await store.read(k.symlink(5), MARK) == [b"mine", 1]
        await store.wipe()
        proxy.swallow = True
        with pytest.raises(MetaError) as caught:
            await store.transact(body)
        assert caught.value.uncertain
        assert await store.read(k.symlink(5), MARK) == [None, 0]


@pytest.mark.parametrize("where", ["swallow", "mute"])
async def test_a_lock_whose_answer_was_lost_is_held_once(server: RedisServer, where: str) -> None:
    """Only its owner writes it, so a second look tells, and whoever waited learns of the release as well."""
    async with Proxy(server.port) as proxy, opened(proxy.url(9)) as store:
        await store.wipe()
        fmt = new_format("locks", bucket="/nowhere/")
        await init_format(store, fmt, 1_800_000_000 * 10**9)
        meta = Meta(store, fmt)
        await meta.new_session("here", heartbeat_s=0)
        setattr(proxy, where, True)
        await meta.setlk(1, 1, "W", 0, 9, 5)  # its read is lost, and read again
        await meta.setlk(1, 1, "W", 20, 29, 5)
        setattr(proxy, where, True)
        await meta.setlk(1, 1, "W", 5, 24, 5)  # its commit: what the table holds is known, nothing is read
        assert (await meta.list_locks(1)).plocks == {(meta.sid, 1): [Range("W", 5, 0, 29)]}
        waiter = asyncio.create_task(meta.setlk(1, 2, "R", 0, 9, 5, block=True))
        await asyncio.sleep(0)
        setattr(proxy, where, True)
        await meta.setlk(1, 1, "U", 0, 99, 5)
        await waiter
        assert (await meta.list_locks(1)).plocks == {(meta.sid, 2): [Range("R", 5, 0, 9)]}
        await meta.end_session()


async def test_reads_and_allocations_survive_a_cut(server: RedisServer) -> None:
    async with Proxy(server.port) as proxy, opened(proxy.url(2)) as store:
        await store.wipe()
        for where in ("swallow", "mute", "mute"):
            setattr(proxy, where, True)
            assert await count(store) == 0
        proxy.mute = True
        assert await store.allocate("nextChunk", 10) in (1, 11)  # a batch may be lost, never given twice


async def test_a_server_restart_is_survived_by_reads() -> None:
    with RedisServer(save=True) as server:
        assert isinstance(server, RedisServer)
        async with opened(server.url(1)) as store:
            await store.commit([], [(PUT, MARK, 7)])
            server.kill()
            reading = asyncio.create_task(count(store))
            committing = asyncio.create_task(store.commit([], [(ADD, MARK, 1)]))
            await asyncio.to_thread(server.start)
            assert await reading in (7, 8)
            # The loss was noticed before this commit was sent, so it may wait for the server as well; if it was
            # already on its way, it is reported.
            try:
                await committing
                assert await count(store) == 8
            except MetaError as e:
                assert e.retryable
                assert await count(store) == 7


async def test_a_forgotten_script_is_loaded_again(server: RedisServer) -> None:
    async with opened(server.url(3)) as store:
        await store.wipe()
        server.cli("SCRIPT", "FLUSH")
        await asyncio.gather(*[store.commit([], [(ADD, MARK, 1)]) for _ in range(10)])
        server.cli("SCRIPT", "FLUSH")
        assert (await store.resolve(1, [])).base is None
        assert await count(store) == 10


async def test_a_silent_server_ends_in_a_time_out(server: RedisServer) -> None:
    """Reads are asked again on a new connection; a commit is reported."""
    async with opened(server.url(4) + "?read-timeout=200ms") as store:
        await store.wipe()
        server.cli("CLIENT", "PAUSE", "1000", "ALL")
        with pytest.raises(MetaError, match=r"no answer for 0\.2 s"):
            await store.commit([], [(ADD, MARK, 1)])
        assert await count(store) in (0, 1)


async def test_full_memory_is_enospc_and_changes_nothing() -> None:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        async with opened(server.url()) as store:
            server.cli("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(MetaError) as caught:
                await store.commit([], [(ADD, MARK, 1), (PUT, k.symlink(1), b"x")])
            assert caught.value.errno == errno.ENOSPC
            assert not caught.value.retryable
            server.cli("CONFIG", "SET", "maxmemory", "0")
            assert await store.read(MARK, k.symlink(1)) == [0, None]


async def test_the_eviction_policy_is_set(server: RedisServer) -> None:
    server.cli("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with opened(server.url()):
        assert "noeviction" in server.cli("CONFIG", "GET", "maxmemory-policy")


async def test_an_eviction_policy_that_cannot_be_set_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer("--rename-command", "CONFIG", "", "--maxmemory-policy", "allkeys-lru") as server:
        assert isinstance(server, RedisServer)
        with caplog.at_level(logging.WARNING):
            async with opened(server.url()):
                pass
        assert "allkeys-lru" in caplog.text
        assert PASSWORD not in caplog.text


@pytest.mark.parametrize("url", ["redis://{at}/1", "redis://:wrong-secret@{at}/1", "redis://bob:wrong-secret@{at}/1"])
async def test_wrong_credentials_fail_at_once_and_keep_the_secret(server: RedisServer, url: str) -> None:
    store = RedisStore(url.format(at=f"127.0.0.1:{server.port}"), env={})
    with pytest.raises(MetaError) as caught:
        await store.open()
    assert not caught.value.retryable
    assert "password" in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    await store.close()


async def test_an_acl_user_opens_the_volume(server: RedisServer) -> None:
    server.cli("ACL", "SETUSER", "alice", "on", ">sesame", "~*", "&*", "+@all")
    async with opened(f"redis://alice:sesame@127.0.0.1:{server.port}/5") as store:
        await store.commit([], [(PUT, MARK, 3)])
        assert await count(store) == 3


async def test_an_absent_server_is_named() -> None:
    port = free_port()
    store = RedisStore(f"redis://:secret-pw@127.0.0.1:{port}/1")
    with pytest.raises(MetaError) as caught:
        await store.open()
    assert caught.value.retryable
    assert f"127.0.0.1:{port}/1" in str(caught.value)
    assert "secret-pw" not in str(caught.value)


async def test_a_certificate_of_somebody_else_is_refused() -> None:
    with RedisServer(tls=True) as server:
        assert isinstance(server, RedisServer)
        store = RedisStore(f"rediss://:{PASSWORD_IN_URL}@localhost:{server.port}/1")
        with pytest.raises(MetaError, match="certificate"):
            await store.open()
        async with opened(f"rediss://:{PASSWORD_IN_URL}@localhost:{server.port}/1?insecure-skip-verify=1") as careless:
            assert await count(careless) == 0


async def test_more_than_the_queue_holds_waits_its_turn(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "MAX_PENDING", 64)
    async with opened(server.url(6)) as store:
        await store.wipe()
        most = 0

        async def one(i: int) -> None:
            nonlocal most
            await store.commit([], [(ADD, MARK, 1), (PUT, k.symlink(i), bytes(20_000))])
            wire = store._connection._wire
            assert wire is not None
            most = max(most, len(wire._pending))

        await asyncio.gather(*[one(i) for i in range(1000)])
        assert await count(store) == 1000
        assert most <= 64


async def test_large_values_do_not_pile_up_in_memory(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_module, "MAX_QUEUED_BYTES", 200_000)
    async with opened(server.url(6)) as store:
        await store.wipe()
        most = 0

        async def one(i: int) -> None:
            nonlocal most
            task = asyncio.ensure_future(store.commit([], [(PUT, k.xattr(i, b"user.a"), bytes(60_000))]))
            await asyncio.sleep(0)
            wire = store._connection._wire
            assert wire is not None
            most = max(most, sum(map(len, wire._out)))
            await task

        await asyncio.gather(*[one(i) for i in range(300)])
        assert len([key async for key, _ in store.scan(k.XATTR)]) == 300
        assert 60_000 < most < 300_000


async def test_cancelled_callers_do_not_shift_the_answers(server: RedisServer) -> None:
    async with opened(server.url(7)) as store:
        await store.commit([], [(PUT, k.symlink(i), b"%d" % i) for i in range(100)])
        tasks = [asyncio.create_task(store.read(k.symlink(i), k.xattr(i, b"a"))) for i in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        for i, got in enumerate(found):
            assert isinstance(got, asyncio.CancelledError) if i % 3 == 0 else got == [b"%d" % i, None]


async def test_a_closed_store_says_so(server: RedisServer) -> None:
    async with opened(server.url(7)) as store:
        pass
    with pytest.raises(MetaError, match="closed"):
        await count(store)


async def test_sentinel_names_the_master() -> None:
    with RedisServer() as master:
        assert isinstance(master, RedisServer)
        with Sentinel(master) as sentinel:
            auth = f":{PASSWORD_IN_URL}@"
            async with opened(f"redis://{auth}vol,127.0.0.1:{sentinel.port}/2") as store:
                await store.commit([], [(PUT, MARK, 4)])
            async with opened(master.url(2)) as direct:
                assert await count(direct) == 4
            wrong = RedisStore(f"redis://{auth}nobody,127.0.0.1:{sentinel.port}/2")
            with pytest.raises(MetaError, match=r"'nobody'.*No such master") as caught:
                await wrong.open()
            assert not caught.value.retryable
            assert PASSWORD_IN_URL not in str(caught.value)


async def test_sentinels_are_asked_one_after_the_other_with_their_own_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RedisServer() as master:
        assert isinstance(master, RedisServer)
        with Sentinel(master, password="guard") as sentinel:
            url = f"redis://:{PASSWORD_IN_URL}@vol,127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/2"
            store = RedisStore(url, env={"SENTINEL_PASSWORD": "guard"})
            await store.open()
            await store.commit([], [(PUT, MARK, 4)])
            await store.close()
            monkeypatch.setattr("core.meta.stores.redis.connection.OPEN_PATIENCE_S", 1.5)
            for env in ({}, {"SENTINEL_PASSWORD": "wrong-secret"}):
                locked_out = RedisStore(url, env=env)
                with pytest.raises(MetaError, match="set SENTINEL_PASSWORD") as caught:
                    await locked_out.open()
                assert "wrong-secret" not in str(caught.value)


async def test_a_replica_refuses_writes_until_it_is_promoted() -> None:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        async with opened(server.url()) as store:
            server.cli("REPLICAOF", "127.0.0.1", str(free_port()))
            task = asyncio.create_task(store.commit([], [(ADD, MARK, 1)]))
            await store.read(k.node(1))  # a replica answers reads, after the refused commit
            server.cli("REPLICAOF", "NO", "ONE")
            await task
            assert await count(store) == 1


async def test_a_conflict_is_no_failure_of_the_connection(server: RedisServer) -> None:
    async with opened(server.url(8)) as store:
        with pytest.raises(Conflict):
            await store.commit([(0, k.symlink(1), b"x")], [(ADD, MARK, 1)])
        for write in ((PUT, k.node(1), attr(nlink=-1)), (PUT, k.chunk(1, 0), bytes(23))):
            with pytest.raises(MetaError, match="no stored form") as caught:
                await store.commit([], [(ADD, MARK, 1), write])
            assert caught.value.errno == errno.EINVAL
        assert await count(store) == 0
