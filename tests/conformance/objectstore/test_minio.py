# SPDX-License-Identifier: Apache-2.0
"""MinIO keeps the object-store contract, as storage `minio` and as storage `s3`.

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
from tests.servers.minio import ACCESS_KEY, SECRET_KEY, MinIO

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def server() -> Iterator[MinIO]:
    with MinIO() as server:
        yield server


def opened(storage: str, server: MinIO, secret_key: str = SECRET_KEY) -> ObjectStore:
    url = f"{server.endpoint}/sluice-{uuid4().hex[:12]}"
    return open_store(storage, url, volume="vol", access_key=ACCESS_KEY, secret_key=secret_key)


class TestMinIO(ObjectStoreSuite):
    remote = True

    @pytest.fixture(params=["minio", "s3"])
    async def store(self, server: MinIO, request: pytest.FixtureRequest) -> AsyncIterator[ObjectStore]:
        store = opened(request.param, server)
        await store.create()
        yield store
        await store.close()

    async def test_refusals_say_what_to_do(self, server: MinIO) -> None:
        wrong = f"wrong-{MARK}"
        assert "SignatureDoesNotMatch" in await refused(opened("minio", server, wrong), wrong)

    async def test_server_may_be_killed_in_the_middle(self) -> None:
        with MinIO() as server:
            store = opened("minio", server)
            await store.create()
            await survives(store, server.kill, server.start)
            await store.close()

    def test_a_volume_lives_in_it(self, server: MinIO, tmp_path: Path) -> None:
        volume_works(tmp_path, "minio", f"{server.endpoint}/volume", ACCESS_KEY, SECRET_KEY)
