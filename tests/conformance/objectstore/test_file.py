# SPDX-License-Identifier: Apache-2.0
"""The file store keeps the object-store contract: inline, in threads (a slow disk), and with fsync."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.object.api import ObjectStore
from core.object.file import FileStore
from tests.conformance.objectstore.suite import ObjectStoreSuite


class TestFileStore(ObjectStoreSuite):
    @pytest.fixture(params=["inline", "threads", "fsync"])
    async def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
        store = FileStore(str(tmp_path / "bucket"), fsync=request.param == "fsync")
        if request.param == "threads":
            store._slow_until = float("inf")
        yield store
        await store.close()
        leftovers = list(tmp_path.rglob(".jfs.*.tmp.*"))
        assert leftovers == []
