# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over PostgreSQL."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.postgres import PostgresStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        assert isinstance(server, PostgresServer)
        server.create("suite")
        yield server


class TestPostgres(VolumeSuite):
    @pytest.fixture
    async def store(self, server: PostgresServer) -> AsyncIterator[RecordStore]:
        store = PostgresStore.from_url(server.url("suite"))
        await store.open()
        await store.wipe()
        yield store
        await store.close()
