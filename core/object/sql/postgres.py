# SPDX-License-Identifier: Apache-2.0
"""Objects in PostgreSQL (storage `postgres`), bucket `host:port/db[?sslmode=…&search_path=schema]`.

Values travel in the binary protocol, so a block is neither escaped nor parsed. Blocks are compressed or encrypted
already, so the table keeps them as they are (storage EXTERNAL): the server then reads a range without the rest.
Source: spec data-path §4.2, §4.5; PostgreSQL manual 73.2 (TOAST), appendix A (error codes).
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.meta.stores.postgres.url import PostgresURL, parse_url
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen
from core.object.sql.pool import Lost, Pool
from core.object.sql.table import INDEX, PAGE, TABLE, info, key_range, local_seconds, local_time

FORM: Final = "HOST:5432/DATABASE, with the user as access key and the password as secret key"
#: A server has 100 by default, and several clients share them.
CONNECTIONS: Final = 8

_CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (id BIGSERIAL PRIMARY KEY, key BYTEA NOT NULL, size BIGINT NOT NULL,"
    " modified TIMESTAMP NOT NULL, data BYTEA)",
    f'CREATE UNIQUE INDEX IF NOT EXISTS "{INDEX}" ON {TABLE} (key)',
    f"ALTER TABLE {TABLE} ALTER COLUMN data SET STORAGE EXTERNAL",
)
_PUT: Final = (
    "INSERT INTO jfs_blob (key, size, modified, data) VALUES (%b, %b, %b, %b) ON CONFLICT (key) DO UPDATE"
    " SET size = excluded.size, modified = excluded.modified, data = excluded.data"
)
_DELETE: Final = "DELETE FROM jfs_blob WHERE key = %b"
_HEAD: Final = "SELECT size, modified FROM jfs_blob WHERE key = %b"
_GET: Final = "SELECT data FROM jfs_blob WHERE key = %b"
# A range beyond the end is empty, as it should be. substring counts from 1 in 32 bits.
_RANGE: Final = "SELECT substring(data FROM %b::int4 FOR %b::int4) FROM jfs_blob WHERE key = %b"
_LIST: Final = (
    "SELECT key, size, modified FROM jfs_blob WHERE key > %b AND key >= %b AND key < %b ORDER BY key LIMIT 1000"
)
#: The largest value of a column, 1 GiB.
_LARGEST: Final = 1 << 30


def address(bucket: str, access_key: str, secret_key: str) -> PostgresURL:
    """Where to connect; ConfigError shows the form. The password is never part of a text."""
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() not in ("postgres", "postgresql"):
        raise ConfigError(f"postgres: the bucket is no PostgreSQL address; it looks like {FORM}")
    text = rest if separator else text
    if "@" in text.partition("?")[0]:
        raise ConfigError(f"postgres: user and password don't belong into the bucket; it looks like {FORM}")
    if not text.partition("?")[0].partition("/")[2]:
        raise ConfigError(f"postgres: the bucket names no database; it looks like {FORM}")
    url = parse_url("postgres://" + text, {})
    if access_key:
        url.parameters["user"] = access_key
    if secret_key:
        url.parameters["password"] = secret_key
    return url


class _Session:
    """One connection in autocommit."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.connection = connection

    def drop(self) -> None:
        self.connection.pgconn.finish()

    async def quit(self) -> None:
        await self.connection.close()

    async def rows(self, statement: str, values: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """Raises Lost, or psycopg's error for a refusal."""
        try:
            cursor = await self.connection.execute(statement.encode(), values, binary=True)
            return await cursor.fetchall() if cursor.description is not None else []
        except psycopg.Error as error:
            if self.connection.closed or (error.sqlstate or "").startswith(("08", "57P")):
                raise Lost from error
            raise
        except OSError as error:
            raise Lost from error


class PostgresStore(ObjectStore):
    """`PostgresStore("db.host:5432/blobs", user, password)`."""

    # `modified` is in the zone of whoever wrote it, so a client elsewhere looks hours too old: nothing to go by for gc.
    features = Features(ranges=True, times=False)

    def __init__(self, bucket: str, access_key: str = "", secret_key: str = "") -> None:
        self._url = address(bucket, access_key, secret_key)
        self.name = self._url.where
        self._pool = Pool(self._connect, CONNECTIONS)

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        whole = frozen(data)
        row = (key.encode(), len(whole), local_time(time.time()), whole)
        await self._rows("put", key, _PUT, row)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        if start == 0 and length is None:
            rows = await self._rows("get", key, _GET, (key.encode(),))
        else:
            first, n = min(start, _LARGEST), min(_LARGEST if length is None else length, _LARGEST)
            rows = await self._rows("get", key, _RANGE, (first + 1, n, key.encode()))
        if not rows:
            raise self._missing(key)
        found: bytes = rows[0][0] or b""
        return found

    async def delete(self, key: str) -> None:
        await self._rows("delete", key, _DELETE, (key.encode(),))

    async def head(self, key: str) -> ObjectInfo:
        rows = await self._rows("head", key, _HEAD, (key.encode(),))
        if not rows:
            raise self._missing(key)
        return ObjectInfo(key, rows[0][0], local_seconds(rows[0][1]))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        begin, low, end = key_range(prefix, after)
        while True:
            try:
                rows = await self._rows("list", prefix, _LIST, (begin, low, end))
            except _NoTable:
                return  # nobody has written yet
            for found, size, modified in rows:
                yield info(found, size, local_seconds(modified))
            if len(rows) < PAGE:
                return
            begin = rows[-1][0]

    async def create(self) -> None:
        for statement in _CREATE:
            try:
                await self._rows("create", "", statement)
            except ObjectError as error:
                # Two clients at once: IF NOT EXISTS looks before it leaps, and loses a race now and then.
                state = getattr(error.__cause__, "sqlstate", "")
                if state not in ("23505", "42P07", "42710", "XX000"):
                    raise

    async def close(self) -> None:
        await self._pool.close()

    # ---- calls

    async def _rows(self, action: str, key: str, statement: str, values: Sequence[Any] = ()) -> Sequence[Any]:
        try:
            return await self._pool.run(lambda session: session.rows(statement, values))
        except Lost as lost:
            error = lost.__cause__ or lost
            raise self._explain(error, action, key, lost=True) from error
        except (psycopg.Error, OSError) as error:
            raise self._explain(error, action, key) from error

    async def _connect(self) -> _Session:
        parameters = dict(self._url.parameters)
        if self._url.schema:
            parameters["options"] = f"{parameters.get('options', '')} -csearch_path={self._url.schema}".strip()
        try:
            connection = await psycopg.AsyncConnection.connect(
                make_conninfo("", **parameters, client_encoding="UTF8"), autocommit=True
            )
        except (psycopg.Error, OSError) as error:
            raise self._explain(error, "connect", "", lost=True) from error
        connection.prepare_threshold = 2  # few statements, many times
        return _Session(connection)

    def _missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: BaseException, action: str, key: str, *, lost: bool = False) -> ObjectError:
        what = f"{action} of {key!r}" if key else action
        said = "; ".join(dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip()))
        if password := self._url.parameters.get("password"):
            said = said.replace(password, "****")
        state = getattr(error, "sqlstate", None) or next((s for p, s in _REFUSALS if p.search(said)), "")
        head = f"{self.name}: {what} failed"
        if state == "42P01":
            return _NoTable(f"{head}: there is no table {TABLE}; format the volume first, or name its database")
        for prefix, retryable, advice in _MEANINGS:
            if state.startswith(prefix):
                return ObjectError(f"{head}: {advice} ({said or state})", retryable=retryable)
        if lost:
            return ObjectError(f"{head}: {said or type(error).__name__}; check that the server runs and can be reached")
        return ObjectError(f"{head}: {said} (SQLSTATE {state})", retryable=state[:2] in ("40", "53", "55", "57", "58"))


