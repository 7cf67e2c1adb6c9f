# SPDX-License-Identifier: Apache-2.0
"""Reads: what many tasks ask in one turn of the loop is one segment: one trip, one snapshot, one query per kind.

Requests are `Keys`, `Walk` or `Page`. Reading twice does no harm, so a lost connection is made again and the batch
repeated, a few times.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from core.errors import Conflict, MetaError
from core.meta.keys import Key
from core.meta.records import Entry
from core.meta.store import DirEntry, Resolved, Step
from core.meta.stores.postgres.arrays import array, columns, scalar
from core.meta.stores.postgres.failures import Lost, Refused, translate, unreachable
from core.meta.stores.postgres.links import PAUSES_S, Links
from core.meta.stores.postgres.statements import Statements
from core.meta.stores.postgres.wire import Call, Statement
from core.meta.stores.sql.reads import ReadPlan
from core.meta.stores.sql.rows import Row, unpack_attr


class Keys(NamedTuple):
    keys: Sequence[Key]


class Walk(NamedTuple):
    base: int
    names: Sequence[bytes]
    xattrs: bool
    chunk: bool


class Page(NamedTuple):
    parent: int
    after: bytes
    limit: int
    attrs: bool


Request = Keys | Walk | Page
#: The server ends or restarts; a moment later it may be there again.
_AWAY: Final = frozenset(("57P01", "57P02", "57P03"))
_LENGTH: Final = struct.Struct(">I")


class Reading:
    def __init__(self, links: Links, statements: Statements, where: str) -> None:
        self._links = links
        self._statements = statements
        self._where = where

    async def run(self, requests: Sequence[Request]) -> list[Any]:
        """One answer per request, in order."""
        keys = [r.keys for r in requests if type(r) is Keys]
        plain = [r for r in requests if type(r) is Walk and not (r.xattrs or r.chunk)]
        laden = [r for r in requests if type(r) is Walk and (r.xattrs or r.chunk)]
        pages = [r for r in requests if type(r) is Page]
        plan = ReadPlan(keys)
        statements = self._statements
        calls = []
        for shape, rows in plan.queries.items():
            statement = statements.read(shape)
            calls.append(Call(statement, columns(statement.kinds, rows)))
        for walks, extras in ((plain, False), (laden, True)):
            if walks:
                calls.append(_walk_call(statements.resolve(extras), walks))
        for page in pages:
            parameters = (scalar("int8", page.parent), page.after, scalar("int8", page.limit))
            calls.append(Call(statements.page(page.attrs), parameters))
        results = iter(await self.ask(calls, "reading"))
        for shape in plan.queries:
            plan.take(shape, next(results))
        walked: list[Resolved] = []
        for walks in (plain, laden):
            if walks:
                walked += _walked(walks, next(results))
        listed = [_page(rows) for rows in results]
        answers = (iter(plan.answers()), iter(walked[: len(plain)]), iter(walked[len(plain) :]), iter(listed))
        found = []
        for r in requests:
            if isinstance(r, Walk):
                which = 2 if r.xattrs or r.chunk else 1
            else:
                which = 0 if isinstance(r, Keys) else 3
            found.append(next(answers[which]))
        return found

    async def ask(self, calls: Sequence[Call], doing: str) -> list[list[Row]]:
        """One segment on a reading connection."""
        if not calls:
            return []
        reason = ""
        for pause in (*PAUSES_S, None):
            wire = await self._links.reader()
            future = wire.submit(calls)
            wire.flush()
            try:
                return await future
            except Lost as e:
                reason = str(e)
            except Refused as e:
                if e.sqlstate not in _AWAY:
                    raise translate(e, self._where, doing) from e
                reason = str(e)
            if pause is None:
                break
            await asyncio.sleep(pause)
        raise unreachable(self._where, reason)

    async def change(self, calls: Sequence[Call], doing: str, *, patient: bool = False) -> list[list[Row]]:
        """One segment on the writing connection, executed at most once."""
        for _ in range(3):
            wire = await self._links.writer()
            future = wire.submit(calls, patient=patient)
            wire.flush()
            try:
                return await future
            except Refused as e:
                if e.sqlstate in ("40001", "40P01"):
                    raise Conflict(str(e)) from e
                raise translate(e, self._where, doing) from e
            except Lost as e:
                if e.sent:
                    raise MetaError(
                        f"metadata {self._where}: {doing}: the connection broke before the answer ({e}); try again",
                        retryable=True,
                        uncertain=True,
                    ) from e
        raise unreachable(self._where, "the connection breaks again and again")


# -- walks ----------------------------------------------------------------------------------------------------------


def _walk_call(statement: Statement, walks: Sequence[Walk]) -> Call:
    start = 1
    rows = []
    names: list[bytes] = []
    for walk in walks:
        rows.append((walk.base, len(walk.names), start, int(walk.xattrs), int(walk.chunk)))
        start += len(walk.names)
        names += walk.names
    return Call(statement, [*columns(statement.kinds[:5], rows), array("bytea", names)])


def _walked(walks: Sequence[Walk], rows: list[Row]) -> list[Resolved]:
    nodes: list[Any] = [None] * len(walks)
    steps: list[list[Step]] = [[] for _ in walks]
    xattrs: list[dict[bytes, bytes] | None] = [None] * len(walks)
    chunks: list[bytes | None] = [None] * len(walks)
    rows.sort(key=_by_walk_and_depth)
    for row in rows:
        at = row[0] - 1
        attr = None if row[4] is None else unpack_attr(row[4:22])
        if row[1] == 0:
            nodes[at] = attr
        else:
            steps[at].append(Step(Entry(row[2], row[3]), attr))
        if len(row) > 22 and attr is not None:
            if row[22] is not None:
                xattrs[at] = _unpack_xattrs(row[22])
            chunks[at] = row[23]
    return [Resolved(nodes[at], steps[at], xattrs[at], chunks[at]) for at in range(len(walks))]


def _by_walk_and_depth(row: Row) -> tuple[int, int]:
    return (row[0], row[1])


def _unpack_xattrs(raw: bytes) -> dict[bytes, bytes]:
    """Length and name, length and value, …"""
    found: dict[bytes, bytes] = {}
    at, end = 0, len(raw)
    while at < end:
        (size,) = _LENGTH.unpack_from(raw, at)
        name = raw[at + 4 : at + 4 + size]
        at += 4 + size
        (size,) = _LENGTH.unpack_from(raw, at)
        found[name] = raw[at + 4 : at + 4 + size]
        at += 4 + size
    return found


# -- pages ----------------------------------------------------------------------------------------------------------


def _page(rows: list[Row]) -> list[DirEntry]:
    if rows and len(rows[0]) > 3:
        return [DirEntry(r[0], r[1], r[2], None if r[3] is None else unpack_attr(r[3:])) for r in rows]
    return [DirEntry(name, kind, ino, None) for name, kind, ino in rows]
