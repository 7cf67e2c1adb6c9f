# SPDX-License-Identifier: Apache-2.0
"""Valkey keeps the record-store contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from core.meta.store import RecordStore
from tests.servers.valkey import ValkeyServer

from .suite import RecordStoreSuite
from .test_redis import opened


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        assert isinstance(server, ValkeyServer)
        yield server


class TestValkey(RecordStoreSuite):
    @pytest.fixture
    async def store(self, server: ValkeyServer) -> AsyncIterator[RecordStore]:
        async for store in opened(server.url(3)):
            yield store

    @pytest.fixture
    async def peer(self, store: RecordStore, server: ValkeyServer) -> AsyncIterator[RecordStore]:
        async for peer in opened(server.unix_url(3), empty=False):
            yield peer
