# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over the in-memory store."""

import pytest

from core.meta.store import Capabilities
from core.meta.stores.memory import MemoryStore
from tests.conformance.volume.suite import VolumeSuite


class TestMemory(VolumeSuite):
    @pytest.fixture
    async def store(self) -> MemoryStore:
        return MemoryStore()


class FarMemoryStore(MemoryStore):
    """As if reading cost a round trip: transactions guess what they saw before, and commits prove it."""

    caps = Capabilities(shared=False)


class TestFarMemory(VolumeSuite):
    @pytest.fixture
    async def store(self) -> FarMemoryStore:
        return FarMemoryStore()
