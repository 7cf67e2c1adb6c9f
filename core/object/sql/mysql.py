# SPDX-License-Identifier: Apache-2.0
"""Objects in MySQL or MariaDB (storage `mysql`), bucket `(host:3306)/db[?tls=true]`.

Sessions are those of the metadata engine. A block travels as a quoted string in which two bytes are escaped: 1 % more
at random, where hexadecimal would double it. A value holds 2^24−1 bytes at most, and a statement no more than the
server's max_allowed_packet; what exceeds that is written in pieces within one transaction.
Source: spec data-path §4.2, §4.5; MySQL reference manual (string literals; error numbers).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

from asyncmy import errors

from core.errors import ConfigError, MetaError, ObjectError, ObjectNotFound
from core.meta.stores.mysql.connection import Connection, Pool, Result
from core.meta.stores.mysql.failures import RACES, code_of, is_lost, translate
from core.meta.stores.mysql.url import MySQLURL, parse_url
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen
from core.object.sql.table import INDEX, PAGE, TABLE, info, key_range, local_seconds, local_time

FORM: Final = "(HOST:3306)/DATABASE, with the user as access key and the password as secret key"
#: A server has 151 by default, and several clients share them.
CONNECTIONS: Final = 8
#: MEDIUMBLOB and VARBINARY(255) of §4.5.
LARGEST: Final = (1 << 24) - 1
LONGEST_KEY: Final = 255
#: Deadlocks of writers of one key; the loser is rolled back and goes on at once.
_TRIES: Final = 8

_CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS `{TABLE}` (`id` BIGINT PRIMARY KEY AUTO_INCREMENT NOT NULL,"
    " `key` VARBINARY(255) NOT NULL, `size` BIGINT NOT NULL, `modified` DATETIME NOT NULL, `data` MEDIUMBLOB NULL,"
    f" UNIQUE KEY `{INDEX}` (`key`))"
).encode()
_PUT: Final = (
    b"INSERT INTO `jfs_blob` (`key`,`size`,`modified`,`data`) VALUES (%s,%d,'%s',%s) ON DUPLICATE KEY UPDATE"
    b" `size`=VALUES(`size`),`modified`=VALUES(`modified`),`data`=VALUES(`data`)"
)
_APPEND: Final = b"UPDATE `jfs_blob` SET `data`=CONCAT(`data`,%s) WHERE `key`=%s"
_DELETE: Final = b"DELETE FROM `jfs_blob` WHERE `key`=%s"
_HEAD: Final = b"SELECT `size`,`modified` FROM `jfs_blob` WHERE `key`=%s"
_GET: Final = b"SELECT `data` FROM `jfs_blob` WHERE `key`=%s"
_RANGE: Final = b"SELECT SUBSTRING(`data`,%d,%d) FROM `jfs_blob` WHERE `key`=%s"
_LIST: Final = (
    b"SELECT `key`,`size`,`modified` FROM `jfs_blob`"
    b" WHERE `key`>%s AND `key`>=%s AND `key`<%s ORDER BY `key` LIMIT 1000"
)
#: Of a statement beside its value, generously.
_FRAME: Final = 2048


def address(bucket: str, access_key: str, secret_key: str) -> MySQLURL:
    """Where to connect; ConfigError shows the form. The password is never part of a text."""
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() != "mysql":
        raise ConfigError(f"mysql: the bucket is no MySQL address; it looks like {FORM}")
    text = rest if separator else text
    if "@" in text.partition("(")[0] + text.partition(")")[2].partition("?")[0]:
        raise ConfigError(f"mysql: user and password don't belong into the bucket; it looks like {FORM}")
    try:
        url = parse_url("mysql://" + text, {})
    except ConfigError as error:
        raise ConfigError(f"mysql: the bucket can't be used: {error}; it looks like {FORM}") from None
    return replace(url, user=access_key, password=secret_key)


def quoted(data: bytes | memoryview) -> bytes:
    """A string literal of any bytes. Two bytes mean something inside of quotes; both are below 0x80, so neither is
    part of a longer character of utf8mb4."""
    return b"_binary'%s'" % bytes(data).replace(b"\\", b"\\\\").replace(b"'", b"\\'")


def hexed(key: bytes) -> bytes:
    return b"x'%s'" % key.hex().encode()


class MySQLStore(ObjectStore):
    """`MySQLStore("(db.host:3306)/blobs", user, password)`."""

    # `modified` is in the zone of whoever wrote it, so a client elsewhere looks hours too old: nothing to go by for gc.
    features = Features(ranges=True, times=False)

    def __init__(self, bucket: str, access_key: str = "", secret_key: str = "") -> None:
        self._url = replace(address(bucket, access_key, secret_key), connections=CONNECTIONS)
        self.name = self._url.where
        self._pool: Pool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        whole = frozen(data)
        if len(whole) > LARGEST:
            raise ObjectError(
                f"{self.name}: put of {key!r}: {len(whole)} bytes; MySQL holds {LARGEST} at most here (MEDIUMBLOB); "
                "make the volume with a smaller --block-size",
                retryable=False,
            )
        name = self._key(key)
        moment = local_time(time.time()).isoformat(" ").encode()

        async def work(session: Connection) -> Sequence[Result]:
            literal = quoted(whole)
            if len(literal) + _FRAME <= session.max_packet:
                return await session.run(_PUT % (name, len(whole), moment, literal))
            # An escaped piece is twice as long at most.
            size = max(1024, (session.max_packet - _FRAME) // 2)
            view = memoryview(whole)
            await session.run(b"BEGIN;" + _PUT % (name, len(whole), moment, quoted(view[:size])))
            for at in range(size, len(whole), size):
                await session.run(_APPEND % (quoted(view[at : at + size]), name))
            return await session.run(b"COMMIT")

        await self._run("put", key, work)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        name = self._key(key)
        if start == 0 and length is None:
            rows = await self._rows("get", key, _GET % name)
        else:
            first, n = min(start, LARGEST), LARGEST if length is None else min(length, LARGEST)
            rows = await self._rows("get", key, _RANGE % (first + 1, n, name))
        if not rows:
            raise self._missing(key)
        found: bytes = rows[0][0] or b""
        return found

    async def delete(self, key: str) -> None:
        await self._rows("delete", key, _DELETE % self._key(key))

    async def head(self, key: str) -> ObjectInfo:
        rows = await self._rows("head", key, _HEAD % self._key(key))
        if not rows:
            raise self._missing(key)
        return ObjectInfo(key, int(rows[0][0]), _seconds(rows[0][1]))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        begin, low, end = key_range(prefix, after)
        while True:
            try:
                rows = await self._rows("list", prefix, _LIST % (hexed(begin), hexed(low), hexed(end)))
            except _NoTable:
                return  # nobody has written yet
            for found, size, modified in rows:
                yield info(found, size, _seconds(modified))
            if len(rows) < PAGE:
                return
            begin = rows[-1][0]

    async def create(self) -> None:
        await self._rows("create", "", _CREATE)

    async def close(self) -> None:
        if self._pool is not None and asyncio.get_running_loop() is self._loop:
            await self._pool.close()
        self._pool = None

    # ---- calls

    async def _rows(self, action: str, key: str, statement: bytes) -> Sequence[tuple[Any, ...]]:
        async def work(session: Connection) -> Sequence[Result]:
            return await session.run(statement)

        return (await self._run(action, key, work))[-1].rows

    async def _run(self, action: str, key: str, work: Any) -> Sequence[Result]:
        """Every call may be repeated: after a deadlock, and once if a kept connection turns out to be dead."""
        pool = await self._sessions()
        renewed = False
        for left in range(_TRIES, -1, -1):
            try:
                async with pool.connection() as session:
                    try:
                        result: Sequence[Result] = await work(session)
                        return result
                    except errors.MySQLError as error:
                        if not is_lost(error):
                            await session.rollback()
                        raise
            except errors.MySQLError as error:
                if left and code_of(error) in RACES:
                    continue
                if left and is_lost(error) and not renewed:
                    renewed = True
                    continue
                raise self._explain(error, action, key) from error
            except (MetaError, OSError) as error:
                raise self._explain(error, action, key) from error
        raise AssertionError("unreachable")

    async def _sessions(self) -> Pool:
        loop = asyncio.get_running_loop()
        if self._pool is None or loop is not self._loop:
            pool, self._loop = Pool(self._url), loop
            await pool.open(prove=False)
            self._pool = pool
        return self._pool

    def _key(self, key: str) -> bytes:
        name = key.encode()
        if len(name) > LONGEST_KEY:
            raise ObjectError(
                f"{self.name}: the key {key!r} has {len(name)} bytes; MySQL holds {LONGEST_KEY} at most here",
                retryable=False,
            )
        return hexed(name)

    def _missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: BaseException, action: str, key: str) -> ObjectError:
        what = f"{action} of {key!r}" if key else action
        cause = error.__cause__ if isinstance(error, MetaError) and error.__cause__ else error
        number = code_of(cause) if isinstance(cause, errors.MySQLError) else 0
        if number == 1146:
            return _NoTable(
                f"{self.name}: {what} failed: there is no table {TABLE}; format the volume first, or name its database",
                retryable=False,
            )
        if number in _MEANINGS:
            text, retryable = _MEANINGS[number]
            return ObjectError(f"{self.name}: {what} failed: {text} (error {number})", retryable=retryable)
        meta = translate(error, self.name, what)
        return ObjectError(str(meta.args[1]).removeprefix("metadata "), retryable=meta.retryable)


class _NoTable(ObjectError):
    """The store was never made."""


#: Where an object store has other advice than a metadata engine.
_MEANINGS: Final = {
    1045: ("wrong user or password; check --access-key and --secret-key", False),
    1698: ("wrong user or password; check --access-key and --secret-key", False),
    1153: ("the object exceeds the server's max_allowed_packet; raise it to twice the block size", False),
    1406: ("the object is longer than its column allows; use a smaller --block-size", False),
    1118: ("the object is too large for the server's redo log; raise innodb_log_file_size to ten blocks", False),
}


def _seconds(value: Any) -> float:
    return local_seconds(value.decode() if isinstance(value, bytes) else value)
