# SPDX-License-Identifier: Apache-2.0
"""The tables of a volume in MySQL: created once, checked and completed at every open.

Pure: rows of `information_schema` in, statements or a VolumeError out. Types and names are those of the catalogue of
volumes formatted by the original client; no engine and no character set is named, as it does (format §5.2). Wider
columns than ours are what a careful administrator made of them, and are used as they are; narrower or other ones would
lose data silently, so they are refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from core.errors import VolumeError
from core.meta.stores.sql.tables import CORE_TABLES, TABLES, Column, Index, Table, Type

_TYPES: Final = {
    Type.INT32: "INT", Type.INT64: "BIGINT", Type.SERIAL32: "INT", Type.SERIAL64: "BIGINT",
    Type.STR: "VARCHAR(255)", Type.TEXT: "TEXT", Type.BLOB: "BLOB",
}  # fmt: skip
_SERIAL: Final = (Type.SERIAL32, Type.SERIAL64)
#: Bytes that an integer type holds.
_INTEGERS: Final = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}
_TEXTS: Final = frozenset(("char", "varchar", "tinytext", "text", "mediumtext", "longtext"))
_BYTES: Final = frozenset(("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"))
#: A table or column or index that somebody else created a moment before us; a table that is gone.
ALREADY_THERE: Final = frozenset((1050, 1060, 1061))

INT32_MAX: Final = (1 << 31) - 1
UINT32_MAX: Final = (1 << 32) - 1
BLOB_MAX: Final = 65535

#: What `Catalogue.read` wants to know, one statement each; DATABASE() is the one of the address.
QUERIES: Final = (
    b"SELECT table_name, engine FROM information_schema.tables WHERE table_schema = DATABASE()"
    b" AND table_type = 'BASE TABLE'",
    b"SELECT table_name, column_name, data_type, column_type, is_nullable, character_maximum_length"
    b" FROM information_schema.columns WHERE table_schema = DATABASE()",
    b"SELECT table_name, index_name, non_unique, column_name FROM information_schema.statistics"
    b" WHERE table_schema = DATABASE() ORDER BY table_name, index_name, seq_in_index",
    b"SELECT @@character_set_database",
)


class Limits(NamedTuple):
    """What the columns of this volume can hold."""

    max_id: int = INT32_MAX
    max_chunk: int = BLOB_MAX
    max_xattr: int = BLOB_MAX


class _Found(NamedTuple):
    kind: str
    full: str
    null: bool
    length: int


class Catalogue:
    """What a database holds, as far as one volume is concerned. Names are compared without case, as some servers do."""

    def __init__(self, prefix: str, where: str, results: Iterable[Iterable[tuple[Any, ...]]]) -> None:
        self._prefix = prefix
        self._where = where
        tables, columns, indexes, charset = results
        # Names and settings are UTF-8: a database of another default would refuse them.
        default = _text(next(iter(charset))[0]).lower()
        self._charset = "" if default.startswith("utf8") else " DEFAULT CHARSET=utf8mb4"
        self._engines = {_text(name).lower(): _text(engine) for name, engine in tables}
        self._columns: dict[str, dict[str, _Found]] = {}
        for table, name, kind, full, null, length in columns:
            found = _Found(_text(kind).lower(), _text(full).lower(), _text(null) == "YES", int(length or 0))
            self._columns.setdefault(_text(table).lower(), {})[_text(name).lower()] = found
        self._indexes: dict[str, dict[str, tuple[bool, list[str]]]] = {}
        for table, name, non_unique, column in indexes:
            of_table = self._indexes.setdefault(_text(table).lower(), {})
            of_table.setdefault(_text(name).lower(), (not int(non_unique), []))[1].append(_text(column).lower())

    def is_volume(self) -> bool:
        """False: an empty database, or one of other volumes, ready for `missing`. Raises VolumeError for any other."""
        ours = {name for name in TABLES if self._full(name) in self._engines}
        if ours.issuperset(CORE_TABLES):
            return True
        if ours:
            lost = ", ".join(self._prefix + t for t in CORE_TABLES if t not in ours)
            raise VolumeError(f"{self._where}: the volume lacks the tables {lost}; restore the database from a backup")
        foreign = sorted(name for name in self._engines if not name.startswith("jfs_"))
        if foreign:
            raise VolumeError(
                f"{self._where}: this database belongs to another program (it has the table {foreign[0]!r} and no "
                f"{self._prefix}setting); name another database, or the right table_prefix"
            )
        return False

    def missing(self) -> list[bytes]:
        """Statements that complete an older (or new) volume; an empty list is the usual case.

        Raises VolumeError for tables that can't be what they should be.
        """
        statements: list[str] = []
        for table in TABLES.values():
            full = self._full(table.name)
            if full not in self._engines:
                statements.append(create_text(self._prefix, table, self._charset))
                continue
            engine = self._engines[full]
            if engine.lower() in ("myisam", "aria", "memory", "csv", "archive"):
                raise VolumeError(
                    f"{self._where}: table {full} is kept by the engine {engine}, which has no transactions; "
                    f"stop all clients and run ALTER TABLE `{full}` ENGINE=InnoDB"
                )
            present = self._columns.get(full, {})
            for column in table.columns:
                found = present.get(column.name)
                if found is not None:
                    self._require_type(full, column, found)
                elif column.null or column.default is not None:
                    statements.append(f"ALTER TABLE `{self._prefix}{table.name}` ADD COLUMN {_column(column)}")
                else:
                    raise VolumeError(
                        f"{self._where}: table {full} lacks the column {column.name}; the database is damaged, or not "
                        "of a volume: restore it from a backup"
                    )
            statements += [
                _index_text(self._prefix, table, index) for index in table.indexes if not self._has_index(full, index)
            ]
        return [statement.encode() for statement in statements]

    def limits(self) -> Limits:
        """Of a complete volume."""
        node = self._columns[self._full("node")]
        wide = all(node[c].kind == "bigint" or "unsigned" in node[c].full for c in ("uid", "gid"))
        return Limits(
            UINT32_MAX if wide else INT32_MAX,
            self._columns[self._full("chunk")]["slices"].length or BLOB_MAX,
            min(self._columns[self._full("xattr")]["value"].length or BLOB_MAX, 65536),
        )

    def _full(self, name: str) -> str:
        return (self._prefix + name).lower()

    def _require_type(self, table: str, column: Column, found: _Found) -> None:
        if column.type in _SERIAL or column.type in (Type.INT32, Type.INT64):
            needed = 4 if column.type in (Type.INT32, Type.SERIAL32) else 8
            fits = _INTEGERS.get(found.kind, 0) >= needed
            # Small numbers fit into narrower columns as well.
            fits = fits or (found.kind in _INTEGERS and column.name in ("type", "flags", "ltype", "qtype"))
        elif column.is_text:
            fits = found.kind in _TEXTS
        else:
            fits = found.kind in _BYTES
        if not fits:
            raise VolumeError(
                f"{self._where}: column {column.name} of table {table} is {found.full}, but {_type(column)} is needed; "
                "this database is of another program or version: restore it, or name another"
            )

    def _has_index(self, table: str, index: Index) -> bool:
        """By its name, or by doing the same under another."""
        return index.full_name(table).lower() in self._indexes.get(table, {}) or self._serves(table, index) is not None

    def _serves(self, table: str, index: Index) -> str | None:
        wanted = list(index.columns)
        for name, (unique, columns) in self._indexes.get(table, {}).items():
            if columns == wanted and (unique or not index.unique):
                return name
        return None

    def unique_indexes(self) -> dict[str, str]:
        """Table → name of the unique index beside the primary key, where there is one."""
        found = {}
        for table in TABLES.values():
            for index in table.indexes:
                name = self._serves(self._full(table.name), index) if index.unique else None
                if name:
                    found[table.name] = name
        return found


def create_text(prefix: str, table: Table, charset: str = "") -> str:
    full = prefix + table.name
    parts = [_column(column) for column in table.columns]
    parts.append(f"PRIMARY KEY ({_names(table.primary)})")
    for index in table.indexes:
        parts.append(f"{'UNIQUE KEY' if index.unique else 'KEY'} `{index.full_name(full)}` ({_names(index.columns)})")
    return f"CREATE TABLE `{full}` ({', '.join(parts)}){charset}"


def _index_text(prefix: str, table: Table, index: Index) -> str:
    full = prefix + table.name
    unique = "UNIQUE " if index.unique else ""
    return f"CREATE {unique}INDEX `{index.full_name(full)}` ON `{full}` ({_names(index.columns)})"


def _names(columns: Iterable[str]) -> str:
    return ",".join(f"`{name}`" for name in columns)


def _type(column: Column) -> str:
    return f"VARBINARY({column.size})" if column.type is Type.BIN else _TYPES[column.type]


def _column(column: Column) -> str:
    tail = "NULL" if column.null else "NOT NULL"
    if column.default is not None:
        tail += f" DEFAULT {column.default}"
    if column.type in _SERIAL:
        tail += " AUTO_INCREMENT"
    return f"`{column.name}` {_type(column)} {tail}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value or "")