class _NoTable(ObjectError):
    """The store was never made."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)


#: Refusals at connecting come as text only.
_REFUSALS: Final = (
    (re.compile(r"authentication failed|no password supplied|pg_hba|role \S+ does not exist", re.I), "28000"),
    (re.compile(r"database \S+ does not exist", re.I), "3D000"),
    (re.compile(r"starting up|shutting down|not yet accepting|in recovery mode", re.I), "57P03"),
    (re.compile(r"too many (clients|connections)|connection slots", re.I), "53300"),
    (re.compile(r"certificate|does not support SSL|invalid sslmode", re.I), "TLS"),
)
#: Beginning of the code, whether another try may help, cause and next step.
_MEANINGS: Final = (
    ("28", False, "user or password are wrong; check --access-key and --secret-key, and pg_hba.conf"),
    ("3D", False, "the database does not exist; create it with CREATE DATABASE"),
    ("42501", False, "the database user lacks a privilege; GRANT it all on the table and its sequence"),
    ("TLS", False, "TLS can't be set up; check sslmode and sslrootcert in the bucket"),
    ("25006", False, "the server is read-only (a standby?); name the primary"),
    ("53100", True, "the disk of the server is full; free some space there"),
    ("53300", True, "the server has no connection left; raise max_connections there"),
    ("54", False, "the object is too large for PostgreSQL"),
    ("57P", True, "the server is starting or stopping; try again in a moment"),
)
