# SPDX-License-Identifier: Apache-2.0
"""The HDFS store keeps the object-store contract on a real name node and data node.

Source: core/object/hdfs.py; spec data-path §4.2.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.errors import ConfigError, ObjectError
from core.object import hdfs
from core.object.api import ObjectStore
from core.object.open import normalise_bucket, open_store
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, survives, volume_works
from tests.servers.hdfs import HDFSServer
from tests.servers.process import free_port


@pytest.fixture(scope="module")
def server() -> Iterator[HDFSServer]:
    with HDFSServer() as server:
        yield server


@pytest.mark.heavy
class TestHDFS(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, server: HDFSServer) -> AsyncIterator[ObjectStore]:
        store = open_store("hdfs", server.bucket(uuid4().hex), volume="vol")
        await store.create()
        yield store
        await store.close()

    async def test_objects_are_plain_files(self, server: HDFSServer) -> None:
        store = open_store("hdfs", server.bucket("plain/"), volume="vol")
        data = os.urandom(100_000)
        await store.put("chunks/0/0/1_0_3", data)
        await store.put("gone", data)
        await store.close()
        server.shell("-get", "/plain/vol/chunks/0/0/1_0_3", str(server.folder / "got"))
        assert (server.folder / "got").read_bytes() == data
        assert ".jfs." not in server.shell("-ls", "-R", "/plain")

    async def test_name_node_may_be_killed_in_the_middle(self, server: HDFSServer) -> None:
        store = open_store("hdfs", server.bucket("killed"), volume="v")
        await store.create()
        await survives(store, server.kill, server.start)
        await store.close()

    def test_a_volume_lives_in_it(self, server: HDFSServer, tmp_path: Path) -> None:
        volume_works(tmp_path, "hdfs", server.bucket("volume"), "ann")
        assert " ann " in server.shell("-ls", "/volume/vol")


def test_forms_of_the_bucket() -> None:
    one = hdfs.parse("hdfs://nn:8020/jfs/a")
    assert (one.url, dict(one.config), one.base) == ("hdfs://nn:8020", {}, "/jfs/a/")
    assert hdfs.parse("nn:8020").base == "/"
    assert hdfs.parse("nameservice/base").url == "hdfs://nameservice"
    two = hdfs.parse("a:1,b/base")
    assert two.config["dfs.namenode.rpc-address.sluice.nn0"] == "a:1"
    assert two.config["dfs.namenode.rpc-address.sluice.nn1"] == "b:8020"
    for bad in ("", "hdfs://", "s3://nn", f"u:{MARK}@nn:1/x", "nn:x", "nn:99999", "nn:1/../x", "nn:1/a:b"):
        with pytest.raises(ConfigError) as caught:
            normalise_bucket("hdfs", bad)
        assert MARK not in str(caught.value)


async def test_a_name_node_that_is_not_there_is_worth_another_try() -> None:
    store = open_store("hdfs", f"127.0.0.1:{free_port()}/x", volume="v")
    with pytest.raises(ObjectError, match="name node") as caught:
        await store.get("k")
    assert caught.value.retryable
    await store.close()


def test_one_process_has_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdfs, "_users", set())
    monkeypatch.setenv("HADOOP_USER_NAME", "x")
    hdfs._act_as("ann")
    assert os.environ["HADOOP_USER_NAME"] == "ann"
    with pytest.raises(ConfigError, match="process of its own"):
        hdfs._act_as("bob")
