# SPDX-License-Identifier: Apache-2.0
"""One commit, taken apart into rows: what it needs unchanged, what it writes where, and in which order.

Pure conversion; no database. `commits.py` packs works into transactions. Sources: format §3.4, §5.3, §5.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from core.errors import Conflict, MetaError
from core.meta import keys as k, store as st
from core.meta.keys import Key
from core.meta.store import Check, Write
from core.meta.stores.sql.reads import SEQUENCE
from core.meta.stores.sql.rows import (
    COUNTER_START,
    DIR_QUOTA,
    LOCK_ROWS,
    NO_PATCH,
    SEQUENCES,
    USER_QUOTA,
    Row,
    can_hold,
    identity,
    is_text,
    join_patches,
    kind_of,
    lock_row,
    signed,
    stored_counter,
)  # fmt: skip
from core.meta.stores.sql.steps import (
    ABSENT,
    ADD,
    APPEND,
    COUNT,
    DELETE,
    DROP,
    IDENTITY,
    INSERT,
    INSERT_NEW,
    LOG,
    MATCH,
    PATCH,
    SET,
    UPSERT,
)  # fmt: skip

# How a commit uses a record. READ needs it unchanged, SAME needs its identity, CHANGE adds to it, WRITE replaces it.
READ, SAME, CHANGE, WRITE = 1, 2, 4, 8
_AGAINST: Final = {READ: CHANGE | WRITE, SAME: WRITE, CHANGE: READ | WRITE, WRITE: 15}
#: What stands against any combination of uses.
BARS: Final = [
    sum({bit for use, against in _AGAINST.items() if uses & use for bit in (1, 2, 4, 8) if against & bit})
    for uses in range(16)
]

_ENTRIES: Final = ("d*",)  # all of them: what a check of parents depends on
#: Kinds whose first key column is an inode that is locked before they are looked at or changed.
_GUARDED: Final = frozenset((k.NODE, k.XATTR, k.XATTRS, k.CHUNK, k.CHUNKS, k.PARENTS, k.OCCUPIED, k.FLOCKS, k.PLOCKS))

_INT32_MAX: Final = 0x7FFFFFFF


#: Kinds that share a row, or are written by statements that touch each other's rows.
_SHARED: Final = {
    k.XATTR: k.XATTR, k.XATTRS: k.XATTR, k.SLICEREF: k.SLICEREF, k.DELFILE: k.DELFILE, k.DELSLICES: k.DELSLICES,
    k.SESSION: k.SESSION, k.SESSIONINFO: k.SESSION,
}  # fmt: skip


def slot(key: Key) -> Key:
    """What a record is written with: writes of one slot keep their order, and don't share a group with others."""
    shared = _SHARED.get(key[0])
    return key if shared is None else (shared, key[1])


