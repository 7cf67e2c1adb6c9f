# SPDX-License-Identifier: Apache-2.0
"""The record store in one SQLite file, shared with other processes and with live JuiceFS clients.

Reads run on the event loop, on a connection of their own: one takes microseconds, a thread hop would take longer.
Several keys are read inside one read transaction and so form one snapshot. Writes go through group commit
(`writer.py`). WAL mode; synchronous FULL unless told otherwise: what a commit acknowledged survives power loss.

Facts: format §1.9, §5.1–5.5.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from time import monotonic
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

from core.errors import ConfigError, MetaError, VolumeError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.store import PUT, Capabilities, Check, DirEntry, Outcome, RecordStore, Resolved, Write
from core.meta.stores.sqlite import schema
from core.meta.stores.sqlite.failures import TRANSLATED, is_busy, primary_code, translate
from core.meta.stores.sqlite.mapping import Texts, build_kinds
from core.meta.stores.sqlite.reader import Reader
from core.meta.stores.sqlite.turn import Turn
from core.meta.stores.sqlite.writer import Writer

T = TypeVar("T")

_SYNCHRONOUS: Final = ("OFF", "NORMAL", "FULL", "EXTRA")
#: Options of the original client's URL that mean nothing here (its driver's, and its connection pool's).
_IGNORED: Final = {"cache", "mode", "vfs", "max_open_conns", "max_idle_conns", "max_idle_time", "max_life_time"}
#: Records per page of a scan: some milliseconds of the loop's time.
_SCAN_PAGE: Final = 500
#: Every statement text stays prepared; there are about 120.
_STATEMENTS: Final = 512
_CACHE_KIB: Final = 32768  # per connection, two of them
_NOTADB: Final = 26


#: Remembered answers of `resolve`, about 2 KiB each.
_MAX_MEMO: Final = 4096


class SQLiteStore(RecordStore):
    """`open` an existing volume (older ones are brought up to date), or `open` and `prepare` a new one.

    A missing or empty file reads as an empty store until `prepare` creates it.
    """

    name = "sqlite"
    caps = Capabilities(local=True)

    def __init__(
        self, path: str, *, synchronous: str = "FULL", table_prefix: str = "", busy_timeout_ms: int = 5000
    ) -> None:
        super().__init__()
        if synchronous.upper() not in _SYNCHRONOUS:
            raise ConfigError(f"synchronous={synchronous!r}: choose one of {', '.join(_SYNCHRONOUS)}")
        if sqlite3.sqlite_version_info < (3, 35):
            raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old, 3.35 is needed: use a newer Python build")
        self.path = path
        self._synchronous = synchronous.upper()
        self._prefix = schema.full_prefix(table_prefix)
        self._busy_timeout_ms = busy_timeout_ms
        self._kinds = build_kinds(self._prefix)
        self._texts = Texts(self._prefix)
        self._read_conn: sqlite3.Connection | None = None
        self._write_conn: sqlite3.Connection | None = None
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._turn: Turn | None = None
        self._memo: dict[tuple[Any, ...], Resolved] = {}
        self._memo_version = -1

    @classmethod
    def from_url(cls, url: str) -> SQLiteStore:
        """`sqlite3://path?options`. Ours: synchronous, table_prefix, busy_timeout_ms (or _timeout, _synchronous)."""
        scheme, separator, rest = url.partition("://")
        if scheme not in ("sqlite3", "sqlite") or not separator:
            raise ConfigError(f"{url!r} is no SQLite address; it looks like sqlite3:///var/lib/volume.db")
        path, _, query = rest.partition("?")
        if not path:
            raise ConfigError(f"{url!r} names no file; an address looks like sqlite3:///var/lib/volume.db")
        options: dict[str, Any] = {}
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name in ("synchronous", "_synchronous", "_sync"):
                numbers = {str(i): word for i, word in enumerate(_SYNCHRONOUS)}
                options["synchronous"] = numbers.get(value, value)
            elif name == "table_prefix":
                options["table_prefix"] = value
            elif name in ("busy_timeout_ms", "_timeout", "_busy_timeout"):
                if not value.isdigit():
                    raise ConfigError(f"{name}={value!r} in the metadata address: give whole milliseconds")
                options["busy_timeout_ms"] = int(value)
            elif name not in _IGNORED and not name.startswith("_"):
                known = "synchronous, table_prefix, busy_timeout_ms"
                raise ConfigError(f"unknown option {name!r} in the metadata address; known: {known}")
        return cls(path, **options)

    # -- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        if self._read_conn is not None:
            return
        await asyncio.to_thread(self._connect, False)
        self._start_writer()

    def _start_writer(self) -> None:
        if self._write_conn is not None and self._turn is not None:
            writing = Reader(self._write_conn, self._kinds, self._texts)
            self._writer = Writer(self._write_conn, writing, self._turn, self.path, self._busy_timeout_ms)

    def _connect(self, create: bool) -> None:
        try:
            conn = self._existing(create)
            if conn is None:
                # Nothing there yet: an empty volume in memory answers the reads until `prepare`.
                self._read_conn = _connection(":memory:", 0)
                for statement in schema.catalogue(self._prefix):
                    self._read_conn.execute(statement)
            else:
                self._write_conn = conn
                schema.complete(conn, self._prefix, self.path)
                conn.execute("PRAGMA busy_timeout = 0")
                self._read_conn = _connection(self._uri("rw"), 0)
                self._read_conn.execute("PRAGMA query_only = ON")
                self._turn = Turn(f"{self.path}-sluice.lock")
        except sqlite3.Error as e:
            self._disconnect()
            if primary_code(e) == _NOTADB:
                raise VolumeError(f"{self.path} is no SQLite database; name the file of a volume") from e
            raise translate(e, self.path, "opening") from e
        except BaseException:
            self._disconnect()
            raise
        self._reader = Reader(self._read_conn, self._kinds, self._texts)

    def _existing(self, create: bool) -> sqlite3.Connection | None:
        """The writing connection; None if there is no volume and none shall be created."""
        folder = os.path.dirname(self.path) or "."
        if not os.path.isdir(folder):
            raise VolumeError(f"{self.path}: the folder {folder} does not exist; create it first")
        if not create and not (os.path.exists(self.path) and os.path.getsize(self.path)):
            return None
        conn = _connection(self._uri("rwc" if create else "rw"), self._busy_timeout_ms)
        try:
            (encoding,) = conn.execute("PRAGMA encoding").fetchone()
            if encoding != b"UTF-8":  # bytes of chunks and names would not survive (format §13, 9)
                text = encoding.replace(b"\0", b"").decode()
                raise VolumeError(f"{self.path}: the database is encoded as {text}, a volume needs UTF-8")
            if not schema.is_volume(conn, self._prefix, self.path) and not create:
                conn.close()
                return None
            conn.execute("PRAGMA journal_mode = WAL")
            conn.execute(f"PRAGMA synchronous = {self._synchronous}")
        except BaseException:
            conn.close()
            raise
        return conn

    def _uri(self, mode: str) -> str:
        escaped = os.path.abspath(self.path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        return f"file:{escaped}?mode={mode}"

    def _disconnect(self) -> None:
        for conn in (self._read_conn, self._write_conn):
            if conn is not None:
                conn.close()
        if self._turn is not None:
            self._turn.close()
        self._read_conn = self._write_conn = self._reader = self._turn = None

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await writer.close()
        await asyncio.to_thread(self._disconnect)  # the last one out checkpoints the WAL

    async def prepare(self) -> None:
        if self._writer is not None:
            return  # `open` has completed the tables
        await asyncio.to_thread(self._disconnect)
        await asyncio.to_thread(self._connect, True)
        self._start_writer()

    def initial_counters(self) -> list[Write]:
        # Logical values; nextSession is stored as 0, the last id used.
        start = {"nextInode": 2, "nextChunk": 1, "nextSession": 1}
        zero = dict.fromkeys(("usedSpace", "totalInodes", "nextCleanupSlices"), 0)
        return [(PUT, k.counter(name), value) for name, value in {**start, **zero}.items()]

    async def wipe(self) -> None:
        self.trips += 1
        if self._writer is None:
            return

        def empty(_: Any) -> None:
            assert self._write_conn is not None
            for table in schema.TABLES:
                self._write_conn.execute(f"DELETE FROM `{self._prefix}{table}`")  # noqa: S608
                self._write_conn.execute("DELETE FROM sqlite_sequence WHERE name = ?", (self._prefix + table,))

        await self._writer.run(empty)

    # -- reading ------------------------------------------------------------------------------------------------

    async def read(self, *keys: Key) -> list[Any]:
        self.trips += 1
        reader = self._reader or self._closed()
        try:
            if len(keys) == 1:
                return [reader.get(keys[0])]
            return self._snapshot(reader, lambda: reader.get_many(keys))
        except TRANSLATED as e:
            return await self._again(e, lambda: reader.get_many(keys))

    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        self.trips += 1
        reader = self._reader or self._closed()
        try:
            # Nobody committed anything since: then the last answer is the present one. Asked before reading, so
            # that an answer is never taken for newer than it is. 3 µs against 50 for a path of three.
            version = reader.data_version()
            if version != self._memo_version or len(self._memo) >= _MAX_MEMO:
                self._memo.clear()
                self._memo_version = version
            asked = (base, *names, xattrs, chunk)
            known = self._memo.get(asked)
            if known is None:
                known = self._memo[asked] = self._snapshot(reader, lambda: reader.resolve(base, names, xattrs, chunk))
            return known
        except TRANSLATED as e:
            return await self._again(e, lambda: reader.resolve(base, names, xattrs, chunk))

    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        self.trips += 1
        reader = self._reader or self._closed()
        try:
            return reader.page(parent, after, limit, attrs)
        except TRANSLATED as e:
            return await self._again(e, lambda: reader.page(parent, after, limit, attrs))

    async def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        reader = self._reader or self._closed()
        pages = reader.scan(kind, start, _SCAN_PAGE)
        while True:
            self.trips += 1
            try:
                page = next(pages, None)
            except TRANSLATED as e:
                raise translate(e, self.path, "scanning") from e
            if page is None:
                return
            for record in page:
                yield record
            await asyncio.sleep(0)  # others may run between pages

    @staticmethod
    def _snapshot(reader: Reader, read: Callable[[], T]) -> T:
        """No await in here: the reading connection is shared by all tasks of the loop."""
        execute = reader.execute
        execute("BEGIN")
        try:
            return read()
        finally:
            execute("COMMIT")

    async def _again(self, error: BaseException, read: Callable[[], T]) -> T:
        """A reader meets a lock only while somebody recovers or removes the WAL; wait as long as a writer would."""
        until = monotonic() + self._busy_timeout_ms / 1000
        while is_busy(error) and monotonic() < until:
            await asyncio.sleep(0.005)
            try:
                return self._snapshot(self._reader or self._closed(), read)
            except TRANSLATED as e:
                error = e
        raise translate(error, self.path, "reading") from error

    def _closed(self) -> Reader:
        raise MetaError(f"metadata {self.path}: the store is not open")

    # -- writing ------------------------------------------------------------------------------------------------

    @property
    def transactions(self) -> int:
        """Transactions committed by this store: fewer than its commits, thanks to grouping."""
        return self._writer.commits if self._writer is not None else 0

    def _open_writer(self) -> Writer:
        if self._writer is None:
            if self._reader is None:
                self._closed()
            raise MetaError(f"metadata {self.path}: there is no volume yet; format it first")
        return self._writer

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        self.trips += 1
        outcome: Outcome = await self._open_writer().run(lambda group: group.commit(checks, writes))
        return outcome

    async def allocate(self, name: str, count: int) -> int:
        self.trips += 1
        first: int = await self._open_writer().run(lambda group: group.allocate(name, count))
        return first

    async def trim_log(self, upto: int) -> int:
        self.trips += 1
        removed: int = await self._open_writer().run(lambda group: group.trim_log(upto))
        return removed

    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        self.trips += 1
        opened: bool = await self._open_writer().run(lambda group: group.gate(name, now, min_age_s))
        return opened


def _connection(target: str, busy_timeout_ms: int) -> sqlite3.Connection:
    conn = sqlite3.connect(
        target,
        uri=target.startswith("file:"),
        timeout=busy_timeout_ms / 1000,
        isolation_level=None,  # transactions are ours
        check_same_thread=False,  # handed between the loop and one thread, never used by both
        cached_statements=_STATEMENTS,
    )
    conn.text_factory = bytes
    conn.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    conn.execute("PRAGMA temp_store = MEMORY")
    return conn
