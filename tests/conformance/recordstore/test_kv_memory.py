# SPDX-License-Identifier: Apache-2.0
"""The layer for key-value stores keeps the record-store contract over a dictionary: with hints (etcd) and without."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from core.meta import keys as k
from core.meta.records import FILE, Entry, NodePatch
from core.meta.store import DELETE, EXACT, IDENTITY, PATCH, PUT, Check, RecordStore, Tx, Write
from core.meta.stores.kv import KVStore
from core.meta.stores.kv.dictionary import Data, DictionaryStore

from .helpers import attr, child, directory, put
from .suite import RecordStoreSuite


async def costs_of_calls(store: RecordStore, *, commit_trips: int) -> None:
    """What a call costs over a key-value store: guesses that hold save trips, cold ones take what the keys force."""
    await put(store, [*child(1, b"a", 2, directory()), *child(2, b"b", 3, directory()), *child(3, b"c", 4, attr())])
    await put(store, [(k.node(1), directory()), (k.xattr(4, b"user.a"), b"1"), (k.chunk(4, 0), bytes(24))])

    async def cost(call: Awaitable[Any]) -> int:
        with store.round_trips() as n:
            await call
        return n.count

    some = (k.node(1), k.entry(1, b"a"), k.xattrs(4), k.chunks(4, 3), k.counter("nextInode"))
    assert await cost(store.read(*some)) == 1
    assert await cost(store.resolve(1, [b"a", b"b", b"c"], xattrs=True, chunk=True)) == 1  # we wrote that path
    assert isinstance(store, KVStore)
    store.forget()
    assert await cost(store.resolve(1, [b"a", b"b", b"c"], xattrs=True, chunk=True)) == 4  # names + 1
    assert await cost(store.resolve(1, [b"a", b"b", b"c"], xattrs=True, chunk=True)) == 1
    assert await cost(store.list_entries(1)) == 1
    assert await cost(store.list_entries(1, attrs=True)) == 2
    assert await cost(store.list_entries(1, attrs=True)) == 1  # the same inodes as last time
    checks: list[Check] = [(IDENTITY, k.node(1), directory()), (EXACT, k.entry(1, b"z"), None)]
    writes: list[Write] = [(PUT, key, v) for key, v in child(1, b"z", 9, attr())]
    assert await cost(store.commit(checks, [*writes, (PATCH, k.node(1), NodePatch(1))])) == commit_trips
    assert await cost(store.commit([], [(PUT, k.symlink(9), b"x"), (DELETE, k.symlink(8), None)])) == 1
    await store.allocate("nextInode", 1024)
    assert await cost(store.allocate("nextInode", 1024)) == commit_trips


class TestDictionaryWithHints(RecordStoreSuite):
    hinting = True

    @pytest.fixture
    def data(self) -> Data:
        return Data()

    @pytest.fixture
    async def store(self, data: Data) -> AsyncIterator[RecordStore]:
        store = DictionaryStore(data, hinting=self.hinting)
        await store.open()
        yield store
        await store.close()

    @pytest.fixture
    async def peer(self, store: RecordStore, data: Data) -> AsyncIterator[RecordStore]:
        peer = DictionaryStore(data, hinting=self.hinting)
        await peer.open()
        yield peer
        await peer.close()

    async def test_each_call_is_one_round_trip(self, store: RecordStore) -> None:
        await costs_of_calls(store, commit_trips=1 if self.hinting else 2)


class TestDictionaryThatReadsFirst(TestDictionaryWithHints):
    hinting = False

    async def test_a_transaction_is_one_read_and_one_commit(self, store: RecordStore) -> None:
        """One trip more than over a database that compares: what was read before is read in the transaction again."""

        async def body(tx: Tx) -> None:
            await tx.read(k.node(1), k.entry(1, b"a"))
            tx.put(k.entry(1, b"a"), Entry(FILE, 5))

        with store.round_trips() as n:
            await store.transact(body)
        assert n.count == 3
