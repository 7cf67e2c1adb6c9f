# SPDX-License-Identifier: Apache-2.0
"""Many concurrent reads as few queries: one per kind of record, whatever the number of callers and keys.

A `ReadPlan` collects keys; `queries` says what to ask (a shape and its parameter rows, each different from the
others); the dialect runs all of it in one round trip, in one snapshot if it can, and hands each result to `take`;
`answers` then gives every caller its values. Rows as in `rows.py`.

| shape | parameters of one row | rows wanted, in any order |
|---|---|---|
| name in `KINDS` | key columns | key columns, value columns |
| k.XATTRS | inode | inode, name, value |
| k.CHUNKS | inode, count | inode, indx, slices where indx < count |
| k.PARENTS | inode | inode, parent, number of edges |
| k.OCCUPIED | inode | inode, if there is an edge with this parent |
| k.FLOCKS | inode | inode, sid, owner, ltype |
| k.PLOCKS | inode | inode, sid, owner, records |
| k.COUNTER | name | name, value |
| SEQUENCE | name of the counter | name, last id used of the table SEQUENCES[name] |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.stores.sql.rows import (
    KINDS,
    SEQUENCES,
    Row,
    can_hold,
    kind_of,
    lock_value,
    logical_counter,
    unsigned,
)  # fmt: skip

SEQUENCE: Final = "seq"
_INT64: Final = 1 << 63
_DICTS: Final = frozenset((k.XATTRS, k.CHUNKS, k.PARENTS, k.FLOCKS, k.PLOCKS))


class ReadPlan:
    """One use: build with what each caller asked for, run `queries`, `take` every result, give out `answers`."""

    def __init__(self, requests: Sequence[Sequence[Key]]) -> None:
        self._requests = requests
        self._found: dict[Key, Any] = {}
        self.queries: dict[str, list[Row]] = {}
        self._counts: dict[int, int] = {}
        for keys in requests:
            for key in keys:
                if key not in self._found:
                    self._ask(key)
        if self._counts:
            self.queries[k.CHUNKS] = list(self._counts.items())

    def _ask(self, key: Key) -> None:
        first = key[0]
        kind = kind_of(key)
        if kind is not None:
            self._found[key] = None
            if can_hold(kind, key):
                self.queries.setdefault(kind.name, []).append(kind.row_key(key))
        elif first in _DICTS:
            self._found[key] = {}
            if not 0 <= key[1] < _INT64:
                return
            if first == k.CHUNKS:
                self._counts[key[1]] = max(self._counts.get(key[1], 0), min(key[2], 1 << 31))
            else:
                self.queries.setdefault(first, []).append((key[1],))
        elif first == k.OCCUPIED:
            self._found[key] = False
            if 0 <= key[1] < _INT64:
                self.queries.setdefault(first, []).append((key[1],))
        elif first == k.COUNTER:
            self._found[key] = logical_counter(key[1], None)
            shape = SEQUENCE if key[1] in SEQUENCES else first
            self.queries.setdefault(shape, []).append((key[1].encode(),))
        else:
            raise MetaError(f"sql: records of kind {first!r} can't be read")

    def take(self, shape: str, rows: Iterable[Row]) -> None:
        """The result of one query."""
        found = self._found
        kind = KINDS.get(shape)
        if kind is not None:
            width, skip, head, unpack = len(kind.keys), len(kind.fixed), kind.head, kind.unpack
            for row in rows:
                found[head + row[skip:width]] = unpack(row[width:])
        elif shape == k.CHUNKS:
            slices: dict[int, dict[int, bytes]] = {}
            for ino, index, value in rows:
                slices.setdefault(ino, {})[index] = value
            for key in found:
                if key[0] == k.CHUNKS and key[1] in slices:
                    found[key] = {i: v for i, v in sorted(slices[key[1]].items()) if i < key[2]}
        elif shape in (k.FLOCKS, k.PLOCKS):
            for ino, sid, owner, value in rows:
                found[shape, ino][sid, unsigned(owner)] = lock_value(shape, value)
        elif shape in _DICTS:
            for ino, member, value in rows:
                found[shape, ino][member] = value
        elif shape == k.OCCUPIED:
            for (ino,) in rows:
                found[shape, ino] = True
        else:
            for name, value in rows:
                text = name.decode()
                found[k.COUNTER, text] = logical_counter(text, value)

    def answers(self) -> list[list[Any]]:
        """One list of values per caller. Dictionaries are copied, since callers may change theirs."""
        found = self._found
        return [
            [dict(v) if type(v := found[key]) is dict else v for key in keys] for keys in self._requests
        ]  # fmt: skip
