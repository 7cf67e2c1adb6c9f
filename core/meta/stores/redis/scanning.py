# SPDX-License-Identifier: Apache-2.0
"""Walking over every record of a kind, a page at a time.

Redis promises that what is there from beginning to end of a scan is returned; it may return a record twice when a
table is resized meanwhile. Records that vanish between the page of names and its values are left out.
Each page of names leaves together with the request for the values of the page before: one round trip per page.
Source: format §4.3 (names), §4.7 (quotas are listed by their UsedInodes hash), semantics §10.1 (old sessions).
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Protocol

from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import decode_attr, decode_entry
from core.meta.stores.redis import mapping as m
from core.meta.stores.redis.reading import Command, damaged

PAGE: Final = 1000
#: Hashes and lists of unknown size are fetched this many at once.
GROUP: Final = 100

Record = tuple[Key, Any]


class Fetch(Protocol):
    """Replies of several commands, one round trip, no snapshot."""

    async def __call__(self, commands: Sequence[Command]) -> list[Any]: ...


async def scan(fetch: Fetch, prefix: str, kind: str, start: Any = None) -> AsyncIterator[Record]:
    """Records of a kind. SUSTAINED: of session `start`; SLICEREF: with a count of at most `start`."""
    if kind in _STRINGS:
        pages = _strings(fetch, prefix, kind)
    elif kind in _FIELDS:
        pages = _fields(fetch, prefix, kind, start)
    elif kind in _MEMBERS:
        pages = _members(fetch, prefix, kind)
    elif kind == k.SUSTAINED and start is not None:
        pages = _group_values(fetch, prefix, kind, [b"%bsession%d" % (prefix.encode(), start)])
    elif kind in _GROUPS:
        pages = _groups(fetch, prefix, kind)
    else:
        raise ValueError(f"kind {kind!r} can't be scanned")
    async for page in pages:
        for record in page:
            yield record


async def names_like(fetch: Fetch, pattern: str) -> AsyncIterator[list[bytes]]:
    """Keys by pattern; each key once per page."""
    cursor: bytes | int = 0
    while True:
        ((cursor, names),) = await fetch([("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)])
        if names:
            yield list(dict.fromkeys(names))
        if cursor == b"0":
            return


def _decoded(key: Key, decode: Callable[[Any], Any], raw: Any) -> Any:
    try:
        return decode(raw)
    except (ValueError, struct.error) as e:
        raise damaged(key, e) from e


# -- strings: i<ino>, s<ino> ---------------------------------------------------------------------------------------

_STRINGS: Final[dict[str, tuple[Callable[[int], Key], Callable[[bytes], Any]]]] = {
    k.NODE: (k.node, decode_attr),
    k.SYMLINK: (k.symlink, bytes),
}


async def _strings(fetch: Fetch, prefix: str, kind: str) -> AsyncIterator[list[Record]]:
    make, decode = _STRINGS[kind]
    head = len(prefix) + 1
    cursor: bytes | int = 0
    names: list[bytes] = []
    more = True
    while more or names:
        commands: list[Command] = []
        if more:
            commands.append(("SCAN", cursor, "MATCH", f"{prefix}{kind}[0-9]*", "COUNT", PAGE))
        if names:
            commands.append(("MGET", *names))
        replies = await fetch(commands)
        values = replies[-1] if names else []
        page = []
        for name, raw in zip(names, values, strict=True):
            if raw is not None:
                key = make(int(name[head:]))
                page.append((key, _decoded(key, decode, raw)))
        names = []
        if more:
            cursor, found = replies[0]
            names = list(dict.fromkeys(found))
            more = cursor != b"0"
        yield page


# -- fields of one hash --------------------------------------------------------------------------------------------


def _two(field: bytes) -> tuple[int, int]:
    left, _, right = field.partition(b"_")
    return int(left), int(right)


#: kind → the hash that is walked, hashes asked for the same fields, field → key, stored values → value.
_FIELDS: Final[dict[str, Sequence[tuple[str, Sequence[str], Callable[[bytes], Key], Callable[..., Any]]]]] = {
    k.SLICEREF: [("sliceRef", (), lambda f: k.sliceref(*_two(f[1:])), lambda v: int(v) + 1)],
    k.DELSLICES: [("delSlices", (), lambda f: k.delslices(*_two(f)), bytes)],
    k.SESSIONINFO: [("sessionInfos", (), lambda f: k.sessioninfo(int(f)), bytes)],
    k.ACL: [("acl", (), lambda f: k.acl(int(f)), bytes)],
    k.DIRSTAT: [
        (
            m.DIRSTAT_HASHES[0],
            m.DIRSTAT_HASHES[1:],
            lambda f: k.dirstat(int(f)),
            lambda space, length, inodes: None if None in (length, inodes) else m.dirstat(space, length, inodes),
        )
    ],
    k.QUOTA: [
        (
            used_inodes,
            (limits, used_space),
            lambda f, kind=kind: k.quota(kind, int(f)),  # type: ignore[misc]
            lambda inodes, limits, space: m.quota(limits, space, inodes),
        )
        for kind, (limits, used_space, used_inodes) in enumerate(m.QUOTA_HASHES)
    ],
}


async def _old_references(fetch: Fetch, prefix: str) -> AsyncIterator[list[Record]]:
    """Counts that very old volumes keep under keys of their own, where the hash has none (format §4.3)."""
    head = len(prefix) + 1
    async for names in names_like(fetch, f"{prefix}k[0-9]*_*"):
        values, newer = await fetch([("MGET", *names), ("HMGET", f"{prefix}sliceRef", *[n[head - 1 :] for n in names])])
        yield [
            (k.sliceref(*_two(name[head:])), int(value) + 1)
            for name, value, new in zip(names, values, newer, strict=True)
            if value is not None and new is None
        ]


async def _fields(fetch: Fetch, prefix: str, kind: str, start: Any) -> AsyncIterator[list[Record]]:
    for name, others, make, decode in _FIELDS[kind]:
        cursor: bytes | int = 0
        while cursor != b"0":
            ((cursor, flat),) = await fetch([("HSCAN", prefix + name, cursor, "COUNT", PAGE)])
            found = dict(m.pairs(flat))
            columns: list[list[Any]] = [list(found.values())]
            if found and others:
                columns += await fetch([("HMGET", prefix + other, *found) for other in others])
            page = []
            for field, *values in zip(found, *columns, strict=True):
                key = make(field)
                value = _decoded(key, lambda v: decode(*v), values)  # noqa: B023 - used at once
                if value is not None and not (kind == k.SLICEREF and start is not None and value > start):
                    page.append((key, value))
            yield page
    if kind == k.SLICEREF and start is None:
        # Who wants all of them walks over all chunks as well. The hourly look for unused slices doesn't, and such
        # volumes have their counts moved into the hash by gc, or by the next change of each.
        async for page in _old_references(fetch, prefix):
            yield page


# -- members of a sorted set ---------------------------------------------------------------------------------------


def _deleted(member: bytes) -> Key:
    ino, _, length = member.partition(b":")
    return k.delfile(int(ino), int(length))


_MEMBERS: Final[dict[str, tuple[str, Callable[[bytes], Key]]]] = {
    k.DELFILE: ("delfiles", _deleted),
    k.SESSION: ("allSessions", lambda member: k.session(int(member))),
    k.DETACHED: ("detachedNodes", lambda member: k.detached(int(member))),
}


async def _members(fetch: Fetch, prefix: str, kind: str) -> AsyncIterator[list[Record]]:
    name, make = _MEMBERS[kind]
    sets = [(prefix + name, 0)]
    if kind == k.SESSION and not prefix:
        sets.append((m.OLD_SESSIONS, m.OLD_SESSION_S))  # old clients never use a prefix
    for key, later in sets:
        cursor: bytes | int = 0
        while cursor != b"0":
            ((cursor, flat),) = await fetch([("ZSCAN", key, cursor, "COUNT", PAGE)])
            yield [(make(member), int(float(score)) + later) for member, score in dict(m.pairs(flat)).items()]


# -- one hash, list or set per inode or session ----------------------------------------------------------------------


def _chunk_key(name: bytes) -> Key:
    return k.chunk(*_two(name))


_Expand = Callable[[bytes, Any], list[Record]]

#: kind → pattern behind the prefix, command (with a cursor: a page), rest of the name and reply → records.
_GROUPS: Final[dict[str, tuple[str, str, _Expand]]] = {
    k.ENTRY: ("d", "HSCAN", lambda n, r: [(k.entry(int(n), name), decode_entry(raw)) for name, raw in m.pairs(r)]),
    k.XATTR: ("x", "HSCAN", lambda n, r: [(k.xattr(int(n), name), raw) for name, raw in m.pairs(r)]),
    k.PARENT: ("p", "HSCAN", lambda n, r: [(k.parent(int(n), int(p)), int(c)) for p, c in m.pairs(r) if int(c) > 0]),
    k.CHUNK: ("c", "LRANGE", lambda n, r: [(_chunk_key(n), b"".join(r))] if r else []),
    k.SUSTAINED: ("session", "SSCAN", lambda n, r: [(k.sustained(int(n), int(ino)), True) for ino in r]),
    k.FLOCKS: (
        "lockf",
        "HGETALL",
        lambda n, r: [(k.flocks(int(n)), {m.parse_owner(f): v.decode() for f, v in m.pairs(r)})] if r else [],
    ),
    k.PLOCKS: (
        "lockp",
        "HGETALL",
        lambda n, r: [(k.plocks(int(n)), {m.parse_owner(f): v for f, v in m.pairs(r)})] if r else [],
    ),
}


async def _groups(fetch: Fetch, prefix: str, kind: str) -> AsyncIterator[list[Record]]:
    # "d[0-9]*" keeps dirQuota, delfiles … apart; a chunk's name goes on with its index.
    pattern = f"{prefix}{_GROUPS[kind][0]}[0-9]*" + ("_*" if kind == k.CHUNK else "")
    async for names in names_like(fetch, pattern):
        async for page in _group_values(fetch, prefix, kind, names):
            yield page


async def _group_values(fetch: Fetch, prefix: str, kind: str, names: list[bytes]) -> AsyncIterator[list[Record]]:
    letters, command, expand = _GROUPS[kind]
    head = len(prefix) + len(letters)
    for at in range(0, len(names), GROUP):
        left: list[tuple[bytes, bytes | int]] = [(name, 0) for name in names[at : at + GROUP]]
        while left:
            commands: list[Command]
            if command == "LRANGE":
                commands = [(command, name, 0, -1) for name, _ in left]
            elif command == "HGETALL":
                commands = [(command, name) for name, _ in left]
            else:
                commands = [(command, name, cursor, "COUNT", PAGE) for name, cursor in left]
            replies = await fetch(commands)
            again = []
            for (name, _), reply in zip(left, replies, strict=True):
                rest, values = name[head:], reply
                if command.endswith("SCAN"):
                    cursor, values = reply
                    if cursor != b"0":
                        again.append((name, cursor))
                yield _decoded((kind, rest), lambda r: expand(rest, r), values)  # noqa: B023 - used at once
            left = again
