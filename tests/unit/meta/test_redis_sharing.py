# SPDX-License-Identifier: Apache-2.0
"""Redis volumes are shared with clients that WATCH keys and write in MULTI (format §4.8): nobody loses an update.

The other client is plain redis-py. Also here: the exact stored forms that such clients read (format §4.3–4.6).
"""

from __future__ import annotations

import asyncio
import errno
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import redis.asyncio as plain
from redis.exceptions import WatchError

from core.errors import Conflict, FsError, MetaError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import (
    DIRECTORY,
    FILE,
    TRASH,
    Attr,
    DirStat,
    Entry,
    NodePatch,
    Quota,
    Slice,
    encode_attr,
    encode_entry,
    encode_slice,
)  # fmt: skip
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, LOG, PATCH, PUT, PUT_NEW, Tx, Write
from core.meta.stores.redis import RedisStore
from tests.conformance.recordstore.helpers import T0, attr, directory
from tests.servers.redis import PASSWORD, RedisServer

NODE = attr()
RECORD = encode_slice(Slice(0, 7, 100, 0, 100))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    store = RedisStore(server.url(2))
    await store.open()
    await store.wipe()
    yield store
    await store.close()


@pytest.fixture
async def other(server: RedisServer) -> AsyncIterator[plain.Redis]:
    client = plain.Redis(port=server.port, password=PASSWORD, db=2)
    yield client
    await client.aclose()


# -- our commits make their EXEC fail ---------------------------------------------------------------------------------

WRITES: dict[str, tuple[list[Write], list[str]]] = {
    "create": (
        [(PUT, k.node(9), NODE), (PUT, k.entry(1, b"f"), Entry(FILE, 9)), (PATCH, k.node(1), NodePatch(0, 5, 5))],
        ["i9", "d1", "i1"],
    ),
    "create without parent times": ([(PUT, k.node(9), NODE), (PUT, k.entry(1, b"f"), Entry(FILE, 9))], ["d1"]),
    "unlink": ([(DELETE, k.entry(1, b"old"), None), (DELETE, k.node(5), None)], ["d1", "i5"]),
    "mkdir": ([(PATCH, k.node(1), NodePatch(1))], ["i1"]),
    "patch of mtime": ([(PATCH, k.node(1), NodePatch(mtime_ns=9))], ["i1"]),
    "write of a slice": ([(APPEND, k.chunk(5, 0), RECORD), (PATCH, k.node(5), NodePatch(0, 5, 5))], ["c5_0", "i5"]),
    "write of a slice alone": ([(APPEND, k.chunk(5, 0), RECORD)], ["c5_0", "i5"]),
    "setattr": ([(PUT, k.node(5), attr(mode=0))], ["i5"]),
    "compaction": ([(PUT, k.chunk(5, 0), RECORD), (PUT, k.sliceref(7, 100), 1)], ["c5_0", "sliceRef"]),
    "xattr": ([(PUT, k.xattr(5, b"user.a"), b"2")], ["x5"]),
    "xattr removal": ([(DELETE, k.xattr(5, b"user.a"), None)], ["x5"]),
    "flock": ([(PUT, k.flocks(5), {(3, 4): "R"})], ["lockf5"]),
    "flock again": ([(PUT, k.flocks(5), {(1, 1): "R"})], ["lockf5"]),
    "unlock": ([(PUT, k.flocks(5), {})], ["lockf5"]),
    "plock": ([(PUT, k.plocks(5), {(3, 4): bytes(24)})], ["lockp5"]),
    "change log": ([(LOG, (k.CHANGELOG,), b"1.0|SET(a,1)|(1,1)")], ["txnLog", "txnLastLog"]),
    "session": ([(PUT, k.session(3), 5), (PUT, k.sessioninfo(3), b"{}")], ["allSessions", "sessionInfos"]),
    "delayed slices": ([(DELETE, k.delslices(3, 4), None)], ["delSlices"]),
}


