# SPDX-License-Identifier: Apache-2.0
"""The same create and lookup as `Meta` does, issued as most programs would: one statement, one round trip.

Plain client libraries, the same tables and keys, the same number of statements; nothing batched, nothing cached. Only
for `bench/meta.py`: nobody may mistake these for correct clients (they skip permissions and retries).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from core.meta import keys as k
from core.meta.records import FILE, Attr, DirStat, Entry, NodePatch, decode_attr, encode_attr, encode_entry
from core.meta.store import ADD, EXACT, IDENTITY, PATCH, PUT
from core.volume import open_record_store


def new_file(parent: int) -> Attr:
    now = time.time_ns()
    return Attr(FILE, 0o644, 0, 0, now, now, now, 1, 0, 0, parent)


class Naive(ABC):
    """One connection."""

    @abstractmethod
    async def lookup(self, parent: int, name: bytes) -> Any: ...

    @abstractmethod
    async def create(self, parent: int, name: bytes, ino: int) -> Any: ...

    @abstractmethod
    async def close(self) -> None: ...


class NaiveRedis(Naive):
    def __init__(self, client: Any) -> None:
        self._run = client.execute_command
        self._client = client

    @classmethod
    async def connect(cls, url: str) -> NaiveRedis:
        from redis.asyncio import Redis

        # One connection that is kept: WATCH and MULTI belong to it.
        return cls(Redis.from_url(url, single_connection_client=True))

    async def lookup(self, parent: int, name: bytes) -> Any:
        raw = await self._run("HGET", f"d{parent}", name)
        return await self._run("GET", f"i{int.from_bytes(raw[1:], 'big')}")

    async def create(self, parent: int, name: bytes, ino: int) -> Any:
        run = self._run
        await run("WATCH", f"i{parent}", f"d{parent}")
        attr = decode_attr(await run("GET", f"i{parent}"))
        assert await run("HEXISTS", f"d{parent}", name) == 0
        node = new_file(parent)
        await run("MULTI")
        await run("SET", f"i{ino}", encode_attr(node))
        await run("SET", f"i{parent}", encode_attr(attr))
        await run("HSET", f"d{parent}", name, encode_entry(Entry(FILE, ino)))
        await run("INCRBY", "usedSpace", 4096)
        await run("INCRBY", "totalInodes", 1)
        await run("HINCRBY", "dirUsedSpace", parent, 4096)
        await run("HINCRBY", "dirUsedInodes", parent, 1)
        return await run("EXEC")

    async def close(self) -> None:
        await self._client.aclose()


class NaiveSQL(Naive):
    """Statements with `%s`, as psycopg and the MySQL drivers take them. Tables carry the volume's prefix."""

    def __init__(self, execute: Callable[[str, tuple[Any, ...]], Awaitable[Any]], close: Callable[[], Awaitable[Any]],
                 prefix: str) -> None:  # fmt: skip
        self._execute = execute
        self._close = close
        self._p = prefix

    async def lookup(self, parent: int, name: bytes) -> Any:
        p = self._p
        ino, _ = await self._execute(f"SELECT inode, type FROM {p}edge WHERE parent = %s AND name = %s", (parent, name))
        return await self._execute(f"SELECT * FROM {p}node WHERE inode = %s", (ino,))

    async def create(self, parent: int, name: bytes, ino: int) -> Any:
        p, run = self._p, self._execute
        now = time.time_ns() // 1000
        await run("BEGIN", ())
        await run(f"SELECT * FROM {p}node WHERE inode = %s FOR UPDATE", (parent,))
        assert await run(f"SELECT inode FROM {p}edge WHERE parent = %s AND name = %s", (parent, name)) is None
        await run(f"INSERT INTO {p}edge (parent, name, inode, type) VALUES (%s, %s, %s, 1)", (parent, name, ino))
        await run(
            f"INSERT INTO {p}node (inode, type, flags, mode, uid, gid, atime, mtime, ctime, nlink, length, rdev,"
            " parent) VALUES (%s, 1, 0, 420, 0, 0, %s, %s, %s, 1, 0, 0, %s)",
            (ino, now, now, now, parent),
        )
        await run(f"UPDATE {p}node SET mtime = %s, ctime = %s WHERE inode = %s", (now, now, parent))
        await run(f"UPDATE {p}counter SET value = value + %s WHERE name = %s", (4096, "usedSpace"))
        await run(f"UPDATE {p}counter SET value = value + %s WHERE name = %s", (1, "totalInodes"))
        await run(
            f"UPDATE {p}dir_stats SET used_space = used_space + %s, used_inodes = used_inodes + %s WHERE inode = %s",
            (4096, 1, parent),
        )
        return await run("COMMIT", ())

    async def close(self) -> None:
        await self._close()


