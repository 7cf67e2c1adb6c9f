# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over Redis: one server, a Unix socket, TLS with client certificates, Sentinel, a cluster."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.redis import RedisStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.redis import PASSWORD_IN_URL, RedisServer, Sentinel
from tests.servers.redis_cluster import RedisCluster


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(scope="module")
def sentinel(server: RedisServer) -> Iterator[Sentinel]:
    with Sentinel(server) as sentinel:
        assert isinstance(sentinel, Sentinel)
        yield sentinel


@pytest.fixture(scope="module")
def tls_server() -> Iterator[RedisServer]:
    with RedisServer(tls=True, client_certificates=True) as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


async def emptied(url: str) -> AsyncIterator[RecordStore]:
    """An open store without a record."""
    store = RedisStore(url)
    await store.open()
    await store.wipe()
    yield store
    await store.close()


class TestRedis(VolumeSuite):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RecordStore]:
        async for store in emptied(server.url(2)):
            yield store


class TestRedisUnixSocket(VolumeSuite):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RecordStore]:
        async for store in emptied(server.unix_url(3)):
            yield store


class TestRedisTLS(VolumeSuite):
    @pytest.fixture
    async def store(self, tls_server: RedisServer) -> AsyncIterator[RecordStore]:
        async for store in emptied(tls_server.tls_url(4, tls_server.own_certificate)):
            yield store


class TestRedisSentinel(VolumeSuite):
    @pytest.fixture
    async def store(self, server: RedisServer, sentinel: Sentinel) -> AsyncIterator[RecordStore]:
        async for store in emptied(f"redis://:{PASSWORD_IN_URL}@vol,127.0.0.1:{sentinel.port}/5"):
            yield store


class TestRedisCluster(VolumeSuite):
    @pytest.fixture
    async def store(self, cluster: RedisCluster) -> AsyncIterator[RecordStore]:
        async for store in emptied(cluster.url(6)):
            yield store