@pytest.mark.parametrize("what", WRITES)
async def test_our_commit_is_seen_by_their_watch(store: RedisStore, other: plain.Redis, what: str) -> None:
    writes, keys = WRITES[what]
    await store.commit([], [
        (PUT, k.node(1), directory()), (PUT, k.entry(1, b"old"), Entry(FILE, 5)), (PUT, k.node(5), NODE),
        (PUT, k.xattr(5, b"user.a"), b"1"), (PUT, k.chunk(5, 0), bytes(24)), (PUT, k.flocks(5), {(1, 1): "R"}),
        (PUT, k.delslices(3, 4), bytes(12)), (PUT, k.sliceref(7, 100), 4),
    ])  # fmt: skip
    async with AsyncExitStack() as stack:
        pipes = [await stack.enter_async_context(other.pipeline()) for _ in keys]
        for pipe, key in zip(pipes, keys, strict=True):
            await pipe.watch(key)
        await store.commit([], writes)
        for pipe, key in zip(pipes, keys, strict=True):
            pipe.multi()
            pipe.set("lost", key)
            with pytest.raises(WatchError):
                await pipe.execute()
    assert not await other.exists("lost")


# -- their writes make our commit fail --------------------------------------------------------------------------------


async def test_their_write_between_read_and_commit_is_a_conflict(store: RedisStore, other: plain.Redis) -> None:
    await store.commit([], [(PUT, k.node(1), directory()), (PUT, k.entry(1, b"a"), Entry(FILE, 5))])
    changes: list[tuple[Any, ...]] = [
        ("SET", "i1", encode_attr(directory(mode=0o700))), ("HSET", "d1", "b", encode_entry(Entry(FILE, 6))),
        ("HDEL", "d1", "a"), ("DEL", "i1"),
    ]  # fmt: skip
    for change, key in zip(changes, [k.node(1), k.entry(1, b"b"), k.entry(1, b"a"), k.node(1)], strict=True):

        async def body(tx: Tx, change: tuple[Any, ...] = change, key: k.Key = key) -> None:
            await tx.read(key)
            if tx.attempt == 0:
                await other.execute_command(*change)
            tx.put(k.symlink(9), b"%d" % tx.attempt)

        await store.transact(body)
        assert await store.read(k.symlink(9)) == [b"1"], change


async def test_counts_survive_both_kinds_of_writers(store: RedisStore, other: plain.Redis) -> None:
    """They read, change and write whole attributes under WATCH; we patch and rewrite. All increments arrive."""
    await store.commit([], [(PUT, k.node(1), directory(nlink=2))])
    each = 60

    async def theirs() -> None:
        done = 0
        while done < each:
            async with other.pipeline() as pipe:
                await pipe.watch("i1", "d1")
                raw = bytearray(await pipe.get("i1"))
                struct.pack_into(">I", raw, 47, struct.unpack_from(">I", raw, 47)[0] + 1)
                pipe.multi()
                pipe.set("i1", bytes(raw))
                pipe.hset("d1", b"t%d" % done, encode_entry(Entry(DIRECTORY, 100 + done)))
                try:
                    await pipe.execute()
                except WatchError:
                    continue
                done += 1

    async def blind(who: int) -> None:
        for i in range(each):
            name = b"b%d.%d" % (who, i)
            writes: list[Write] = [(PUT, k.entry(1, name), Entry(DIRECTORY, 5)), (PATCH, k.node(1), NodePatch(1))]
            await store.commit([(IDENTITY, k.node(1), directory()), (EXACT, k.entry(1, name), None)], writes)
            await asyncio.sleep(0.001)  # leaves the others a window; correctness doesn't depend on it

    async def rewriting() -> None:
        async def body(tx: Tx) -> None:
            (a,) = await tx.read(k.node(1))
            tx.put(k.node(1), msgspec.structs.replace(a, nlink=a.nlink + 1))

        for _ in range(each):
            await store.transact(body)

    await asyncio.gather(theirs(), blind(1), blind(2), rewriting())
    (node,) = await store.read(k.node(1))
    assert node.nlink == 2 + 4 * each
    assert len(await store.list_entries(1)) == 3 * each


# -- stored forms -----------------------------------------------------------------------------------------------------


