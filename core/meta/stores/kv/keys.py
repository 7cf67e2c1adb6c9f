# SPDX-License-Identifier: Apache-2.0
"""Record keys as bytes of a key-value store, and back. Pure.

Inodes are 8 bytes little endian, everything else big endian. Source: format §6.2, §6.3, test vectors §12.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

from core.meta import keys as k
from core.meta.keys import Key
from core.meta.stores.kv.driver import Range

_INO: Final = struct.Struct("<Q")
_U64: Final = struct.Struct(">Q")
_U32: Final = struct.Struct(">I")

_QUOTA_LETTERS: Final = (b"QD", b"QU", b"QG")

#: Kinds whose value is many keys: letter after the inode.
_GROUPS: Final = {k.XATTRS: b"X", k.CHUNKS: b"C", k.PARENTS: b"P", k.OCCUPIED: b"D"}
#: Kinds of one inode in the A space: letter, and how long its key is (0: it has a name of any length behind it).
_OF_INODE: Final = {
    k.NODE: (b"I", 10), k.ENTRY: (b"D", 0), k.SYMLINK: (b"S", 10), k.XATTR: (b"X", 0), k.CHUNK: (b"C", 14),
    k.PARENT: (b"P", 18),
}  # fmt: skip
#: Other kinds that are scanned: prefixes and the only length that counts; anything else there isn't ours.
_SPACES: Final = {
    k.SLICEREF: ((b"K",), 13), k.DELFILE: ((b"D",), 17), k.DELSLICES: ((b"L",), 17), k.SUSTAINED: ((b"SS",), 18),
    k.SESSION: ((b"SE", b"SH"), 10), k.DETACHED: ((b"N",), 9), k.DIRSTAT: ((b"U",), 9), k.QUOTA: (_QUOTA_LETTERS, 10),
    k.FLOCKS: ((b"F",), 9), k.PLOCKS: ((b"P",), 9), k.ACL: ((b"R",), 5),
}  # fmt: skip


def ino(raw: bytes, at: int = 1) -> int:
    """The inode at this offset of a key."""
    number: int = _INO.unpack_from(raw, at)[0]
    return number


def after(prefix: bytes) -> bytes:
    """The first key behind all keys with this prefix: last byte + 1, with carry. All bytes 0xFF: nothing is."""
    kept = prefix.rstrip(b"\xff")
    if not kept:
        raise ValueError("no key lies behind a prefix of 0xFF bytes")
    return kept[:-1] + bytes((kept[-1] + 1,))


def _inode_key(letter: bytes) -> Callable[[Key], bytes]:
    return lambda key: b"A" + _INO.pack(key[1]) + letter


def _named_key(letter: bytes) -> Callable[[Key], bytes]:
    return lambda key: b"A" + _INO.pack(key[1]) + letter + key[2]


def _plain_inode_key(letter: bytes) -> Callable[[Key], bytes]:
    return lambda key: letter + _INO.pack(key[1])


def _number_key(letters: bytes) -> Callable[[Key], bytes]:
    return lambda key: letters + _U64.pack(key[1])


_ENCODERS: Final[dict[str, Callable[[Key], bytes]]] = {
    k.SETTING: lambda key: b"setting",
    k.COUNTER: lambda key: b"C" + key[1].encode(),
    k.NODE: _inode_key(b"I"),
    k.ENTRY: _named_key(b"D"),
    k.SYMLINK: _inode_key(b"S"),
    k.XATTR: _named_key(b"X"),
    k.CHUNK: lambda key: b"A" + _INO.pack(key[1]) + b"C" + _U32.pack(key[2]),
    k.PARENT: lambda key: b"A" + _INO.pack(key[1]) + b"P" + _INO.pack(key[2]),
    k.DIRSTAT: _plain_inode_key(b"U"),
    k.QUOTA: lambda key: _QUOTA_LETTERS[key[1]] + (_INO if key[1] == 0 else _U64).pack(key[2]),
    k.SLICEREF: lambda key: b"K" + _U64.pack(key[1]) + _U32.pack(key[2]),
    k.DELFILE: lambda key: b"D" + _INO.pack(key[1]) + _U64.pack(key[2]),
    k.DELSLICES: lambda key: b"L" + _U64.pack(key[2]) + _U64.pack(key[1]),
    k.SESSION: _number_key(b"SE"),
    k.SESSIONINFO: _number_key(b"SI"),
    k.SUSTAINED: lambda key: b"SS" + _U64.pack(key[1]) + _INO.pack(key[2]),
    k.DETACHED: _plain_inode_key(b"N"),
    k.FLOCKS: _plain_inode_key(b"F"),
    k.PLOCKS: _plain_inode_key(b"P"),
    k.ACL: lambda key: b"R" + _U32.pack(key[1]),
}

_DECODERS: Final[dict[str, Callable[[bytes], Key]]] = {
    k.NODE: lambda raw: (k.NODE, ino(raw)),
    k.ENTRY: lambda raw: (k.ENTRY, ino(raw), raw[10:]),
    k.SYMLINK: lambda raw: (k.SYMLINK, ino(raw)),
    k.XATTR: lambda raw: (k.XATTR, ino(raw), raw[10:]),
    k.CHUNK: lambda raw: (k.CHUNK, ino(raw), *_U32.unpack_from(raw, 10)),
    k.PARENT: lambda raw: (k.PARENT, ino(raw), ino(raw, 10)),
    k.SLICEREF: lambda raw: (k.SLICEREF, *_U64.unpack_from(raw, 1), *_U32.unpack_from(raw, 9)),
    k.DELFILE: lambda raw: (k.DELFILE, ino(raw), *_U64.unpack_from(raw, 9)),
    k.DELSLICES: lambda raw: (k.DELSLICES, *_U64.unpack_from(raw, 9), *_U64.unpack_from(raw, 1)),
    k.SESSION: lambda raw: (k.SESSION, *_U64.unpack_from(raw, 2)),
    k.SUSTAINED: lambda raw: (k.SUSTAINED, *_U64.unpack_from(raw, 2), ino(raw, 10)),
    k.DETACHED: lambda raw: (k.DETACHED, ino(raw)),
    k.DIRSTAT: lambda raw: (k.DIRSTAT, ino(raw)),
    k.QUOTA: lambda raw: (
        k.QUOTA, _QUOTA_LETTERS.index(raw[:2]), ino(raw, 2) if raw[1:2] == b"D" else _U64.unpack_from(raw, 2)[0]
    ),
    k.FLOCKS: lambda raw: (k.FLOCKS, ino(raw)),
    k.PLOCKS: lambda raw: (k.PLOCKS, ino(raw)),
    k.ACL: lambda raw: (k.ACL, *_U32.unpack_from(raw, 1)),
}  # fmt: skip


class KeyCodec:
    """Keys of one volume.

    prefix: bytes before every key (format §6.1). log_shards: change-log keys carry a byte of so many values (TiKV),
    or none at all (0).
    """

    def __init__(self, prefix: bytes, log_shards: int = 0) -> None:
        self.prefix = prefix
        self.log_shards = log_shards

    @property
    def everything(self) -> tuple[bytes, bytes]:
        """The volume's part of the key space."""
        return self.prefix, after(self.prefix)

    def encode(self, key: Key) -> bytes:
        """The one key of a record; KeyError for kinds that are a group of keys."""
        if key[0] == k.CHANGELOG:
            return self.log_key(key[1])
        return self.prefix + _ENCODERS[key[0]](key)

    @staticmethod
    def is_group(key: Key) -> bool:
        return key[0] in _GROUPS

    def group(self, key: Key) -> Range:
        """Where the members of xattrs, chunks, parents lie, and the first entry of a directory (`occupied`)."""
        head = self.prefix + b"A" + _INO.pack(key[1]) + _GROUPS[key[0]]
        if key[0] == k.CHUNKS:
            return Range(head + _U32.pack(0), head + _U32.pack(min(key[2], 0xFFFFFFFF)))
        if key[0] == k.OCCUPIED:
            return Range(head, after(head), 1, True)
        return Range(head, after(head))

    def member(self, group: Key, raw: bytes) -> Any:
        """What distinguishes a member within its group: xattr name, chunk index, parent inode."""
        tail = raw[len(self.prefix) + 10 :]
        if group[0] == k.XATTRS:
            return tail
        return (_U32 if group[0] == k.CHUNKS else _INO).unpack(tail)[0]

    def members(self, group: Key, value: dict[Any, Any]) -> list[Key]:
        """Keys of the members of a group with this value."""
        kind = {k.XATTRS: k.XATTR, k.CHUNKS: k.CHUNK, k.PARENTS: k.PARENT}[group[0]]
        return [(kind, group[1], member) for member in value]

    def entries(self, parent: int, after_name: bytes, limit: int) -> Range:
        """A page of a directory: names > after_name (a name is never empty)."""
        head = self.prefix + b"A" + _INO.pack(parent) + b"D"
        return Range(head + after_name + b"\0" if after_name else head, after(head), limit)

    def name(self, raw: bytes) -> bytes:
        """Entry name in an entry's key."""
        return raw[len(self.prefix) + 10 :]

    # -- scanning ------------------------------------------------------------------------------------------------

    def spaces(self, kind: str, start: Any = None) -> Sequence[tuple[bytes, bytes]]:
        """Ranges [start, end) in which the records of a kind lie."""
        if kind in _OF_INODE:
            heads: Sequence[bytes] = (b"A",)
        elif kind == k.CHANGELOG:
            return self._log_spaces(start)
        elif kind == k.SUSTAINED and start is not None:
            heads = (b"SS" + _U64.pack(start),)
        else:
            heads = _SPACES[kind][0]
        return [(self.prefix + head, after(self.prefix + head)) for head in heads]

    def decode(self, kind: str, raw: bytes) -> Key | None:
        """The record's key; None if this key is of another kind (or of nobody we know)."""
        raw = raw[len(self.prefix) :]
        if kind in _OF_INODE:
            letter, length = _OF_INODE[kind]
            if raw[9:10] != letter or (len(raw) != length if length else len(raw) <= 10):
                return None
        elif kind == k.CHANGELOG:
            return self._log_version(raw)
        elif len(raw) != _SPACES[kind][1]:
            return None
        return _DECODERS[kind](raw)

    def legacy_session(self, key: Key) -> bytes:
        """Where clients before 1.0-beta3 register the session `key`."""
        return self.prefix + b"SH" + _U64.pack(key[1])

    def is_legacy_session(self, raw: bytes) -> bool:
        return raw.startswith(b"SH", len(self.prefix))

    # -- change log ----------------------------------------------------------------------------------------------

    def log_key(self, version: int) -> bytes:
        """`XLOG`, with shards a byte that spreads the load, the version (format §6.3)."""
        shard = bytes(((version ^ version >> 18) % self.log_shards,)) if self.log_shards else b""
        return self.prefix + b"XLOG" + shard + _U64.pack(version)

    def _log_version(self, raw: bytes) -> Key | None:
        at = 5 if self.log_shards else 4
        return (k.CHANGELOG, *_U64.unpack_from(raw, at)) if len(raw) == at + 8 else None

    def _log_spaces(self, start: int | None) -> list[tuple[bytes, bytes]]:
        first = _U64.pack(0 if start is None else start + 1)
        heads = [b"XLOG" + bytes((shard,)) for shard in range(self.log_shards)] or [b"XLOG"]
        return [(self.prefix + head + first, after(self.prefix + head)) for head in heads]
