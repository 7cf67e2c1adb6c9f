# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage keeps the object-store contract: on fake-gcs-server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from core.object.api import ObjectStore
from core.object.open import open_store
from tests.conformance.objectstore.suite import HOSTILE, ObjectStoreSuite
from tests.servers import fake_gcs
from tests.servers.process import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake_gcs.fake_gcs() as server:
        yield server


class TestFakeGcsServer(ObjectStoreSuite):
    remote = True
    # OpenDAL takes white space off a path's ends; the store refuses such a key instead of giving it another name.
    hostile_keys = [key for key in HOSTILE if key == key.strip()]

    @pytest.fixture
    async def store(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectStore]:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs.endpoint(server))
        store = open_store("gs", f"gs://b{uuid4().hex[:12]}", volume="vol")
        await store.create()
        yield store
        await store.close()
