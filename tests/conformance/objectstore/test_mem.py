# SPDX-License-Identifier: Apache-2.0
"""The memory store keeps the object-store contract."""

from __future__ import annotations

import pytest

from core.object.api import ObjectStore
from core.object.memory import MemStore
from tests.conformance.objectstore.suite import ObjectStoreSuite


class TestMemStore(ObjectStoreSuite):
    @pytest.fixture
    async def store(self) -> ObjectStore:
        return MemStore()
