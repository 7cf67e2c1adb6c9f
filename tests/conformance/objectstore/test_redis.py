# SPDX-License-Identifier: Apache-2.0
"""The Redis store keeps the object-store contract: single server, TLS, Sentinel, cluster.

Source: core/object/redis.py; spec data-path §4.2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from core.errors import ConfigError
from core.object.api import ObjectStore
from core.object.open import normalise_bucket, open_store
from core.object.prefix import PrefixStore
from core.object.redis import RedisStore
from core.object.redis.servers import address
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, survives, volume_works
from tests.servers.process import wait_for
from tests.servers.redis import PASSWORD, RedisServer, Sentinel, linked, replica_of
from tests.servers.redis_cluster import RedisCluster


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class TestRedis(ObjectStoreSuite):
    remote = True
    loops = "both"

    @pytest.fixture
    async def store(self, server: RedisServer) -> AsyncIterator[ObjectStore]:
        server.cli("FLUSHALL")
        store = open_store("redis", f"redis://127.0.0.1:{server.port}/3", volume="vol", secret_key=PASSWORD)
        await store.create()
        yield store
        await store.close()

    async def test_values_are_plain_strings_without_expiry(self, server: RedisServer, store: ObjectStore) -> None:
        await store.put("chunks/0/0/1_0_3", b"abc")
        assert server.cli("-n", "3", "GET", "vol/chunks/0/0/1_0_3") == "abc"
        assert server.cli("-n", "3", "TTL", "vol/chunks/0/0/1_0_3") == "-1"
        assert server.cli("-n", "3", "DBSIZE") == "1"

    async def test_a_listing_in_several_passes(self, server: RedisServer) -> None:
        server.cli("FLUSHALL")
        raw = RedisStore(f"redis://127.0.0.1:{server.port}/1", "", PASSWORD, keys_per_pass=100)
        store = PrefixStore(raw, "v/")
        keys = sorted(f"{i % 7}/{i}" for i in range(777))
        for key in keys:
            await store.put(key, b"12" if key > "3" else b"")
        await raw.put("other/x", b"")
        server.cli("-n", "1", "HSET", "v/5/hash", "a", "b")  # something else beside the objects
        assert [info.key async for info in store.list()] == keys
        assert [info.key async for info in store.list("3/", "3/500")] == [
            key for key in keys if key.startswith("3/") and key > "3/500"
        ]
        assert {info.size async for info in store.list()} == {0, 2}
        await raw.close()

    async def test_a_prefix_is_no_pattern(self, server: RedisServer, store: ObjectStore) -> None:
        for key in ("a*b", "axb", "a[x]b", "a?b", "a\\b"):
            await store.put(key, b"1")
        for prefix in ("a*", "a[", "a?", "a\\"):
            found = [info.key async for info in store.list(prefix)]
            assert len(found) == 1 and found[0].startswith(prefix)

    async def test_refusals_say_what_to_do(self, server: RedisServer) -> None:
        url = f"redis://127.0.0.1:{server.port}/0"
        wrong = f"wrong:{MARK}"
        assert "--secret-key" in await refused(open_store("redis", url, volume="v", secret_key=wrong), wrong)
        assert "--secret-key" in await refused(open_store("redis", url, volume="v"))
        text = await refused(open_store("redis", url[:-1] + "99", volume="v", secret_key=PASSWORD), PASSWORD)
        assert "no such database" in text
        for bad in ("", "http://host", f"redis://:{MARK}@host/0", "redis://host/x", "redis://host:0x1/0"):
            with pytest.raises(ConfigError) as caught:
                normalise_bucket("redis", bad)
            assert MARK not in str(caught.value)

    def test_a_volume_lives_in_it(self, server: RedisServer, tmp_path: Path) -> None:
        server.cli("FLUSHALL")
        volume_works(tmp_path, "redis", f"redis://127.0.0.1:{server.port}/5", "", PASSWORD)

    async def test_server_may_be_killed_in_the_middle(self) -> None:
        with RedisServer(save=True) as server:
            store = open_store("redis", f"redis://127.0.0.1:{server.port}", volume="v", secret_key=PASSWORD)
            await survives(store, server.kill, server.start)
            await store.close()

    def test_forms_of_the_bucket(self) -> None:
        one = address("redis://h:1/2", "u", "p", {})
        assert (one.mode, one.hosts, one.db, one.username, one.password) == ("single", (("h", 1),), 2, "u", "p")
        assert address("rediss://h", "", "", {}).tls is not None
        sentinel = address("redis://mine,s1,s2:5/1", "", "p", {"SENTINEL_PASSWORD_FOR_OBJ": "q"})
        assert (sentinel.mode, sentinel.master, sentinel.hosts) == ("sentinel", "mine", (("s1", 5), ("s2", 5)))
        assert sentinel.sentinel_password == "q"
        assert address("redis://h1:1,h2:2", "", "", {}).mode == "cluster"


async def test_tls() -> None:
    with RedisServer(tls=True) as server:
        url = f"rediss://127.0.0.1:{server.port}/0"
        store = open_store("redis", f"{url}?tls-ca-cert-file={server.folder}/ca.pem", volume="v", secret_key=PASSWORD)
        await store.put("k", b"v" * 100_000)
        assert len(await store.get("k")) == 100_000
        await store.close()
        assert "tls-ca-cert-file" in await refused(open_store("redis", url, volume="v", secret_key=PASSWORD), PASSWORD)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.mark.heavy
class TestCluster(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, cluster: RedisCluster) -> AsyncIterator[ObjectStore]:
        for node in cluster.nodes:
            node.cli("FLUSHALL")
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes[:2])
        store = open_store("redis", f"redis://{hosts}", volume="vol", secret_key=PASSWORD)
        yield store
        await store.close()

    async def test_objects_are_spread_over_the_nodes(self, cluster: RedisCluster, store: ObjectStore) -> None:
        for i in range(60):
            await store.put(f"k{i}", b"x")
        assert all(int(node.cli("DBSIZE")) > 5 for node in cluster.nodes)

    async def test_an_object_is_found_while_its_slot_moves_and_after(
        self, cluster: RedisCluster, store: ObjectStore
    ) -> None:
        await store.put("wanders", b"here")
        slot = str(key_slot(b"vol/wanders"))
        here = next(node for node in cluster.nodes if node.cli("DBSIZE") == "1")
        there = next(node for node in cluster.nodes if node is not here)
        there.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", here.ident)
        here.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", there.ident)
        assert bytes(await store.get("wanders")) == b"here"
        here.cli("MIGRATE", "127.0.0.1", str(there.port), "vol/wanders", "0", "5000", "AUTH", PASSWORD)
        assert bytes(await store.get("wanders")) == b"here"  # ASK
        assert bytes(await store.get("wanders", 1, 2)) == b"er"
        for node in cluster.nodes:
            node.cli("CLUSTER", "SETSLOT", slot, "NODE", there.ident)
        assert bytes(await store.get("wanders")) == b"here"  # MOVED
        assert [info.key async for info in store.list()] == ["wanders"]


@pytest.mark.heavy
async def test_a_replica_takes_the_place_of_a_node_that_dies() -> None:
    with RedisCluster(replicas=1) as cluster:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes[:3])
        store = open_store("redis", f"redis://{hosts}", volume="v", secret_key=PASSWORD)
        # What was acknowledged but not yet copied is lost with a node: Redis promises no more.
        await survives(store, cluster.nodes[0].kill, lambda: None, keeps=False)
        await store.close()


@pytest.mark.heavy
async def test_sentinel_names_a_new_master_when_the_old_one_dies() -> None:
    with RedisServer(save=True) as master:
        replica = replica_of(master)
        with replica:
            wait_for(lambda: linked(replica), what="the replica")
            with Sentinel(master, down_ms=1000) as sentinel:
                wait_for(lambda: sentinel.knows_replicas(1), what="Sentinel's view")
                store = open_store("redis", f"redis://vol,127.0.0.1:{sentinel.port}/0", volume="v", secret_key=PASSWORD)
                # What was acknowledged but not yet copied is lost with a master: Redis promises no more.
                await survives(store, master.kill, lambda: None, keeps=False)
                await store.close()
