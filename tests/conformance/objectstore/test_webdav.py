# SPDX-License-Identifier: Apache-2.0
"""A folder of a WebDAV server keeps the object-store contract: on Apache's mod_dav, with a password."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from core.object.api import ObjectStore
from core.object.open import open_store
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.servers import apache
from tests.servers.process import Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with apache.apache() as server:
        yield server


class TestApache(ObjectStoreSuite):
    remote = True
    loops = "both"

    @pytest.fixture
    async def store(self, server: Server) -> AsyncIterator[ObjectStore]:
        url = f"{apache.endpoint(server)}/base/{uuid4().hex[:12]}"
        store = open_store("webdav", url, volume="vol", access_key=apache.USER, secret_key=apache.PASSWORD)
        await store.create()
        yield store
        await store.close()
