# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over TiKV."""

import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.tikv import TiKVServer

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[TiKVServer]:
    with TiKVServer() as server:
        assert isinstance(server, TiKVServer)
        yield server


class TestTiKV(VolumeSuite):
    @pytest.fixture
    async def store(self, server: TiKVServer) -> AsyncIterator[RecordStore]:
        from core.meta.stores.tikv import TiKVStore

        store = TiKVStore.from_url(server.url(f"v{next(_numbers)}"))
        await store.open()
        yield store
        await store.close()
