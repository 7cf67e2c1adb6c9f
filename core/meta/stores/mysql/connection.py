# SPDX-License-Identifier: Apache-2.0
"""Connections to MySQL, MariaDB or TiDB: a small pool, and several statements in one packet.

The protocol has no pipelining, but a packet may hold many statements (CLIENT_MULTI_STATEMENTS): one round trip, the
answers in order, the rest skipped after the first error. Statements are bytes with their values as literals, see
`literals.py`; nothing is ever escaped here.

Driver: asyncmy, Cython on asyncio with wheels; 35 µs per small query here, against 85 with aiomysql (pure Python),
48 with PyMySQL in a thread; mysqlclient has no wheels. Only this file and `failures.py` know it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from asyncmy import errors
from asyncmy.connection import Connection as Wire
from asyncmy.constants.CLIENT import FOUND_ROWS, MULTI_STATEMENTS

from core.errors import MetaError
from core.meta.stores.mysql.failures import is_lost, translate
from core.meta.stores.mysql.url import MySQLURL

log = logging.getLogger("sluice.meta.mysql")

#: Waits before the next try to reach a server that went away: 1.5 s in all, then the caller hears of it.
PAUSES_S: Final = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
#: Of the server's max_allowed_packet, so that headers fit.
_MARGIN: Final = 1024
_AN_HOUR_S: Final = 3600.0

#: What every session needs, whatever the server's defaults: format §5.1; strict, or an id that is too large would be
#: cut silently. MySQL caches AUTO_INCREMENT values for a day unless told otherwise; MariaDB skips that comment.
_SETUP: Final = (
    b"SET SESSION TRANSACTION ISOLATION LEVEL %s;"
    b"SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', innodb_lock_wait_timeout = %d"
    b" /*!80000 , information_schema_stats_expiry = 0 */;"
    b"SELECT @@max_allowed_packet, VERSION()"
)


#: Reads see one snapshot (format §5.5).
REPEATABLE_READ: Final = b"REPEATABLE READ"
#: Commits look at what they have locked. Nothing else may be locked: gaps would make any two clients that create
#: files wait for each other.
READ_COMMITTED: Final = b"READ COMMITTED"


class Result(NamedTuple):
    """Answer of one statement. found: rows that UPDATE or DELETE found (not only those that changed)."""

    rows: Sequence[tuple[Any, ...]]
    found: int
    insert_id: int


class Connection:
    """One session. After an error in a transaction call `rollback`; after a lost connection, forget it."""

    def __init__(self, wire: Any, url: MySQLURL) -> None:
        self._wire = wire
        self._url = url
        self._loop = asyncio.get_running_loop()
        self.used_at = self._loop.time()
        self.max_packet = 1 << 22
        self.version = ""
        self.broken = False

    @property
    def alive(self) -> bool:
        """False as soon as the server has closed it, idle or not."""
        return not self.broken and self._wire.connected and not self._wire._stream_broken

    async def run(self, text: bytes, *, patient: bool = False) -> list[Result]:
        """All statements of one packet. Raises the driver's error of the first that fails.

        patient: it may take longer than any answer should, as ALTER TABLE does.
        """
        wire = self._wire
        # A watchdog instead of a timeout around every read: cheaper, and a half-read connection is of no use anyway.
        guard = self._loop.call_later(_AN_HOUR_S if patient else self._url.read_timeout_s, self.close)
        try:
            await wire.query(text)
            got = wire._result
            results = [Result(got.rows or (), got.affected_rows, got.insert_id)]
            while got.has_next:
                await wire.next_result()
                got = wire._result
                results.append(Result(got.rows or (), got.affected_rows, got.insert_id))
        except errors.MySQLError as e:
            if is_lost(e):
                self.close()
            raise
        except BaseException:
            self.close()  # cancelled, or a protocol that we don't understand: answers are still on their way
            raise
        finally:
            guard.cancel()
        self.used_at = self._loop.time()
        return results

    async def run_all(self, texts: Sequence[bytes], *, patient: bool = False) -> list[Result]:
        """Any number of statements: one packet, or as few as the server's limit allows."""
        results: list[Result] = []
        for packet in self.packets(texts):
            results += await self.run(packet, patient=patient)
        return results

    def packets(self, texts: Sequence[bytes]) -> list[bytes]:
        found: list[bytes] = []
        some: list[bytes] = []
        size = 0
        for text in texts:
            if len(text) > self.max_packet:
                raise MetaError(
                    f"metadata {self._url.where}: a statement of {len(text)} bytes exceeds the server's "
                    f"max_allowed_packet of {self.max_packet}; raise that to 16M or more"
                )
            if some and size + len(text) > self.max_packet:
                found.append(b";".join(some))
                some, size = [], 0
            some.append(text)
            size += len(text) + 1
        found.append(b";".join(some))
        return found

    async def rollback(self) -> None:
        """Leave a failed transaction. Closes the connection if that fails: the server then rolls back by itself."""
        if not self.alive:
            return
        try:
            await self.run(b"ROLLBACK")
        except errors.MySQLError:
            self.close()

    def close(self) -> None:
        self.broken = True
        self._wire.close()

    async def quit(self) -> None:
        """Say goodbye, so that the server logs no aborted connection."""
        self.broken = True
        try:
            async with asyncio.timeout(1):
                await self._wire.ensure_closed()
        except (errors.MySQLError, OSError, TimeoutError):
            self._wire.close()