async def test_counters_and_reference_counts_are_stored_one_lower(store: RedisStore, other: plain.Redis) -> None:
    assert await store.allocate("nextInode", 1024) == 2
    assert await store.allocate("nextChunk", 4096) == 1
    assert await store.allocate("nextSession", 1) == 1
    assert await other.mget("nextinode", "nextchunk", "nextsession") == [b"1025", b"4096", b"1"]
    assert await other.incrby("nextinode", 1024) == 2049  # theirs: 1026 … 2049
    assert await store.read(k.counter("nextInode")) == [2050]
    await store.commit([], [(PUT_NEW, k.sliceref(1, 10), 1), (PUT_NEW, k.sliceref(2, 10), 3)])
    assert await other.hgetall("sliceRef") == {b"k2_10": b"2"}
    await other.hset("sliceRef", "k3_10", "0")
    out = await store.commit([(EXACT, k.sliceref(3, 10), None), (EXACT, k.sliceref(3, 10), 1)], [
        (ADD, k.sliceref(1, 10), -1), (ADD, k.sliceref(3, 10), -1), (ADD, k.sliceref(2, 10), -1),
    ])  # fmt: skip
    assert sorted(out.freed) == [(1, 10), (3, 10)]
    assert await other.hgetall("sliceRef") == {b"k1_10": b"-1", b"k2_10": b"1", b"k3_10": b"-1"}


async def test_a_slice_dropped_and_taken_in_one_commit_is_not_freed(store: RedisStore) -> None:
    ref = k.sliceref(5, 10)
    out = await store.commit([], [(ADD, ref, -1), (ADD, ref, 1)])
    assert (out.freed, await store.read(ref)) == ([], [1])
    out = await store.commit([], [(ADD, ref, -1), (ADD, ref, -1)])
    assert out.freed == [(5, 10)]


async def test_lock_index_names_every_table_a_session_holds_locks_in(store: RedisStore, other: plain.Redis) -> None:
    await store.commit(
        [], [(PUT, k.flocks(8), {(5, 0xABC): "R", (6, 1): "R"}), (PUT, k.plocks(8), {(5, 1): bytes(24)})]
    )
    assert await other.hgetall("lockf8") == {b"5_0000000000000ABC": b"R", b"6_0000000000000001": b"R"}
    assert await other.smembers("locked5") == {b"lockf8", b"lockp8"}
    assert await other.smembers("locked6") == {b"lockf8"}
    await store.commit([], [(PUT, k.flocks(8), {(6, 1): "R"})])
    assert await other.smembers("locked5") == {b"lockp8"}
    await store.commit([], [(DELETE, k.flocks(8), None), (DELETE, k.plocks(8), None)])
    assert await other.keys() == []


async def test_locks_are_taken_and_seen_by_both_kinds_of_clients(store: RedisStore, other: plain.Redis) -> None:
    """Theirs: commands of format §4.6. A shared flock of theirs isn't in `locked<sid>`, ours is."""
    fmt = new_format("shared", bucket="/nowhere/")
    await init_format(store, fmt, T0)
    meta = Meta(store, fmt)
    await meta.new_session("ours", heartbeat_s=0)
    ino, _ = await meta.mknod(1, b"f", FILE, 0o644)
    locks, ranges, index = f"lockf{ino}", f"lockp{ino}", f"locked{meta.sid}"

    await meta.flock(ino, 0xAB, "R")
    assert await other.hgetall(locks) == {f"{meta.sid}_00000000000000AB".encode(): b"R"}
    assert await other.smembers(index) == {locks.encode()}
    await other.hset(locks, "77_0000000000000001", "R")
    with pytest.raises(FsError) as caught:
        await meta.flock(ino, 0xAB, "W")
    assert caught.value.errno == errno.EAGAIN
    await other.hdel(locks, "77_0000000000000001")
    await meta.flock(ino, 0xAB, "W")
    assert await other.hvals(locks) == [b"W"]
    await meta.flock(ino, 0xAB, "U")
    assert await other.exists(locks, index) == 0

    await meta.setlk(ino, 1, "W", 0, 2**63 - 1, 42)
    await meta.setlk(ino, 1, "R", 10, 19, 42)
    record = struct.Struct(">IIQQ")
    (raw,) = await other.hvals(ranges)
    assert list(record.iter_unpack(raw)) == [(1, 42, 0, 9), (0, 42, 10, 19), (1, 42, 20, 2**63 - 1)]
    assert await other.smembers(index) == {ranges.encode()}
    await meta.setlk(ino, 1, "U", 0, 2**63 - 1, 42)
    assert await other.exists(ranges, index) == 0
    await other.hset(ranges, "77_FFFFFFFFFFFFFFFF", record.pack(1, 7, 100, 199))
    assert await meta.getlk(ino, 1, "R", 0, 150) == ("W", 100, 199, 0)
    await meta.setlk(ino, 1, "W", 0, 99, 42)

    # They die; what they never indexed is found all the same. Then we go, with nothing left behind.
    await other.hset(locks, "77_0000000000000001", "R")
    await other.sadd("locked77", ranges)
    await other.zadd("allSessions", {"77": 1})
    assert await meta.clean_stale_sessions() == 1
    assert await other.exists(locks, "locked77") == 0
    await meta.end_session()
    assert [key async for key in other.scan_iter("lock*")] == []


