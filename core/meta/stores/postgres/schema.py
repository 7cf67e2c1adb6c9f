# SPDX-License-Identifier: Apache-2.0
"""The tables of a volume in PostgreSQL: found or created once, checked and completed at every open.

What is created equals the catalogue of a volume formatted by the original client: types, sequences, index names.
Nothing of our own is ever added, unknown columns are kept, and what an older version lacks is completed, as that client
does itself at every start. What we don't understand is refused by name. Facts: format §5.1–§5.3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from core.errors import VolumeError
from core.meta.stores.sql.tables import CORE_TABLES, TABLES, Column, Index, Table, Type

_TYPES: Final = {
    Type.INT32: "INTEGER", Type.INT64: "BIGINT", Type.SERIAL32: "SERIAL", Type.SERIAL64: "BIGSERIAL",
    Type.STR: "VARCHAR(255)", Type.TEXT: "TEXT", Type.BLOB: "BYTEA", Type.BIN: "BYTEA",
}  # fmt: skip
#: What a column may be instead: owners widen columns by hand (format §5.2).
_INTEGERS: Final = frozenset(("integer", "bigint"))
_ACCEPTED: Final = {
    Type.INT32: _INTEGERS, Type.SERIAL32: _INTEGERS, Type.INT64: frozenset(("bigint",)),
    Type.SERIAL64: frozenset(("bigint",)), Type.STR: frozenset(("character varying", "text")),
    Type.TEXT: frozenset(("character varying", "text")), Type.BLOB: frozenset(("bytea",)),
    Type.BIN: frozenset(("bytea",)),
}  # fmt: skip
#: One number for all clients that create or complete tables at the same time.
_DDL_LOCK: Final = 0x736C75696365


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Names:
    """Full names of tables and sequences, quoted; `wide`: (table, column) of type bigint where integer is usual."""

    schema: str
    prefix: str
    sequences: dict[str, str] = field(default_factory=dict)
    wide: frozenset[tuple[str, str]] = frozenset()

    def table(self, name: str) -> str:
        return f"{ident(self.schema)}.{ident(self.prefix + name)}"

    def sequence(self, table: str) -> str:
        return self.sequences.get(table) or f"{ident(self.schema)}.{ident(f'{self.prefix}{table}_id_seq')}"

    @property
    def max_id(self) -> int:
        """Largest uid, gid and device number: the columns are signed (format §13, 46)."""
        every = {("node", c) for c in ("uid", "gid", "rdev")}
        return 0xFFFFFFFF if every <= self.wide else 0x7FFFFFFF


@dataclass(frozen=True)
class Catalogue:
    """What there is below our names."""

    columns: dict[str, dict[str, str]]  # table (without prefix) -> column -> type
    indexes: dict[str, set[tuple[str, tuple[str, ...], bool]]]  # table -> (name, columns, unique)


Connection = psycopg.AsyncConnection[Any]


async def find_schema(connection: Connection, prefix: str, wanted: str, where: str) -> str:
    """The schema that holds the volume, or will: the one asked for, else what the server's search_path finds."""
    if wanted:
        row = await (await connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (wanted,))).fetchone()
        if row is None:
            raise VolumeError(f"{where}: the schema {wanted!r} does not exist; create it with CREATE SCHEMA")
        return wanted
    query = """SELECT coalesce((SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = to_regclass(%s)), current_schema())"""
    row = await (await connection.execute(query, (ident(f"{prefix}setting"),))).fetchone()
    if row is None or row[0] is None:
        raise VolumeError(f"{where}: the search_path of this user names no schema; add ?search_path=SCHEMA")
    return str(row[0])


async def inspect(connection: Connection, schema: str, prefix: str, where: str) -> Catalogue:
    """VolumeError if something of our name is nothing of ours."""
    cursor = await connection.execute(
        """SELECT c.relname, c.relkind::text, a.attname, format_type(a.atttypid, NULL)
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
           WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname = ANY(%s)""",
        (schema, [prefix + table for table in TABLES]),
    )
    columns: dict[str, dict[str, str]] = {}
    for table, kind, column, kind_of_column in await cursor.fetchall():
        if kind not in ("r", "p"):
            raise VolumeError(f"{where}: {table} is no table but a view; a volume needs tables of its own")
        columns.setdefault(table[len(prefix) :], {})[column] = kind_of_column
    cursor = await connection.execute(
        """SELECT t.relname, i.relname, x.indisunique AND x.indpred IS NULL AND x.indisvalid,
             array(SELECT a.attname::text FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k(num, at)
                   JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.num ORDER BY k.at)
           FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
           JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = %s AND t.relname = ANY(%s)""",
        (schema, [prefix + table for table in columns]),
    )
    indexes: dict[str, set[tuple[str, tuple[str, ...], bool]]] = {table: set() for table in columns}
    for table, index, unique, covered in await cursor.fetchall():
        indexes[table[len(prefix) :]].add((index, tuple(covered), unique))
    return Catalogue(columns, indexes)


