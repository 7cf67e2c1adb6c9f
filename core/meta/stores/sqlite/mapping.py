# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S608 - the only variable parts are our own column lists and a prefix that `schema.full_prefix` checked
"""Keys and records ↔ tables, columns and rows: pure text and value conversion, no database.

One `Kind` per record kind that is one row; kinds made of several rows (xattrs of an inode, lock tables …) and those
derived from others (parents, occupied) have their statements in `Texts`. Facts: format §5.3, §5.4, §1.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DirStat, Entry, Quota
from core.meta.stores.sql.rows import (
    COUNTER_OFFSET,
    COUNTER_START,
    NODE_COLUMNS,
    SEQUENCES,
    Patch,
    Row,
    identity,
    merge_patch,
    pack_acl,
    pack_attr,
    pack_patch as pack_times,
    signed,
    unpack_acl,
    unpack_attr,
    unsigned,
)  # fmt: skip

# Conversions that all SQL engines share, under the name by which this package knows them.
__all__ = [
    "COUNTER_OFFSET", "COUNTER_START", "Kind", "Texts", "build_kinds", "identity", "kind_of", "merge_patch",
    "pack_attr", "pack_patch", "signed", "unpack_attr", "unsigned",
]  # fmt: skip


class Kind(NamedTuple):
    """Statements and conversions of a kind that is one row per key.

    Parameters of select and delete: key[skip:]. Of put and new: key[skip:] + pack(value).
    scan: parameters (after rowid, limit), rows (rowid, key columns …, value columns …).
    """

    skip: int
    columns: int  # number of key columns
    select: str
    put: str
    new: str
    delete: str
    scan: str
    pack: Callable[[Any], Row]
    unpack: Callable[[Row], Any]


def pack_patch(p: Patch, ino: int) -> Row:
    """Parameters of `Texts.patch`."""
    return (*pack_times(p), ino)


def _first(row: Row) -> Any:
    return row[0]


def _single(value: Any) -> Row:
    return (value,)


def _kind(
    table: str, keys: str, values: str, unique: str, pack: Callable[[Any], Row], unpack: Callable[[Row], Any],
    *, skip: int = 1, text: str = "", fixed: str = "",
) -> Kind:  # fmt: skip
    """Statements from column lists. text: a column bound as bytes and stored as TEXT. fixed: condition without key."""
    key_columns, value_columns = keys.split(), values.split()
    columns = key_columns + value_columns

    def bind(column: str) -> str:
        return "CAST(? AS TEXT)" if column == text else "?"

    quoted = ", ".join(f"`{c}`" for c in columns)
    if fixed:
        name, literal = fixed.split("=")
        where = f"`{name}` = {literal}"
        insert = f"INSERT INTO `{table}` (`{name}`, {quoted}) VALUES ({literal}, {', '.join(map(bind, columns))})"
    else:
        where = " AND ".join(f"`{c}` = {bind(c)}" for c in key_columns)
        insert = f"INSERT INTO `{table}` ({quoted}) VALUES ({', '.join(map(bind, columns))})"
    changed = [c for c in columns if c not in unique.split()]
    update = "UPDATE SET " + ", ".join(f"`{c}` = excluded.`{c}`" for c in changed) if changed else "NOTHING"
    conflict = ", ".join(f"`{c}`" for c in unique.split())
    return Kind(
        skip,
        len(key_columns),
        f"SELECT {', '.join(f'`{c}`' for c in value_columns) or '1'} FROM `{table}` WHERE {where}",
        f"{insert} ON CONFLICT ({conflict}) DO {update}",
        f"{insert} ON CONFLICT ({conflict}) DO NOTHING",
        f"DELETE FROM `{table}` WHERE {where}",
        f"SELECT rowid, {quoted} FROM `{table}` WHERE rowid > ? ORDER BY rowid LIMIT ?",
        pack,
        unpack,
    )


def build_kinds(p: str) -> dict[Any, Kind]:
    """Kinds by first part of the key; QUOTA by (QUOTA, 0 or 1). `p`: prefix of table names."""
    limits = "max_space max_inodes used_space used_inodes"
    as_quota: Callable[[Row], Quota] = lambda row: Quota(*row)  # noqa: E731
    return {
        k.SETTING: _kind(f"{p}setting", "", "value", "name", _single, _first, text="value", fixed="name='format'"),
        k.NODE: _kind(f"{p}node", "inode", " ".join(NODE_COLUMNS), "inode", pack_attr, unpack_attr),
        k.ENTRY: _kind(
            f"{p}edge", "parent name", "type inode", "parent name", lambda e: (e.type, e.ino), lambda row: Entry(*row)
        ),
        k.SYMLINK: _kind(f"{p}symlink", "inode", "target", "inode", _single, _first),
        k.XATTR: _kind(f"{p}xattr", "inode name", "value", "inode name", _single, _first, text="name"),
        k.CHUNK: _kind(f"{p}chunk", "inode indx", "slices", "inode indx", _single, _first),
        k.DIRSTAT: _kind(
            f"{p}dir_stats", "inode", "data_length used_space used_inodes", "inode", tuple, lambda row: DirStat(*row)
        ),
        (k.QUOTA, 0): _kind(f"{p}dir_quota", "inode", limits, "inode", tuple, as_quota, skip=2),
        (k.QUOTA, 1): _kind(f"{p}user_group_quota", "qtype qkey", limits, "qtype qkey", tuple, as_quota),
        k.SLICEREF: _kind(f"{p}chunk_ref", "chunkid size", "refs", "chunkid", _single, _first),
        k.DELFILE: _kind(f"{p}delfile", "inode length", "expire", "inode", _single, _first),
        k.DELSLICES: _kind(f"{p}delslices", "chunkid deleted", "slices", "chunkid", _single, _first),
        k.SESSION: _kind(f"{p}session2", "sid", "expire", "sid", _single, _first),
        k.SUSTAINED: _kind(f"{p}sustained", "sid inode", "", "sid inode", lambda _: (), lambda _: True),
        k.DETACHED: _kind(f"{p}detached_node", "inode", "added", "inode", _single, _first),
        k.ACL: _kind(
            f"{p}acl", "id", "owner group mask other named_users named_groups", "id", pack_acl, unpack_acl
        ),
        # A document without a session is a row that every client takes for expired.
        k.SESSIONINFO: _kind(f"{p}session2", "sid", "info", "sid", _single, _first)._replace(
            put=f"INSERT INTO `{p}session2` (`sid`, `expire`, `info`) VALUES (?, 0, ?)"
            " ON CONFLICT (`sid`) DO UPDATE SET `info` = excluded.`info`",
            new=f"INSERT INTO `{p}session2` (`sid`, `expire`, `info`) VALUES (?, 0, ?)"
            " ON CONFLICT (`sid`) DO UPDATE SET `info` = ifnull(`info`, excluded.`info`)",
            delete=f"UPDATE `{p}session2` SET `info` = NULL WHERE `sid` = ?",
        ),
    }  # fmt: skip


class Texts:
    """Statements beyond one row by key. `p`: prefix of table names."""

    def __init__(self, p: str) -> None:
        node = ", ".join(NODE_COLUMNS)
        joined = ", ".join(f"n.{c}" for c in NODE_COLUMNS)
        self.step = (
            f"SELECT e.type, e.inode, {joined} FROM `{p}edge` e LEFT JOIN `{p}node` n ON n.inode = e.inode"
            " WHERE e.parent = ? AND e.name = ?"
        )
        self.page = f"SELECT name, type, inode FROM `{p}edge` WHERE parent = ? AND name > ? ORDER BY name LIMIT ?"
        self.page_attrs = (
            f"SELECT e.name, e.type, e.inode, {joined} FROM `{p}edge` e LEFT JOIN `{p}node` n ON n.inode = e.inode"
            " WHERE e.parent = ? AND e.name > ? ORDER BY e.name LIMIT ?"
        )
        self.xattrs = f"SELECT name, value FROM `{p}xattr` WHERE inode = ? ORDER BY name"
        self._xattrs_of = f"SELECT inode, name, value FROM `{p}xattr` WHERE inode IN (%s) ORDER BY inode, name"
        self.drop_xattrs = f"DELETE FROM `{p}xattr` WHERE inode = ?"
        self.chunks = f"SELECT indx, slices FROM `{p}chunk` WHERE inode = ? AND indx < ? ORDER BY indx"
        # `||` makes TEXT of two BLOBs; the cast keeps what is stored a BLOB (format §5.4).
        self.append = (
            f"INSERT INTO `{p}chunk` (inode, indx, slices) VALUES (?, ?, ?) ON CONFLICT (inode, indx)"
            " DO UPDATE SET slices = CAST(slices || excluded.slices AS BLOB)"
        )
        self.parents = f"SELECT parent, count(*) FROM `{p}edge` WHERE inode = ? GROUP BY parent"
        self.occupied = f"SELECT 1 FROM `{p}edge` WHERE parent = ? LIMIT 1"
        self.insert_entry = f"INSERT INTO `{p}edge` (parent, name, type, inode) VALUES (?, ?, ?, ?)"
        self.identity = (
            "SELECT type, mode, uid, gid, flags, ifnull(parent, 0), ifnull(access_acl_id, 0),"
            f" ifnull(default_acl_id, 0), ifnull(tier_id, 0) FROM `{p}node` WHERE inode = ?"
        )
        self.patch = (
            f"UPDATE `{p}node` SET nlink = nlink + ?, mtime = ifnull(?, mtime), mtimensec = ifnull(?, mtimensec),"
            " ctime = ifnull(?, ctime), ctimensec = ifnull(?, ctimensec) WHERE inode = ?"
        )
        self.counter = f"SELECT value FROM `{p}counter` WHERE name = CAST(? AS TEXT)"
        self.put_counter = (
            f"INSERT INTO `{p}counter` (name, value) VALUES (CAST(? AS TEXT), ?)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )
        self.add_counter = (
            f"INSERT INTO `{p}counter` (name, value) VALUES (CAST(? AS TEXT), ?)"
            " ON CONFLICT (name) DO UPDATE SET value = value + ?"
        )
        self.sequence = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        self.put_sequence = "UPDATE sqlite_sequence SET seq = ? WHERE name = ?"
        self.new_sequence = "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)"
        self.sequences = {name: p + table for name, table in SEQUENCES.items()}
        self.add_stat = (
            f"UPDATE `{p}dir_stats` SET data_length = data_length + ?, used_space = used_space + ?,"
            " used_inodes = used_inodes + ? WHERE inode = ?"
        )
        used = "used_space = used_space + ?, used_inodes = used_inodes + ?"
        self.add_dir_quota = f"UPDATE `{p}dir_quota` SET {used} WHERE inode = ?"
        self.add_user_quota = f"UPDATE `{p}user_group_quota` SET {used} WHERE qtype = ? AND qkey = ?"
        self.add_ref = f"UPDATE `{p}chunk_ref` SET refs = refs + ? WHERE chunkid = ? AND size = ? RETURNING refs"
        # The index on refs ends with the rowid, so this pages through it in order.
        self.scan_refs = (
            f"SELECT refs, chunkid, size FROM `{p}chunk_ref` WHERE (refs, chunkid) > (?, ?) AND refs <= ?"
            " ORDER BY refs, chunkid LIMIT ?"
        )
        self.scan_sustained = (
            f"SELECT rowid, sid, inode FROM `{p}sustained` WHERE sid = ? AND inode > ? ORDER BY inode LIMIT ?"
        )
        # Link counts of hard-linked inodes are derived from entries; paged by inode.
        self.scan_parents = (
            f"SELECT e.inode, e.parent, count(*) FROM `{p}edge` e WHERE e.inode IN (SELECT inode FROM `{p}node`"
            " WHERE inode > ? AND ifnull(parent, 0) = 0 AND type != 2 ORDER BY inode LIMIT ?)"
            " GROUP BY e.inode, e.parent ORDER BY e.inode"
        )
        self.last_parentless = (
            f"SELECT max(inode) FROM (SELECT inode FROM `{p}node` WHERE inode > ? AND ifnull(parent, 0) = 0"
            " AND type != 2 ORDER BY inode LIMIT ?)"
        )
        self.log = f"INSERT INTO `{p}change_log` (entry) VALUES (CAST(? AS TEXT))"
        self.scan_log = f"SELECT id, entry FROM `{p}change_log` WHERE id > ? ORDER BY id LIMIT ?"
        self.trim_log = f"DELETE FROM `{p}change_log` WHERE id <= ?"
        self.locks: dict[str, tuple[str, str, str, str]] = {}
        for kind, table, value in ((k.FLOCKS, "flock", "ltype"), (k.PLOCKS, "plock", "records")):
            self.locks[kind] = (
                f"SELECT sid, owner, {value} FROM `{p}{table}` WHERE inode = ?",
                f"DELETE FROM `{p}{table}` WHERE inode = ?",
                f"INSERT INTO `{p}{table}` (inode, sid, owner, {value}) VALUES (?, ?, ?, ?)",
                f"SELECT DISTINCT inode FROM `{p}{table}` WHERE inode > ? ORDER BY inode LIMIT ?",
            )
        self.node = f"SELECT {node} FROM `{p}node` WHERE inode = ?"

    def xattrs_of(self, count: int) -> str:
        """Extended attributes of `count` inodes."""
        return self._xattrs_of % ", ".join("?" * count)


def kind_of(kinds: dict[Any, Kind], key: Key) -> Kind | None:
    first = key[0]
    if first == k.QUOTA:
        return kinds[k.QUOTA, 1 if key[1] else 0]
    return kinds.get(first)
