# SPDX-License-Identifier: Apache-2.0
"""The SQLite store keeps the record-store contract; `peer` is a second connection, as another process would be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.meta.store import RecordStore
from core.meta.stores.sqlite import SQLiteStore

from .suite import RecordStoreSuite


class TestSQLite(RecordStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[RecordStore]:
        store = SQLiteStore(str(tmp_path / "meta.db"), synchronous="OFF")  # durability has tests of its own
        await store.open()
        await store.prepare()
        yield store
        await store.close()

    @pytest.fixture
    async def peer(self, store: RecordStore) -> AsyncIterator[RecordStore]:
        assert isinstance(store, SQLiteStore)
        peer = SQLiteStore(store.path, synchronous="OFF")
        await peer.open()
        yield peer
        await peer.close()
