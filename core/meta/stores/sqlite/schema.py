# SPDX-License-Identifier: Apache-2.0
"""The tables of a volume in SQLite: created once, checked and completed at every open.

The texts are those of the catalogue of volumes formatted by the original client, letter by letter, because that
client compares and alters tables it knows (format §5.2). Meaning of each column: format §5.3; rules that the
columns themselves don't show are noted here. We never add a column, a table or an index of our own, and keep
columns that we don't know.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from core.errors import ConfigError, VolumeError

#: Table → columns, in the order of creation. `NOT NULL` columns without default can't be added later.
TABLES: Final[dict[str, str]] = {
    # one row, name 'format'; value: JSON document (format §7)
    "setting": "`name` TEXT PRIMARY KEY NOT NULL, `value` TEXT NOT NULL",
    # nextInode and nextChunk: next free id; nextSession and nextTrash: last id used; others: the value (§1.9)
    "counter": "`name` TEXT PRIMARY KEY NOT NULL, `value` INTEGER NOT NULL",
    # (parent, name) is unique; name: raw bytes; type: copy of the node's type
    "edge": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `parent` INTEGER NOT NULL, `name` BLOB NOT NULL, "
    "`inode` INTEGER NOT NULL, `type` INTEGER NOT NULL",
    # times: microseconds, and 0 … ±999 remaining nanoseconds in …nsec; both truncated toward zero (§5.4)
    "node": "`inode` INTEGER PRIMARY KEY NOT NULL, `type` INTEGER NOT NULL, `flags` INTEGER NOT NULL, "
    "`mode` INTEGER NOT NULL, `uid` INTEGER NOT NULL, `gid` INTEGER NOT NULL, `atime` INTEGER NOT NULL, "
    "`mtime` INTEGER NOT NULL, `ctime` INTEGER NOT NULL, `atimensec` INTEGER DEFAULT 0 NOT NULL, "
    "`mtimensec` INTEGER DEFAULT 0 NOT NULL, `ctimensec` INTEGER DEFAULT 0 NOT NULL, `nlink` INTEGER NOT NULL, "
    "`length` INTEGER NOT NULL, `rdev` INTEGER NULL, `parent` INTEGER NULL, `access_acl_id` INTEGER NULL, "
    "`default_acl_id` INTEGER NULL, `tier_id` INTEGER NULL",
    "symlink": "`inode` INTEGER PRIMARY KEY NOT NULL, `target` BLOB NOT NULL",
    "xattr": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `name` TEXT NOT NULL, "
    "`value` BLOB NOT NULL",
    # slices: n*24 bytes; storage class TEXT after an append by the original client
    "chunk": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `indx` INTEGER NOT NULL, "
    "`slices` BLOB NOT NULL",
    # refs: number of slice records that use the slice; a row for every slice; <= 0: may be deleted (§3.4)
    "chunk_ref": "`chunkid` INTEGER PRIMARY KEY NOT NULL, `size` INTEGER NOT NULL, `refs` INTEGER NOT NULL",
    "delslices": "`chunkid` INTEGER PRIMARY KEY NOT NULL, `deleted` INTEGER NOT NULL, `slices` BLOB NOT NULL",
    "session2": "`sid` INTEGER PRIMARY KEY NOT NULL, `expire` INTEGER NOT NULL, `info` BLOB NULL",
    "sustained": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `sid` INTEGER NOT NULL, `inode` INTEGER NOT NULL",
    # expire: the time of the deletion, despite its name
    "delfile": "`inode` INTEGER PRIMARY KEY NOT NULL, `length` INTEGER NOT NULL, `expire` INTEGER NOT NULL",
    # owner: u64 reinterpreted as i64; ltype: 82 'R' or 87 'W'
    "flock": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, "
    "`owner` INTEGER NOT NULL, `ltype` INTEGER NOT NULL",
    "plock": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, "
    "`owner` INTEGER NOT NULL, `records` BLOB NOT NULL",
    "dir_quota": "`inode` INTEGER PRIMARY KEY NOT NULL, `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, "
    "`used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL",
    "user_group_quota": "`qtype` INTEGER NOT NULL, `qkey` INTEGER NOT NULL, `max_space` INTEGER NOT NULL, "
    "`max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL, "
    "PRIMARY KEY ( `qtype`,`qkey` )",
    "dir_stats": "`inode` INTEGER PRIMARY KEY NOT NULL, `data_length` INTEGER NOT NULL, "
    "`used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL",
    "detached_node": "`inode` INTEGER PRIMARY KEY NOT NULL, `added` INTEGER NOT NULL",
    # owner … other: u16, 65535 = undefined; named_…: n*6 bytes (id u32, perm u16), no count
    "acl": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `owner` INTEGER NULL, `group` INTEGER NULL, "
    "`mask` INTEGER NULL, `other` INTEGER NULL, `named_users` BLOB NULL, `named_groups` BLOB NULL",
    "delegation_token": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `token` BLOB NULL",
    "change_log": "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `entry` TEXT NOT NULL",
}

#: (table, group or column, columns, unique)
INDEXES: Final[list[tuple[str, str, str, bool]]] = [
    ("edge", "edge", "`parent`,`name`", True),
    ("edge", "inode", "`inode`", False),
    ("xattr", "name", "`inode`,`name`", True),
    ("chunk", "chunk", "`inode`,`indx`", True),
    ("chunk_ref", "refs", "`refs`", False),
    ("sustained", "sustained", "`sid`,`inode`", True),
    ("flock", "flock", "`inode`,`sid`,`owner`", True),
    ("plock", "plock", "`inode`,`sid`,`owner`", True),
]

#: Without these a database is no volume; all others appeared in later versions.
CORE_TABLES: Final = ("setting", "counter", "edge", "node", "symlink", "xattr", "chunk", "chunk_ref")

_COLUMN: Final = re.compile(r"`(\w+)` (\w+(?: [A-Z0-9 ]+)?)")


def full_prefix(table_prefix: str) -> str:
    """`jfs_`, or `jfs_<value>_` for one of several volumes in a database (format §5.1)."""
    if not table_prefix:
        return "jfs_"
    if not re.fullmatch(r"\w{1,64}", table_prefix, re.ASCII):
        raise ConfigError(f"table_prefix {table_prefix!r}: use letters, digits and underscores only")
    return f"jfs_{table_prefix}_"


def catalogue(prefix: str) -> list[str]:
    """Statements that create a volume's tables and indexes."""
    tables = [f"CREATE TABLE `{prefix}{table}` ({columns})" for table, columns in TABLES.items()]
    return tables + [index_text(prefix, *index) for index in INDEXES]


