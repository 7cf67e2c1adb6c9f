# SPDX-License-Identifier: Apache-2.0
"""Record-store suite, part two: checks, conflicts, atomicity, snapshots, ids, and what it all costs.

Contract: `core/meta/store.py`. Id ranges and the periodic gate: format §1.9.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import CHARDEV, FILE, DirStat, Entry, NodePatch, Quota
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, PATCH, PUT, PUT_NEW, RecordStore, Tx, Write

from .helpers import T0, attr, child, directory, one, put, write
from .records import SINGLE

change = msgspec.structs.replace


class TransactionCases:
    """Needs the fixtures `store` and `peer`: another client of the same database, or the store itself."""

    # -- checks --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(("key", "value", "other"), SINGLE, ids=[repr(s[0]) for s in SINGLE])
    async def test_exact_check_sees_every_kind(self, store: RecordStore, key: Key, value: Any, other: Any) -> None:
        if not store.caps.empty_xattr and key[0] == k.XATTR:
            value, other = value or b"1", other or b"2"
        mark = (ADD, k.counter("marks"), 1)
        absent = {} if key[0] in (k.FLOCKS, k.PLOCKS) else None
        await store.commit([(EXACT, key, absent)], [(PUT, key, value)])
        await store.commit([(EXACT, key, value)], [mark])
        wrong = [absent] if value == other else [absent, other]
        for seen in wrong:
            with pytest.raises(Conflict):
                await store.commit([(EXACT, key, seen)], [mark, (PUT, key, other)])
        assert await store.read(key, k.counter("marks")) == [value, 1]

    async def test_exact_check_of_groups_and_derived_values(self, store: RecordStore) -> None:
        mark = (ADD, k.counter("marks"), 1)
        held: list[tuple[Key, Any]] = [
            (k.xattrs(7), {b"user.a": b"1"}), (k.chunks(7, 9), {0: bytes(24)}), (k.parents(7), {1: 1}),
            (k.occupied(1), True), (k.counter("usedSpace"), 5), (k.session(3), 9), (k.sessioninfo(3), b"{}"),
        ]  # fmt: skip
        empty: list[Any] = [{}, {}, {}, False, 0, None, None]
        await store.commit([(EXACT, key, value) for (key, _), value in zip(held, empty, strict=True)], [mark])
        await write(
            store, (PUT, k.xattr(7, b"user.a"), b"1"), (PUT, k.chunk(7, 0), bytes(24)), (ADD, k.parent(7, 1), 1),
            (PUT, k.entry(1, b"f"), Entry(FILE, 7)), (ADD, k.counter("usedSpace"), 5),
            (PUT, k.session(3), 9), (PUT, k.sessioninfo(3), b"{}"),
        )  # fmt: skip
        await store.commit([(EXACT, key, value) for key, value in held], [mark])
        for (key, _), value in zip(held, empty, strict=True):
            with pytest.raises(Conflict):
                await store.commit([(EXACT, key, value)], [mark])
        assert await one(store, k.counter("marks")) == 2

    @pytest.mark.parametrize(
        "fields",
        [{"nlink": 9}, {"length": 77}, {"atime_ns": 1}, {"mtime_ns": 1}, {"ctime_ns": 1}, {"nlink": 3, "mtime_ns": 5}],
        ids=str,
    )
    async def test_identity_check_ignores_link_count_size_and_times(
        self, store: RecordStore, fields: dict[str, int]
    ) -> None:
        seen = attr()
        await put(store, [(k.node(5), change(seen, **fields))])
        await store.commit([(IDENTITY, k.node(5), seen)], [(PUT, k.symlink(5), b"ok")])
        with pytest.raises(Conflict):
            await store.commit([(EXACT, k.node(5), seen)], [(PUT, k.symlink(5), b"no")])
        assert await one(store, k.symlink(5)) == b"ok"

    @pytest.mark.parametrize(
        "fields",
        [
            {"type": CHARDEV}, {"mode": 0o600}, {"uid": 0}, {"gid": 0}, {"flags": 1}, {"parent": 2},
            {"access_acl": 1}, {"default_acl": 1}, {"tier": 1},
        ],
        ids=str,
    )  # fmt: skip
    async def test_identity_check_sees_what_an_inode_is(self, store: RecordStore, fields: dict[str, int]) -> None:
        seen = attr()
        await put(store, [(k.node(5), change(seen, **fields))])
        with pytest.raises(Conflict):
            await store.commit([(IDENTITY, k.node(5), seen)], [(PUT, k.symlink(5), b"no")])
        assert await one(store, k.symlink(5)) is None

    async def test_identity_check_of_a_missing_inode_fails(self, store: RecordStore) -> None:
        with pytest.raises(Conflict):
            await store.commit([(IDENTITY, k.node(5), attr())], [(PUT, k.symlink(5), b"no")])

    async def test_a_check_sees_what_another_client_wrote(self, store: RecordStore, peer: RecordStore) -> None:
        await put(store, [(k.node(5), attr())])
        assert await one(peer, k.node(5)) == attr()
        await put(peer, [(k.node(5), attr(mode=0))])
        with pytest.raises(Conflict):
            await store.commit([(IDENTITY, k.node(5), attr())], [(PUT, k.symlink(5), b"no")])
        assert await store.read(k.node(5), k.symlink(5)) == [attr(mode=0), None]

    # -- all or nothing ------------------------------------------------------------------------------------------

    async def test_a_conflict_changes_nothing_at_all(self, store: RecordStore) -> None:
        before: list[tuple[Key, Any]] = [
            (k.node(1), directory()), (k.entry(1, b"old"), Entry(FILE, 9)), (k.dirstat(1), DirStat(1, 2, 3)),
            (k.quota(0, 1), Quota(1, 2, 3, 4)), (k.chunk(9, 0), bytes(24)), (k.xattr(9, b"user.a"), b"1"),
            (k.flocks(9), {(1, 1): "R"}), (k.symlink(4), b"t"),
        ]  # fmt: skip
        await put(store, before)
        writes: list[Write] = [
            (PUT, k.node(9), attr()), (PUT, k.entry(1, b"new"), Entry(FILE, 9)), (DELETE, k.entry(1, b"old"), None),
            (PATCH, k.node(1), NodePatch(1, 5, 5)), (ADD, k.dirstat(1), DirStat(1, 1, 1)),
            (ADD, k.quota(0, 1), (1, 1)), (APPEND, k.chunk(9, 0), bytes(24)), (DELETE, k.xattrs(9), None),
            (PUT, k.flocks(9), {}), (PUT_NEW, k.sliceref(3, 4), 1), (ADD, k.counter("usedSpace"), 4096),
            (ADD, k.parent(9, 1), 1), (PUT, k.symlink(4), b"u"),
        ]  # fmt: skip
        for checks in ([(EXACT, k.symlink(4), b"x")], [(EXACT, k.node(1), directory()), (EXACT, k.node(9), attr())]):
            with pytest.raises(Conflict):
                await store.commit(checks, writes)
            assert await store.read(*[key for key, _ in before]) == [value for _, value in before]
            gone = await store.read(
                k.node(9), k.entry(1, b"new"), k.sliceref(3, 4), k.counter("usedSpace"), k.session(1)
            )  # fmt: skip
            assert gone == [None, None, None, 0, None]
        assert [e.name for e in await store.list_entries(1)] == [b"old"]

    async def test_patching_a_missing_inode_fails_the_whole_commit(self, store: RecordStore) -> None:
        for writes in (
            [(PUT, k.symlink(3), b"x"), (PATCH, k.node(99), NodePatch(1))],
            [(PATCH, k.node(99), NodePatch(mtime_ns=1)), (ADD, k.counter("usedSpace"), 1)],
        ):
            with pytest.raises(Conflict):
                await store.commit([], writes)
        assert await store.read(k.symlink(3), k.node(99), k.counter("usedSpace")) == [None, None, 0]

    async def test_one_of_many_creators_of_a_name_wins(self, store: RecordStore, peer: RecordStore) -> None:
        await put(store, [(k.node(1), directory())])

        async def create(ino: int) -> bool:
            writes: list[Write] = [(PUT, key, v) for key, v in child(1, b"name", ino, attr())]
            writes += [(PATCH, k.node(1), NodePatch(1)), (ADD, k.counter("totalInodes"), 1)]
            try:
                await (store, peer)[ino % 2].commit([(EXACT, k.entry(1, b"name"), None)], writes)
            except Conflict:
                return False
            return True

        won = await asyncio.gather(*[create(100 + i) for i in range(20)])
        assert sum(won) == 1
        ino = 100 + won.index(True)
        entry, parent, total = await store.read(k.entry(1, b"name"), k.node(1), k.counter("totalInodes"))
        assert (entry.ino, parent.nlink, total) == (ino, 3, 1)
        present = await store.read(*[k.node(100 + i) for i in range(20)])
        assert [a is not None for a in present] == won

    async def test_a_cancelled_commit_happens_completely_or_not_at_all(self, store: RecordStore) -> None:
        async def pair(i: int) -> None:
            await write(store, (PUT, k.symlink(1000 + i), b"x"), (ADD, k.counter("pairs"), 1))

        tasks = [asyncio.ensure_future(pair(i)) for i in range(40)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        found = await store.read(k.counter("pairs"), *[k.symlink(1000 + i) for i in range(40)])
        assert found[0] == sum(v is not None for v in found[1:])
        for outcome, value in zip(done, found[1:], strict=True):
            assert value is not None or isinstance(outcome, asyncio.CancelledError)
        await pair(40)  # and the store goes on

    # -- snapshots and concurrency -------------------------------------------------------------------------------

    async def test_values_of_one_read_belong_together(self, store: RecordStore, peer: RecordStore) -> None:
        a, b = k.symlink(1), k.xattr(2, b"user.a")
        await put(store, [(a, b"0"), (b, b"0")])
        running = True

        async def writer() -> None:
            i = 0
            while running:
                await asyncio.sleep(0)  # a store in memory has no wait of its own
                i += 1
                await put(peer, [(a, b"%d" % i), (b, b"%d" % i)])

        task = asyncio.ensure_future(writer())
        try:
            for _ in range(60):
                first, second = await store.read(a, b)
                assert first == second
                await asyncio.sleep(0)
        finally:
            running = False
            await task

    async def test_fifty_tasks_increment_without_losing_one(self, store: RecordStore, peer: RecordStore) -> None:
        await put(store, [(k.symlink(1), b"0")])

        async def increment(tx: Tx) -> None:
            (value,) = await tx.read(k.symlink(1))
            tx.put(k.symlink(1), b"%d" % (int(value) + 1))

        await asyncio.gather(*[(store, peer)[i % 2].transact(increment) for i in range(50)])
        assert await one(store, k.symlink(1)) == b"50"

    async def test_blind_changes_never_conflict(self, store: RecordStore, peer: RecordStore) -> None:
        seen = directory()
        await put(store, [(k.node(1), seen), (k.dirstat(1), DirStat(0, 0, 0)), (k.quota(0, 1), Quota(0, 0, 0, 0))])
        await write(store, (PUT_NEW, k.sliceref(5, 6), 1))

        async def create(i: int) -> None:
            writes: list[Write] = [
                (PATCH, k.node(1), NodePatch(1, T0 + i * 1000, T0 + i * 1000)),
                (ADD, k.dirstat(1), DirStat(1, 4096, 1)), (ADD, k.quota(0, 1), (4096, 1)),
                (ADD, k.counter("usedSpace"), 4096), (ADD, k.sliceref(5, 6), 1), (APPEND, k.chunk(1, 0), bytes(24)),
                (PUT, k.entry(1, b"%d" % i), Entry(FILE, 10 + i)),
            ]  # fmt: skip
            checks = [(IDENTITY, k.node(1), seen), (EXACT, k.entry(1, b"%d" % i), None)]
            await (store, peer)[i % 2].commit(checks, writes)

        await asyncio.gather(*[create(i) for i in range(60)])
        found = await store.read(
            k.dirstat(1), k.quota(0, 1), k.counter("usedSpace"), k.sliceref(5, 6), k.chunk(1, 0), k.node(1)
        )
        node = found.pop()
        assert found == [DirStat(60, 60 * 4096, 60), Quota(0, 0, 60 * 4096, 60), 60 * 4096, 61, bytes(24 * 60)]
        assert (node.nlink, (node.mtime_ns - T0) % 1000) == (62, 0)
        assert len(await store.list_entries(1)) == 60

    async def test_the_next_commit_sees_the_last_one(self, store: RecordStore) -> None:
        """Commits queued together check against each other's effects, coalesced ones included."""
        await put(store, [(k.node(1), directory(nlink=2)), (k.dirstat(1), DirStat(0, 0, 0))])
        checks: list[tuple[list[Any], list[Write]]] = [
            ([], [(PATCH, k.node(1), NodePatch(1, 7, 7)), (ADD, k.counter("usedSpace"), 1)]),
            ([(EXACT, k.node(1), directory(nlink=3, mtime_ns=7, ctime_ns=7))], [(ADD, k.counter("usedSpace"), 1)]),
            ([(EXACT, k.counter("usedSpace"), 2)], [(ADD, k.dirstat(1), DirStat(1, 1, 1))]),
            ([(EXACT, k.dirstat(1), DirStat(1, 1, 1))], [(DELETE, k.dirstat(1), None)]),
            ([(EXACT, k.dirstat(1), None)], [(ADD, k.counter("usedSpace"), 5), (PUT, k.counter("usedSpace"), 9)]),
            ([(EXACT, k.counter("usedSpace"), 9)], [(PATCH, k.node(1), NodePatch(1)), (DELETE, k.node(1), None)]),
            ([(EXACT, k.node(1), None)], []),
        ]
        for check, writes in checks:
            await store.commit(check, writes)

    # -- ids and gates -------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("name", "first"), [("nextInode", 2), ("nextChunk", 1), ("nextSession", 1), ("nextTrash", 1), ("aclMaxId", 1)]
    )
    async def test_allocated_ids_begin_where_the_format_says(self, store: RecordStore, name: str, first: int) -> None:
        await store.commit([], store.initial_counters())
        assert await one(store, k.counter(name)) == first  # "next free"
        assert await store.allocate(name, 1) == first
        assert await store.allocate(name, 1024) == first + 1
        assert await store.allocate(name, 1) == first + 1025
        assert await one(store, k.counter(name)) == first + 1026

    async def test_allocation_works_without_initial_counters(self, store: RecordStore) -> None:
        assert [await store.allocate("nextInode", 5), await store.allocate("nextInode", 1)] == [2, 7]

    async def test_nobody_gets_the_same_id(self, store: RecordStore, peer: RecordStore) -> None:
        got = await asyncio.gather(*[(store, peer)[i % 2].allocate("nextChunk", 7) for i in range(30)])
        assert sorted(got) == [1 + 7 * i for i in range(30)]

    async def test_gate_opens_once_per_period(self, store: RecordStore, peer: RecordStore) -> None:
        name = "lastCleanupFiles"
        assert await store.gate(name, 1_700_000_000, 3240)
        assert not await peer.gate(name, 1_700_000_000, 3240)
        assert not await store.gate(name, 1_700_003_239, 3240)
        assert await one(store, k.counter(name)) == 1_700_000_000
        assert await peer.gate(name, 1_700_003_240, 3240)
        assert await one(store, k.counter(name)) == 1_700_003_240
        opened = await asyncio.gather(*[(store, peer)[i % 2].gate("x", 5000, 100) for i in range(10)])
        assert sum(opened) == 1

    # -- costs and ends ------------------------------------------------------------------------------------------

    async def test_each_call_is_one_round_trip(self, store: RecordStore) -> None:
        await put(store, [*child(1, b"a", 2, directory()), *child(2, b"b", 3, directory()), *child(3, b"c", 4, attr())])
        await put(store, [(k.node(1), directory()), (k.xattr(4, b"user.a"), b"1"), (k.chunk(4, 0), bytes(24))])
        with store.round_trips() as n:
            await store.read(k.node(1), k.entry(1, b"a"), k.xattrs(4), k.chunks(4, 3), k.counter("nextInode"))
        assert n.count == 1
        with store.round_trips() as n:
            await store.resolve(1, [b"a", b"b", b"c"], xattrs=True, chunk=True)
        assert n.count == 1
        with store.round_trips() as n:
            await store.list_entries(1, attrs=True)
        assert n.count == 1
        with store.round_trips() as n:
            await store.commit(
                [(IDENTITY, k.node(1), directory()), (EXACT, k.entry(1, b"z"), None)],
                [(PUT, key, v) for key, v in child(1, b"z", 9, attr())] + [(PATCH, k.node(1), NodePatch(1))],
            )
        assert n.count == 1
        with store.round_trips() as n:
            await store.allocate("nextInode", 1024)
        assert n.count == 1

    async def test_a_transaction_is_one_read_and_one_commit(self, store: RecordStore) -> None:
        async def body(tx: Tx) -> None:
            await tx.read(k.node(1), k.entry(1, b"a"))
            tx.put(k.entry(1, b"a"), Entry(FILE, 5))

        with store.round_trips() as n:
            await store.transact(body)
        assert n.count == 2

    async def test_hopeless_contention_ends_with_a_retryable_error(
        self, store: RecordStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries = 0

        async def body(tx: Tx) -> None:
            nonlocal tries
            tries += 1
            tx.expect(k.symlink(1), b"never")
            tx.put(k.symlink(1), b"x")

        monkeypatch.setattr("core.meta.store.random.randrange", lambda _: 0)
        with pytest.raises(MetaError) as caught:
            await store.transact(body)
        assert (caught.value.retryable, tries) == (True, 50)

    async def test_prepare_may_be_repeated(self, store: RecordStore) -> None:
        await put(store, [(k.symlink(1), b"x")])
        await store.prepare()
        assert await one(store, k.symlink(1)) == b"x"

    async def test_wipe_removes_every_record_and_the_store_goes_on(self, store: RecordStore) -> None:
        await put(store, [(key, value or b"1" if key[0] == k.XATTR else value) for key, value, _ in SINGLE])
        await write(store, (ADD, k.counter("usedSpace"), 5), (PUT, k.session(1), 5), (PUT_NEW, k.sliceref(1, 2), 1))
        await store.wipe()
        await store.prepare()
        assert [v or None for v in await store.read(*[key for key, _, _ in SINGLE])] == [None] * len(SINGLE)
        assert await store.read(k.counter("usedSpace"), k.session(1), k.sliceref(1, 2)) == [0, None, None]
        assert [key async for key, _ in store.scan(k.NODE)] == []
        assert await store.allocate("nextInode", 1) == 2
        await put(store, [(k.symlink(1), b"y")])
        assert await one(store, k.symlink(1)) == b"y"
