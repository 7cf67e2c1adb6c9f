# SPDX-License-Identifier: Apache-2.0
"""The etcd store and its server: outages, lost answers, log-in, TLS, limits, neighbours, other clients.

Real servers; format §6.1, §6.5. What a commit means when its answer is lost: `core/meta/store.py`.
"""

from __future__ import annotations

import asyncio
import signal
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from core.errors import ConfigError, Conflict, MetaError
from core.meta import keys as k
from core.meta.records import DIRECTORY, FILE, Attr, Entry, NodePatch, encode_attr
from core.meta.store import ADD, DELETE, EXACT, IDENTITY, PATCH, PUT, Tx, Write
from core.meta.stores.etcd import EtcdStore, connection
from core.meta.stores.etcd.channel import Channel
from core.meta.stores.kv.driver import Range, SnapshotGone
from tests.servers.etcd import EtcdCluster, EtcdServer, b64
from tests.servers.process import free_port, wait_for

NODE = Attr(DIRECTORY, 0o755, 0, 0, 1, 2, 3, 2, 4096, 0, 1)


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        assert isinstance(server, EtcdServer)
        yield server


@pytest.fixture(scope="module")
def secure() -> Iterator[EtcdServer]:
    with EtcdServer(tls=True, users=True) as server:
        assert isinstance(server, EtcdServer)
        yield server


@pytest.fixture
def mortal() -> Iterator[EtcdServer]:
    """One that a test may kill."""
    with EtcdServer() as server:
        assert isinstance(server, EtcdServer)
        yield server


@asynccontextmanager
async def opened(url: str, *, empty: bool = True) -> AsyncIterator[EtcdStore]:
    store = EtcdStore.from_url(url)
    await store.open()
    if empty:
        await store.wipe()
    try:
        yield store
    finally:
        await store.close()


# -- outages -----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_down_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.2)
    port = free_port()
    with pytest.raises(MetaError, match=f"etcd at 127.0.0.1:{port} can't be reached.*check that it runs") as caught:
        async with opened(f"etcd://ann:hidden@127.0.0.1:{port}/jfs"):
            pass
    assert caught.value.retryable and not caught.value.uncertain and "hidden" not in str(caught.value)