async def connect_postgres(url: str) -> Naive:
    import psycopg

    address, _, options = url.partition("?")
    prefix = dict(o.split("=", 1) for o in options.split("&") if o).get("table_prefix", "")
    conn = await psycopg.AsyncConnection.connect(address.replace("postgres://", "postgresql://"), autocommit=True)

    async def execute(text: str, parameters: tuple[Any, ...]) -> Any:
        cursor = await conn.execute(text, parameters, prepare=True)
        return await cursor.fetchone() if cursor.description else None

    return NaiveSQL(execute, conn.close, f"jfs_{prefix}_" if prefix else "jfs_")


async def connect_mysql(url: str) -> Naive:
    import asyncmy

    from core.meta.stores.mysql.url import parse_url

    place = parse_url(url)
    conn = await asyncmy.connect(
        host=place.host, port=place.port, user=place.user, password=place.password, db=place.database, autocommit=True
    )

    async def execute(text: str, parameters: tuple[Any, ...]) -> Any:
        async with conn.cursor() as cursor:
            await cursor.execute(text, parameters or None)
            return await cursor.fetchone() if cursor.description else None

    async def close() -> None:
        conn.close()

    return NaiveSQL(execute, close, f"jfs_{place.table_prefix}_" if place.table_prefix else "jfs_")


class NaiveKeys(Naive):
    """Key-value stores: every key is asked for by itself, then one transaction writes."""

    def __init__(self, store: Any) -> None:
        self._store = store

    @classmethod
    async def connect(cls, url: str) -> NaiveKeys:
        store = open_record_store(url)
        await store.open()
        store.recent = None
        return cls(store)

    async def _get(self, key: Any) -> Any:
        store = self._store
        return (await store.driver.get((store.codec.encode(key),))).values[0]

    async def lookup(self, parent: int, name: bytes) -> Any:
        raw = await self._get(k.entry(parent, name))
        return await self._get(k.node(int.from_bytes(raw[1:], "big")))

    async def create(self, parent: int, name: bytes, ino: int) -> Any:
        attr = decode_attr(await self._get(k.node(parent)))
        assert await self._get(k.entry(parent, name)) is None
        for key in (k.counter("usedSpace"), k.counter("totalInodes"), k.dirstat(parent)):
            await self._get(key)
        node = new_file(parent)
        await self._store.commit(
            [(IDENTITY, k.node(parent), attr), (EXACT, k.entry(parent, name), None)],
            [
                (PUT, k.entry(parent, name), Entry(FILE, ino)), (PUT, k.node(ino), node),
                (PATCH, k.node(parent), NodePatch(0, node.mtime_ns, node.mtime_ns)),
                (ADD, k.counter("usedSpace"), 4096), (ADD, k.counter("totalInodes"), 1),
                (ADD, k.dirstat(parent), DirStat(0, 4096, 1)),
            ],
        )  # fmt: skip

    async def close(self) -> None:
        await self._store.close()


#: Engine -> how to connect.
NAIVE: dict[str, Callable[[str], Awaitable[Naive]]] = {
    "redis": NaiveRedis.connect,
    "postgres": connect_postgres,
    "mariadb": connect_mysql,
    "etcd": NaiveKeys.connect,
    "tikv": NaiveKeys.connect,
}

__all__ = ["NAIVE", "Naive"]
