# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL keeps the record-store contract; `peer` is a second client, over the Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.postgres import PostgresStore
from tests.servers.postgres import PostgresServer

from .suite import RecordStoreSuite


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:  # durability has tests of its own
        assert isinstance(server, PostgresServer)
        server.create("suite")
        yield server


class TestPostgres(RecordStoreSuite):
    binary_xattr_names = False

    @pytest.fixture
    async def store(self, server: PostgresServer) -> AsyncIterator[RecordStore]:
        store = PostgresStore.from_url(server.url("suite"))
        await store.open()
        await store.wipe()
        await store.prepare()
        yield store
        await store.close()

    @pytest.fixture
    async def peer(self, store: RecordStore, server: PostgresServer) -> AsyncIterator[RecordStore]:
        peer = PostgresStore.from_url(server.socket_url("suite"))
        await peer.open()
        yield peer
        await peer.close()
