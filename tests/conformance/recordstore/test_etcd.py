# SPDX-License-Identifier: Apache-2.0
"""etcd keeps the record-store contract: plain, with users, over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.etcd import EtcdStore
from tests.servers.etcd import EtcdServer

from .suite import RecordStoreSuite
from .test_kv_memory import costs_of_calls


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        assert isinstance(server, EtcdServer)
        yield server


@pytest.fixture(scope="module")
def secure_server() -> Iterator[EtcdServer]:
    with EtcdServer(tls=True, users=True) as server:
        assert isinstance(server, EtcdServer)
        yield server


async def opened(url: str, *, empty: bool = True) -> AsyncIterator[RecordStore]:
    store = EtcdStore.from_url(url)
    await store.open()
    if empty:
        await store.wipe()
    await store.prepare()
    yield store
    await store.close()


class TestEtcd(RecordStoreSuite):
    @pytest.fixture
    async def store(self, server: EtcdServer) -> AsyncIterator[RecordStore]:
        async for store in opened(server.url("/jfs")):
            yield store

    @pytest.fixture
    async def peer(self, store: RecordStore, server: EtcdServer) -> AsyncIterator[RecordStore]:
        async for peer in opened(server.url("/jfs"), empty=False):
            yield peer

    async def test_each_call_is_one_round_trip(self, store: RecordStore) -> None:
        """One, if guesses hold. Cold walks and listings with attributes take what the keys force (format §6.3)."""
        await costs_of_calls(store, commit_trips=1)


@pytest.mark.heavy
class TestEtcdWithUsersOverTLS(TestEtcd):
    @pytest.fixture
    async def store(self, secure_server: EtcdServer) -> AsyncIterator[RecordStore]:
        async for store in opened(secure_server.url("/jfs")):
            yield store

    @pytest.fixture
    async def peer(self, store: RecordStore, secure_server: EtcdServer) -> AsyncIterator[RecordStore]:
        async for peer in opened(secure_server.url("/jfs"), empty=False):
            yield peer
