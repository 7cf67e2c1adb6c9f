# SPDX-License-Identifier: Apache-2.0
"""Checks and writes of a commit, encoded for the commit script: letters, keys, operands.

Pure. `Program.check` and `Program.write` look up the record's kind in one table each.

Checks: I identity, A attribute, S string, C counter, H/N hash field equal/missing, D whole hash, P link counts,
L list, G chunks below an index, R reference count, U/V three hash fields equal/not all there, Z/z score equal/missing,
T/t set member present/missing, E/M key exists/missing.
Writes: S/s SET/if new, H/h HSET/if new, x HDEL, d DEL, i INCRBY, j HINCRBY, k reference count, u statistics,
v quota usage, p/q patch times/anything, r RPUSH, l/R list replaced/if new, X hash replaced, F lock table replaced,
z/y ZADD/if new, Z ZREM, a/b SADD/SREM, g line of the change log, T touch.
Source: format §3.4, §4.3–4.8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from errno import EINVAL
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import SLICE_BYTES, Attr, NodePatch, encode_attr, encode_entry
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, LOG, PATCH, PUT, PUT_NEW, Check, Write
from core.meta.stores.redis import mapping as m

#: An EXACT check of chunks(ino, n) proves at most this many absent indexes; who adds a slice also writes i<ino>
#: (format §4.8), so a check of the inode record covers the rest.
MAX_ABSENT: Final = 16384


class Program:
    """One commit under construction."""

    __slots__ = ("appended", "args", "checks", "dirs", "keys", "prefix", "writes")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.checks: list[str] = []
        self.writes: list[str] = []
        self.keys: list[str] = []
        self.args: list[Any] = []
        self.dirs: list[int] = []  # directories whose entries change
        self.appended: list[str] = []  # inode keys whose data changes

    @classmethod
    def build(cls, prefix: str, checks: Sequence[Check], writes: Sequence[Write]) -> Program:
        """Raises MetaError (EINVAL) for a value that has no stored form, before anything is sent."""
        program = cls(prefix)
        key: Key = ()
        try:
            for mode, key, seen in checks:
                if mode == EXACT:
                    _CHECKS[key[0]](program, key, seen)
                else:
                    assert mode == IDENTITY
                    _check_identity(program, key, seen)
            for op, key, value in writes:
                _WRITES[op][key[0]](program, key, value)
        except (struct.error, ValueError, KeyError, TypeError) as e:
            raise MetaError(f"redis: no stored form for a write or check of {key!r}: {e!r}", errno=EINVAL) from e
        for name in program.appended:
            if name not in program.keys:
                program.writes.append("T")
                program.keys.append(name)
        return program

    def operands(self, prove: bool) -> list[Any]:
        """ARGV of the script. prove: look first whether the user may run every command that a commit may need."""
        return ["".join(["!" if prove else "", *self.checks]), "".join(self.writes), self.prefix, *self.args]

    def key_of(self, number: int, checks: Sequence[Check], writes: Sequence[Write]) -> Key:
        """Which record operation `number` (1-based, as the script replies) was about."""
        # Several operations may stem from one write; the first conflict among writes is a patched inode.
        if number <= len(checks):
            return checks[number - 1][1]
        return next((key for op, key, _ in writes if op == PATCH), ("?",))


Encode = Callable[[Program, Key, Any], None]

# -- checks: one operation each, so that the script's number is the index of the check -------------------------------


def _check(p: Program, letter: str, key: str, *args: Any) -> None:
    p.checks.append(letter)
    p.keys.append(key)
    p.args.extend(args)


def _check_identity(p: Program, key: Key, seen: Attr | None) -> None:
    if seen is None:
        _check(p, "M", f"{p.prefix}i{key[1]}")
    else:
        p.checks.append("I")
        p.keys.append(f"{p.prefix}i{key[1]}")
        p.args.append(m.identity(seen))


def _check_node(p: Program, key: Key, seen: Attr | None) -> None:
    name = f"{p.prefix}i{key[1]}"
    if seen is None:
        _check(p, "M", name)
    else:
        _check(p, "A", name, encode_attr(seen))


def _check_field(p: Program, name: str, field: Any, seen: Any) -> None:
    if seen is None:
        p.checks.append("N")
        p.keys.append(name)
        p.args.append(field)
    else:
        _check(p, "H", name, field, seen)


def _check_entry(p: Program, key: Key, seen: Any) -> None:
    _check_field(p, f"{p.prefix}d{key[1]}", key[2], None if seen is None else encode_entry(seen))


def _check_string(p: Program, name: str, seen: bytes | None) -> None:
    if seen is None:
        _check(p, "M", name)
    else:
        _check(p, "S", name, seen)


def _check_counter(p: Program, key: Key, seen: int) -> None:
    name, missing, shift = m.counter(key[1])
    _check(p, "C", p.prefix + name, seen - shift, missing)


def _check_list(p: Program, key: Key, seen: bytes | None) -> None:
    name = f"{p.prefix}c{key[1]}_{key[2]}"
    if seen:
        _check(p, "L", name, seen)
    else:
        _check(p, "M", name)


def _check_chunks(p: Program, key: Key, seen: dict[int, bytes]) -> None:
    flat = [x for pair in seen.items() for x in pair]
    _check(p, "G", f"{p.prefix}c{key[1]}_", min(key[2], MAX_ABSENT), len(seen), *flat)


def _check_hash(p: Program, name: str, seen: dict[Any, Any]) -> None:
    if seen:
        _check(p, "D", name, len(seen), *[x for pair in seen.items() for x in pair])
    else:
        _check(p, "M", name)


def _check_parents(p: Program, key: Key, seen: dict[int, int]) -> None:
    _check(p, "P", f"{p.prefix}p{key[1]}", len(seen), *[x for pair in seen.items() for x in pair])


def _check_three(p: Program, names: Sequence[str], field: int, seen: Sequence[Any] | None) -> None:
    p.checks.append("V" if seen is None else "U")
    p.keys.extend([p.prefix + name for name in names])
    p.args.append(field)
    if seen is not None:
        p.args.extend(seen)


def _check_score(p: Program, name: str, member: Any, seen: int | None) -> None:
    if seen is None:
        _check(p, "z", name, member)
    else:
        _check(p, "Z", name, member, seen)


def _check_reference(p: Program, key: Key, seen: int | None) -> None:
    # A missing count and a stored 0 both mean one reference.
    _check(p, "R", p.prefix + "sliceRef", f"k{key[1]}_{key[2]}", 0 if seen is None else seen - 1)


def _locks(value: dict[tuple[int, int], Any] | None) -> dict[str, Any]:
    return {m.owner_field(sid, owner): lock for (sid, owner), lock in (value or {}).items()}


def _stat_values(value: Any) -> tuple[int, int, int] | None:
    return None if value is None else (value[1], value[0], value[2])  # as DIRSTAT_HASHES: space, length, inodes


def _quota_values(value: Any) -> tuple[bytes, int, int] | None:
    return None if value is None else (m.pack_limits(value[0], value[1]), value[2], value[3])


_CHECKS: Final[dict[str, Encode]] = {
    k.NODE: _check_node,
    k.ENTRY: _check_entry,
    k.SETTING: lambda p, key, v: _check_string(p, p.prefix + "setting", v),
    k.SYMLINK: lambda p, key, v: _check_string(p, f"{p.prefix}s{key[1]}", v),
    k.COUNTER: _check_counter,
    k.XATTR: lambda p, key, v: _check_field(p, f"{p.prefix}x{key[1]}", key[2], v),
    k.XATTRS: lambda p, key, v: _check_hash(p, f"{p.prefix}x{key[1]}", v),
    k.CHUNK: _check_list,
    k.CHUNKS: _check_chunks,
    k.PARENT: lambda p, key, v: _check_field(p, f"{p.prefix}p{key[1]}", key[2], v),
    k.PARENTS: _check_parents,
    k.OCCUPIED: lambda p, key, v: _check(p, "E" if v else "M", f"{p.prefix}d{key[1]}"),
    k.DIRSTAT: lambda p, key, v: _check_three(p, m.DIRSTAT_HASHES, key[1], _stat_values(v)),
    k.QUOTA: lambda p, key, v: _check_three(p, m.QUOTA_HASHES[key[1]], key[2], _quota_values(v)),
    k.SLICEREF: _check_reference,
    k.DELFILE: lambda p, key, v: _check_score(p, p.prefix + "delfiles", f"{key[1]}:{key[2]}", v),
    k.DELSLICES: lambda p, key, v: _check_field(p, p.prefix + "delSlices", f"{key[1]}_{key[2]}", v),
    k.SESSION: lambda p, key, v: _check_score(p, p.prefix + "allSessions", key[1], v),
    k.SESSIONINFO: lambda p, key, v: _check_field(p, p.prefix + "sessionInfos", key[1], v),
    k.SUSTAINED: lambda p, key, v: _check(p, "T" if v else "t", f"{p.prefix}session{key[1]}", key[2]),
    k.DETACHED: lambda p, key, v: _check_score(p, p.prefix + "detachedNodes", key[1], v),
    k.FLOCKS: lambda p, key, v: _check_hash(p, f"{p.prefix}lockf{key[1]}", _locks(v)),
    k.PLOCKS: lambda p, key, v: _check_hash(p, f"{p.prefix}lockp{key[1]}", _locks(v)),
    k.ACL: lambda p, key, v: _check_field(p, p.prefix + "acl", key[1], v),
}

# -- writes ----------------------------------------------------------------------------------------------------------


def _write(p: Program, letter: str, key: str, *args: Any) -> None:
    p.writes.append(letter)
    p.keys.append(key)
    p.args.extend(args)


def _node(letter: str) -> Encode:
    def encode(p: Program, key: Key, value: Attr) -> None:
        p.writes.append(letter)
        p.keys.append(f"{p.prefix}i{key[1]}")
        p.args.append(encode_attr(value))

    return encode


def _entry(letter: str) -> Encode:
    def encode(p: Program, key: Key, value: Any) -> None:
        p.dirs.append(key[1])
        p.writes.append(letter)
        p.keys.append(f"{p.prefix}d{key[1]}")
        p.args.append(key[2])
        if value is not None:
            p.args.append(encode_entry(value))

    return encode


def _patch(p: Program, key: Key, patch: NodePatch) -> None:
    p.keys.append(f"{p.prefix}i{key[1]}")
    mtime, ctime = patch.mtime_ns, patch.ctime_ns
    if not patch.nlink and mtime is not None and ctime is not None:
        p.writes.append("p")
        p.args.append(m.pack_times(mtime, ctime))
    else:
        p.writes.append("q")
        p.args.extend((patch.nlink, m.pack_time(mtime), m.pack_time(ctime)))


def _records(raw: bytes) -> bytes:
    if len(raw) % SLICE_BYTES:
        raise ValueError(f"chunk value of {len(raw)} bytes is no multiple of {SLICE_BYTES}")
    return raw


def _chunk(letter: str) -> Encode:
    def encode(p: Program, key: Key, raw: bytes) -> None:
        name = f"{p.prefix}c{key[1]}_{key[2]}"
        if raw:
            _write(p, letter, name, _records(raw))
            if letter == "r":
                p.appended.append(f"{p.prefix}i{key[1]}")
        elif letter == "l":
            _write(p, "d", name)

    return encode


def _put_xattrs(p: Program, key: Key, value: dict[bytes, bytes]) -> None:
    _write(p, "X", f"{p.prefix}x{key[1]}", len(value), *[x for pair in value.items() for x in pair])


def _put_parents(p: Program, key: Key, value: dict[int, int]) -> None:
    _write(p, "X", f"{p.prefix}p{key[1]}", len(value), *[x for pair in value.items() for x in pair])


def _lock_table(name: str) -> Encode:
    def encode(p: Program, key: Key, value: dict[tuple[int, int], Any] | None) -> None:
        flat = [x for pair in _locks(value).items() for x in pair]
        _write(p, "F", f"{p.prefix}{name}{key[1]}", len(flat) // 2, *flat)

    return encode


def _three(letter: str, names: Callable[[Key], Sequence[str]], values: Callable[[Any], Sequence[Any] | None]) -> Encode:
    """HSET, HSETNX or HDEL of one field in three hashes."""

    def encode(p: Program, key: Key, value: Any) -> None:
        stored = values(value) or ((),) * 3
        for name, v in zip(names(key), stored, strict=True):
            _write(p, letter, p.prefix + name, key[-1], *(() if v == () else (v,)))

    return encode


def _counter_put(letter: str) -> Encode:
    def encode(p: Program, key: Key, value: int) -> None:
        name, _, shift = m.counter(key[1])
        _write(p, letter, p.prefix + name, value - shift)

    return encode


def _counter_add(p: Program, key: Key, delta: int) -> None:
    name, missing, _ = m.counter(key[1])
    if missing:
        _write(p, "s", p.prefix + name, missing)
    p.writes.append("i")
    p.keys.append(p.prefix + name)
    p.args.append(delta)


def _reference_put_new(p: Program, key: Key, count: int) -> None:
    if count != 1:  # one reference needs no record (format §3.4)
        _write(p, "h", p.prefix + "sliceRef", f"k{key[1]}_{key[2]}", count - 1)


def _reference_delete(p: Program, key: Key, value: Any) -> None:
    field = f"k{key[1]}_{key[2]}"
    _write(p, "x", p.prefix + "sliceRef", field)
    _write(p, "d", p.prefix + field)  # where very old volumes keep it (format §4.3)


def _log(p: Program, key: Key, line: bytes) -> None:
    p.writes.append("g")
    p.keys.extend((p.prefix + m.LOG, p.prefix + m.LAST_LOG))
    p.args.append(line)


def _add_dirstat(p: Program, key: Key, delta: Any) -> None:
    p.writes.append("u")
    p.keys.extend([p.prefix + name for name in m.DIRSTAT_HASHES])
    p.args.extend((key[1], delta[1], delta[0], delta[2]))


def _add_quota(p: Program, key: Key, delta: Any) -> None:
    p.writes.append("v")
    p.keys.extend([p.prefix + name for name in m.QUOTA_HASHES[key[1]]])
    p.args.extend((key[2], delta[0], delta[1]))


def _sustained(p: Program, key: Key, value: Any) -> None:
    _write(p, "a" if value else "b", f"{p.prefix}session{key[1]}", key[2])


def _string(letter: str, name: Callable[[Key], str]) -> Encode:
    if letter == "d":
        return lambda p, key, v: _write(p, "d", p.prefix + name(key))
    return lambda p, key, v: _write(p, letter, p.prefix + name(key), v)


def _field(letter: str, name: Callable[[Key], str], field: Callable[[Key], Any]) -> Encode:
    if letter == "x":
        return lambda p, key, v: _write(p, "x", p.prefix + name(key), field(key))
    return lambda p, key, v: _write(p, letter, p.prefix + name(key), field(key), v)


def _score(letter: str, name: str, member: Callable[[Key], Any]) -> Encode:
    if letter == "Z":
        return lambda p, key, v: _write(p, "Z", p.prefix + name, member(key))
    return lambda p, key, v: _write(p, letter, p.prefix + name, v, member(key))


def _end_session(p: Program, key: Key, value: Any) -> None:
    _write(p, "Z", p.prefix + "allSessions", key[1])
    if not p.prefix:
        _write(p, "Z", m.OLD_SESSIONS, key[1])


def _scalars(string: str, field: str, score: str, three: str) -> dict[str, Encode]:
    """The kinds that PUT, PUT_NEW and DELETE treat alike, given the letters of the operation."""

    def stat_names(key: Key) -> Sequence[str]:
        return m.DIRSTAT_HASHES

    def quota_names(key: Key) -> Sequence[str]:
        return m.QUOTA_HASHES[key[1]]

    return {
        k.SETTING: _string(string, lambda key: "setting"),
        k.SYMLINK: _string(string, lambda key: f"s{key[1]}"),
        k.XATTR: _field(field, lambda key: f"x{key[1]}", lambda key: key[2]),
        k.PARENT: _field(field, lambda key: f"p{key[1]}", lambda key: key[2]),
        k.DELSLICES: _field(field, lambda key: "delSlices", lambda key: f"{key[1]}_{key[2]}"),
        k.SESSIONINFO: _field(field, lambda key: "sessionInfos", lambda key: key[1]),
        k.ACL: _field(field, lambda key: "acl", lambda key: key[1]),
        k.DELFILE: _score(score, "delfiles", lambda key: f"{key[1]}:{key[2]}"),
        k.SESSION: _score(score, "allSessions", lambda key: key[1]),
        k.DETACHED: _score(score, "detachedNodes", lambda key: key[1]),
        k.DIRSTAT: _three(three, stat_names, _stat_values),
        k.QUOTA: _three(three, quota_names, _quota_values),
        k.SUSTAINED: _sustained,
        k.ENTRY: _entry(field),
    }


_WRITES: Final[dict[int, dict[str, Encode]]] = {
    PUT: {
        **_scalars("S", "H", "z", "H"),
        k.NODE: _node("S"),
        k.COUNTER: _counter_put("S"),
        k.XATTRS: _put_xattrs,
        k.PARENTS: _put_parents,
        k.CHUNK: _chunk("l"),
        k.FLOCKS: _lock_table("lockf"),
        k.PLOCKS: _lock_table("lockp"),
        k.SLICEREF: lambda p, key, v: _write(p, "H", p.prefix + "sliceRef", f"k{key[1]}_{key[2]}", v - 1),
    },
    PUT_NEW: {
        **_scalars("s", "h", "y", "h"),
        k.NODE: _node("s"),
        k.COUNTER: _counter_put("s"),
        k.CHUNK: _chunk("R"),
        k.SLICEREF: _reference_put_new,
    },
    DELETE: {
        **_scalars("d", "x", "Z", "x"),
        k.SESSION: _end_session,
        k.NODE: _string("d", lambda key: f"i{key[1]}"),
        k.COUNTER: _string("d", lambda key: m.counter(key[1]).key),
        k.XATTRS: _string("d", lambda key: f"x{key[1]}"),
        k.PARENTS: _string("d", lambda key: f"p{key[1]}"),
        k.CHUNK: _string("d", lambda key: f"c{key[1]}_{key[2]}"),
        k.FLOCKS: _lock_table("lockf"),
        k.PLOCKS: _lock_table("lockp"),
        k.SLICEREF: _reference_delete,
    },
    ADD: {
        k.COUNTER: _counter_add,
        k.PARENT: lambda p, key, v: _write(p, "j", f"{p.prefix}p{key[1]}", key[2], v),
        k.SLICEREF: lambda p, key, v: _write(p, "k", p.prefix + "sliceRef", f"k{key[1]}_{key[2]}", v),
        k.DIRSTAT: _add_dirstat,
        k.QUOTA: _add_quota,
    },
    APPEND: {k.CHUNK: _chunk("r")},
    PATCH: {k.NODE: _patch},
    LOG: {k.CHANGELOG: _log},
}
