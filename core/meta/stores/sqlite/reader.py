# SPDX-License-Identifier: Apache-2.0
"""Reading records from one SQLite connection: plain synchronous calls of some microseconds each.

The caller decides about the thread and the snapshot. The connection's text factory must be `bytes`: TEXT columns
then arrive whole, NULs included (chunk values may have that storage class, format §5.4).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DIRECTORY, FILE, Attr, Entry
from core.meta.store import DirEntry, Resolved, Step
from core.meta.stores.sqlite.mapping import (
    COUNTER_OFFSET,
    COUNTER_START,
    Kind,
    Texts,
    kind_of,
    signed,
    unpack_attr,
    unsigned,
)  # fmt: skip

_LOWEST: Final = -(1 << 63)
#: From how many inodes on one statement for many is worth it; and how many it names (SQLite allows 999 anywhere).
_FEW: Final = 8
_BATCH: Final = 500


class Reader:
    def __init__(self, conn: sqlite3.Connection, kinds: dict[Any, Kind], texts: Texts) -> None:
        self.execute = conn.execute
        self.kinds = kinds
        self.texts = texts
        self._special: dict[str, Callable[[Key], Any]] = {
            k.COUNTER: self._counter, k.XATTRS: self._xattrs, k.CHUNKS: self._chunks, k.PARENTS: self._parents,
            k.OCCUPIED: self._occupied, k.FLOCKS: self._locks, k.PLOCKS: self._locks,
        }  # fmt: skip

    def data_version(self) -> int:
        """A number that changes when any other connection, of any process, has committed (SQLite manual)."""
        number: int = self.execute("PRAGMA data_version").fetchone()[0]
        return number

    def get(self, key: Key) -> Any:
        """Value of one key."""
        kind = self.kinds.get(key[0]) or kind_of(self.kinds, key)
        if kind is None:
            special = self._special.get(key[0])
            if special is None:
                raise MetaError(f"sqlite: records of kind {key[0]!r} can't be read")
            return special(key)
        row = self.execute(kind.select, key[kind.skip :]).fetchone()
        return None if row is None else kind.unpack(row)

    def get_many(self, keys: Sequence[Key]) -> list[Any]:
        """Values of several keys; the attributes of many inodes, what a listing asks for, in few statements."""
        if len(keys) > _FEW and all(key[0] == k.XATTRS for key in keys):
            found: dict[int, dict[bytes, bytes]] = {key[1]: {} for key in keys}
            inodes = list(found)
            for at in range(0, len(inodes), _BATCH):
                batch = inodes[at : at + _BATCH]
                for ino, name, value in self.execute(self.texts.xattrs_of(len(batch)), batch):
                    found[ino][name] = value
            return [found[key[1]] for key in keys]
        return [self.get(key) for key in keys]

    # -- kinds that are more or less than a row -----------------------------------------------------------------

    def raw_counter(self, name: str) -> int:
        """As stored: see COUNTER_OFFSET."""
        table = self.texts.sequences.get(name)
        if table:
            row = self.execute(self.texts.sequence, (table,)).fetchone()
        else:
            row = self.execute(self.texts.counter, (name.encode(),)).fetchone()
        value: int = COUNTER_START.get(name, 0) if row is None else row[0]
        return value

    def _counter(self, key: Key) -> int:
        return self.raw_counter(key[1]) + COUNTER_OFFSET.get(key[1], 0)

    def _xattrs(self, key: Key) -> dict[bytes, bytes]:
        return dict(self.execute(self.texts.xattrs, (key[1],)).fetchall())

    def _chunks(self, key: Key) -> dict[int, bytes]:
        return dict(self.execute(self.texts.chunks, key[1:]).fetchall())

    def _parents(self, key: Key) -> dict[int, int]:
        return dict(self.execute(self.texts.parents, (key[1],)).fetchall())

    def _occupied(self, key: Key) -> bool:
        return self.execute(self.texts.occupied, (key[1],)).fetchone() is not None

    def _locks(self, key: Key) -> dict[tuple[int, int], Any]:
        rows = self.execute(self.texts.locks[key[0]][0], (key[1],)).fetchall()
        if key[0] == k.FLOCKS:
            return {(sid, unsigned(owner)): chr(kind) for sid, owner, kind in rows}
        return {(sid, unsigned(owner)): records for sid, owner, records in rows}

    # -- walking ------------------------------------------------------------------------------------------------

    def resolve(self, base: int, names: Sequence[bytes], xattrs: bool, chunk: bool) -> Resolved:
        """One join per component. The caller holds a read transaction, so all of it is one snapshot."""
        execute, sql = self.execute, self.texts.step
        row = execute(self.texts.node, (base,)).fetchone()
        root: Attr | None = None if row is None else unpack_attr(row)
        attr, at, steps = root, base, list[Step]()
        for name in names:
            if attr is None or attr.type != DIRECTORY:
                break
            row = execute(sql, (at, name)).fetchone()
            if row is None:
                break
            at = row[1]
            attr = None if row[2] is None else unpack_attr(row[2:])
            steps.append(Step(Entry(row[0], at), attr))
        whole = len(steps) == len(names) and attr is not None
        found_xattrs = self._xattrs((k.XATTRS, at)) if xattrs and whole else None
        first = None
        if chunk and whole and attr is not None and attr.type == FILE:
            first = self.get((k.CHUNK, at, 0)) or b""
        return Resolved(root, steps, found_xattrs, first)

    def page(self, parent: int, after: bytes, limit: int, attrs: bool) -> list[DirEntry]:
        """One range scan of the unique (parent, name) index."""
        if not attrs:
            rows = self.execute(self.texts.page, (parent, after, limit)).fetchall()
            return [DirEntry(name, kind, ino, None) for name, kind, ino in rows]
        return [
            DirEntry(row[0], row[1], row[2], None if row[3] is None else unpack_attr(row[3:]))
            for row in self.execute(self.texts.page_attrs, (parent, after, limit))
        ]

    # -- scanning -----------------------------------------------------------------------------------------------

    def scan(self, kind: str, start: Any, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        """Pages of records; each page is read when asked for."""
        if kind in self.texts.locks:
            return self._scan_locks(kind, limit)
        if kind == k.SLICEREF and start is not None:
            return self._scan_refs(start, limit)
        if kind == k.SUSTAINED and start is not None:
            return self._scan_sustained(start, limit)
        if kind == k.QUOTA:
            return self._scan_quotas(limit)
        if kind == k.PARENT:
            return self._scan_parents(limit)
        if kind == k.CHANGELOG:
            return self._scan_log(start or 0, limit)
        if kind not in self.kinds or kind in (k.SETTING, k.SESSIONINFO):
            raise MetaError(f"sqlite: records of kind {kind!r} can't be scanned")
        return self._scan_rows((kind,), self.kinds[kind], limit)

    def _scan_rows(self, head: Key, kind: Kind, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        after, end = _LOWEST, 1 + kind.columns
        while rows := self.execute(kind.scan, (after, limit)).fetchall():
            after = rows[-1][0]
            yield [(head + row[1:end], kind.unpack(row[end:])) for row in rows]
            if len(rows) < limit:
                return

    def _scan_quotas(self, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        yield from self._scan_rows((k.QUOTA, 0), self.kinds[k.QUOTA, 0], limit)
        yield from self._scan_rows((k.QUOTA,), self.kinds[k.QUOTA, 1], limit)

    def _scan_refs(self, most: int, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        refs = after = _LOWEST
        while rows := self.execute(self.texts.scan_refs, (refs, after, most, limit)).fetchall():
            refs, after = rows[-1][0], rows[-1][1]
            yield [((k.SLICEREF, ident, size), count) for count, ident, size in rows]

    def _scan_sustained(self, sid: int, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        after = _LOWEST
        while rows := self.execute(self.texts.scan_sustained, (signed(sid), after, limit)).fetchall():
            after = rows[-1][2]
            yield [((k.SUSTAINED, row[1], row[2]), True) for row in rows]

    def _scan_locks(self, kind: str, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        after = _LOWEST
        while rows := self.execute(self.texts.locks[kind][3], (after, limit)).fetchall():
            after = rows[-1][0]
            yield [((kind, ino), table) for (ino,) in rows if (table := self._locks((kind, ino)))]

    def _scan_parents(self, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        after: int | None = 0
        while after is not None:
            rows = self.execute(self.texts.scan_parents, (after, limit)).fetchall()
            (after,) = self.execute(self.texts.last_parentless, (after, limit)).fetchone()
            yield [((k.PARENT, ino, parent), count) for ino, parent, count in rows]

    def _scan_log(self, after: int, limit: int) -> Iterator[list[tuple[Key, Any]]]:
        while rows := self.execute(self.texts.scan_log, (after, limit)).fetchall():
            after = rows[-1][0]
            yield [(k.changelog(version), line) for version, line in rows]