async def test_the_change_log_is_a_list_counted_from_its_end(store: RedisStore, other: plain.Redis) -> None:
    await other.rpush("txnLog", "theirs 8", "theirs 9")  # the first seven were cut off long ago
    await other.set("txnLastLog", 9)
    await store.commit([], [(LOG, (k.CHANGELOG,), b"ours 10"), (PUT, k.symlink(1), b"x"), (LOG, (k.CHANGELOG,), b"11")])
    assert await other.lrange("txnLog", 0, -1) == [b"theirs 8", b"theirs 9", b"ours 10", b"11"]
    assert await other.get("txnLastLog") == b"11"
    lines = [(key[1], line) async for key, line in store.scan(k.CHANGELOG)]
    assert lines == [(8, b"theirs 8"), (9, b"theirs 9"), (10, b"ours 10"), (11, b"11")]
    assert [key[1] async for key, _ in store.scan(k.CHANGELOG, 9)] == [10, 11]
    assert [key[1] async for key, _ in store.scan(k.CHANGELOG, 11)] == []
    assert [await store.trim_log(upto) for upto in (7, 8, 8, 2**40)] == [0, 1, 0, 3]
    assert await other.exists("txnLog") == 0
    await store.commit([], [(LOG, (k.CHANGELOG,), b"12")])
    assert [key[1] async for key, _ in store.scan(k.CHANGELOG)] == [12]


