# SPDX-License-Identifier: Apache-2.0
"""Walking all records of a kind, page by page along an index; pages are read one by one, so tables may change.

Source: kinds and `start` of `RecordStore.scan`; format §5.3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DIRECTORY
from core.meta.stores.mysql.literals import Names, literal, numbers, quoted
from core.meta.stores.sql.rows import DIR_QUOTA, KINDS, USER_QUOTA, Row, RowKind, lock_value, unsigned

Record = tuple[Key, Any]
#: Executes one SELECT.
Ask = Callable[[bytes], Awaitable[Sequence[Row]]]

#: Records per page: some milliseconds for everybody.
PAGE: Final = 1000
_LOWEST: Final = -(1 << 63)
_LOCKS: Final = {k.FLOCKS: ("flock", "ltype"), k.PLOCKS: ("plock", "records")}


class Scanner:
    def __init__(self, names: Names, ask: Ask) -> None:
        self._names = names
        self._ask = ask

    def scan(self, kind: str, start: Any) -> AsyncIterator[Record]:
        if kind in _LOCKS:
            return self._locks(kind)
        if kind == k.PARENT:
            return self._parents()
        if kind == k.QUOTA:
            return self._quotas()
        if kind == k.SLICEREF and start is not None:
            return self._rows(KINDS[kind], ("refs", "chunkid"), b"`refs`<=%d AND " % start)
        if kind == k.SUSTAINED and start is not None:
            return self._rows(KINDS[kind], ("inode",), b"`sid`=%d AND " % start)
        if kind == k.CHANGELOG:
            return self._rows(KINDS[kind], ("id",), after=(start or 0,))
        if kind not in KINDS or kind in (k.SETTING, k.SESSIONINFO):
            raise MetaError(f"mysql: records of kind {kind!r} can't be scanned")
        return self._rows(KINDS[kind], KINDS[kind].page)

    async def _rows(
        self, kind: RowKind, page: Sequence[str], where: bytes = b"", after: Sequence[int] = ()
    ) -> AsyncIterator[Record]:
        """`page`: one or two columns, unique together, that an index begins with."""
        width = len(page)
        head = b"SELECT %s FROM %s WHERE %s" % (
            quoted(*page, *kind.keys, *kind.values), self._names.table[kind.table], where,
        )  # fmt: skip
        tail = b" ORDER BY %s LIMIT %d" % (quoted(*page), PAGE)
        last = tuple(after) or (_LOWEST,) * width
        while True:
            rows = await self._ask(head + _beyond(page, last) + tail)
            for row in rows:
                fields = row[width:]
                yield kind.key(fields), kind.value(fields)
            if len(rows) < PAGE:
                return
            last = rows[-1][:width]

    async def _quotas(self) -> AsyncIterator[Record]:
        for shape in (DIR_QUOTA, USER_QUOTA):
            kind = KINDS[shape]
            async for record in self._rows(kind, kind.page):
                yield record

    async def _locks(self, shape: str) -> AsyncIterator[Record]:
        """Whole tables of locks, by inode: some inodes at once, then all their rows."""
        table, column = _LOCKS[shape]
        name, after = self._names.table[table], _LOWEST
        while True:
            inodes = await self._ask(
                b"SELECT DISTINCT inode FROM %s WHERE inode>%d ORDER BY inode LIMIT %d" % (name, after, PAGE)
            )
            if not inodes:
                return
            after = inodes[-1][0]
            tables: dict[int, dict[tuple[int, int], Any]] = {}
            for ino, sid, owner, value in await self._ask(
                b"SELECT inode,sid,owner,%s FROM %s WHERE inode IN (%s) ORDER BY inode"
                % (column.encode(), name, numbers(inodes))
            ):
                tables.setdefault(ino, {})[sid, unsigned(owner)] = lock_value(shape, value)
            for ino, locks in tables.items():
                yield (shape, ino), locks

    async def _parents(self) -> AsyncIterator[Record]:
        """Link counts of hard-linked inodes, which are derived from entries."""
        edge, node, after = self._names.table["edge"], self._names.table["node"], _LOWEST
        while True:
            inodes = await self._ask(
                b"SELECT inode FROM %s WHERE inode>%d AND COALESCE(parent,0)=0 AND type<>%d ORDER BY inode LIMIT %d"
                % (node, after, DIRECTORY, PAGE)
            )
            if not inodes:
                return
            after = inodes[-1][0]
            for ino, parent, count in await self._ask(
                b"SELECT inode,parent,COUNT(*) FROM %s WHERE inode IN (%s) GROUP BY inode,parent"
                % (edge, numbers(inodes))
            ):
                yield k.parent(ino, parent), count


def _beyond(columns: Sequence[str], last: Sequence[int]) -> bytes:
    """(a, b) > (x, y), in the form that every optimiser turns into a range."""
    first = b"`%s`" % columns[0].encode()
    if len(columns) == 1:
        return b"%s>%s" % (first, literal(last[0]))
    second = b"`%s`" % columns[1].encode()
    return b"%s>=%d AND (%s>%d OR %s>%d)" % (first, last[0], first, last[0], second, last[1])
