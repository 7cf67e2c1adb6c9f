# SPDX-License-Identifier: Apache-2.0
"""Redis keeps the record-store contract: over TCP with a password, a Unix socket, TLS, Sentinel, in a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.redis import RedisStore
from tests.servers.redis import PASSWORD_IN_URL, RedisServer, Sentinel
from tests.servers.redis_cluster import RedisCluster

from .suite import RecordStoreSuite


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    with RedisServer(tls=True) as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(scope="module")
def sentinel(server: RedisServer) -> Iterator[Sentinel]:
    with Sentinel(server) as sentinel:
        assert isinstance(sentinel, Sentinel)
        yield sentinel


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


async def opened(url: str, prefix: str | None = None, *, empty: bool = True) -> AsyncIterator[RecordStore]:
    store = RedisStore(url, prefix=prefix)
    await store.open()
    if empty:
        await store.wipe()
    await store.prepare()
    yield store
    await store.close()


class TestRedis(RecordStoreSuite):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RecordStore]:
        async for store in opened(server.url(3)):
            yield store

    @pytest.fixture
    async def peer(self, store: RecordStore, server: RedisServer) -> AsyncIterator[RecordStore]:
        async for peer in opened(server.unix_url(3), empty=False):
            yield peer


class TestRedisUnixSocketWithPrefix(RecordStoreSuite):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RecordStore]:
        async for store in opened(server.unix_url(4), "{4}"):
            yield store


class TestRedisTLS(RecordStoreSuite):
    @pytest.fixture
    async def store(self, tls_server: RedisServer) -> AsyncIterator[RecordStore]:
        async for store in opened(tls_server.tls_url(5)):
            yield store


class TestRedisSentinel(RecordStoreSuite):
    @pytest.fixture
    async def store(self, server: RedisServer, sentinel: Sentinel) -> AsyncIterator[RecordStore]:
        async for store in opened(f"redis://:{PASSWORD_IN_URL}@vol,127.0.0.1:{sentinel.port}/7"):
            yield store


class TestRedisCluster(RecordStoreSuite):
    @pytest.fixture
    async def store(self, cluster: RedisCluster) -> AsyncIterator[RecordStore]:
        async for store in opened(cluster.url(6)):
            yield store
