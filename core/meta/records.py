# SPDX-License-Identifier: Apache-2.0
"""Metadata records: what one inode, entry, slice … consists of, and its binary form.

Pure values and codecs; no IO, no clock. Layouts: JuiceFS volume format, metadata version 1.
Integers are big endian unless a comment says otherwise. Times are nanoseconds since the epoch (int, may be negative).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import msgspec

CHUNK_SIZE: Final = 1 << 26
CHUNK_BITS: Final = 26
MAX_FILE_LENGTH: Final = 1 << 57
MAX_NAME: Final = 255
MAX_SYMLINK: Final = 4096

ROOT: Final = 1
TRASH: Final = 0x7FFFFFFF10000000
TRASH_NAME: Final = b".trash"
INTERNAL_BASE: Final = 0x7FFFFFFF00000000

# Node types (stored) and how `stat` calls them.
FILE: Final = 1
DIRECTORY: Final = 2
SYMLINK: Final = 3
FIFO: Final = 4
BLOCKDEV: Final = 5
CHARDEV: Final = 6
SOCKET: Final = 7
S_IFMT: Final = {
    FILE: 0o100000,
    DIRECTORY: 0o040000,
    SYMLINK: 0o120000,
    FIFO: 0o010000,
    BLOCKDEV: 0o060000,
    CHARDEV: 0o020000,
    SOCKET: 0o140000,
}

FLAG_IMMUTABLE: Final = 0x01
FLAG_APPEND: Final = 0x02
FLAG_SKIP_TRASH: Final = 0x20


class Attr(msgspec.Struct, frozen=True, gc=False):
    """Attributes of one inode. `mode` holds the permission bits only (07777)."""

    type: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    length: int
    rdev: int = 0
    parent: int = 0
    flags: int = 0
    access_acl: int = 0
    default_acl: int = 0
    tier: int = 0

    @property
    def is_dir(self) -> bool:
        return self.type == DIRECTORY

    @property
    def is_file(self) -> bool:
        return self.type == FILE

    @property
    def st_mode(self) -> int:
        return S_IFMT.get(self.type, 0) | self.mode

    @property
    def in_trash(self) -> bool:
        """Directly inside an hourly trash directory (strictly greater; spec semantics §1.2)."""
        return self.parent > TRASH


class Entry(NamedTuple):
    """A directory entry: what a name in a directory points to."""

    type: int
    ino: int


class Slice(NamedTuple):
    """One slice record of a chunk, 24 bytes. `id` 0 means zeros.

    pos: offset inside the chunk; size: whole slice as stored; off, length: the part in use.
    """

    pos: int
    id: int
    size: int
    off: int
    length: int


class DirStat(NamedTuple):
    """Sum over the direct children of a directory."""

    length: int
    space: int
    inodes: int


class Quota(NamedTuple):
    max_space: int
    max_inodes: int
    used_space: int
    used_inodes: int


class NodePatch(msgspec.Struct, frozen=True, gc=False):
    """A blind change of an existing inode: relative link count, absolute times. None leaves a field alone."""

    nlink: int = 0
    mtime_ns: int | None = None
    ctime_ns: int | None = None


# offset 0 u8 flags | 1 u16 type<<12|mode | 3 u32 uid | 7 u32 gid | 11 i64+u32 atime | 23 i64+u32 mtime
# | 35 i64+u32 ctime | 47 u32 nlink | 51 u64 length | 59 u32 rdev | 63 u64 parent | 71
_ATTR = struct.Struct(">BHIIqIqIqIIQIQ")
_ACLS = struct.Struct(">II")
_ENTRY = struct.Struct(">BQ")
_SLICE = struct.Struct(">IQIII")
SLICE_BYTES: Final = 24
_NS: Final = 1_000_000_000


def encode_attr(attr: Attr) -> bytes:
    """Binary attribute: 71 bytes, then ACL ids and tier if set, then one zero byte (format §2)."""
    a_s, a_n = divmod(attr.atime_ns, _NS)
    m_s, m_n = divmod(attr.mtime_ns, _NS)
    c_s, c_n = divmod(attr.ctime_ns, _NS)
    head = _ATTR.pack(
        attr.flags, attr.type << 12 | attr.mode, attr.uid, attr.gid,
        a_s, a_n, m_s, m_n, c_s, c_n, attr.nlink, attr.length, attr.rdev, attr.parent,
    )  # fmt: skip
    if attr.access_acl or attr.default_acl:
        head += _ACLS.pack(attr.access_acl, attr.default_acl)
    if attr.tier:
        head += bytes((attr.tier,))
    return head + b"\0"


def decode_attr(raw: bytes) -> Attr:
    """Inverse of `encode_attr`; accepts old (64 bytes) and unpadded forms. Raises ValueError if too short."""
    size = len(raw)
    if size < 63:
        raise ValueError(f"attribute record of {size} bytes, expected at least 63")
    parent = access = default = tier = 0
    if size >= 71:
        flags, tmode, uid, gid, a_s, a_n, m_s, m_n, c_s, c_n, nlink, length, rdev, parent = _ATTR.unpack_from(raw)
        at = 71
        if size - at >= 8:
            access, default = _ACLS.unpack_from(raw, at)
            at += 8
        if size > at:
            tier = raw[at]
    else:
        padded = raw[:63] + bytes(8)
        flags, tmode, uid, gid, a_s, a_n, m_s, m_n, c_s, c_n, nlink, length, rdev, _ = _ATTR.unpack_from(padded)
    return Attr(
        tmode >> 12, tmode & 0o7777, uid, gid, a_s * _NS + a_n, m_s * _NS + m_n, c_s * _NS + c_n,
        nlink, length, rdev, parent, flags, access, default, tier,
    )  # fmt: skip


def encode_entry(entry: Entry) -> bytes:
    return _ENTRY.pack(entry.type, entry.ino)


def decode_entry(raw: bytes) -> Entry:
    return Entry(*_ENTRY.unpack(raw))


def encode_slice(s: Slice) -> bytes:
    return _SLICE.pack(*s)


def encode_slices(slices: list[Slice]) -> bytes:
    return b"".join([_SLICE.pack(*s) for s in slices])


def decode_slices(raw: bytes) -> list[Slice]:
    """All records of a chunk, oldest first. Raises ValueError unless the length is a multiple of 24."""
    if len(raw) % SLICE_BYTES:
        raise ValueError(f"chunk value of {len(raw)} bytes is no multiple of {SLICE_BYTES}")
    return [Slice(*t) for t in _SLICE.iter_unpack(raw)]


def align4k(length: int) -> int:
    """Space a file of this length is charged: multiples of 4096, an empty file too (format §1.1)."""
    return 4096 if length <= 0 else (length + 4095) & ~4095


def node_space(attr: Attr) -> int:
    return align4k(attr.length) if attr.type == FILE else 4096
