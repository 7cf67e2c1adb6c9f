# SPDX-License-Identifier: Apache-2.0
"""The dictionary store keeps the record-store contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore

from .suite import RecordStoreSuite


class TestMemory(RecordStoreSuite):
    @pytest.fixture
    async def store(self) -> AsyncIterator[RecordStore]:
        store = MemoryStore()
        await store.open()
        yield store
        await store.close()
