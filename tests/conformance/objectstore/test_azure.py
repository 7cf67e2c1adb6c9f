# SPDX-License-Identifier: Apache-2.0
"""Azure Blob Storage keeps the object-store contract: on azurite, with the account's key and with a SAS token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from core.object.api import ObjectStore
from core.object.open import open_store
from tests.conformance.objectstore.suite import HOSTILE, ObjectStoreSuite
from tests.servers import azurite
from tests.servers.process import Server

# OpenDAL takes white space off a path's ends; the store refuses such a key instead of giving it another name.
KEYS = [key for key in HOSTILE if key == key.strip()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with azurite.azurite() as server:
        yield server


class TestAzurite(ObjectStoreSuite):
    remote = True
    hostile_keys = KEYS

    @pytest.fixture
    async def store(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectStore]:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string(server))
        store = open_store("wasb", f"https://c{uuid4().hex[:12]}", volume="vol")
        await store.create()
        yield store
        await store.close()
