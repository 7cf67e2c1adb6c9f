# SPDX-License-Identifier: Apache-2.0
"""Values and names as SQL text that needs no escaping: decimal numbers, hexadecimal strings, our own table names.

There is nothing to inject into: a hexadecimal literal consists of sixteen different characters, whatever it says.
It means the same whatever the session's sql_mode and character set. Names are those of `sql/tables.py` behind a prefix
that `full_prefix` has checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from core.meta.stores.sql.rows import KINDS, NULLABLE, RowKind
from core.meta.stores.sql.tables import TABLES, Type

#: Rows and bytes of one statement. A packet holds many statements; what is larger than a packet goes in several.
MOST_ROWS: Final = 500
MOST_BYTES: Final = 1 << 20

_INTEGERS: Final = (Type.INT32, Type.INT64, Type.SERIAL32, Type.SERIAL64)
#: What NULL means in the columns of a rule (format §5.4), and in those that older clients left empty.
_ABSENT: Final = {
    **dict.fromkeys(NULLABLE, b"0"),
    **dict.fromkeys(("owner", "group", "mask", "other"), b"65535"),
    **dict.fromkeys(("named_users", "named_groups"), b"x''"),
}


def literal(value: Any) -> bytes:
    """int, bytes or None."""
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        return b"%d" % value
    return b"x'%s'" % value.hex().encode()


def text(value: bytes) -> bytes:
    """A string for a text column: UTF-8, else the server refuses it. Compared under the column's collation."""
    return b"_utf8mb4 x'%s'" % value.hex().encode()


def numbers(rows: Iterable[Sequence[Any]]) -> bytes:
    """The first columns, for IN."""
    return b",".join([b"%d" % row[0] for row in rows])


def quoted(*columns: str) -> bytes:
    return b",".join([b"`%s`" % column.encode() for column in columns])


class Names:
    """Tables of one volume as they are written in statements, and values for their columns."""

    def __init__(self, prefix: str) -> None:
        self.table = {name: b"`%s%s`" % (prefix.encode(), name.encode()) for name in TABLES}
        # Locking reads must not wander: with few rows the optimiser prefers to read, and lock, all of them.
        self._hint = dict.fromkeys(TABLES, b" FORCE INDEX (PRIMARY)")
        #: Rows of numbers alone are formatted at once; the longest ones, of nodes, are.
        self._formats = {
            kind.name: b"(%s)" % b",".join([b"%d"] * len(kind.keys + kind.values))
            for kind in KINDS.values()
            if all(TABLES[kind.table].column(c).type in _INTEGERS for c in kind.keys + kind.values)
        }
        self._text = {(t.name, c.name) for t in TABLES.values() for c in t.columns if c.is_text}

    def use_index(self, table: str, name: str) -> None:
        """The unique index that rows of this table are found by."""
        self._hint[table] = b" FORCE INDEX (`%s`)" % name.encode()

    def locked(self, table: str) -> bytes:
        """The table, to be searched by the columns that are unique together."""
        return self.table[table] + self._hint[table]

    def value(self, table: str, column: str, value: Any) -> bytes:
        return text(value) if value is not None and (table, column) in self._text else literal(value)

    def values(self, kind: RowKind, row: Sequence[Any]) -> bytes:
        """(…) of a row of key and value columns."""
        form = self._formats.get(kind.name)
        if form is not None:
            return form % tuple(row)
        columns = kind.keys + kind.values
        return b"(%s)" % b",".join([self.value(kind.table, c, v) for c, v in zip(columns, row, strict=True)])

    def is_key(self, kind: RowKind, row: Sequence[Any]) -> bytes:
        """The condition that names one row."""
        return b" AND ".join([
            b"`%s`=%s" % (c.encode(), self.value(kind.table, c, v)) for c, v in zip(kind.keys, row, strict=False)
        ])  # fmt: skip

    def any_key(self, kind: RowKind, rows: Sequence[Sequence[Any]]) -> bytes:
        """The condition that names several rows."""
        if len(kind.keys) == 1 and (kind.table, kind.keys[0]) not in self._text:
            return b"`%s` IN (%s)" % (kind.keys[0].encode(), numbers(rows))
        return b" OR ".join([b"(%s)" % self.is_key(kind, row) for row in rows])

    def equals(self, table: str, column: str, value: Any) -> bytes:
        """The column holds this value, byte for byte; NULL as older clients meant it."""
        name = b"`%s`" % column.encode()
        if (table, column) in self._text:
            return b"CAST(CONVERT(%s USING utf8mb4) AS BINARY)=%s" % (name, literal(value))
        if column in _ABSENT:
            return b"COALESCE(%s,%s)=%s" % (name, _ABSENT[column], literal(value))
        return b"%s=%s" % (name, literal(value))


def parts(rows: Sequence[Any], size: int = MOST_ROWS) -> Iterable[Sequence[Any]]:
    """Rows in portions that make statements of a decent length."""
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def value_lists(rows: Iterable[bytes]) -> Iterable[bytes]:
    """Rendered rows, joined by commas, in portions."""
    portion: list[bytes] = []
    taken = 0
    for row in rows:
        if portion and (taken + len(row) > MOST_BYTES or len(portion) >= MOST_ROWS):
            yield b",".join(portion)
            portion, taken = [], 0
        portion.append(row)
        taken += len(row)
    if portion:
        yield b",".join(portion)
