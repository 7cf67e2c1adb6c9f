# SPDX-License-Identifier: Apache-2.0
"""Record values as bytes of a key-value store, and back. Pure.

Counters, slice and link counts are little endian; times, job gates, statistics and quotas big endian; all signed.
Source: format §2, §3.4, §6.2, §6.3, §1.9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DirStat, Quota, decode_attr, decode_entry, encode_attr, encode_entry

_COUNT: Final = struct.Struct("<q")
_TIME: Final = struct.Struct(">q")
_STAT: Final = struct.Struct(">qqq")
_QUOTA: Final = struct.Struct(">qqqq")
_FLOCK: Final = struct.Struct(">QQc")
_PLOCK: Final = struct.Struct(">QQI")

#: Counters that hold the time of a job's last run, big endian (format §1.9, §6.2).
GATES: Final = frozenset(
    ("lastCleanupSessions", "lastCleanupFiles", "lastCleanupTrash", "nextCleanupSlices", "lastCleanupChangelog")
)
#: Id counters: what is stored when nothing is, and how much the next free id lies above what is stored.
_IDS: Final = {
    "nextInode": (2, 0), "nextChunk": (1, 0), "nextSession": (0, 1), "nextTrash": (0, 1), "aclMaxId": (0, 1),
    "krbTokenMaxId": (0, 1),
}  # fmt: skip
#: Kinds in which a value of no bytes means "missing" (format §6.3). Xattrs: listed, but nobody can read them.
_EMPTY_IS_MISSING: Final = frozenset((k.CHUNK, k.QUOTA, k.ACL, k.DELSLICES, k.SLICEREF, k.XATTR, k.FLOCKS, k.PLOCKS))


def damaged(key: Key, reason: object) -> MetaError:
    return MetaError(f"damaged metadata record {key}: {reason}; run `sluice fsck`")


def _same(raw: bytes) -> bytes:
    return bytes(raw)


def _decode_flocks(raw: bytes) -> dict[tuple[int, int], str]:
    return {(sid, owner): kind.decode("latin-1") for sid, owner, kind in _FLOCK.iter_unpack(raw)}


def _encode_flocks(table: dict[tuple[int, int], str]) -> bytes:
    return b"".join([_FLOCK.pack(sid, owner, kind.encode("latin-1")) for (sid, owner), kind in table.items()])


def _decode_plocks(raw: bytes) -> dict[tuple[int, int], bytes]:
    table, at = {}, 0
    while at < len(raw):
        sid, owner, size = _PLOCK.unpack_from(raw, at)
        at += _PLOCK.size
        if at + size > len(raw):
            raise ValueError(f"lock table of {len(raw)} bytes ends inside a holder's records")
        table[sid, owner] = raw[at : at + size]
        at += size
    return table


def _encode_plocks(table: dict[tuple[int, int], bytes]) -> bytes:
    return b"".join([_PLOCK.pack(sid, owner, len(raw)) + raw for (sid, owner), raw in table.items()])


def _decode_time(raw: bytes) -> int:
    number: int = _TIME.unpack(raw)[0]
    return number


def _decode_count(raw: bytes) -> int:
    number: int = _COUNT.unpack(raw)[0]
    return number


_CODECS: Final[dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]]] = {
    k.SETTING: (_same, _same),
    k.NODE: (encode_attr, decode_attr),
    k.ENTRY: (encode_entry, decode_entry),
    k.SYMLINK: (_same, _same),
    k.XATTR: (_same, _same),
    k.CHUNK: (_same, _same),
    k.PARENT: (_COUNT.pack, _decode_count),
    k.DIRSTAT: (lambda v: _STAT.pack(*v), lambda raw: DirStat(*_STAT.unpack(raw))),
    k.QUOTA: (lambda v: _QUOTA.pack(*v), lambda raw: Quota(*_QUOTA.unpack(raw))),
    # Stored is how many references there are beyond the first.
    k.SLICEREF: (lambda v: _COUNT.pack(v - 1), lambda raw: _decode_count(raw) + 1),
    k.DELFILE: (_TIME.pack, _decode_time),
    k.DELSLICES: (_same, _same),
    k.SESSION: (_TIME.pack, _decode_time),
    k.SESSIONINFO: (_same, _same),
    k.SUSTAINED: (lambda v: b"\x01", lambda raw: True),
    k.DETACHED: (_TIME.pack, _decode_time),
    k.FLOCKS: (_encode_flocks, _decode_flocks),
    k.PLOCKS: (_encode_plocks, _decode_plocks),
    k.ACL: (_same, _same),
    k.CHANGELOG: (_same, _same),
}
_LOCKS: Final = frozenset((k.FLOCKS, k.PLOCKS))


def encode(key: Key, value: Any) -> bytes | None:
    """What is stored for a value; None if nothing is (lock tables without holders)."""
    kind = key[0]
    if kind == k.COUNTER:
        if key[1] in GATES:
            return _TIME.pack(value)
        return _COUNT.pack(value - _IDS.get(key[1], (0, 0))[1])
    if kind in _LOCKS and not value:
        return None
    return _CODECS[kind][0](value)


def decode(key: Key, raw: bytes | None) -> Any:
    """The value; None, {} or a counter's start if nothing is stored. MetaError if it makes no sense."""
    kind = key[0]
    if kind == k.COUNTER:
        return _counter(key, raw)
    if raw is None or (not raw and kind in _EMPTY_IS_MISSING):
        return {} if kind in _LOCKS else None
    try:
        return _CODECS[kind][1](raw)
    except (ValueError, struct.error) as e:
        raise damaged(key, e) from e


def _counter(key: Key, raw: bytes | None) -> int:
    start, above = _IDS.get(key[1], (0, 0))
    if not raw:
        return start + above
    if len(raw) != 8:
        raise damaged(key, f"{len(raw)} bytes instead of 8")
    return _decode_time(raw) if key[1] in GATES else _decode_count(raw) + above
