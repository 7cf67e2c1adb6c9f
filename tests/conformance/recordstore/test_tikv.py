# SPDX-License-Identifier: Apache-2.0
"""TiKV keeps the record-store contract: on one region, with a prefix, and spread over several regions."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta import keys as k
from core.meta.records import FILE, Entry
from core.meta.store import RecordStore, Tx
from tests.servers.tikv import TiKVServer, inside

from .suite import RecordStoreSuite
from .test_kv_memory import costs_of_calls

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[TiKVServer]:
    with TiKVServer() as server:
        assert isinstance(server, TiKVServer)
        yield server


@pytest.fixture(scope="module")
def regions() -> Iterator[TiKVServer]:
    with TiKVServer(split=inside("regions")) as server:
        assert isinstance(server, TiKVServer)
        yield server


async def opened(url: str) -> AsyncIterator[RecordStore]:
    from core.meta.stores.tikv import TiKVStore

    store = TiKVStore.from_url(url)
    await store.open()
    await store.prepare()
    yield store
    await store.close()


class TestTiKV(RecordStoreSuite):
    @pytest.fixture
    def prefix(self) -> str:
        return f"v{next(_numbers)}"

    @pytest.fixture
    async def store(self, server: TiKVServer, prefix: str) -> AsyncIterator[RecordStore]:
        async for store in opened(server.url(prefix)):
            yield store

    @pytest.fixture
    async def peer(self, store: RecordStore, server: TiKVServer, prefix: str) -> AsyncIterator[RecordStore]:
        async for peer in opened(server.url(prefix)):
            yield peer

    async def test_each_call_is_one_round_trip(self, store: RecordStore) -> None:
        """But for commits, which read what they depend on in their own transaction."""
        await costs_of_calls(store, commit_trips=2)

    async def test_a_transaction_is_one_read_and_one_commit(self, store: RecordStore) -> None:
        async def body(tx: Tx) -> None:
            await tx.read(k.node(1), k.entry(1, b"a"))
            tx.put(k.entry(1, b"a"), Entry(FILE, 5))

        with store.round_trips() as n:
            await store.transact(body)
        assert n.count == 3


class TestTiKVOverRegions(TestTiKV):
    """Every operation on a volume whose keys lie in many regions: commits in two phases over all of them."""

    @pytest.fixture
    async def store(self, regions: TiKVServer) -> AsyncIterator[RecordStore]:
        async for store in opened(regions.url("regions")):
            await store.wipe()
            yield store

    @pytest.fixture
    async def peer(self, store: RecordStore, regions: TiKVServer) -> AsyncIterator[RecordStore]:
        async for peer in opened(regions.url("regions")):
            yield peer
