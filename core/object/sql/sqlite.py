# SPDX-License-Identifier: Apache-2.0
"""Objects in one SQLite file (storage `sqlite3`): for one machine, one file to carry away.

Writers queue for one thread: what waits when it comes back is one transaction, so 32 clients share one sync of the
disk. Readers have a few threads of their own; with the write-ahead log nobody waits for anybody. A range is read
through a blob handle, which touches only the pages it needs. Source: spec data-path §4.2, §4.5; sqlite.org (WAL,
incremental blob I/O).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen
from core.object.sql.table import INDEX, PAGE, TABLE, info, key_range, utc_seconds, utc_text

T = TypeVar("T")

#: Another process may be writing; a transaction of blocks takes tens of milliseconds.
BUSY_S: Final = 20.0
READERS: Final = 4
#: Bytes of one transaction: more only makes others wait for the disk.
GROUP_BYTES: Final = 32 << 20
#: Overflow pages are a chain; with the largest pages a 4 MiB block is 64 links instead of 1024 (only new files).
PAGE_BYTES: Final = 65536
#: Longest wait of `close` for calls under way.
_CLOSE_S: Final = 10.0

_CREATE: Final = (
    f"CREATE TABLE IF NOT EXISTS `{TABLE}` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `key` BLOB NOT NULL,"
    " `size` INTEGER NOT NULL, `modified` DATETIME NOT NULL, `data` BLOB NULL)",
    f"CREATE UNIQUE INDEX IF NOT EXISTS `{INDEX}` ON `{TABLE}` (`key`)",
)
_PUT: Final = (
    "INSERT INTO jfs_blob (key, size, modified, data) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE"
    " SET size = excluded.size, modified = excluded.modified, data = excluded.data"
)
_DELETE: Final = "DELETE FROM jfs_blob WHERE key = ?"
_HEAD: Final = "SELECT size, modified FROM jfs_blob WHERE key = ?"
_GET: Final = "SELECT data FROM jfs_blob WHERE key = ?"
_FIND: Final = "SELECT id, length(data) FROM jfs_blob WHERE key = ?"
_LIST: Final = "SELECT key, size, modified FROM jfs_blob WHERE key > ? AND key >= ? AND key < ? ORDER BY key LIMIT 1000"

#: One statement of a writer, who waits for it, and on which loop.
_Job = tuple[str, tuple[Any, ...], int, "asyncio.Future[None]", asyncio.AbstractEventLoop]


def normalise(bucket: str) -> str:
    """The absolute path of the file, as it is stored in the settings."""
    if not bucket.strip():
        raise ConfigError("sqlite3: the bucket is empty; give the path of a database file such as /var/lib/jfs/data.db")
    path = os.path.abspath(os.path.expanduser(bucket.strip()))
    if os.path.isdir(path):
        raise ConfigError(f"sqlite3: {path} is a folder; give the path of a database file in it, such as {path}/jfs.db")
    return path


class SQLiteStore(ObjectStore):
    """`SQLiteStore("/var/lib/jfs/data.db")`. A put that returned is synced to disk, with others of its moment."""

    features = Features(ranges=True)

    def __init__(self, path: str) -> None:
        self.path = normalise(path)
        self.name = f"sqlite3://{self.path}"
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="sluice-blob-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="sluice-blob-reader")
        self._own = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._queue: list[_Job] = []
        self._lock = threading.Lock()  # of the two lists
        self._draining = False

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        whole = frozen(data)
        row = (key.encode(), len(whole), utc_text(time.time()), whole)
        await self._write("put", key, _PUT, row, len(whole))

    async def delete(self, key: str) -> None:
        await self._write("delete", key, _DELETE, (key.encode(),), 0)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        if start == 0 and length is None:
            row = await self._read("get", key, lambda db: db.execute(_GET, (key.encode(),)).fetchone())
            if row is None:
                raise self._missing(key)
            return row[0] or b""
        found = await self._read("get", key, lambda db: _range(db, key.encode(), start, length))
        if found is None:
            raise self._missing(key)
        return found

    async def head(self, key: str) -> ObjectInfo:
        row = await self._read("head", key, lambda db: db.execute(_HEAD, (key.encode(),)).fetchone())
        if row is None:
            raise self._missing(key)
        return ObjectInfo(key, row[0], utc_seconds(row[1]))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        begin, low, end = key_range(prefix, after)
        while True:
            where = (begin, low, end)
            try:
                rows = await self._read("list", prefix, lambda db, where=where: db.execute(_LIST, where).fetchall())  # type: ignore[misc]
            except _NoTable:
                return  # nobody has written yet
            for found, size, modified in rows:
                yield info(found, size, utc_seconds(modified))
            if len(rows) < PAGE:
                return
            begin = rows[-1][0]

    async def create(self) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._create)
        except (sqlite3.Error, OSError) as error:
            raise self._explain(error, "create", "") from error

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        ended = [loop.run_in_executor(None, pool.shutdown) for pool in (self._writer, self._readers)]
        _, waiting = await asyncio.wait(ended, timeout=_CLOSE_S)
        if waiting:
            return  # the disk hangs; the threads end with the process
        with self._lock:
            opened, self._opened = self._opened, []
        for db in opened:
            db.close()

    # ---- in threads

    def _connect(self) -> sqlite3.Connection:
        """This thread's connection. Doesn't make the file: a mistyped path is no empty store."""
        found: sqlite3.Connection | None = getattr(self._own, "db", None)
        if found is None:
            path = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
            found = sqlite3.connect(
                f"file:{path}?mode=rw", uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            found.execute("PRAGMA synchronous = FULL")
            self._own.db = found
            with self._lock:
                self._opened.append(found)
        return found

    def _create(self) -> None:
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        if not os.path.exists(self.path):
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644))
        db = self._connect()
        if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # Kept in the file. Where it can't be had (a network file system), the old journal does.
        db.execute("PRAGMA journal_mode = WAL")
        for statement in _CREATE:
            db.execute(statement)

    def _drain(self) -> None:
        """Everything that waits, in as many transactions as `GROUP_BYTES` asks for."""
        while True:
            with self._lock:
                taken, size = 0, 0
                while taken < len(self._queue) and (not taken or size + self._queue[taken][2] <= GROUP_BYTES):
                    size += self._queue[taken][2]
                    taken += 1
                jobs, self._queue = self._queue[:taken], self._queue[taken:]
                if not jobs:
                    self._draining = False
                    return
            jobs = [job for job in jobs if not job[3].cancelled()]
            try:
                self._commit(jobs)
            except (sqlite3.Error, OSError) as error:
                if len(jobs) == 1:
                    _tell(jobs[0], error)
                    continue
                for job in jobs:  # one of them spoilt it; each for itself
                    try:
                        self._commit([job])
                    except (sqlite3.Error, OSError) as own:
                        _tell(job, own)
                    else:
                        _tell(job, None)
            else:
                for job in jobs:
                    _tell(job, None)

    def _commit(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        db = self._connect()
        db.execute("BEGIN IMMEDIATE")
        try:
            for statement, row, *_ in jobs:
                db.execute(statement, row)
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    # ---- from the loop to threads

    async def _write(self, action: str, key: str, statement: str, row: tuple[Any, ...], size: int) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._queue.append((statement, row, size, done, loop))
            start, self._draining = not self._draining, True
        if start:
            self._writer.submit(self._drain)
        try:
            await done
        except (sqlite3.Error, OSError) as error:
            raise self._explain(error, action, key) from error

    async def _read(self, action: str, key: str, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: work(self._connect()))
        except (sqlite3.Error, OSError) as error:
            raise self._explain(error, action, key) from error

    def _missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: Exception, action: str, key: str) -> ObjectError:
        what = f"{action} of {key!r}" if key else action
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        text = str(error)
        if "no such table" in text or (code == 14 and not os.path.exists(self.path)):
            return _NoTable(
                f"{self.name}: {what} failed: there is no table {TABLE}; check the path, or format the volume first",
                retryable=False,
            )
        advice, retryable = _ADVICE.get(code, ("", False))
        return ObjectError(f"{self.name}: {what} failed: {text}{advice and '; ' + advice}", retryable=retryable)


class _NoTable(ObjectError):
    """The store was never made."""


#: sqlite.org/rescode.html: what to do, and whether another try may help.
_ADVICE: Final = {
    5: ("another process keeps the file locked; look for a hung writer", True),
    6: ("another connection keeps the table locked", True),
    8: ("the file can't be written; check its permissions and the mount it lives on", False),
    10: ("the disk below failed; look at the kernel log", True),
    11: ("the file is damaged; stop all clients and restore it, or run `sqlite3 FILE .recover`", False),
    13: ("the disk is full; free space there", True),
    14: ("the file can't be opened; check the path and the permissions of file and folder", False),
    18: ("an object of a SQLite store may have 1000 MB at most", False),
    26: ("the file is no SQLite database; name another one", False),
}  # fmt: skip


def _range(db: sqlite3.Connection, key: bytes, start: int, length: int | None) -> bytes | None:
    db.execute("BEGIN")  # the row and its blob are of one moment
    try:
        row = db.execute(_FIND, (key,)).fetchone()
        if row is None:
            return None
        begin, n = clip(row[1] or 0, start, length)
        if n == 0:
            return b""
        with db.blobopen(TABLE, "data", row[0], readonly=True) as blob:
            blob.seek(begin)
            return blob.read(n)
    finally:
        db.execute("COMMIT")


def _tell(job: _Job, error: Exception | None) -> None:
    """Wake who waits, unless it was cancelled or its loop is gone."""
    done, loop = job[3], job[4]

    def wake() -> None:
        if not done.done():
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    try:
        loop.call_soon_threadsafe(wake)
    except RuntimeError:
        pass
