# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over the layer for key-value stores, on a dictionary: with hints (as etcd) and without."""

from collections.abc import AsyncIterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.kv.dictionary import DictionaryStore
from tests.conformance.volume.suite import VolumeSuite


class TestDictionaryWithHints(VolumeSuite):
    hinting = True

    @pytest.fixture
    async def store(self) -> AsyncIterator[RecordStore]:
        store = DictionaryStore(hinting=self.hinting)
        await store.open()
        yield store
        await store.close()


class TestDictionaryThatReadsFirst(TestDictionaryWithHints):
    hinting = False