def index_text(prefix: str, table: str, group: str, columns: str, unique: bool) -> str:
    if unique:
        return f"CREATE UNIQUE INDEX `UQE_{prefix}{table}_{group}` ON `{prefix}{table}` ({columns})"
    return f"CREATE INDEX `IDX_{prefix}{table}_{group}` ON `{prefix}{table}` ({columns})"


def table_names(conn: sqlite3.Connection) -> set[str]:
    rows = conn.execute("SELECT CAST(name AS BLOB) FROM sqlite_master WHERE type = 'table'")
    return {bytes(row[0]).decode() for row in rows if not row[0].startswith(b"sqlite_")}


def is_volume(conn: sqlite3.Connection, prefix: str, path: str) -> bool:
    """False: an empty database, ready for `complete`. Raises VolumeError if it belongs to something else."""
    names = table_names(conn)
    ours = {table for table in TABLES if prefix + table in names}
    if ours.issuperset(CORE_TABLES):
        return True
    if ours:
        lost = ", ".join(prefix + t for t in CORE_TABLES if t not in ours)
        raise VolumeError(f"{path}: the volume lacks the tables {lost}; restore the database from a backup")
    foreign = sorted(name for name in names if not name.startswith("jfs_"))
    if foreign:
        raise VolumeError(
            f"{path}: this SQLite database belongs to another program (it has the table {foreign[0]!r} and no "
            f"{prefix}setting); name another file, or the right table_prefix"
        )
    return False


def missing_parts(conn: sqlite3.Connection, prefix: str, path: str) -> list[str]:
    """Statements that bring an older (or new) volume up to date; an empty list is the usual case."""
    names = table_names(conn)
    statements = []
    for table, columns in TABLES.items():
        if prefix + table not in names:
            statements.append(f"CREATE TABLE `{prefix}{table}` ({columns})")
            continue
        info = conn.execute(f"SELECT CAST(name AS BLOB) FROM pragma_table_info('{prefix}{table}')")  # noqa: S608
        present = {bytes(row[0]).decode().lower() for row in info}
        for name, rest in _COLUMN.findall(columns):
            if name in present:
                continue
            if "NOT NULL" in rest and "DEFAULT" not in rest:
                raise VolumeError(f"{path}: table {prefix}{table} lacks the column {name}; the database is damaged")
            statements.append(f"ALTER TABLE `{prefix}{table}` ADD COLUMN `{name}` {rest.strip()}")
    found = conn.execute("SELECT CAST(name AS BLOB) FROM sqlite_master WHERE type = 'index'")
    indexes = {bytes(row[0]).decode().lower() for row in found}
    for table, group, columns, unique in INDEXES:
        name = f"{'UQE' if unique else 'IDX'}_{prefix}{table}_{group}"
        if name.lower() not in indexes and not (unique and _has_unique(conn, prefix + table, columns)):
            statements.append(index_text(prefix, table, group, columns, unique))
    return statements


def _has_unique(conn: sqlite3.Connection, table: str, columns: str) -> bool:
    """Does any unique index, whatever its name, cover exactly these columns?"""
    wanted = columns.replace("`", "").split(",")
    for (name,) in conn.execute(
        "SELECT CAST(name AS BLOB) FROM pragma_index_list(?) WHERE \"unique\" = 1", (table,)
    ).fetchall():  # fmt: skip
        found = conn.execute("SELECT CAST(name AS BLOB) FROM pragma_index_info(?) ORDER BY seqno", (name.decode(),))
        if [bytes(row[0]).decode() for row in found] == wanted:
            return True
    return False


def complete(conn: sqlite3.Connection, prefix: str, path: str) -> None:
    """Create whatever is missing, in one transaction. Safe against other processes doing the same."""
    if not missing_parts(conn, prefix, path):
        return
    conn.execute("BEGIN IMMEDIATE")
    try:
        for statement in missing_parts(conn, prefix, path):
            conn.execute(statement)
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK")
        raise
