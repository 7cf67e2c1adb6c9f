# SPDX-License-Identifier: Apache-2.0
"""Reading records: which commands fetch a key, and how their replies become its value.

Pure: `plan` turns keys into commands and a function that decodes the replies. All plain strings of one read share a
MGET; several commands go as one MULTI block, so the values form one snapshot. Source: format §4.3, §4.6, §4.7, §3.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from core.errors import MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import decode_attr, decode_entry
from core.meta.stores.redis import mapping as m

Command = tuple[Any, ...]
Decode = Callable[[Any], Any]

#: `chunks(ino, count)` asks for each index up to here; above, whoever calls looks for the keys that exist.
MAX_INDEXES: Final = 1024


class _Text:
    """A value that one string command brings; combined into MGET."""

    __slots__ = ("decode", "name")

    def __init__(self, name: str, decode: Decode) -> None:
        self.name = name
        self.decode = decode


def _same(raw: Any) -> Any:
    return raw


def _attr(raw: bytes | None) -> Any:
    return None if raw is None else decode_attr(raw)


def _entry(raw: bytes | None) -> Any:
    return None if raw is None else decode_entry(raw)


def _number(raw: bytes | None) -> int | None:
    return None if raw is None else int(raw)


def _seconds(raw: bytes | None) -> int | None:
    return None if raw is None else int(float(raw))


def _references(replies: list[bytes | None]) -> int | None:
    """Of the hash field, or of the key that very old volumes have instead (format §4.3)."""
    raw = replies[0] if replies[0] is not None else replies[1]
    return None if raw is None else int(raw) + 1


def _slice_count(p: str, key: Key) -> _Many:
    field = f"k{key[1]}_{key[2]}"
    return _Many([("HGET", p + "sliceRef", field), ("GET", p + field)], _references)


def _joined(records: list[bytes]) -> bytes | None:
    return b"".join(records) or None


def _xattrs(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(m.pairs(flat))


def _parents(flat: list[bytes]) -> dict[int, int]:
    return {int(p): n for p, raw in m.pairs(flat) if (n := int(raw)) > 0}


def _flocks(flat: list[bytes]) -> dict[tuple[int, int], str]:
    return {m.parse_owner(field): value.decode("ascii", "replace") for field, value in m.pairs(flat)}


def _plocks(flat: list[bytes]) -> dict[tuple[int, int], bytes]:
    return {m.parse_owner(field): value for field, value in m.pairs(flat)}


def _three_hashes(prefix: str, names: Sequence[str], field: int) -> list[Command]:
    return [("HGET", prefix + name, field) for name in names]


def _dirstat(replies: list[Any]) -> Any:
    return None if None in replies else m.dirstat(*replies)


def _quota(replies: list[Any]) -> Any:
    return None if None in replies else m.quota(*replies)


class _One:
    """A value that one command brings."""

    __slots__ = ("command", "decode")

    def __init__(self, command: Command, decode: Decode) -> None:
        self.command = command
        self.decode = decode


class _Many:
    """A value that several commands bring; decoded from the list of their replies."""

    __slots__ = ("commands", "decode")

    def __init__(self, commands: list[Command], decode: Decode) -> None:
        self.commands = commands
        self.decode = decode


def _chunks(p: str, key: Key) -> _Many:
    """`key[2]` is a count, or a tuple of the indexes worth asking for."""
    indexes: Sequence[int] = range(key[2]) if isinstance(key[2], int) else key[2]
    return _Many(
        [("LRANGE", f"{p}c{key[1]}_{i}", 0, -1) for i in indexes],
        lambda replies: {i: b"".join(r) for i, r in zip(indexes, replies, strict=True) if r},
    )


def _counter(p: str, key: Key) -> _Text:
    name, missing, shift = m.counter(key[1])
    return _Text(p + name, lambda raw: (missing if raw is None else int(raw)) + shift)


_PLANS: Final[dict[str, Callable[[str, Key], _Text | _One | _Many]]] = {
    k.NODE: lambda p, key: _Text(f"{p}i{key[1]}", _attr),
    k.ENTRY: lambda p, key: _One(("HGET", f"{p}d{key[1]}", key[2]), _entry),
    k.SETTING: lambda p, key: _Text(p + "setting", _same),
    k.COUNTER: _counter,
    k.SYMLINK: lambda p, key: _Text(f"{p}s{key[1]}", _same),
    k.XATTR: lambda p, key: _One(("HGET", f"{p}x{key[1]}", key[2]), _same),
    k.XATTRS: lambda p, key: _One(("HGETALL", f"{p}x{key[1]}"), _xattrs),
    k.CHUNK: lambda p, key: _One(("LRANGE", f"{p}c{key[1]}_{key[2]}", 0, -1), _joined),
    k.CHUNKS: _chunks,
    k.PARENT: lambda p, key: _One(("HGET", f"{p}p{key[1]}", key[2]), _number),
    k.PARENTS: lambda p, key: _One(("HGETALL", f"{p}p{key[1]}"), _parents),
    k.OCCUPIED: lambda p, key: _One(("EXISTS", f"{p}d{key[1]}"), bool),
    k.DIRSTAT: lambda p, key: _Many(_three_hashes(p, m.DIRSTAT_HASHES, key[1]), _dirstat),
    k.QUOTA: lambda p, key: _Many(_three_hashes(p, m.QUOTA_HASHES[key[1]], key[2]), _quota),
    k.SLICEREF: _slice_count,
    k.DELFILE: lambda p, key: _One(("ZSCORE", p + "delfiles", f"{key[1]}:{key[2]}"), _seconds),
    k.DELSLICES: lambda p, key: _One(("HGET", p + "delSlices", f"{key[1]}_{key[2]}"), _same),
    k.SESSION: lambda p, key: _One(("ZSCORE", p + "allSessions", key[1]), _seconds),
    k.SESSIONINFO: lambda p, key: _One(("HGET", p + "sessionInfos", key[1]), _same),
    k.SUSTAINED: lambda p, key: _One(("SISMEMBER", f"{p}session{key[1]}", key[2]), bool),
    k.DETACHED: lambda p, key: _One(("ZSCORE", p + "detachedNodes", key[1]), _seconds),
    k.FLOCKS: lambda p, key: _One(("HGETALL", f"{p}lockf{key[1]}"), _flocks),
    k.PLOCKS: lambda p, key: _One(("HGETALL", f"{p}lockp{key[1]}"), _plocks),
    k.ACL: lambda p, key: _One(("HGET", p + "acl", key[1]), _same),
}


def damaged(key: Key, cause: Exception) -> MetaError:
    return MetaError(f"redis: record {key!r} can't be decoded ({cause}); run `sluice fsck`")


class Plan:
    """Commands of one read. `decode` takes their replies and gives the values in the order of the keys."""

    __slots__ = ("_keys", "_parts", "_texts", "commands")

    def __init__(self, prefix: str, keys: Sequence[Key]) -> None:
        self._keys = keys
        self._parts = [_PLANS[key[0]](prefix, key) for key in keys]
        self._texts = [part.name for part in self._parts if type(part) is _Text]
        self.commands: list[Command] = []
        if len(self._texts) == 1:
            self.commands.append(("GET", self._texts[0]))
        elif self._texts:
            self.commands.append(("MGET", *self._texts))
        for part in self._parts:
            if type(part) is _One:
                self.commands.append(part.command)
            elif type(part) is _Many:
                self.commands.extend(part.commands)

    def decode(self, replies: list[Any]) -> list[Any]:
        """Raises MetaError for a record that makes no sense."""
        count = len(self._texts)
        texts = replies[0] if count > 1 else replies
        text, at = 0, 1 if count else 0
        values = []
        for key, part in zip(self._keys, self._parts, strict=True):
            try:
                if type(part) is _Text:
                    values.append(part.decode(texts[text]))
                    text += 1
                elif type(part) is _One:
                    values.append(part.decode(replies[at]))
                    at += 1
                else:
                    assert type(part) is _Many
                    end = at + len(part.commands)
                    values.append(part.decode(replies[at:end]))
                    at = end
            except (ValueError, struct.error) as e:
                raise damaged(key, e) from e
        return values
