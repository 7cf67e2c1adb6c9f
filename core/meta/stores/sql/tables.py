# SPDX-License-Identifier: Apache-2.0
"""The tables of a volume as data, from which each dialect renders its DDL and checks an existing catalogue.

Columns, order, index groups and type classes are those of volumes formatted by the original client; it compares and
alters tables that it knows, so nothing may be added. Source: format §5.2, §5.3, and the catalogue of a golden volume.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple

from core.errors import ConfigError


class Type(Enum):
    """Type classes (format §5.2)."""

    INT32 = "INT32"
    INT64 = "INT64"
    SERIAL32 = "SERIAL32"
    SERIAL64 = "SERIAL64"
    STR = "STR"  # text of at most 255 characters
    TEXT = "TEXT"
    BLOB = "BLOB"
    BIN = "BIN"  # bytes, at most `size`


class Column(NamedTuple):
    name: str
    type: Type
    null: bool = False
    default: int | None = None
    size: int = 0

    @property
    def is_text(self) -> bool:
        return self.type in (Type.STR, Type.TEXT)


class Index(NamedTuple):
    """Named `UQE_<table>_<group>` or `IDX_<table>_<group>`, the table with its prefix."""

    group: str
    columns: tuple[str, ...]
    unique: bool

    def full_name(self, table: str) -> str:
        return f"{'UQE' if self.unique else 'IDX'}_{table}_{self.group}"


class Table(NamedTuple):
    name: str
    columns: tuple[Column, ...]
    primary: tuple[str, ...]
    indexes: tuple[Index, ...] = ()

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)


_WORD: Final = re.compile(r"(\w+) ([A-Z0-9]+?)(?:\((\d+)\))?( NULL)?( DEFAULT 0)?$")


def _table(name: str, columns: str, primary: str, *indexes: tuple[str, str, bool]) -> Table:
    parsed = []
    for text in columns.split(", "):
        match = _WORD.match(text)
        assert match, text
        column, kind, size, null, default = match.groups()
        parsed.append(Column(column, Type(kind), bool(null), 0 if default else None, int(size or 0)))
    return Table(
        name, tuple(parsed), tuple(primary.split()), tuple(Index(g, tuple(c.split()), u) for g, c, u in indexes)
    )


_QUOTA: Final = "max_space INT64, max_inodes INT64, used_space INT64, used_inodes INT64"

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        # one row, name 'format'; value: JSON document (format §7)
        _table("setting", "name STR, value TEXT", "name"),
        # nextInode and nextChunk: next free id; nextSession and nextTrash: last id used; others: the value (§1.9)
        _table("counter", "name STR, value INT64", "name"),
        # type: copy of the node's type
        _table(
            "edge", "id SERIAL64, parent INT64, name BIN(255), inode INT64, type INT32", "id",
            ("edge", "parent name", True), ("inode", "inode", False),
        ),
        # times: microseconds, and 0 … ±999 remaining nanoseconds in …nsec; both truncated toward zero (§5.4)
        _table(
            "node",
            "inode INT64, type INT32, flags INT32, mode INT32, uid INT32, gid INT32, atime INT64, mtime INT64, "
            "ctime INT64, atimensec INT32 DEFAULT 0, mtimensec INT32 DEFAULT 0, ctimensec INT32 DEFAULT 0, "
            "nlink INT32, length INT64, rdev INT32 NULL, parent INT64 NULL, access_acl_id INT32 NULL, "
            "default_acl_id INT32 NULL, tier_id INT32 NULL",
            "inode",
        ),
        _table("symlink", "inode INT64, target BIN(4096)", "inode"),
        _table("xattr", "id SERIAL64, inode INT64, name STR, value BLOB", "id", ("name", "inode name", True)),
        # slices: n*24 bytes
        _table("chunk", "id SERIAL64, inode INT64, indx INT32, slices BLOB", "id", ("chunk", "inode indx", True)),
        # refs: number of slice records that use the slice; a row for every slice; <= 0: may be deleted (§3.4)
        _table("chunk_ref", "chunkid INT64, size INT32, refs INT32", "chunkid", ("refs", "refs", False)),
        _table("delslices", "chunkid INT64, deleted INT64, slices BLOB", "chunkid"),
        _table("session2", "sid INT64, expire INT64, info BLOB NULL", "sid"),
        _table("sustained", "id SERIAL64, sid INT64, inode INT64", "id", ("sustained", "sid inode", True)),
        # expire: the time of the deletion, despite its name
        _table("delfile", "inode INT64, length INT64, expire INT64", "inode"),
        # owner: u64 reinterpreted as i64; ltype: 82 'R' or 87 'W'
        _table(
            "flock", "id SERIAL64, inode INT64, sid INT64, owner INT64, ltype INT32", "id",
            ("flock", "inode sid owner", True),
        ),
        _table(
            "plock", "id SERIAL64, inode INT64, sid INT64, owner INT64, records BLOB", "id",
            ("plock", "inode sid owner", True),
        ),
        _table("dir_quota", f"inode INT64, {_QUOTA}", "inode"),
        _table("user_group_quota", f"qtype INT32, qkey INT64, {_QUOTA}", "qtype qkey"),
        _table("dir_stats", "inode INT64, data_length INT64, used_space INT64, used_inodes INT64", "inode"),
        _table("detached_node", "inode INT64, added INT64", "inode"),
        # owner … other: u16, 65535 = undefined; named_…: n*6 bytes (id u32, perm u16), no count
        _table(
            "acl",
            "id SERIAL32, owner INT32 NULL, group INT32 NULL, mask INT32 NULL, other INT32 NULL, "
            "named_users BLOB NULL, named_groups BLOB NULL",
            "id",
        ),
        _table("delegation_token", "id SERIAL32, token BLOB NULL", "id"),
        _table("change_log", "id SERIAL64, entry TEXT", "id"),
    )
}  # fmt: skip

#: Without these a database is no volume; all others appeared in later versions.
CORE_TABLES: Final = ("setting", "counter", "edge", "node", "symlink", "xattr", "chunk", "chunk_ref")


def full_prefix(table_prefix: str) -> str:
    """`jfs_`, or `jfs_<value>_` for one of several volumes in a database (format §5.1)."""
    if not table_prefix:
        return "jfs_"
    if not re.fullmatch(r"\w{1,40}", table_prefix, re.ASCII):  # servers cut names at 63 or 64 bytes
        raise ConfigError(f"table_prefix {table_prefix!r}: use letters, digits and underscores only, at most 40")
    return f"jfs_{table_prefix}_"