class Pool:
    """At most `url.connections` sessions, opened when needed. Use on one event loop."""

    def __init__(self, url: MySQLURL, isolation: bytes = REPEATABLE_READ, most: int = 0) -> None:
        self._url = url
        self._isolation = isolation
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(most or url.connections)
        self._context = url.context()
        self._open = False
        self.max_packet = 1 << 22
        self.version = ""

    async def open(self, *, prove: bool = True) -> None:
        """prove: connect at once; the error tells what to do."""
        if self._open:
            return
        if prove:
            connection = await self._connect()
            self._idle.append(connection)
            self.version = connection.version
        self._open = True

    async def use(self, isolation: bytes) -> None:
        """For sessions from now on."""
        self._isolation = isolation
        await self._quit_idle()

    async def close(self) -> None:
        self._open = False
        await self._quit_idle()

    async def _quit_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.quit()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A live session, for one packet or one transaction. Reaching the server is tried for 1.5 seconds."""
        if not self._open:
            raise MetaError(f"metadata {self._url.where}: the store is not open")
        async with self._room:
            connection = self._take() or await self._reach()
            try:
                yield connection
            finally:
                if connection.alive and self._open:
                    self._idle.append(connection)
                else:
                    connection.close()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            rested = asyncio.get_running_loop().time() - connection.used_at
            if connection.alive and rested < self._url.idle_s:
                return connection
            connection.close()
        return None

    async def _reach(self) -> Connection:
        lost: MetaError | None = None
        for pause in PAUSES_S:
            if pause:
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311
            try:
                return await self._connect()
            except MetaError as e:
                if not e.retryable:
                    raise
                lost = e
        assert lost is not None
        raise lost

    async def _connect(self) -> Connection:
        url = self._url
        try:
            wire = await self._handshake(self._context)
        except Exception as e:
            if url.tls != "preferred" or (isinstance(e, errors.MySQLError) and not is_lost(e)):
                raise self._unreachable(e) from e
            try:  # a server without TLS; "preferred" means: then without
                wire = await self._handshake(None)
            except Exception as again:
                raise self._unreachable(again) from again
        connection = Connection(wire, url)
        try:
            results = await connection.run(_SETUP % (self._isolation, url.lock_wait_s))
        except Exception as e:
            connection.close()
            raise translate(e, url.where, "preparing the session") from e
        limit, version = results[-1].rows[0]
        connection.max_packet = self.max_packet = int(limit) - _MARGIN
        connection.version = version.decode() if isinstance(version, bytes) else str(version)
        return connection

    async def _handshake(self, context: Any) -> Any:
        url = self._url
        wire: Any = Wire(  # type: ignore[no-untyped-call]
            host=url.host,
            port=url.port,
            unix_socket=url.path or None,
            user=url.user or None,
            password=url.password.encode(),
            database=url.database,
            charset="utf8mb4",
            use_unicode=False,  # text arrives as bytes, as it is stored
            client_flag=MULTI_STATEMENTS | FOUND_ROWS,
            autocommit=True,
            connect_timeout=url.connect_timeout_s,
            ssl=context,
            program_name="sluice",
        )
        try:
            async with asyncio.timeout(url.connect_timeout_s):
                await wire.connect()
        except BaseException:
            wire.close()
            raise
        return wire

    def _unreachable(self, error: BaseException) -> MetaError:
        if isinstance(error, TimeoutError):
            text = f"metadata {self._url.where}: no answer in {self._url.connect_timeout_s:g} s; check host and port"
            return MetaError(text, retryable=True)
        cause = error.__cause__ or error
        if type(cause).__name__.startswith("SSL"):
            text = f"metadata {self._url.where}: TLS failed: {cause}; check tls and tls-ca-cert-file in the address"
            return MetaError(text)
        return translate(error, self._url.where, "connecting")
