# SPDX-License-Identifier: Apache-2.0
"""MariaDB and MySQL keep the record-store contract, over TCP with a password; two clients share the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.mysql import MySQLStore
from tests.servers.mariadb import MariaDBServer, MySQLServer

from .suite import RecordStoreSuite


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


async def opened(url: str, *, empty: bool = True) -> AsyncIterator[RecordStore]:
    store = MySQLStore.from_url(url)
    await store.open()
    if empty:
        await store.wipe()
        await store.prepare()
    yield store
    await store.close()


class TestMariaDB(RecordStoreSuite):
    case_sensitive_xattrs = False
    binary_xattr_names = False

    @pytest.fixture
    async def store(self, server: MariaDBServer) -> AsyncIterator[RecordStore]:
        async for store in opened(server.url("suite")):
            yield store

    @pytest.fixture
    async def peer(self, server: MariaDBServer, store: RecordStore) -> AsyncIterator[RecordStore]:
        async for peer in opened(server.unix_url("suite"), empty=False):
            yield peer


@pytest.mark.heavy
class TestMySQL(RecordStoreSuite):
    case_sensitive_xattrs = False
    binary_xattr_names = False

    @pytest.fixture
    async def store(self, oracle: MySQLServer) -> AsyncIterator[RecordStore]:
        async for store in opened(oracle.url()):
            yield store

    @pytest.fixture
    async def peer(self, oracle: MySQLServer, store: RecordStore) -> AsyncIterator[RecordStore]:
        async for peer in opened(oracle.url(), empty=False):
            yield peer
