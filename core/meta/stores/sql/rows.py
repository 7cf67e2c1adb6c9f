# SPDX-License-Identifier: Apache-2.0
"""Records ↔ rows: pure value conversion, the same for every SQL engine.

A row is a tuple of int, bytes and None only. Text columns (names of attributes and counters, the setting, the change
log) are UTF-8 bytes here; a dialect that binds `str` converts by the column's type (`tables.py`).
Facts: format §1.9, §1.12, §5.3, §5.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import Attr, DirStat, Entry, NodePatch, Quota
from core.meta.stores.sql.tables import TABLES, Type

Row = tuple[Any, ...]

NODE_COLUMNS: Final = (
    "type", "mode", "uid", "gid", "atime", "mtime", "ctime", "nlink", "length", "rdev", "parent", "flags",
    "access_acl_id", "default_acl_id", "tier_id", "atimensec", "mtimensec", "ctimensec",
)  # fmt: skip
#: What makes an inode what it is (`identity`), in this order.
IDENTITY_COLUMNS: Final = (
    "type", "mode", "uid", "gid", "flags", "parent", "access_acl_id", "default_acl_id", "tier_id",
)  # fmt: skip
#: Columns that may be NULL in rows of older clients, meaning 0.
NULLABLE: Final = frozenset(("rdev", "parent", "access_acl_id", "default_acl_id", "tier_id"))

#: "Next free" minus what is stored, for id counters whose row holds the last id used (format §1.9).
COUNTER_OFFSET: Final = {"nextSession": 1, "nextTrash": 1, "aclMaxId": 1, "krbTokenMaxId": 1}
#: What a missing row means, as stored.
COUNTER_START: Final = {"nextInode": 2, "nextChunk": 1}
#: Ids that SQL engines draw from a table's own sequence, not from a counter row.
SEQUENCES: Final = {"aclMaxId": "acl", "krbTokenMaxId": "delegation_token"}


# -- times and attributes -------------------------------------------------------------------------------------------


def split_ns(ns: int) -> tuple[int, int]:
    """Nanoseconds → microseconds and rest, truncated toward zero (format §5.4)."""
    if ns >= 0:
        return divmod(ns, 1000)
    micro, rest = divmod(-ns, 1000)
    return -micro, -rest


def pack_attr(a: Attr) -> Row:
    """Values of NODE_COLUMNS."""
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
    """Values of IDENTITY_COLUMNS."""
    return (a.type, a.mode, a.uid, a.gid, a.flags, a.parent, a.access_acl, a.default_acl, a.tier)


Patch = tuple[int, int | None, int | None]  # nlink, mtime_ns, ctime_ns
NO_PATCH: Final[Patch] = (0, None, None)


def pack_patch(p: Patch) -> Row:
    """nlink, mtime, mtimensec, ctime, ctimensec; None leaves a column alone."""
    nlink, mtime, ctime = p
    mt, mn = (None, None) if mtime is None else split_ns(mtime)
    ct, cn = (None, None) if ctime is None else split_ns(ctime)
    return (nlink, mt, mn, ct, cn)


def merge_patch(old: Patch, new: NodePatch) -> Patch:
    return join_patches(old, (new.nlink, new.mtime_ns, new.ctime_ns))


def join_patches(old: Patch, new: Patch) -> Patch:
    return (old[0] + new[0], old[1] if new[1] is None else new[1], old[2] if new[2] is None else new[2])


# -- ACL rules ------------------------------------------------------------------------------------------------------

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


# -- lock owners and counters ---------------------------------------------------------------------------------------


def signed(owner: int) -> int:
    """Lock owner u64 → column."""
    return owner - (1 << 64) if owner >= 1 << 63 else owner


def unsigned(column: int) -> int:
    return column & 0xFFFFFFFFFFFFFFFF


def stored_counter(name: str, value: int) -> int:
    """Logical value → column."""
    return value - COUNTER_OFFSET.get(name, 0)


def logical_counter(name: str, stored: int | None) -> int:
    """Column (None: no row) → logical value."""
    return (COUNTER_START.get(name, 0) if stored is None else stored) + COUNTER_OFFSET.get(name, 0)


def lock_row(kind: str, value: Any) -> Any:
    return ord(value) if kind == k.FLOCKS else value


def lock_value(kind: str, column: Any) -> Any:
    return chr(column) if kind == k.FLOCKS else column


# -- kinds that are one row per key ---------------------------------------------------------------------------------


class RowKind(NamedTuple):
    """Where a record lives. Parameters that name a row: `row_key(key)`; a whole row: row_key(key) + pack(value).

    unique: the columns of the primary key or unique index that a row of this kind is found by when it is replaced.
    page: columns (unique together, indexed) to walk the table by.
    owns_row: the record is the row; else (session documents) it is one nullable column, and the row may exist for
    another reason, so a plain insert proves nothing.
    """

    name: str  # of the shape, see `reads.py`
    table: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    unique: tuple[str, ...]
    page: tuple[str, ...]
    head: Key
    fixed: Row
    pack: Callable[[Any], Row]
    unpack: Callable[[Row], Any]
    owns_row: bool = True
    narrow: tuple[str, ...] = ()  # key columns of 32 bits

    def row_key(self, key: Key) -> Row:
        return self.fixed + key[len(self.head) :]

    def key(self, row: Row) -> Key:
        """The key of a row that begins with the key columns."""
        return self.head + tuple(row[len(self.fixed) : len(self.keys)])

    def value(self, row: Row) -> Any:
        """The value of a row (key columns, value columns); None for a document that isn't there."""
        return self.unpack(tuple(row[len(self.keys) :]))


