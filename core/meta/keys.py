# SPDX-License-Identifier: Apache-2.0
"""Keys of metadata records: one short tuple per record, the same for every store.

A key is `(kind, …)`; the kind tells the type of the value. Stores map keys to their own form (Redis hash fields,
SQL rows, binary keys); nobody else knows that form. Values, by kind:

| constructor | value | note |
|---|---|---|
| setting() | bytes | the JSON document |
| counter(name) | int | logical: id counters mean "next free" on every store |
| node(ino) | Attr | |
| entry(parent, name) | Entry | |
| symlink(ino) | bytes | target |
| xattr(ino, name) | bytes | name is bytes |
| xattrs(ino) | dict[bytes, bytes] | all of an inode; delete drops all |
| chunk(ino, index) | bytes | slice records, 24 bytes each |
| chunks(ino, count) | dict[int, bytes] | every chunk with index < count |
| parents(ino) | dict[int, int] | parents of a hard-linked inode and their link counts (> 0) |
| parent(ino, parent) | int | `add` only; SQL derives it from entries (no-op); deleting parents(ino) drops all |
| occupied(ino) | bool | does the directory have any entry |
| dirstat(ino) | DirStat | `add` of a DirStat is relative; missing records stay missing |
| quota(kind, id) | Quota | kind 0 directory, 1 user, 2 group; `add` of (space, inodes) is relative |
| sliceref(id, size) | int | true number of references on every store |
| delfile(ino, length) | int | seconds |
| delslices(id, secs) | bytes | 12 bytes each: id u64, size u32 |
| session(sid) | int | expiry, seconds |
| sessioninfo(sid) | bytes | JSON |
| sustained(sid, ino) | bool | |
| detached(ino) | int | seconds |
| flocks(ino) | dict[(sid, owner), str] | "R" or "W" |
| plocks(ino) | dict[(sid, owner), bytes] | 24-byte lock records |
| acl(id) | bytes | binary rule, format §1.12 |
| changelog(version) | bytes | one line, format §9; written by `log`, read by `scan`, removed by `trim_log` |
"""

from __future__ import annotations

from typing import Any, Final

Key = tuple[Any, ...]

SETTING: Final = "setting"
COUNTER: Final = "C"
NODE: Final = "i"
ENTRY: Final = "d"
SYMLINK: Final = "s"
XATTR: Final = "x"
XATTRS: Final = "x*"
CHUNK: Final = "c"
CHUNKS: Final = "c*"
PARENT: Final = "p"
PARENTS: Final = "p*"
OCCUPIED: Final = "d?"
DIRSTAT: Final = "U"
QUOTA: Final = "Q"
SLICEREF: Final = "K"
DELFILE: Final = "D"
DELSLICES: Final = "L"
SESSION: Final = "SE"
SESSIONINFO: Final = "SI"
SUSTAINED: Final = "SS"
DETACHED: Final = "N"
FLOCKS: Final = "F"
PLOCKS: Final = "P"
ACL: Final = "R"
CHANGELOG: Final = "LOG"


def setting() -> Key:
    return (SETTING,)


def counter(name: str) -> Key:
    return (COUNTER, name)


def node(ino: int) -> Key:
    return (NODE, ino)


def entry(parent: int, name: bytes) -> Key:
    return (ENTRY, parent, name)


def symlink(ino: int) -> Key:
    return (SYMLINK, ino)


def xattr(ino: int, name: bytes) -> Key:
    return (XATTR, ino, name)


def xattrs(ino: int) -> Key:
    return (XATTRS, ino)


def chunk(ino: int, index: int) -> Key:
    return (CHUNK, ino, index)


def chunks(ino: int, count: int) -> Key:
    return (CHUNKS, ino, count)


def parent(ino: int, parent_ino: int) -> Key:
    return (PARENT, ino, parent_ino)


def parents(ino: int) -> Key:
    return (PARENTS, ino)


def occupied(ino: int) -> Key:
    return (OCCUPIED, ino)


def dirstat(ino: int) -> Key:
    return (DIRSTAT, ino)


def quota(kind: int, ident: int) -> Key:
    return (QUOTA, kind, ident)


def sliceref(slice_id: int, size: int) -> Key:
    return (SLICEREF, slice_id, size)


def delfile(ino: int, length: int) -> Key:
    return (DELFILE, ino, length)


def delslices(slice_id: int, secs: int) -> Key:
    return (DELSLICES, slice_id, secs)


def session(sid: int) -> Key:
    return (SESSION, sid)


def sessioninfo(sid: int) -> Key:
    return (SESSIONINFO, sid)


def sustained(sid: int, ino: int) -> Key:
    return (SUSTAINED, sid, ino)


def detached(ino: int) -> Key:
    return (DETACHED, ino)


def flocks(ino: int) -> Key:
    return (FLOCKS, ino)


def plocks(ino: int) -> Key:
    return (PLOCKS, ino)


def acl(rule_id: int) -> Key:
    return (ACL, rule_id)


def changelog(version: int) -> Key:
    return (CHANGELOG, version)
