# SPDX-License-Identifier: Apache-2.0
"""The etcd store keeps the object-store contract, for objects that etcd takes.

Source: core/object/etcd.py; spec data-path §4.2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.object.api import ObjectStore
from core.object.etcd import LARGEST, EtcdStore
from core.object.open import normalise_bucket, open_store
from core.object.servers import require_block_fits
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, survives, volume_works
from tests.servers.etcd import PASSWORD, USER, EtcdServer


@pytest.fixture(scope="module")
def server() -> Iterator[EtcdServer]:
    with EtcdServer("--quota-backend-bytes", str(4 << 30)) as server:
        yield server


async def wipe(server: EtcdServer) -> None:
    store = EtcdStore(f"127.0.0.1:{server.port}")
    async for info in store.list():
        await store.delete(info.key)
    await store.close()


class TestEtcd(ObjectStoreSuite):
    remote = True
    largest = LARGEST

    @pytest.fixture
    async def store(self, server: EtcdServer) -> AsyncIterator[ObjectStore]:
        await wipe(server)
        store = open_store("etcd", f"127.0.0.1:{server.port}", volume="vol")
        await store.create()
        yield store
        await store.close()

    async def test_the_largest_object(self, store: ObjectStore) -> None:
        await store.put("big", bytes(LARGEST))
        assert bytes(await store.get("big")) == bytes(LARGEST)

    async def test_server_may_be_killed_in_the_middle(self) -> None:
        with EtcdServer() as server:
            store = open_store("etcd", f"etcd://127.0.0.1:{server.port}", volume="v")
            await survives(store, server.kill, server.start)
            await store.close()

    @pytest.mark.heavy
    def test_a_volume_lives_in_it(self, server: EtcdServer, tmp_path: Path) -> None:
        asyncio.run(wipe(server))
        volume_works(tmp_path, "etcd", f"127.0.0.1:{server.port}")


async def test_refusals_say_what_to_do() -> None:
    wrong = f"wrong:{MARK}"
    with EtcdServer(users=True) as server:
        here = f"127.0.0.1:{server.port}"
        text = await refused(open_store("etcd", here, volume="v", access_key=USER, secret_key=wrong), wrong)
        assert "--secret-key" in text
        # The right password, but a key outside of what the user may touch.
        text = await refused(open_store("etcd", here, volume="v", access_key=USER, secret_key=PASSWORD), PASSWORD)
        assert "role" in text
    for bad in ("", "http://h", f"u:{MARK}@h:2379", "h:x"):
        with pytest.raises(ConfigError) as caught:
            normalise_bucket("etcd", bad)
        assert MARK not in str(caught.value)
    with pytest.raises(ConfigError, match="--block-size 1024K or less"):
        require_block_fits("etcd", 4 << 20)
