# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage keeps the object-store contract: on fake-gcs-server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.errors import ObjectError, ObjectNotFound
from core.object.api import ObjectStore
from core.object.open import open_store, prove
from tests.conformance.objectstore.suite import HOSTILE, ObjectStoreSuite
from tests.conformance.objectstore.volumes import volume_works
from tests.servers import fake_gcs
from tests.servers.process import Server

# OpenDAL takes white space off a path's ends; the store refuses such a key instead of giving it another name.
KEYS = [key for key in HOSTILE if key == key.strip()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with fake_gcs.fake_gcs() as server:
        yield server


class TestFakeGcsServer(ObjectStoreSuite):
    remote = True
    hostile_keys = KEYS

    @pytest.fixture
    async def store(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectStore]:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs.endpoint(server))
        store = open_store("gs", f"gs://b{uuid4().hex[:12]}", volume="vol")
        await store.create()
        yield store
        await store.close()


async def test_a_missing_bucket_is_no_missing_object(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", fake_gcs.endpoint(server))
    store = open_store("gs", f"gs://b{uuid4().hex[:12]}", volume="vol")
    with pytest.raises(ObjectError) as caught:
        await store.put("k", b"")
    assert not isinstance(caught.value, ObjectNotFound)
    assert not caught.value.retryable
    await prove(store)  # makes the bucket
    await store.put("k", b"1")
    await store.close()


def test_a_volume_through_the_command_line(server: Server, tmp_path: Path) -> None:
    environ = {"STORAGE_EMULATOR_HOST": fake_gcs.endpoint(server)}
    volume_works(tmp_path, "gs", f"gs://b{uuid4().hex[:12]}", env=environ)
