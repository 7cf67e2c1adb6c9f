# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over MariaDB and MySQL."""

import errno
from collections.abc import AsyncIterator, Iterator

import pytest

from core.errors import FsError
from core.meta.meta import Meta
from core.meta.store import RecordStore
from core.meta.stores.mysql import MySQLStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.mariadb import MariaDBServer, MySQLServer


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    with MariaDBServer() as server:
        assert isinstance(server, MariaDBServer)
        server.sql("CREATE DATABASE suite")
        yield server


@pytest.fixture(scope="module")
def oracle() -> Iterator[MySQLServer]:
    with MySQLServer() as server:
        assert isinstance(server, MySQLServer)
        yield server


async def emptied(url: str) -> AsyncIterator[RecordStore]:
    store = MySQLStore.from_url(url)
    await store.open()
    await store.wipe()
    await store.prepare()
    yield store
    await store.close()


class TestMariaDB(VolumeSuite):
    @pytest.fixture
    async def store(self, server: MariaDBServer) -> AsyncIterator[RecordStore]:
        async for store in emptied(server.url("suite")):
            yield store

    async def test_large_copies_take_several_transactions(self, meta: Meta) -> None:
        """The copy's chunk would get 3000 records, and this client merges none: its column holds 2730 (format §13, 47)
        and an error says so."""
        with pytest.raises(FsError, match="compact the file") as caught:
            await super().test_large_copies_take_several_transactions(meta)
        assert caught.value.errno == errno.EFBIG


@pytest.mark.heavy
class TestMySQL(TestMariaDB):
    @pytest.fixture
    async def store(self, oracle: MySQLServer) -> AsyncIterator[RecordStore]:
        async for store in emptied(oracle.url()):
            yield store
