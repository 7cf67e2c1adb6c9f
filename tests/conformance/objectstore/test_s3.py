# SPDX-License-Identifier: Apache-2.0
"""The S3 store keeps the object-store contract on two servers and through two clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from core.object.api import ObjectStore
from core.object.open import open_store
from core.object.prefix import PrefixStore
from core.object.retried import RetriedStore
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.servers import moto, versitygw
from tests.servers.process import missing


@pytest.fixture(scope="module")
def versity() -> Iterator[str]:
    with versitygw.versitygw("--keep-alive") as server:
        yield versitygw.endpoint(server)


@pytest.fixture(scope="module")
def moto_server() -> Iterator[str]:
    with moto.moto() as server:
        yield moto.endpoint(server)


async def opened(endpoint: str, query: str = "") -> ObjectStore:
    url = f"{endpoint}/sluice-{uuid4().hex[:12]}{query}"
    store = open_store("s3", url, volume="vol", access_key=versitygw.ACCESS_KEY, secret_key=versitygw.SECRET_KEY)
    await store.create()
    return store


class TestVersityGW(ObjectStoreSuite):
    remote = True
    loops = "both"

    @pytest.fixture
    async def store(self, versity: str) -> AsyncIterator[ObjectStore]:
        store = await opened(versity)
        yield store
        await store.close()


class TestMoto(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, moto_server: str) -> AsyncIterator[ObjectStore]:
        store = await opened(moto_server)
        yield store
        await store.close()

    async def test_readers_see_the_old_or_the_new_object(self, store: ObjectStore) -> None:
        # moto answers 500 if an object is replaced in the middle of its answer; volumes try that again.
        await super().test_readers_see_the_old_or_the_new_object(RetriedStore(store, sleep=lambda _: asyncio.sleep(0)))


class TestThroughAioboto3(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, versity: str) -> AsyncIterator[ObjectStore]:
        try:
            import aioboto3  # noqa: F401
        except ImportError:
            missing("aioboto3", "pip install aioboto3")
        store = await opened(versity, "?client=aioboto3")
        assert isinstance(store, PrefixStore)
        yield store
        await store.close()