class Work:
    """One commit as rows. MetaError: a record that can't be stored; Conflict: a check that can never hold."""

    def __init__(self, checks: Sequence[Check], writes: Sequence[Write], max_id: int = _INT32_MAX) -> None:
        self.max_id = max_id
        self.uses: dict[Key, int] = {}
        self.locks: set[int] = set()
        self.checks: dict[tuple[int, str], list[tuple[Key, Row]]] = {}
        #: (phase, op, shape) -> key of the row -> row, or what is still to be summed up
        self.writes: dict[tuple[int, int, str], dict[Row, Any]] = {}
        self.weight = len(checks) + len(writes)
        self._last: dict[Key, tuple[int, int, str]] = {}
        first_ops: dict[Key, int] = {}
        for op, key, _ in writes:
            first_ops.setdefault(key, op)
        self._first_ops = first_ops
        self._fresh: set[Key] = set()
        for check in checks:
            self._check(*check)
        #: The one record whose absence a unique index proves, if it is one: what a violation is about.
        self.proven: Key | None = next(iter(self._fresh)) if len(self._fresh) == 1 else None
        for op, key, value in writes:
            handler = _WRITES.get(op)
            if handler is None:
                raise MetaError(f"sql: unknown write operation {op}")
            handler(self, key, value)

    # -- checks -------------------------------------------------------------------------------------------------

    def _check(self, mode: int, key: Key, seen: Any) -> None:
        first, uses = key[0], self.uses
        if first in _GUARDED:
            self.locks.add(key[1])
        if mode == st.IDENTITY:
            if seen is None:
                raise Conflict(f"inode {key[1]} is gone or became something else", key)
            uses[key] = uses.get(key, 0) | SAME
            self._expect(IDENTITY, k.NODE, key, (key[1], *identity(seen)))
            return
        token = slot(key)
        uses[token] = uses.get(token, 0) | READ
        kind = kind_of(key)
        if kind is None:
            self._check_group(key, seen)
        elif not can_hold(kind, key):
            if seen is not None:
                raise Conflict(str(key), key)
        elif seen is not None:
            self._expect(MATCH, kind.name, key, kind.row_key(key) + kind.pack(seen))
        elif kind.owns_row and kind.unique == kind.keys and self._first_ops.get(key) in _CREATES:
            self._fresh.add(key)  # the unique index proves it
        else:
            self._expect(ABSENT, kind.name, key, kind.row_key(key))

    def _check_group(self, key: Key, seen: Any) -> None:
        first, uses = key[0], self.uses
        if first == k.COUNTER:
            name = key[1]
            stored = stored_counter(name, seen)
            if name in SEQUENCES:
                self._expect(MATCH, SEQUENCE, key, (name.encode(), stored))
            else:
                self._expect(MATCH, first, key, (name.encode(), stored, COUNTER_START.get(name, 0)))
            return
        if first == k.OCCUPIED:
            self._expect(MATCH, first, key, (key[1], int(bool(seen))))
            return
        ino = key[1]
        seen = seen or {}
        self._expect(COUNT, first, key, (ino, key[2] if first == k.CHUNKS else 0, len(seen)))
        if first == k.CHUNKS:
            uses["c*", ino] = uses.get(("c*", ino), 0) | READ
            for index, value in seen.items():
                self._expect(MATCH, k.CHUNK, key, (ino, index, value))
        elif first == k.XATTRS:
            for name, value in seen.items():
                if not is_text(name):
                    raise Conflict(str(key), key)
                self._expect(MATCH, k.XATTR, key, (ino, name, value))
        elif first == k.PARENTS:
            uses[_ENTRIES] = uses.get(_ENTRIES, 0) | READ
            for parent, count in seen.items():
                self._expect(MATCH, first, key, (ino, parent, count))
        elif first in LOCK_ROWS:
            for (sid, owner), value in seen.items():
                self._expect(MATCH, LOCK_ROWS[first], key, (ino, sid, signed(owner), lock_row(first, value)))
        else:
            raise MetaError(f"sql: records of kind {first!r} can't be checked")

    def _expect(self, op: int, shape: str, key: Key, row: Row) -> None:
        self.checks.setdefault((op, shape), []).append((key, row))

    # -- writes -------------------------------------------------------------------------------------------------

    def _rows(self, key: Key, use: int, op: int, shape: str, *, again: bool = True) -> dict[Row, Any]:
        """Where the row of a write goes: behind earlier writes of its slot, unless they are of the same sort."""
        token = slot(key)
        self.uses[token] = self.uses.get(token, 0) | use
        first = key[0]
        if first in _GUARDED:
            self.locks.add(key[1])
        if first == k.ENTRY:
            occupied = (k.OCCUPIED, key[1])
            self.uses[occupied] = self.uses.get(occupied, 0) | CHANGE
            self.uses[_ENTRIES] = self.uses.get(_ENTRIES, 0) | CHANGE
        elif first == k.CHUNK:
            self.uses["c*", key[1]] = self.uses.get(("c*", key[1]), 0) | CHANGE
        last = self._last.get(token)
        phase = 0 if last is None else last[0] if again and last[1:] == (op, shape) else last[0] + 1
        at = self._last[token] = (phase, op, shape)
        rows = self.writes.get(at)
        if rows is None:
            rows = self.writes[at] = {}
        return rows

    def _put(self, key: Key, value: Any) -> None:
        first = key[0]
        kind = kind_of(key)
        if kind is None:
            if first == k.COUNTER:
                self._set_counter(key, stored_counter(key[1], value))
            elif first in LOCK_ROWS:
                phase = self._drop(key)
                shape = LOCK_ROWS[first]
                for (sid, owner), held in value.items():
                    row = (key[1], sid, signed(owner))
                    self.writes.setdefault((phase, INSERT, shape), {})[row] = (*row, lock_row(first, held))
            else:
                raise MetaError(f"sql: records of kind {first!r} can't be written")
            return
        if first == k.SLICEREF and not key[1]:
            return  # id 0 means zeros (format §3.1)
        if first == k.NODE:
            self._require_ids(key, value)
        row = self._row_key(key)
        op = INSERT if self._is_fresh(key) else UPSERT
        self._rows(key, WRITE, op, kind.name)[row] = row + kind.pack(value)

    def _put_new(self, key: Key, value: Any) -> None:
        kind = kind_of(key)
        if kind is None:
            raise MetaError(f"sql: records of kind {key[0]!r} can't be created")
        if key[0] == k.SLICEREF and not key[1]:
            return
        if key[0] == k.NODE:
            self._require_ids(key, value)
        row = self._row_key(key)
        op = INSERT if self._is_fresh(key) else INSERT_NEW
        self._rows(key, WRITE, op, kind.name).setdefault(row, row + kind.pack(value))

    def _delete(self, key: Key, _: Any = None) -> None:
        first = key[0]
        kind = kind_of(key)
        if kind is not None:
            if not can_hold(kind, key):
                return  # then it isn't there
            row = kind.row_key(key)
            self._rows(key, WRITE, DELETE, kind.name)[row] = row
        elif first == k.XATTRS or first in LOCK_ROWS:
            self._drop(key)
        elif first == k.COUNTER:
            if key[1] in SEQUENCES:
                self._set_counter(key, 0)
            else:
                row = (key[1].encode(),)
                self._rows(key, WRITE, DELETE, first)[row] = row
        elif first not in (k.PARENTS, k.PARENT):  # derived from entries
            raise MetaError(f"sql: records of kind {first!r} can't be deleted")

    def _append(self, key: Key, value: bytes) -> None:
        row = key[1:]
        if self._is_fresh(key):
            self._rows(key, WRITE, INSERT, k.CHUNK)[row] = (*row, value)
            return
        rows = self._rows(key, CHANGE, APPEND, k.CHUNK)
        old = rows.get(row)
        rows[row] = (*row, value if old is None else old[2] + value)

    def _patch(self, key: Key, value: Any) -> None:
        rows = self._rows(key, CHANGE, PATCH, k.NODE)
        row = (key[1],)
        rows[row] = join_patches(rows.get(row, NO_PATCH), (value.nlink, value.mtime_ns, value.ctime_ns))

    def _add(self, key: Key, delta: Any) -> None:
        first = key[0]
        if first == k.COUNTER:
            shape = SEQUENCE if key[1] in SEQUENCES else first
            row: Row = (key[1].encode(),)
            change: Row = (delta,)
        elif first == k.DIRSTAT:
            shape, row, change = first, (key[1],), tuple(delta)
        elif first == k.QUOTA:
            shape, row = (USER_QUOTA, key[1:]) if key[1] else (DIR_QUOTA, key[2:])
            change = tuple(delta)
        elif first == k.SLICEREF:
            if not key[1]:
                return
            shape, row, change = first, key[1:], (delta,)
        elif first == k.PARENT:
            return  # link counts per parent are derived from entries
        else:
            raise MetaError(f"sql: records of kind {first!r} can't be added to")
        rows = self._rows(key, CHANGE, ADD, shape)
        rows[row] = add_rows(rows.get(row), change)

    def _log(self, key: Key, line: bytes) -> None:
        rows = self.writes.setdefault((0, LOG, k.CHANGELOG), {})
        rows[(len(rows),)] = (line,)

    # -- helpers ------------------------------------------------------------------------------------------------

    def _is_fresh(self, key: Key) -> bool:
        """Is this the write whose insert proves that the record was missing?"""
        if key not in self._fresh:
            return False
        self._fresh.remove(key)
        return True

    def _drop(self, key: Key) -> int:
        """All rows of an inode; a lock table is replaced by dropping it first. Returns the phase."""
        self._rows(key, WRITE, DROP, key[0], again=False)[(key[1],)] = (key[1],)
        return self._last[slot(key)][0]

    def _set_counter(self, key: Key, stored: int) -> None:
        row = (key[1].encode(),)
        if key[1] in SEQUENCES:
            self._rows(key, WRITE, SET, SEQUENCE)[row] = (*row, stored)
        else:
            self._rows(key, WRITE, UPSERT, k.COUNTER)[row] = (*row, stored)

    @staticmethod
    def _row_key(key: Key) -> Row:
        if key[0] == k.XATTR and not is_text(key[2]):
            shown = key[2].decode("utf-8", "backslashreplace")
            raise MetaError(
                f"extended attribute {shown!r}: the database keeps names as text, so they must be UTF-8", errno=22
            )
        kind = kind_of(key)
        assert kind is not None
        if not can_hold(kind, key):
            raise MetaError(f"record {key}: its key has a number that the database can't keep", errno=75)
        return kind.row_key(key)

    def _require_ids(self, key: Key, attr: Any) -> None:
        limit = self.max_id
        if attr.uid > limit or attr.gid > limit or attr.rdev > limit:
            field = "uid" if attr.uid > limit else "gid" if attr.gid > limit else "device number"
            value = attr.uid if attr.uid > limit else attr.gid if attr.gid > limit else attr.rdev
            raise MetaError(
                f"inode {key[1]}: {field} {value} doesn't fit into this database, whose columns end at {limit}; "
                "use a smaller one, or a volume on another metadata engine",
                errno=75,
            )


_WRITES: Final[dict[int, Callable[[Work, Key, Any], None]]] = {
    st.PUT: Work._put,
    st.PUT_NEW: Work._put_new,
    st.DELETE: Work._delete,
    st.APPEND: Work._append,
    st.PATCH: Work._patch,
    st.ADD: Work._add,
    st.LOG: Work._log,
}
_CREATES: Final = frozenset((st.PUT, st.PUT_NEW, st.APPEND))


def add_rows(old: Row | None, more: Row) -> Row:
    return more if old is None else tuple(map(int.__add__, old, more))
