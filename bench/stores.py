# SPDX-License-Identifier: Apache-2.0
"""What databases, SSH, HDFS and Swift cost as object stores, each with a server of its own on this machine.

    python -m bench.stores [sqlite3 redis postgres mysql sftp etcd swift hdfs minio ceph]

4 MiB and 16 KiB objects, 8 at a time; 128 KiB in the middle of a block; a listing of 2000 keys. The servers share the
cores, so read the rates as ratios within one run; CPU counts this process only. etcd takes no 4 MiB: 1 MiB there.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import bench.clouds
from bench.clouds import MIB, measure, timed
from core.object.api import ObjectStore
from core.object.open import STORAGES
from tests.servers import mariadb, postgres
from tests.servers.ceph import ACCESS_KEY as CEPH_KEY, SECRET_KEY as CEPH_SECRET, CephServer
from tests.servers.etcd import EtcdServer
from tests.servers.hdfs import HDFSServer
from tests.servers.minio import ACCESS_KEY, SECRET_KEY, MinIO
from tests.servers.redis import PASSWORD, RedisServer
from tests.servers.sshd import SSHServer
from tests.servers.swift import KEY, USER, SwiftServer


def _open(storage: str, bucket: str, access_key: str = "", secret_key: str = "") -> ObjectStore:
    return STORAGES[storage](storage, bucket, access_key, secret_key, "")


@contextmanager
def sqlite3() -> Iterator[ObjectStore]:
    with tempfile.TemporaryDirectory() as folder:
        yield _open("sqlite3", f"{folder}/blobs.db")


@contextmanager
def redis() -> Iterator[ObjectStore]:
    with RedisServer() as server:
        yield _open("redis", f"redis://127.0.0.1:{server.port}", "", PASSWORD)


@contextmanager
def pg() -> Iterator[ObjectStore]:
    with postgres.PostgresServer() as server:
        server.create("blobs")
        yield _open("postgres", f"127.0.0.1:{server.port}/blobs", postgres.USER, postgres.PASSWORD)


@contextmanager
def maria() -> Iterator[ObjectStore]:
    with mariadb.MariaDBServer(durable=True) as server:
        yield _open("mysql", f"(127.0.0.1:{server.port})/{server.database()}", mariadb.USER, mariadb.PASSWORD)


@contextmanager
def sftp() -> Iterator[ObjectStore]:
    with SSHServer() as server:
        os.environ["SSH_PRIVATE_KEY_PATH"] = server.key
        yield _open("sftp", server.bucket("bench"))


@contextmanager
def etcd() -> Iterator[ObjectStore]:
    with EtcdServer("--quota-backend-bytes", str(4 << 30)) as server:
        yield _open("etcd", f"127.0.0.1:{server.port}")


@contextmanager
def swift() -> Iterator[ObjectStore]:
    with SwiftServer() as server:
        yield _open("swift", server.bucket("bench"), USER, KEY)


@contextmanager
def hdfs() -> Iterator[ObjectStore]:
    with HDFSServer() as server:
        yield _open("hdfs", server.bucket("bench"))


@contextmanager
def minio() -> Iterator[ObjectStore]:
    with MinIO() as server:
        yield _open("minio", f"{server.endpoint}/bench", ACCESS_KEY, SECRET_KEY)


@contextmanager
def ceph() -> Iterator[ObjectStore]:
    with CephServer() as server:
        yield _open("s3", f"{server.endpoint}/bench", CEPH_KEY, CEPH_SECRET)


STORES: dict[str, Callable[[], object]] = {
    "sqlite3": sqlite3, "redis": redis, "postgres": pg, "mysql": maria, "sftp": sftp, "etcd": etcd, "swift": swift,
    "hdfs": hdfs, "minio": minio, "ceph": ceph,
}  # fmt: skip


async def ranges(name: str, store: ObjectStore, block: int) -> None:
    await store.create()
    data = os.urandom(block)
    for i in range(8):
        await store.put(f"r/{i}", data)
    at = block // 2 + 12345
    spent, cpu = await timed(lambda i: store.get(f"r/{i % 8}", at, 128 << 10), 200)
    assert bytes(await store.get("r/1", at, 128 << 10)) == data[at : at + (128 << 10)]
    print(f"{name:8} 128 KiB of {block >> 20} MiB {200 / spent:7.0f}/s {cpu / 200 * 1e3:6.2f} ms CPU", flush=True)


async def main(names: list[str]) -> None:
    for name in names:
        if name not in STORES:
            raise SystemExit(f"no store {name!r}; known: {' '.join(STORES)}")
        with STORES[name]() as store:  # type: ignore[attr-defined]
            block = bench.clouds.MIB = MIB // 4 if name == "etcd" else MIB
            await ranges(name, store, 4 * block)
            await measure(name, store)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1:] or list(STORES)))
