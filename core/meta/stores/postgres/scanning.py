# SPDX-License-Identifier: Apache-2.0
"""Scans: a whole table, page by page, each page by a range of an index behind the last row of the page before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.stores.postgres.arrays import scalar
from core.meta.stores.postgres.reading import Reading
from core.meta.stores.postgres.statements import Statements
from core.meta.stores.postgres.wire import Call
from core.meta.stores.sql.rows import DIR_QUOTA, KINDS, LOCK_ROWS, USER_QUOTA, Row, lock_value, unsigned

_PAGE: Final = 1000
_LOWEST: Final = {"=int8": -(1 << 63), "=int4": -(1 << 31)}
_SCANNED: Final = frozenset(
    [
        k.NODE, k.ENTRY, k.CHUNK, k.XATTR, k.SYMLINK, k.SLICEREF, k.DELFILE, k.DELSLICES, k.SESSION, k.SUSTAINED,
        k.DETACHED, k.DIRSTAT, k.ACL, k.CHANGELOG,
    ]
)  # fmt: skip

Records = list[tuple[Key, Any]]


class Scanning:
    def __init__(self, reading: Reading, statements: Statements) -> None:
        self._reading = reading
        self._statements = statements

    async def pages(self, kind: str, start: Any) -> AsyncIterator[Records]:
        """Each page is one trip."""
        if kind == k.QUOTA:
            for shape in (DIR_QUOTA, USER_QUOTA):
                async for page in self._table(shape):
                    yield page
        elif kind in LOCK_ROWS:
            async for page in self._locks(kind):
                yield page
        elif kind == k.PARENT:
            async for page in self._parents():
                yield page
        elif kind == k.SLICEREF and start is not None:
            async for page in self._refs(start):
                yield page
        elif kind == k.SUSTAINED and start is not None:
            async for page in self._held(start):
                yield page
        elif kind in _SCANNED:
            async for page in self._table(kind, start if kind == k.CHANGELOG else None):
                yield page
        else:
            raise MetaError(f"postgres: records of kind {kind!r} can't be scanned")

    async def _ask(self, shape: str, *parameters: int) -> list[Row]:
        statement = self._statements.scan(shape)
        packed = [scalar(kind[1:], value) for kind, value in zip(statement.kinds, parameters, strict=True)]
        (rows,) = await self._reading.ask([Call(statement, packed)], "scanning")
        return rows

    async def _table(self, shape: str, start: int | None = None) -> AsyncIterator[Records]:
        kind = KINDS[shape]
        width = len(kind.page)
        after = tuple(_LOWEST[found] for found in self._statements.scan(shape).kinds[:-1])
        if start is not None:
            after = (start,)
        while rows := await self._ask(shape, *after, _PAGE):
            after = rows[-1][:width]
            yield [(kind.key(row[width:]), kind.value(row[width:])) for row in rows]
            if len(rows) < _PAGE:
                return

    async def _locks(self, kind: str) -> AsyncIterator[Records]:
        after = _LOWEST["=int8"]
        while rows := await self._ask(kind, after, _PAGE):
            after = rows[-1][0]
            found: dict[int, dict[tuple[int, int], Any]] = {}
            for ino, sid, owner, value in rows:
                found.setdefault(ino, {})[sid, unsigned(owner)] = lock_value(kind, value)
            yield [((kind, ino), table) for ino, table in found.items()]

    async def _parents(self) -> AsyncIterator[Records]:
        after = _LOWEST["=int8"]
        while rows := await self._ask(k.PARENT, after, 10 * _PAGE):
            (after,) = (last for last, parent, _ in rows if parent is None)
            yield [(k.parent(ino, parent), count) for ino, parent, count in rows if parent is not None]

    async def _refs(self, most: int) -> AsyncIterator[Records]:
        refs, after = _LOWEST["=int4"], _LOWEST["=int8"]
        while rows := await self._ask("refs", min(most, 0x7FFFFFFF), refs, after, _PAGE):
            refs, after = rows[-1][0], rows[-1][1]
            yield [((k.SLICEREF, ident, size), count) for count, ident, size in rows]

    async def _held(self, sid: int) -> AsyncIterator[Records]:
        after = _LOWEST["=int8"]
        while rows := await self._ask("held", sid, after, _PAGE):
            after = rows[-1][0]
            yield [(k.sustained(sid, ino), True) for (ino,) in rows]
