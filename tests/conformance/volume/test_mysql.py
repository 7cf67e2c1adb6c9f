# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over MariaDB."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.mysql import MySQLStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.mariadb import MariaDBServer


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    with MariaDBServer() as server:
        assert isinstance(server, MariaDBServer)
        server.sql("CREATE DATABASE suite")
        yield server


class TestMariaDB(VolumeSuite):
    @pytest.fixture
    async def store(self, server: MariaDBServer) -> AsyncIterator[RecordStore]:
        store = MySQLStore.from_url(server.url("suite"))
        await store.open()
        await store.wipe()
        await store.prepare()
        yield store
        await store.close()
