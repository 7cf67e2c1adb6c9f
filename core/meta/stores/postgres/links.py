# SPDX-License-Identifier: Apache-2.0
"""The connections of one store: one that commits, a few that read; each is made when needed and again when it broke.

Readers live in REPEATABLE READ and READ ONLY, so a segment of reads is one snapshot; the writer in READ COMMITTED,
where a check sees what was committed while it waited for a lock.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from core.errors import ConfigError, MetaError, VolumeError
from core.meta.stores.postgres.failures import Refused, translate, unreachable
from core.meta.stores.postgres.url import PostgresURL
from core.meta.stores.postgres.wire import Wire

#: Pauses before a connection is tried again: about two seconds, what a restarted server needs. Beyond that the
#: caller decides (the error is retryable).
PAUSES_S: Final = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_OLDEST: Final = 120000

# Every statement finds its rows by an index. Plans are made once, perhaps while a table is still empty, and must stay
# good when it has grown: so the other ways are switched off, and compiling (jit), which such a plan could trigger.
_SETTINGS: Final = (
    "SET jit = off; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_hashjoin = off; "
    "SET enable_mergejoin = off"
)
_READING: Final = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
# Nobody should hold a row for long; who waits half a minute gets an error that says so, instead of hanging.
_WRITING: Final = (
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE; SET lock_timeout = '30s'"
)

#: Refusals at connecting come as text only.
_REFUSALS: Final = [
    (re.compile(r"authentication failed|no password supplied|pg_hba|role \S+ does not exist", re.I), "28000"),
    (re.compile(r"database \S+ does not exist", re.I), "3D000"),
    (re.compile(r"starting up|shutting down|not yet accepting|in recovery mode", re.I), "57P03"),
    (re.compile(r"too many (clients|connections)|connection slots", re.I), "53300"),
]
_OPTION: Final = re.compile(r"invalid .*(value|option)|certificate|could not read|does not support SSL", re.I)


class Links:
    def __init__(self, url: PostgresURL) -> None:
        self._url = url
        self._writer: Wire | None = None
        self._readers: list[Wire | None] = [None] * url.readers
        self._connecting = asyncio.Lock()
        self.closed = False

    async def connect(self) -> psycopg.AsyncConnection[Any]:
        """A plain connection of psycopg in autocommit, for the catalogue. One attempt."""
        where = self._url.where
        try:
            connection = await psycopg.AsyncConnection.connect(
                make_conninfo("", **self._url.parameters, client_encoding="UTF8"), autocommit=True
            )
        except psycopg.Error as e:
            raise self._translate(e) from e
        except OSError as e:
            raise unreachable(where, str(e)) from e
        version = connection.info.server_version
        if version < _OLDEST:
            await connection.close()
            raise VolumeError(f"{where}: PostgreSQL {version // 10000} is too old; 12 or newer is needed")
        encoding = connection.pgconn.parameter_status(b"server_encoding")
        if encoding not in (b"UTF8", b"SQL_ASCII"):
            await connection.close()
            shown = (encoding or b"unknown").decode()
            raise VolumeError(
                f"{where}: the database is encoded as {shown}, so it can't keep every name; create one with "
                "ENCODING 'UTF8'"
            )
        return connection

    def _translate(self, error: psycopg.Error) -> Exception:
        where = self._url.where
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = "; ".join(dict.fromkeys(lines)) or type(error).__name__
        password = self._url.parameters.get("password")
        if password:
            reason = reason.replace(password, "****")
        for pattern, sqlstate in _REFUSALS:
            if pattern.search(reason):
                return translate(Refused(sqlstate, reason), where, "connecting")
        if isinstance(error, psycopg.ProgrammingError) or _OPTION.search(reason):
            return ConfigError(f"{where}: an option of the address is wrong: {reason}")
        return unreachable(where, reason)

    async def _open(self, settings: str) -> Wire:
        """With retries: nothing has been sent yet."""
        for pause in (*PAUSES_S, None):
            if self.closed:
                raise MetaError(f"metadata {self._url.where}: the store is closed")
            try:
                connection = await self.connect()
            except MetaError as e:
                if pause is None or not e.retryable:
                    raise
                await asyncio.sleep(pause)
                continue
            return await self.adopt(connection, settings)
        raise AssertionError("unreachable")

    async def adopt(self, connection: psycopg.AsyncConnection[Any], settings: str = _WRITING) -> Wire:
        try:
            await connection.execute(f"{_SETTINGS}; {settings}".encode())
        except psycopg.Error as e:
            await connection.close()
            raise self._translate(e) from e
        return Wire(connection)

    async def writer(self) -> Wire:
        wire = self._writer
        if wire is not None and wire.alive():
            return wire
        async with self._connecting:
            if self._writer is None or not self._writer.alive():
                self._writer = await self._open(_WRITING)
            return self._writer

    async def reader(self) -> Wire:
        """An idle one, else a new one if there may be one, else the one with the fewest questions under way."""
        open_ones = [wire for wire in self._readers if wire is not None and wire.broken is None]
        for wire in open_ones:
            if not wire.load:
                return wire
        if len(open_ones) == len(self._readers):
            return min(open_ones, key=lambda wire: wire.load)
        return await self._reader(next(at for at, w in enumerate(self._readers) if w is None or w.broken is not None))

    async def _reader(self, at: int) -> Wire:
        async with self._connecting:
            wire = self._readers[at]
            if wire is None or wire.broken is not None:
                wire = self._readers[at] = await self._open(_READING)
            return wire

    def close(self) -> None:
        self.closed = True
        for wire in (self._writer, *self._readers):
            if wire is not None:
                wire.close()
        self._writer = None
        self._readers = [None] * len(self._readers)
