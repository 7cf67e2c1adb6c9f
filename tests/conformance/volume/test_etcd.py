# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over etcd."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.etcd import EtcdStore
from tests.conformance.volume.suite import VolumeSuite
from tests.servers.etcd import EtcdServer


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        assert isinstance(server, EtcdServer)
        yield server


class TestEtcd(VolumeSuite):
    @pytest.fixture
    async def store(self, server: EtcdServer) -> AsyncIterator[RecordStore]:
        store = EtcdStore.from_url(server.url("/jfs"))
        await store.open()
        await store.wipe()
        yield store
        await store.close()
