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

        class CommitsCountOnce(TiKVStore):
            """The suite counts in calls of the contract. TiKV has to read what a commit depends on in the transaction
            itself, which counts as a trip of its own (docs/metadata-round-trips.md); here it doesn't."""

            @property
            def trips(self) -> int:
                return self.driver.trips - self.driver.commit_reads

            @trips.setter
            def trips(self, count: int) -> None:
                self.driver.trips = count + self.driver.commit_reads

        store = CommitsCountOnce.from_url(server.url(f"v{next(_numbers)}"))
        await store.open()
        yield store
        await store.close()
