# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.meta.store import RecordStore
from core.meta.stores.sqlite import SQLiteStore
from tests.conformance.volume.suite import VolumeSuite


class TestSQLite(VolumeSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[RecordStore]:
        store = SQLiteStore(str(tmp_path / "meta.db"))
        await store.open()
        yield store
        await store.close()
