# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over Redis."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.redis import RedisStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


class TestRedis(VolumeSuite):
    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[RecordStore]:
        store = RedisStore(server.url(2))
        await store.open()
        await store.wipe()
        yield store
        await store.close()
