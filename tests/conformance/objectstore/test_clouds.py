# SPDX-License-Identifier: Apache-2.0
"""Storages that speak S3 under another name: each does its work on versitygw, one passes the whole suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.object.api import ObjectStore
from core.object.hedged import find_hedges
from core.object.open import open_store, prove
from core.object.s3 import S3Store
from core.object.s3.kinds import KINDS
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import volume_works
from tests.servers import versitygw


@pytest.fixture(scope="module")
def versity() -> Iterator[str]:
    with versitygw.versitygw("--keep-alive") as server:
        yield versitygw.endpoint(server)


def opened(storage: str, endpoint: str) -> ObjectStore:
    url = f"{endpoint}/sluice-{uuid4().hex[:12]}"
    return open_store(storage, url, volume="v", access_key=versitygw.ACCESS_KEY, secret_key=versitygw.SECRET_KEY)


@pytest.mark.heavy  # test_s3.py runs the same client
class TestWasabi(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, versity: str) -> AsyncIterator[ObjectStore]:
        store = opened("wasabi", versity)
        await store.create()
        yield store
        await store.close()


@pytest.mark.parametrize("storage", sorted(KINDS))
async def test_every_kind_stores_and_keeps_its_checksum_rule(storage: str, versity: str) -> None:
    store = opened(storage, versity)
    await prove(store)
    await store.put("chunks/0/0/1_0_9", b"123456789")
    assert bytes(await store.get("chunks/0/0/1_0_9")) == b"123456789"
    assert [info.size async for info in store.list("chunks/")] == [9]
    hedged = find_hedges(store)
    assert hedged is not None
    assert isinstance(hedged.store, S3Store)
    answer = await hedged.store._request("HEAD", "v/chunks/0/0/1_0_9")
    assert answer.headers.get("x-amz-meta-crc32c") == ("3808858755" if KINDS[storage].writes_checksum else None)
    await store.close()


@pytest.mark.heavy
def test_a_volume_through_the_command_line(versity: str, tmp_path: Path) -> None:
    bucket = f"{versity}/sluice-{uuid4().hex[:12]}"
    volume_works(tmp_path, "scw", bucket, versitygw.ACCESS_KEY, versitygw.SECRET_KEY)
