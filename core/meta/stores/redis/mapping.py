# SPDX-License-Identifier: Apache-2.0
"""How logical keys and values look in Redis: key names, hash fields, decimal numbers, lock owners.

Pure. Source: format §4.3 (keys), §4.4 (counters, lower-case id counters), §4.6 (owner keys), §1.9 and §3.4
(stored numbers that are one less than the logical ones), §2 (attribute bytes that make an inode's identity).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from core.meta.records import Attr, DirStat, Quota

#: Logical counter → (key, stored value of a missing key); logical = stored + 1 for these, they mean "next free".
ID_COUNTERS: Final = {
    "nextInode": ("nextinode", 1),  # 1 is the root and never handed out
    "nextChunk": ("nextchunk", 0),
    "nextSession": ("nextsession", 0),
    "nextTrash": ("nextTrash", 0),
    "aclMaxId": ("aclMaxId", 0),
    "krbTokenMaxId": ("krbTokenMaxId", 0),
}

#: Where clients before 1.0-beta3 register (never under a prefix); the score is their last heartbeat, which they repeat
#: every minute, and after this many seconds without one they count as dead.
OLD_SESSIONS: Final = "sessions"
OLD_SESSION_S: Final = 300

#: Lines of the change log, oldest first, and how many there ever were (format §9).
LOG: Final = "txnLog"
LAST_LOG: Final = "txnLastLog"

DIRSTAT_HASHES: Final = ("dirUsedSpace", "dirDataLength", "dirUsedInodes")
QUOTA_HASHES: Final = (
    ("dirQuota", "dirQuotaUsedSpace", "dirQuotaUsedInodes"),
    ("userQuota", "userQuotaUsedSpace", "userQuotaUsedInodes"),
    ("groupQuota", "groupQuotaUsedSpace", "groupQuotaUsedInodes"),
)

_LIMITS = struct.Struct(">qq")
_NO_LIMITS: Final = _LIMITS.pack(-1, -1)
# flags | type and mode | uid | gid, parent, ACL ids, tier: bytes 0–10, 63–70 and the tail of the attribute
_IDENTITY = struct.Struct(">BHIIQIIB")
_TIME = struct.Struct(">qI")
_TIMES = struct.Struct(">qIqI")
_NS: Final = 1_000_000_000


class Counter(NamedTuple):
    key: str
    missing: int  # stored value that a missing key stands for
    shift: int  # logical = stored + shift


def counter(name: str) -> Counter:
    known = ID_COUNTERS.get(name)
    return Counter(known[0], known[1], 1) if known else Counter(name, 0, 0)


def identity(attr: Attr) -> bytes:
    """What an IDENTITY check compares (28 bytes)."""
    return _IDENTITY.pack(
        attr.flags, attr.type << 12 | attr.mode, attr.uid, attr.gid,
        attr.parent, attr.access_acl, attr.default_acl, attr.tier,
    )  # fmt: skip


def pack_time(ns: int | None) -> bytes:
    """Seconds and nanoseconds as stored; empty for None."""
    return b"" if ns is None else _TIME.pack(*divmod(ns, _NS))


def pack_times(mtime_ns: int, ctime_ns: int) -> bytes:
    return _TIMES.pack(mtime_ns // _NS, mtime_ns % _NS, ctime_ns // _NS, ctime_ns % _NS)


def pack_limits(space: int, inodes: int) -> bytes:
    return _LIMITS.pack(space, inodes)


def quota(limits: bytes | None, space: bytes | None, inodes: bytes | None) -> Quota:
    """Of three fields; missing ones as a listing of quotas takes them (format §4.7)."""
    max_space, max_inodes = _LIMITS.unpack(_NO_LIMITS if limits is None else limits)
    return Quota(max_space, max_inodes, int(space or 0), int(inodes or 0))


def dirstat(space: bytes, length: bytes, inodes: bytes) -> DirStat:
    return DirStat(int(length), int(space), int(inodes))


def owner_field(sid: int, owner: int) -> str:
    return f"{sid}_{owner:016X}"


def parse_owner(field: bytes) -> tuple[int, int]:
    sid, _, owner = field.partition(b"_")
    return int(sid), int(owner, 16)


def pairs(flat: list[bytes]) -> zip[tuple[bytes, bytes]]:
    """Fields and values of a HGETALL reply (RESP2: one flat list)."""
    it = iter(flat)
    return zip(it, it, strict=True)
