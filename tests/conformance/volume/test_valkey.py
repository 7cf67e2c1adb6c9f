# SPDX-License-Identifier: Apache-2.0
"""Volume semantics over Valkey."""

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from tests.conformance.volume.suite import VolumeSuite
from tests.conformance.volume.test_redis import emptied
from tests.servers.valkey import ValkeyServer


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        assert isinstance(server, ValkeyServer)
        yield server


class TestValkey(VolumeSuite):
    @pytest.fixture
    async def store(self, server: ValkeyServer) -> AsyncIterator[RecordStore]:
        async for store in emptied(server.url(2)):
            yield store
