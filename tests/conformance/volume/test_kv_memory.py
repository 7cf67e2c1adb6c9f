# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over the layer for key-value stores, on a dictionary: with hints (as etcd) and without."""

from collections.abc import AsyncIterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.kv.dictionary import DictionaryDriver, DictionaryStore
from tests.conformance.volume.suite import VolumeSuite


class TestDictionaryWithHints(VolumeSuite):
    @pytest.fixture
    async def store(self) -> AsyncIterator[RecordStore]:
        store = DictionaryStore()
        await store.open()
        yield store
        await store.close()


class CommitsCountOnce(DictionaryStore):
    """The suite counts in calls of the contract. Reading first, inside the transaction, is a trip of its own to such a
    database; here it isn't."""

    @property
    def trips(self) -> int:
        assert isinstance(self.driver, DictionaryDriver)
        return self.driver.trips - self.driver.commit_reads

    @trips.setter
    def trips(self, count: int) -> None:
        assert isinstance(self.driver, DictionaryDriver)
        self.driver.trips = count + self.driver.commit_reads


class TestDictionaryThatReadsFirst(VolumeSuite):
    @pytest.fixture
    async def store(self) -> AsyncIterator[RecordStore]:
        store = CommitsCountOnce(hinting=False)
        await store.open()
        yield store
        await store.close()
