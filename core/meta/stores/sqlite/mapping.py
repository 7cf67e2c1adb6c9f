# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: S608 - the only variable parts are our own column lists and a prefix that `schema.full_prefix` checked
"""Keys and records ↔ tables, columns and rows: pure text and value conversion, no database.

One `Kind` per record kind that is one row; kinds made of several rows (xattrs of an inode, lock tables …) and those
derived from others (parents, occupied) have their statements in `Texts`. Facts: format §5.3, §5.4, §1.12.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import Attr, DirStat, Entry, NodePatch, Quota

Row = tuple[Any, ...]

NODE_COLUMNS: Final = (
    "type", "mode", "uid", "gid", "atime", "mtime", "ctime", "nlink", "length", "rdev", "parent", "flags",
    "access_acl_id", "default_acl_id", "tier_id", "atimensec", "mtimensec", "ctimensec",
)  # fmt: skip

#: "Next free" minus what is stored, for id counters whose row holds the last id used (format §1.9).
COUNTER_OFFSET: Final = {"nextSession": 1, "nextTrash": 1, "aclMaxId": 1, "krbTokenMaxId": 1}
#: What a missing row means, as stored.
COUNTER_START: Final = {"nextInode": 2, "nextChunk": 1}
#: Ids that SQL engines draw from a table's own sequence, not from a counter row.
SEQUENCES: Final = {"aclMaxId": "acl", "krbTokenMaxId": "delegation_token"}


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


def split_ns(ns: int) -> tuple[int, int]:
    """Nanoseconds → microseconds and rest, truncated toward zero (format §5.4)."""
    if ns >= 0:
        return divmod(ns, 1000)
    micro, rest = divmod(-ns, 1000)
    return -micro, -rest


def pack_attr(a: Attr) -> Row:
    at, an = split_ns(a.atime_ns)
    mt, mn = split_ns(a.mtime_ns)
    ct, cn = split_ns(a.ctime_ns)
    return (
        a.type, a.mode, a.uid, a.gid, at, mt, ct, a.nlink, a.length, a.rdev, a.parent, a.flags,
        a.access_acl, a.default_acl, a.tier, an, mn, cn,
    )  # fmt: skip


def unpack_attr(row: Row) -> Attr:
    kind, mode, uid, gid, at, mt, ct, nlink, length, rdev, parent, flags, acl, default_acl, tier, an, mn, cn = row
    return Attr(
        kind, mode, uid, gid, at * 1000 + an, mt * 1000 + mn, ct * 1000 + cn, nlink, length,
        rdev or 0, parent or 0, flags, acl or 0, default_acl or 0, tier or 0,
    )  # fmt: skip


def identity(a: Attr) -> Row:
    """The columns of `Texts.identity`, from a record."""
    return (a.type, a.mode, a.uid, a.gid, a.flags, a.parent, a.access_acl, a.default_acl, a.tier)


def pack_patch(p: tuple[int, int | None, int | None], ino: int) -> Row:
    """Parameters of `Texts.patch`."""
    nlink, mtime, ctime = p
    mt, mn = (None, None) if mtime is None else split_ns(mtime)
    ct, cn = (None, None) if ctime is None else split_ns(ctime)
    return (nlink, mt, mn, ct, cn, ino)


def merge_patch(old: tuple[int, int | None, int | None], new: NodePatch) -> tuple[int, int | None, int | None]:
    return (
        old[0] + new.nlink,
        old[1] if new.mtime_ns is None else new.mtime_ns,
        old[2] if new.ctime_ns is None else new.ctime_ns,
    )


_FOUR = struct.Struct(">HHHH")
_COUNT = struct.Struct(">I")
UNDEFINED: Final = 0xFFFF


def pack_acl(rule: bytes) -> Row:
    """Binary rule → columns: the four classes, and the named lists without their counts (format §1.12, §5.3)."""
    try:
        owner, group, mask, other = _FOUR.unpack_from(rule)
        (users,) = _COUNT.unpack_from(rule, 8)
        at = 12 + 6 * users
        (groups,) = _COUNT.unpack_from(rule, at)
        if len(rule) != at + 4 + 6 * groups:
            raise ValueError(f"{len(rule)} bytes, expected {at + 4 + 6 * groups}")
    except (struct.error, ValueError) as e:
        raise MetaError(f"malformed ACL rule: {e}") from e
    return (owner, group, mask, other, rule[12:at], rule[at + 4 :])


def unpack_acl(row: Row) -> bytes:
    owner, group, mask, other, users, groups = row
    users, groups = users or b"", groups or b""
    four = _FOUR.pack(*(UNDEFINED if v is None else v & UNDEFINED for v in (owner, group, mask, other)))
    return b"".join((four, _COUNT.pack(len(users) // 6), users, _COUNT.pack(len(groups) // 6), groups))


def signed(owner: int) -> int:
    """Lock owner u64 → column."""
    return owner - (1 << 64) if owner >= 1 << 63 else owner


def unsigned(column: int) -> int:
    return column & 0xFFFFFFFFFFFFFFFF


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