async def test_killed_and_started_again_it_goes_on_with_what_was_committed(
    mortal: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(mortal.url()) as store:
        await store.commit([], [(PUT, k.symlink(1), b"kept"), (ADD, k.counter("usedSpace"), 5)])
        mortal.kill()
        monkeypatch.setattr(connection, "PATIENCE_S", 0.3)
        with pytest.raises(MetaError) as caught:
            await store.read(k.symlink(1))
        assert caught.value.retryable
        with pytest.raises(MetaError) as caught:
            await store.commit([], [(ADD, k.counter("usedSpace"), 1)])
        assert caught.value.retryable
        monkeypatch.setattr(connection, "PATIENCE_S", 20.0)
        waiting = asyncio.ensure_future(store.read(k.symlink(1), k.counter("usedSpace")))
        await asyncio.to_thread(mortal.start)
        assert await waiting == [b"kept", 5]  # a read waits for a server that comes back
        await store.commit([], [(ADD, k.counter("usedSpace"), 1)])
        assert await store.read(k.counter("usedSpace")) == [6]


async def test_a_commit_whose_answer_is_lost_is_uncertain_and_never_repeated(
    mortal: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(mortal.url()) as store:
        await store.commit([], [(PUT, k.symlink(1), b"old")])
        assert mortal.process is not None
        sent = asyncio.Event()
        call = Channel.call

        async def watched(self: Channel, *args: Any, **kwargs: Any) -> bytes:
            asyncio.get_running_loop().call_soon(sent.set)  # after the first step, which writes
            return await call(self, *args, **kwargs)

        monkeypatch.setattr(Channel, "call", watched)
        mortal.process.send_signal(signal.SIGSTOP)  # it takes the request, but gives no answer any more
        tasks = list(Path(f"/proc/{mortal.process.pid}/task").glob("*/stat"))
        wait_for(lambda: all(t.read_text().rpartition(")")[2].split()[0] == "T" for t in tasks), what="a stop")
        commit = asyncio.ensure_future(store.commit([], [(PUT, k.symlink(1), b"new")]))
        await sent.wait()
        mortal.kill()
        with pytest.raises(MetaError, match="may or may not have been applied") as caught:
            await commit
        assert caught.value.uncertain and caught.value.retryable
        await asyncio.to_thread(mortal.start)
        assert (await store.read(k.symlink(1)))[0] in (b"old", b"new")


async def test_a_transaction_with_a_lost_answer_finds_out_what_happened(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(server.url()) as store:
        driver: Any = store.driver
        txn = driver.txn

        async def lost(request: Any, *, writing: bool = False) -> Any:
            answer = await txn(request, writing=writing)
            if writing:
                raise MetaError("the answer was lost", retryable=True, uncertain=True)
            return answer

        monkeypatch.setattr(driver, "txn", lost)

        async def body(tx: Tx) -> str:
            tx.put(k.entry(1, b"f"), Entry(FILE, 4711))
            return "made"

        assert await store.transact(body) == "made"


async def test_another_endpoint_takes_over(server: EtcdServer) -> None:
    dead = f"127.0.0.1:{free_port()}"
    live = f"127.0.0.1:{server.port}"
    for places in ((dead, live), (live, dead), (dead, dead, live)):
        async with opened(f"etcd://{','.join(places)}/jfs") as store:
            await store.commit([], [(PUT, k.symlink(1), b"x")])
            assert await store.read(k.symlink(1)) == [b"x"]


async def test_a_leader_that_dies_loses_nothing_that_was_acknowledged() -> None:
    """Three members, the leader is killed under load, and comes back. Each commit is an entry and a count."""
    with EtcdCluster() as cluster:
        async with opened(cluster.url()) as one, opened(cluster.url(), empty=False) as two:
            acknowledged: set[bytes] = set()
            unsure: set[bytes] = set()
            killed = asyncio.Event()
            enough = asyncio.Event()

            async def create(store: EtcdStore, worker: int) -> None:
                number = after = 0
                while after < 20:  # go on for a while with what is left of the cluster
                    name = b"%d-%d" % (worker, number)
                    number += 1
                    writes: list[Write] = [(PUT, k.entry(1, name), Entry(FILE, 9)), (ADD, k.counter("totalInodes"), 1)]
                    try:
                        await store.commit([(EXACT, k.entry(1, name), None)], writes)
                        acknowledged.add(name)
                        after += killed.is_set()
                    except MetaError as e:
                        assert e.retryable
                        if e.uncertain:
                            unsure.add(name)
                    if len(acknowledged) > 100:
                        enough.set()

            workers = [asyncio.ensure_future(create((one, two)[i % 2], i)) for i in range(8)]
            await enough.wait()
            leader = cluster.leader()
            assert leader is not None
            leader.kill()
            killed.set()
            await asyncio.gather(*workers)
            await asyncio.to_thread(leader.start)
            found = {entry.name for entry in await two.list_entries(1, b"", 100_000)}
            assert acknowledged <= found <= acknowledged | unsure
            assert await one.read(k.counter("totalInodes")) == [len(found)]


# -- users and TLS -----------------------------------------------------------------------------------------------


async def test_a_token_that_the_server_forgot_is_renewed() -> None:
    """Tokens live in the server's memory; a restart is an expiry of all of them."""
    with EtcdServer(users=True) as server:
        assert isinstance(server, EtcdServer)
        async with opened(server.url("/jfs")) as store:
            await store.commit([], [(ADD, k.counter("usedSpace"), 1)])
            server.stop()
            await asyncio.to_thread(server.start)
            reads = [store.read(k.counter("usedSpace")) for _ in range(5)]
            await asyncio.gather(store.commit([], [(ADD, k.counter("usedSpace"), 1)]), *reads)
            assert await store.read(k.counter("usedSpace")) == [2]


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        ("", "user name is empty.*USER:PASSWORD@HOST"), ("ann:wrong@", "check user and password"),
        ("nobody:x@", "check user and password"),
    ],
)  # fmt: skip
async def test_a_wrong_user_is_told_so(secure: EtcdServer, user: str, complaint: str) -> None:
    url = f"etcd://{user}127.0.0.1:{secure.port}/jfs?cacert={secure.folder}/ca.pem"
    with pytest.raises(MetaError, match=complaint) as caught:
        async with opened(url):
            pass
    assert not caught.value.retryable and "wrong" not in str(caught.value)


async def test_a_prefix_that_the_user_may_not_touch(secure: EtcdServer) -> None:
    with pytest.raises(MetaError, match=r"permission denied.*role"):
        async with opened(secure.url("/other")):
            pass


async def test_users_where_there_are_none(server: EtcdServer) -> None:
    with pytest.raises(MetaError, match="take user and password out"):
        async with opened(f"etcd://ann:x@127.0.0.1:{server.port}/jfs"):
            pass


async def test_tls_without_verification_and_with_a_name_of_its_own(secure: EtcdServer) -> None:
    for options in ("?server-name=localhost&insecure-skip-verify=1", f"?cacert={secure.folder}/ca.pem",
                    f"?cacert={secure.folder}/ca.pem&server-name=localhost"):  # fmt: skip
        async with opened(secure.url("/jfs", options)) as store:
            await store.commit([], [(PUT, k.symlink(1), b"x")])


async def test_certificates_that_do_not_fit(
    secure: EtcdServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE_S", 0.2)
    from tests.servers.redis import make_certificates

    make_certificates(tmp_path)
    with pytest.raises(MetaError, match="cacert"):
        async with opened(secure.url("/jfs", f"?cacert={tmp_path}/ca.pem")):
            pass
    with pytest.raises(ConfigError, match=r"cacert=/nowhere/ca.pem in the etcd URL: No such file"):
        async with opened(secure.url("/jfs", "?cacert=/nowhere/ca.pem")):
            pass


# -- limits ------------------------------------------------------------------------------------------------------


async def test_a_commit_beyond_the_limits_is_refused_as_a_whole(server: EtcdServer) -> None:
    async with opened(server.url()) as store:
        conditions = [(EXACT, k.symlink(i), None) for i in range(1, 201)]
        with pytest.raises(MetaError, match=r"more than the database takes.*smaller parts") as caught:
            await store.commit(conditions, [(PUT, k.symlink(i), b"x") for i in range(1, 201)])
        assert not caught.value.retryable
        with pytest.raises(MetaError, match="more than the database takes"):
            await store.commit([], [(PUT, k.xattr(i, b"user.a"), bytes(60_000)) for i in range(1, 41)])
        assert await store.read(k.symlink(1), k.symlink(200), k.xattrs(1)) == [None, None, {}]
        most = store.caps.max_writes
        await store.commit(conditions[: most // 2], [(PUT, k.symlink(i), b"x") for i in range(1, most // 2 + 1)])
        await store.commit([], [(PUT, k.symlink(i), b"y") for i in range(1, 1501)])  # writes alone may be many more
        assert await store.read(k.symlink(1500)) == [b"y"]


async def test_reading_more_than_fits_into_one_request_is_still_one_moment(server: EtcdServer) -> None:
    async with opened(server.url()) as store, opened(server.url(), empty=False) as other:
        inodes = range(1, 5001)
        for at in range(1, 5001, 1000):
            await store.commit([], [(PUT, k.symlink(i), b"0") for i in range(at, at + 1000)])
        running = True

        async def flip() -> None:
            n = 0
            while running:
                n += 1
                await other.commit([], [(PUT, k.symlink(1), b"%d" % n), (PUT, k.symlink(5000), b"%d" % n)])

        task = asyncio.ensure_future(flip())
        try:
            for _ in range(5):
                found = await store.read(*[k.symlink(i) for i in inodes])
                assert len(found) == 5000 and found[0] == found[-1]
        finally:
            running = False
            await task


async def test_a_forgotten_moment_makes_a_walk_begin_again(server: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(server.url()) as store:
        await store.commit([], [(PUT, k.node(1), NODE), (PUT, k.entry(1, b"d"), Entry(DIRECTORY, 2))])
        await store.commit(
            [], [(PUT, k.node(2), NODE), (PUT, k.entry(2, b"f"), Entry(FILE, 3)), (PUT, k.node(3), NODE)]
        )
        store.forget()
        get, calls = store.driver.get, 0

        async def compacting(keys: Any, ranges: Any = (), at: Any = None) -> Any:
            nonlocal calls
            calls += 1
            if calls == 2:
                await store.commit([], [(PUT, k.symlink(9), b"x")])
                revision = (await get((b"x",))).at
                await asyncio.to_thread(server.call, "kv/compaction", {"revision": revision, "physical": True})
            return await get(keys, ranges, at)

        monkeypatch.setattr(store.driver, "get", compacting)
        found = await store.resolve(1, [b"d", b"f"])
        assert [step.entry.ino for step in found.steps] == [2, 3]
        with pytest.raises(SnapshotGone):
            await get((b"x",), (), 1)
        one, two = await asyncio.gather(get((b"x",), (), 1), get((b"x",)), return_exceptions=True)
        assert isinstance(one, SnapshotGone) and not isinstance(two, BaseException)


# -- neighbours and other clients --------------------------------------------------------------------------------


async def test_wipe_removes_its_own_volume_only(server: EtcdServer) -> None:
    prefixes = ("/jfs", "/jfs2", "/jf", "/jfs/x", "/jfs%FD", "")
    stores = [EtcdStore.from_url(server.url(prefix)) for prefix in prefixes]
    for store in stores:
        await store.open()
        await store.commit([], [(PUT, k.symlink(1), b"x"), (PUT, k.setting(), b"{}")])
    await stores[0].wipe()
    found = [await store.read(k.symlink(1), k.setting()) for store in stores]
    # "/jfs" followed by 0xFD begins with "/jfs" 0xFD: such a volume name is the one thing to avoid.
    assert [f == [b"x", b"{}"] for f in found] == [False, True, True, True, False, True]
    for store in stores:
        await store.wipe()
        await store.close()


def _raw_put(store: EtcdStore, server: EtcdServer, key: k.Key, value: bytes) -> None:
    server.call("kv/put", {"key": b64(store.codec.encode(key)), "value": b64(value)})


async def test_entries_of_other_clients_keep_their_directory(
    server: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client creates a file between our look into a directory and the rmdir; it only follows its own rules."""
    async with opened(server.url()) as store:
        await store.commit([], [(PUT, k.node(5), NODE)])
        (empty,) = await store.read(k.occupied(5))
        assert empty is False
        await asyncio.to_thread(_raw_put, store, server, k.entry(5, b"f"), b"\1" + struct.pack(">Q", 9))
        with pytest.raises(Conflict):
            await store.commit([(EXACT, k.occupied(5), False)], [(DELETE, k.node(5), None)])
        assert await store.read(k.node(5), k.occupied(5)) == [NODE, True]


async def test_what_other_clients_changed_is_patched_not_overwritten(server: EtcdServer) -> None:
    async with opened(server.url()) as store:
        await store.commit([], [(PUT, k.node(5), NODE)])
        # As JuiceFS wrote it: longer, with ACLs and tier, and no trailing byte.
        theirs = Attr(DIRECTORY, 0o700, 7, 8, 1, 2, 3, 9, 4096, 0, 1, 0, 5, 6, 2)
        await asyncio.to_thread(_raw_put, store, server, k.node(5), encode_attr(theirs)[:-1])
        await store.commit([], [(PATCH, k.node(5), NodePatch(1, 11, 12))])
        (now,) = await store.read(k.node(5))
        assert (now.nlink, now.mode, now.uid, now.access_acl, now.tier, now.mtime_ns) == (10, 0o700, 7, 5, 2, 11)


async def test_two_clients_create_and_remove_a_directory_over_and_over(server: EtcdServer) -> None:
    """However they interleave, a directory that is gone has no entries, and counters match."""
    async with opened(server.url()) as one, opened(server.url(), empty=False) as two:
        await one.commit([], [(PUT, k.node(1), NODE)])
        made = removed = 0

        async def create(store: EtcdStore, name: bytes) -> None:
            nonlocal made
            try:
                await store.commit(
                    [(IDENTITY, k.node(5), NODE), (EXACT, k.entry(5, name), None)],
                    [(PUT, k.entry(5, name), Entry(FILE, 9)), (ADD, k.counter("totalInodes"), 1)],
                )
                made += 1
            except Conflict:
                pass

        async def rmdir(store: EtcdStore) -> None:
            nonlocal removed
            try:
                await store.commit(
                    [(EXACT, k.occupied(5), False), (EXACT, k.node(5), NODE)], [(DELETE, k.node(5), None)]
                )
                removed += 1
            except Conflict:
                pass

        for _ in range(30):
            await one.commit([], [(PUT, k.node(5), NODE)])
            await asyncio.gather(create(one, b"a"), rmdir(two), create(two, b"b"), rmdir(one))
            node, entries = (await one.read(k.node(5)))[0], await one.list_entries(5)
            assert (node is None) != bool(entries)
            await two.commit([], [(DELETE, k.entry(5, e.name), None) for e in entries])
        assert made and removed
        assert await two.read(k.counter("totalInodes")) == [made]


async def test_many_clients_count_without_losing_one(server: EtcdServer) -> None:
    stores = [EtcdStore.from_url(server.url()) for _ in range(4)]
    for store in stores:
        await store.open()
    await stores[0].wipe()
    writes: list[Write] = [(ADD, k.counter("usedSpace"), 1), (ADD, k.sliceref(1, 2), 1)]
    await asyncio.gather(*(stores[i % 4].commit([], writes) for i in range(200)))
    assert await stores[1].read(k.counter("usedSpace"), k.sliceref(1, 2)) == [200, 201]
    firsts = await asyncio.gather(*(stores[i % 4].allocate("nextInode", 3) for i in range(40)))
    assert sorted(firsts) == [2 + 3 * i for i in range(40)]
    for store in stores:
        await store.close()


async def test_keys_only_ranges_bring_no_values(server: EtcdServer) -> None:
    async with opened(server.url()) as store:
        await store.commit([], [(PUT, k.symlink(1), b"value")])
        found = await store.driver.get((), (Range(*store.codec.everything, 0, True),))
        assert found.ranges == [[(store.codec.encode(k.symlink(1)), b"")]]
