# SPDX-License-Identifier: Apache-2.0
"""Ceph's RADOS gateway keeps the object-store contract through our S3 client (storage `s3`).

Source: spec data-path §4.2, §4.4.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.object.api import ObjectStore
from core.object.open import open_store
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, survives, volume_works
from tests.servers.ceph import ACCESS_KEY, SECRET_KEY, CephServer

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def server() -> Iterator[CephServer]:
    with CephServer() as server:
        yield server


def opened(server: CephServer, secret_key: str = SECRET_KEY) -> ObjectStore:
    url = f"{server.endpoint}/sluice-{uuid4().hex[:12]}"
    return open_store("s3", url, volume="vol", access_key=ACCESS_KEY, secret_key=secret_key)


class TestCeph(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, server: CephServer) -> AsyncIterator[ObjectStore]:
        store = opened(server)
        await store.create()
        yield store
        await store.close()

    async def test_refusals_say_what_to_do(self, server: CephServer) -> None:
        wrong = f"wrong-{MARK}"
        assert "SignatureDoesNotMatch" in await refused(opened(server, wrong), wrong)

    async def test_gateway_may_be_killed_in_the_middle(self, server: CephServer) -> None:
        store = opened(server)
        await store.create()
        await survives(store, server.kill, server.start_gateway)
        await store.close()

    def test_a_volume_lives_in_it(self, server: CephServer, tmp_path: Path) -> None:
        volume_works(tmp_path, "s3", f"{server.endpoint}/volume", ACCESS_KEY, SECRET_KEY)