def _first(row: Row) -> Any:
    return row[0]


def _single(value: Any) -> Row:
    return (value,)


def _narrow(table: str, columns: list[str]) -> tuple[str, ...]:
    return tuple(c for c in columns if TABLES[table].column(c).type in (Type.INT32, Type.SERIAL32))


def _kind(
    name: str, table: str, keys: str, values: str, pack: Callable[[Any], Row], unpack: Callable[[Row], Any], *,
    unique: str = "", page: str = "", head: Key = (), fixed: Row = (), owns_row: bool = True,
) -> RowKind:  # fmt: skip
    found = tuple((unique or keys).split())
    return RowKind(
        name, table, tuple(keys.split()), tuple(values.split()), found, tuple(page.split()) or found, head or (name,),
        fixed, pack, unpack, owns_row, _narrow(table, keys.split()),
    )  # fmt: skip


_LIMITS: Final = "max_space max_inodes used_space used_inodes"
DIR_QUOTA: Final = "Q0"
USER_QUOTA: Final = "Q1"
FLOCK_ROW: Final = "flock"
PLOCK_ROW: Final = "plock"


def _quota(row: Row) -> Quota:
    return Quota(*row)


#: By name of the shape: the kind of the key, except for quotas (two tables) and single locks (no kind of their own).
KINDS: Final[dict[str, RowKind]] = {
    kind.name: kind
    for kind in (
        _kind(k.SETTING, "setting", "name", "value", _single, _first, fixed=(b"format",)),
        _kind(k.NODE, "node", "inode", " ".join(NODE_COLUMNS), pack_attr, unpack_attr),
        _kind(
            k.ENTRY, "edge", "parent name", "type inode", lambda e: (e[0], e[1]), lambda row: Entry(*row), page="id"
        ),
        _kind(k.SYMLINK, "symlink", "inode", "target", _single, _first),
        _kind(k.XATTR, "xattr", "inode name", "value", _single, _first, page="id"),
        _kind(k.CHUNK, "chunk", "inode indx", "slices", _single, _first, page="id"),
        _kind(
            k.DIRSTAT, "dir_stats", "inode", "data_length used_space used_inodes", tuple, lambda row: DirStat(*row)
        ),
        _kind(DIR_QUOTA, "dir_quota", "inode", _LIMITS, tuple, _quota, head=(k.QUOTA, 0)),
        _kind(USER_QUOTA, "user_group_quota", "qtype qkey", _LIMITS, tuple, _quota, head=(k.QUOTA,)),
        _kind(k.SLICEREF, "chunk_ref", "chunkid size", "refs", _single, _first, unique="chunkid"),
        _kind(k.DELFILE, "delfile", "inode length", "expire", _single, _first, unique="inode"),
        _kind(k.DELSLICES, "delslices", "chunkid deleted", "slices", _single, _first, unique="chunkid"),
        _kind(k.SESSION, "session2", "sid", "expire", _single, _first, owns_row=False),
        # A document without a session is a row that every client takes for expired (expire 0).
        _kind(k.SESSIONINFO, "session2", "sid", "info", _single, _first, owns_row=False),
        _kind(k.SUSTAINED, "sustained", "sid inode", "", lambda _: (), lambda _: True, page="id"),
        _kind(k.DETACHED, "detached_node", "inode", "added", _single, _first),
        _kind(k.ACL, "acl", "id", "owner group mask other named_users named_groups", pack_acl, unpack_acl),
        _kind(k.CHANGELOG, "change_log", "id", "entry", _single, _first),
        _kind(FLOCK_ROW, "flock", "inode sid owner", "ltype", _single, _first),
        _kind(PLOCK_ROW, "plock", "inode sid owner", "records", _single, _first),
    )
}  # fmt: skip
LOCK_ROWS: Final = {k.FLOCKS: FLOCK_ROW, k.PLOCKS: PLOCK_ROW}


def kind_of(key: Key) -> RowKind | None:
    """The kind of a key that is one row; None for those made of several, or derived."""
    first = key[0]
    if first == k.QUOTA:
        return KINDS[USER_QUOTA if key[1] else DIR_QUOTA]
    return KINDS.get(first)


_INT32: Final = 1 << 31
_INT64: Final = 1 << 63


def can_hold(kind: RowKind, key: Key) -> bool:
    """Can the columns hold this key? One that they can't hold isn't there."""
    part = key[len(kind.head) :]
    for at, value in enumerate(part):
        if type(value) is int:
            limit = _INT32 if kind.narrow and kind.keys[at] in kind.narrow else _INT64
            if not -limit <= value < limit:
                return False
    return kind.name != k.XATTR or is_text(part[1])


def is_text(name: bytes) -> bool:
    """Can a text column hold it? (UTF-8 without NUL.)"""
    if name.isascii():
        return b"\0" not in name
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in name
