# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over the in-memory store."""

import pytest

from core.meta.stores.memory import MemoryStore
from tests.conformance.volume.suite import VolumeSuite


class TestMemory(VolumeSuite):
    @pytest.fixture
    async def store(self) -> MemoryStore:
        return MemoryStore()
