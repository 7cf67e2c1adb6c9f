# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S608 - the variable parts are our own column lists and names that `schema.Names` quoted
"""What all statement texts are made of: given rows, column types, comparisons, sequences.

Each parameter is an array, one per column; `unnest` makes rows of them. So a statement has one text and one generic
plan whatever the number of rows. Joins go from the (few) given rows to an index, never the other way; `links.py`
switches the other plans off.

A check fails by casting a text that names the marks to a number: the whole transaction is undone by the server in
the same round trip, and `Refused.marks` reads the marks from the message. Sources: format §5.3, §5.5; sql/steps.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.meta.stores.postgres.arrays import BYTEA, INT4, INT8, TEXT
from core.meta.stores.postgres.schema import Names, literal
from core.meta.stores.sql.rows import NULLABLE, SEQUENCES
from core.meta.stores.sql.tables import TABLES, Type

_ARRAYS: Final = {
    Type.INT32: INT4, Type.SERIAL32: INT4, Type.INT64: INT8, Type.SERIAL64: INT8, Type.STR: TEXT, Type.TEXT: TEXT,
    Type.BLOB: BYTEA, Type.BIN: BYTEA,
}  # fmt: skip

ACL_COUNTER: Final = "'aclMaxId'::text"

#: Fails and names the marks x.m, if there are any.
FAIL: Final = "SELECT ('sluice:' || string_agg(x.m::text, ','))::int4 FROM"


def q(column: str) -> str:
    return f'"{column}"'


def given(kinds: Sequence[str], names: Sequence[str], alias: str = "w") -> str:
    """The given rows as a table."""
    arrays = ", ".join(f"${i}::{kind}[]" for i, kind in enumerate(kinds, 1))
    return f"unnest({arrays}) AS {alias}({', '.join(map(q, names))})"


def same(columns: Sequence[str], left: str, right: str) -> str:
    return " AND ".join(f"{left}.{q(c)} = {right}.{q(c)}" for c in columns)


def equal(columns: Sequence[str]) -> str:
    """Values of table t and of given row w; NULL means 0 or empty in some columns."""
    parts = []
    for c in columns:
        if c in NULLABLE:
            parts.append(f"coalesce(t.{q(c)}, 0) = w.{q(c)}")
        else:
            parts.append(f"t.{q(c)} IS NOT DISTINCT FROM w.{q(c)}")
    return " AND ".join(parts) or "true"


class Texts:
    """Names and types of one volume."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.table = names.table
        self.sequence = names.sequence

    def types(self, table: str, columns: Sequence[str]) -> list[str]:
        """Array types of columns; some were widened by their owners."""
        found, wide = TABLES[table], self.names.wide
        return [INT8 if (table, c) in wide else _ARRAYS[found.column(c).type] for c in columns]

    def last(self, name: str) -> str:
        """Last id used of the sequence behind a counter."""
        cases = " ".join(
            f"WHEN '{counter}' THEN (SELECT last_value - CASE WHEN is_called THEN 0 ELSE 1 END FROM"
            f" {self.sequence(table)})"
            for counter, table in SEQUENCES.items()
        )
        return f"CASE {name} {cases} END"

    def which(self, name: str) -> str:
        cases = " ".join(
            f"WHEN '{counter}' THEN {literal(self.sequence(table))}::regclass" for counter, table in SEQUENCES.items()
        )
        return f"CASE {name} {cases} END"