def is_volume(found: Catalogue, prefix: str, where: str) -> bool:
    """False: nothing there yet. VolumeError if it is damaged, or not a volume's."""
    if found.columns.keys() >= set(CORE_TABLES):
        _require_understood(found, prefix, where)
        return True
    if found.columns:
        lost = ", ".join(prefix + t for t in CORE_TABLES if t not in found.columns)
        there = prefix + next(iter(found.columns))
        raise VolumeError(
            f"{where}: there is a table {there}, but {lost} are missing: half a volume, or tables of another program; "
            "restore the database from a backup, or name another database, schema (search_path) or table_prefix"
        )
    return False


def _require_understood(found: Catalogue, prefix: str, where: str) -> None:
    for name, present in found.columns.items():
        table = TABLES[name]
        for column in table.columns:
            kind = present.get(column.name)
            if kind is None:
                if not column.null and column.default is None:
                    raise VolumeError(
                        f"{where}: table {prefix}{name} lacks the column {column.name}: it is damaged, or belongs to "
                        "another program"
                    )
            elif kind not in _ACCEPTED[column.type]:
                raise VolumeError(
                    f"{where}: column {prefix}{name}.{column.name} has the type {kind}, expected "
                    f"{_TYPES[column.type].lower()}: the table was changed, or belongs to another program"
                )
        unique = {frozenset(columns) for _, columns, is_unique in found.indexes[name] if is_unique}
        if frozenset(table.primary) not in unique:
            raise VolumeError(f"{where}: table {prefix}{name} lost its primary key; restore it from a backup")


def missing_parts(found: Catalogue, names: Names) -> list[str]:
    """Statements that bring an older (or new) volume up to date; an empty list is the usual case."""
    statements = []
    for table in TABLES.values():
        full = names.table(table.name)
        present = found.columns.get(table.name)
        if present is None:
            statements.append(_create_table(table, full))
        else:
            statements += [
                f"ALTER TABLE {full} ADD COLUMN {_column(column)}"
                for column in table.columns
                if column.name not in present
            ]
        there = found.indexes.get(table.name, set())
        for index in table.indexes:
            name = index.full_name(names.prefix + table.name)
            alike = any(columns == index.columns and (unique or not index.unique) for _, columns, unique in there)
            if not alike and not any(other == name for other, _, _ in there):
                statements.append(_create_index(index, name, full))
    return statements


def _column(column: Column) -> str:
    default = "" if column.default is None else f" DEFAULT {column.default}"
    return f"{ident(column.name)} {_TYPES[column.type]}{default} {'NULL' if column.null else 'NOT NULL'}"


def _create_table(table: Table, full: str) -> str:
    columns = ", ".join(map(_column, table.columns))
    return f"CREATE TABLE {full} ({columns}, PRIMARY KEY ({', '.join(map(ident, table.primary))}))"


def _create_index(index: Index, name: str, full: str) -> str:
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX {ident(name)} ON {full} ({', '.join(map(ident, index.columns))})"


async def complete(connection: Connection, names: Names, where: str) -> Catalogue:
    """Create whatever is missing, in one transaction; other clients that do the same at this moment wait for it."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_DDL_LOCK,))
        found = await inspect(connection, names.schema, names.prefix, where)
        is_volume(found, names.prefix, where)
        for statement in missing_parts(found, names):
            await connection.execute(statement.encode())
        return await inspect(connection, names.schema, names.prefix, where)


async def full_names(connection: Connection, found: Catalogue, schema: str, prefix: str) -> Names:
    """Names as the catalogue has them: sequences may be called otherwise, columns may be wider."""
    plain = Names(schema, prefix)
    sequences: dict[str, str] = {}
    for table in ("acl", "delegation_token"):
        if table in found.columns:
            query = "SELECT pg_get_serial_sequence(%s, 'id')"
            row = await (await connection.execute(query, (plain.table(table),))).fetchone()
            if row is not None and row[0]:
                sequences[table] = str(row[0])
    wide = frozenset(
        (name, column.name)
        for name, present in found.columns.items()
        for column in TABLES[name].columns
        if column.type in (Type.INT32, Type.SERIAL32) and present.get(column.name) == "bigint"
    )
    return Names(schema, prefix, sequences, wide)
