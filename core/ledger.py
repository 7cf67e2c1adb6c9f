# SPDX-License-Identifier: Apache-2.0
"""A scratch table store for recounts: every record of a volume fits, whatever the memory.

`gc` and `check` compare two or three unsorted streams (objects, slices in use, counts). They pour them into tables that
are sorted by key and let joins find what differs: a merge on disk. It is a private temporary SQLite database: it lives
in its page cache (32 MiB) and spills to a nameless file in the temporary folder (SQLITE_TMPDIR, TMPDIR) beyond that,
about 30 bytes a slice. Nothing is left behind, whatever ends the process.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

Row = tuple[Any, ...]

_BATCH: Final = 2000
_CACHE_KIB: Final = 32 << 10


class Ledger:
    """Use as a context manager. Not shared between threads."""

    def __init__(self, schema: str) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(
            f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE; PRAGMA cache_size=-{_CACHE_KIB};"
            + schema
        )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *exc: object) -> None:
        self._db.close()

    def execute(self, sql: str, *values: Any) -> list[Row]:
        return self._db.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Any) -> Any:
        """First column of the first row, None if there is none."""
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def add(self, sql: str, rows: Iterable[Row]) -> None:
        self._db.execute("BEGIN")
        self._db.executemany(sql, rows)
        self._db.execute("COMMIT")

    async def fill(self, sql: str, rows: AsyncIterator[Row]) -> int:
        """Insert a stream; returns how many rows came."""
        batch: list[Row] = []
        count = 0
        async for row in rows:
            batch.append(row)
            if len(batch) >= _BATCH:
                count += len(batch)
                self.add(sql, batch)
                batch.clear()
                await asyncio.sleep(0)
        if batch:
            count += len(batch)
            self.add(sql, batch)
        return count

    async def rows(self, sql: str, *values: Any) -> AsyncIterator[Row]:
        """A result, page by page; the loop gets its turn between pages."""
        cursor = self._db.execute(sql, values)
        while page := cursor.fetchmany(_BATCH):
            for row in page:
                yield row
            await asyncio.sleep(0)

    def named(self, sql: str, *values: Any) -> list[Row]:
        """Like `execute`, for texts that may not use all of their numbered parameters ?1, ?2, …"""
        return self.execute(sql, *values[: max((n for n in range(1, len(values) + 1) if f"?{n}" in sql), default=0)])