async def test_a_long_change_log_is_read_and_trimmed_in_pages(
    store: RedisStore, other: plain.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.meta.stores.redis.store.LOG_LINES", 7)
    for at in range(1, 41, 20):
        await store.commit([], [(LOG, (k.CHANGELOG,), b"%d" % i) for i in range(at, at + 20)])
    seen = []
    async for key, line in store.scan(k.CHANGELOG, 3):
        seen.append(key[1])
        assert line == b"%d" % key[1]
        if key[1] == 12:  # somebody trims while we read: nothing is skipped but what is gone
            assert await store.trim_log(20) == 20
    assert seen == [*range(4, 18 if 17 in seen else 13), *range(21, 41)]
    assert await store.trim_log(35) == 15
    assert [key[1] async for key, _ in store.scan(k.CHANGELOG)] == [36, 37, 38, 39, 40]


async def test_counts_of_very_old_volumes_move_into_the_hash(store: RedisStore, other: plain.Redis) -> None:
    """Once each count had a key of its own (format §4.3)."""
    await other.mset({"k1_10": 0, "k2_10": 4, "k3_10": 7, "k4_10": 0, "k5_10": 1})
    await other.hset("sliceRef", "k3_10", 1)
    refs = [k.sliceref(i, 10) for i in range(1, 7)]
    with store.round_trips() as n:
        assert await store.read(*refs) == [1, 5, 2, 1, 2, None]
    assert n.count == 1
    assert {key: count async for key, count in store.scan(k.SLICEREF)} == dict(
        zip(refs[:5], [1, 5, 2, 1, 2], strict=True)
    )
    with pytest.raises(Conflict):
        await store.commit([(EXACT, refs[1], 1)], [(ADD, refs[1], 1)])
    out = await store.commit([(EXACT, refs[1], 5)], [
        (ADD, refs[0], -1), (ADD, refs[1], 1), (ADD, refs[2], -1), (DELETE, refs[3], None), (PUT, refs[4], 9),
        (ADD, refs[5], 1),
    ])  # fmt: skip
    assert out.freed == [(1, 10)]
    assert await other.hgetall("sliceRef") == {
        b"k1_10": b"-1", b"k2_10": b"5", b"k3_10": b"0", b"k5_10": b"8", b"k6_10": b"1",
    }  # fmt: skip
    assert sorted(await other.keys("k*")) == [b"k3_10", b"k5_10"]  # the hash has precedence over these
    assert await store.read(*refs) == [0, 6, 1, None, 9, 2]


async def test_attributes_of_older_clients_pass_the_checks(store: RedisStore, other: plain.Redis) -> None:
    """Without padding, without parent, with bytes of a later version (format §2)."""
    full = attr(access_acl=7, tier=2, nlink=3)
    plain_node = attr(nlink=3)
    forms: list[tuple[bytes, Attr]] = [
        (encode_attr(plain_node)[:71], plain_node), (encode_attr(plain_node)[:64], attr(nlink=3, parent=0)),
        (encode_attr(plain_node)[:63], attr(nlink=3, parent=0)), (encode_attr(full)[:80], full),
        (encode_attr(full) + b"later", full), (encode_attr(attr(access_acl=7))[:79], attr(access_acl=7)),
        (encode_attr(attr(tier=1))[:72], attr(tier=1)),
    ]  # fmt: skip
    for raw, node in forms:
        await other.set("i5", raw)
        assert await store.read(k.node(5)) == [node]
        await store.commit([(EXACT, k.node(5), node), (IDENTITY, k.node(5), node)], [(PUT, k.symlink(5), b"x")])
        for wrong in (msgspec.structs.replace(node, tier=3), msgspec.structs.replace(node, default_acl=9)):
            for mode in (EXACT, IDENTITY):
                with pytest.raises(Conflict):
                    await store.commit([(mode, k.node(5), wrong)], [])
        await store.commit([], [(PATCH, k.node(5), NodePatch(2, T0, T0))])
        (patched,) = await store.read(k.node(5))
        assert patched == msgspec.structs.replace(node, nlink=node.nlink + 2, mtime_ns=T0, ctime_ns=T0)
        assert len(await other.get("i5")) == len(raw)


async def test_inodes_beyond_doubles_keep_every_digit(store: RedisStore, other: plain.Redis) -> None:
    inodes = [2, 2**32, 2**53 - 1, 2**53, 2**53 + 1, 10**18 - 1, 10**18, TRASH, TRASH + 1, 2**63 - 1, 2**64 - 1]
    for i, ino in enumerate(inodes):
        await other.set(f"i{ino}", encode_attr(attr(length=i)))
        await other.hset("d1", b"%02d" % i, encode_entry(Entry(FILE, ino)))
    await other.set("i1", encode_attr(directory()))
    assert [e.attr.length for e in await store.list_entries(1, attrs=True) if e.attr] == list(range(len(inodes)))
    for i, ino in enumerate(inodes):
        (step,) = (await store.resolve(1, [b"%02d" % i])).steps
        assert step.entry.ino == ino
        assert step.attr is not None
        assert step.attr.length == i


# -- all or nothing, whatever is in the way ---------------------------------------------------------------------------

OBSTACLES: dict[str, tuple[tuple[Any, ...], Write]] = {
    "hash": (("SET", "d7", "x"), (PUT, k.entry(7, b"f"), Entry(FILE, 9))),
    "new field": (("SET", "d7", "x"), (PUT_NEW, k.entry(7, b"f"), Entry(FILE, 9))),
    "field removal": (("SET", "d7", "x"), (DELETE, k.entry(7, b"f"), None)),
    "list": (("SET", "c7_0", "x"), (APPEND, k.chunk(7, 0), bytes(24))),
    "counter type": (("HSET", "usedSpace", "a", "b"), (ADD, k.counter("usedSpace"), 1)),
    "counter text": (("SET", "usedSpace", "lots"), (ADD, k.counter("usedSpace"), 1)),
    "counter hex": (("SET", "usedSpace", "0x10"), (ADD, k.counter("usedSpace"), 1)),
    "counter overflow": (("SET", "usedSpace", str(2**63 - 1)), (ADD, k.counter("usedSpace"), 1)),
    "reference text": (("HSET", "sliceRef", "k1_2", "x"), (ADD, k.sliceref(1, 2), 1)),
    "link count": (("HSET", "p7", "1", "x"), (ADD, k.parent(7, 1), 1)),
    "statistics": (("HSET", "dirDataLength", "7", "x"), (ADD, k.dirstat(7), DirStat(1, 1, 1))),
    "statistics type": (("SET", "dirUsedInodes", "x"), (ADD, k.dirstat(7), DirStat(1, 1, 1))),
    "quota": (("HSET", "dirQuotaUsedSpace", "7", "x"), (ADD, k.quota(0, 7), (1, 1))),
    "sorted set": (("SET", "delfiles", "x"), (PUT, k.delfile(7, 1), 5)),
    "set": (("SET", "session7", "x"), (PUT, k.sustained(7, 1), True)),
    "change log": (("SET", "txnLog", "x"), (LOG, (k.CHANGELOG,), b"x")),
    "change log's counter": (("HSET", "txnLastLog", "a", "b"), (LOG, (k.CHANGELOG,), b"x")),
    "old reference text": (("SET", "k1_2", "x"), (ADD, k.sliceref(1, 2), 1)),
    "lock table": (("SET", "lockf7", "x"), (PUT, k.flocks(7), {(1, 1): "R"})),
    "lock index": (("SET", "locked1", "x"), (PUT, k.flocks(7), {(1, 1): "R"})),
    "attribute": (("SET", "i7", "short"), (PATCH, k.node(7), NodePatch(1))),
    "attribute type": (("HSET", "i7", "a", "b"), (PATCH, k.node(7), NodePatch(0, 1, 1))),
}


@pytest.mark.parametrize("what", OBSTACLES)
async def test_a_commit_that_cannot_be_finished_is_not_begun(store: RedisStore, other: plain.Redis, what: str) -> None:
    obstacle, write = OBSTACLES[what]
    await other.execute_command(*obstacle)
    before = sorted(await other.keys())
    with pytest.raises(MetaError) as caught:
        await store.commit([], [(PUT, k.symlink(1), b"x"), (ADD, k.counter("totalInodes"), 1), write])
    assert not caught.value.retryable
    assert sorted(await other.keys()) == before


async def test_removals_before_relative_changes_of_one_commit(store: RedisStore, other: plain.Redis) -> None:
    """What the first pass saw may be gone when its turn comes: nothing is created half."""
    await store.commit(
        [], [(PUT, k.node(7), NODE), (PUT, k.dirstat(7), DirStat(1, 1, 1)), (PUT, k.quota(0, 7), Quota(1, 1, 1, 1))]
    )
    out = await store.commit([], [
        (DELETE, k.node(7), None), (PATCH, k.node(7), NodePatch(1, 5, 5)), (PATCH, k.node(7), NodePatch(0, 5, 5)),
        (DELETE, k.dirstat(7), None), (ADD, k.dirstat(7), DirStat(1, 1, 1)),
        (DELETE, k.quota(0, 7), None), (ADD, k.quota(0, 7), (1, 1)),
    ])  # fmt: skip
    assert (out.no_dirstat, await other.keys()) == ([7], [])


async def test_a_cluster_prefix_is_on_every_key(server: RedisServer, other: plain.Redis) -> None:
    store = RedisStore(server.url(2), prefix="{9}")
    await store.open()
    await other.flushdb()
    await other.set("somebody", "else")
    writes = [w for writes, _ in WRITES.values() for w in writes if w[0] == PUT]
    await store.commit([], writes)
    await store.allocate("nextInode", 1)
    assert await store.gate("lastCleanupFiles", 5000, 10)
    assert {key[:3] for key in await other.keys() if key != b"somebody"} == {b"{9}"}
    assert await other.smembers("{9}locked3") == {b"{9}lockp5"}
    await store.wipe()
    assert await other.keys() == [b"somebody"]
    await store.close()
