# SPDX-License-Identifier: Apache-2.0
"""Bodies of answers. The channel puts the 16-byte header before them.

Pure functions. What isn't here is its own body: bytes read, the target of a symbolic link, a list of attribute names.
Times are nanoseconds since 1970 and may be negative; how long the kernel may cache is a float of seconds.
Source: the kernel's public protocol header (linux/fuse.h); all numbers are in the machine's byte order.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from gateways.fuse.api import Buffer

# u64 ino size blocks | i64 atime mtime ctime (seconds) | u32 ns of each | mode nlink uid gid rdev blksize flags
_ATTR: Final = struct.Struct("=QQQqqqIIIIIIIIII")
# u64 nodeid generation entry_valid attr_valid | u32 ns of each | fuse_attr
_ENTRY: Final = struct.Struct("=QQQQII88s")
# u64 attr_valid | u32 ns, padding | fuse_attr
_ATTR_OUT: Final = struct.Struct("=QII88s")
# u64 fh | u32 open_flags | i32 backing_id (7.40; padding before)
_OPENED: Final = struct.Struct("=QIi")
_STATFS: Final = struct.Struct("=QQQQQIII28x")
_PAIR: Final = struct.Struct("=II")
_ONE64: Final = struct.Struct("=Q")
_LOCK: Final = struct.Struct("=QQII")
_IOCTL: Final = struct.Struct("=iIII")
_DIRENT: Final = struct.Struct("=QQII")
# u64 attr_valid | u32 ns, flags | u64 spare[2] | struct statx: u32 mask blksize | u64 attributes | u32 nlink uid gid |
# u16 mode, spare | u64 ino size blocks attributes_mask | atime btime ctime mtime | u32 rdev dev (major, minor) | spare
_STATX: Final = struct.Struct("=QII16x IIQIIIH2xQQQQ qI4xqI4xqI4xqI4x IIII112x")

_NS: Final = 1_000_000_000
_PADS: Final = tuple(bytes(-n & 7) for n in range(8))
#: What a name leads to, its attributes, and the name's own entry: what readdirplus says of each.
_NODE: Final = struct.Struct("=QQQQII QQQqqqIIIIIIIIII QQII")
_DIRENT_SIZE: Final = _DIRENT.size
_PLUS_SIZE: Final = _ENTRY.size + _DIRENT.size

#: What statx(2) calls the fields that stat(2) has too, and the birth time
STATX_BASIC_STATS: Final = 0x7FF
STATX_BTIME: Final = 0x800

_ttls: dict[float, tuple[int, int]] = {}


class Attributes(Protocol):
    """What stat(2) tells, under the names that the core uses."""

    @property
    def length(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rdev(self) -> int: ...


def _ttl(seconds: float) -> tuple[int, int]:
    """Seconds and nanoseconds. A mount uses two or three values all its life, so they are remembered."""
    found = _ttls.get(seconds)
    if found is None:
        whole = int(max(seconds, 0))
        found = (whole, min(_NS - 1, round((max(seconds, 0) - whole) * _NS)))
        if len(_ttls) < 1000:
            _ttls[seconds] = found
    return found


def pack_attr(
    ino: int,
    size: int,
    blocks: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    rdev: int,
    blksize: int = 65536,
) -> bytes:
    """fuse_attr, 88 bytes. mode includes the type (S_IFMT); blocks are 512 bytes; rdev as mknod brought it."""
    return _ATTR.pack(
        ino,
        size,
        blocks,
        atime_ns // _NS,
        mtime_ns // _NS,
        ctime_ns // _NS,
        atime_ns % _NS,
        mtime_ns % _NS,
        ctime_ns % _NS,
        mode,
        nlink,
        uid,
        gid,
        rdev,
        blksize,
        0,
    )


def entry(ino: int, attr: bytes, entry_ttl: float, attr_ttl: float, generation: int = 1) -> bytes:
    """An inode that a name leads to: lookup, mkdir, mknod, symlink, link."""
    name_s, name_ns = _ttls.get(entry_ttl) or _ttl(entry_ttl)
    attr_s, attr_ns = _ttls.get(attr_ttl) or _ttl(attr_ttl)
    return _ENTRY.pack(ino, generation, name_s, attr_s, name_ns, attr_ns, attr)


def negative_entry(ttl: float) -> bytes:
    """There is no such name, and the kernel may remember that. Without a ttl, raise ENOENT instead."""
    seconds, ns = _ttl(ttl)
    return _ENTRY.pack(0, 0, seconds, 0, ns, 0, b"")


def attr(attr: bytes, ttl: float) -> bytes:
    """getattr, setattr."""
    seconds, ns = _ttls.get(ttl) or _ttl(ttl)
    return _ATTR_OUT.pack(seconds, ns, 0, attr)


def statx(
    ino: int,
    size: int,
    blocks: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
    mode: int,
    nlink: int,
    uid: int,
    gid: int,
    rdev: int,
    ttl: float,
    *,
    btime_ns: int | None = None,
    blksize: int = 65536,
    attributes: int = 0,
    attributes_mask: int = 0,
) -> bytes:
    """statx (7.39). attributes: STATX_ATTR_*, attributes_mask: those that this file system knows."""
    seconds, ns = _ttl(ttl)
    mask = STATX_BASIC_STATS if btime_ns is None else STATX_BASIC_STATS | STATX_BTIME
    born = btime_ns or 0
    return _STATX.pack(
        seconds,
        ns,
        0,
        mask,
        blksize,
        attributes,
        nlink,
        uid,
        gid,
        mode,
        ino,
        size,
        blocks,
        attributes_mask,
        atime_ns // _NS,
        atime_ns % _NS,
        born // _NS,
        born % _NS,
        ctime_ns // _NS,
        ctime_ns % _NS,
        mtime_ns // _NS,
        mtime_ns % _NS,
        (rdev & 0xFFF00) >> 8,
        (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00),
        0,
        0,
    )


def opened(fh: int, open_flags: int, backing_id: int = 0) -> bytes:
    """open, opendir. open_flags: FOPEN_*; backing_id with FOPEN_PASSTHROUGH."""
    return _OPENED.pack(fh, open_flags, backing_id)


def created(entry: bytes, opened: bytes) -> bytes:
    """create, tmpfile."""
    return entry + opened


def written(n: int) -> bytes:
    """write, copy_file_range. The 64-bit answer of newer kernels to copy_file_range has the same bytes on a
    little-endian machine; on others that request is not decoded, and the kernel falls back to the older one."""
    return _ONE64.pack(n) if _LITTLE else _PAIR.pack(n, 0)


def statfs(
    blocks: int, bfree: int, bavail: int, files: int, ffree: int, bsize: int, namelen: int, frsize: int
) -> bytes:  # fmt: skip
    """Block counts are in units of frsize."""
    return _STATFS.pack(blocks, bfree, bavail, files, ffree, bsize, namelen, frsize)


def xattr_size(n: int) -> bytes:
    """getxattr and listxattr that were asked with size 0."""
    return _PAIR.pack(n, 0)


def lock(start: int, end: int, kind: int, pid: int) -> bytes:
    """getlk: the lock in the way, or kind F_UNLCK. `end` is inclusive."""
    return _LOCK.pack(start, end, kind, pid)


def lseek(offset: int) -> bytes:
    return _ONE64.pack(offset)


def ioctl(result: int, flags: int = 0, data: Buffer = b"") -> bytes:
    """result: what ioctl(2) returns. `data` goes to the caller's memory."""
    return _IOCTL.pack(result, flags, 0, 0) + data


def poll(revents: int) -> bytes:
    return _PAIR.pack(revents, 0)


class DirBuffer:
    """A piece of a directory listing, of at most `size` bytes. next_offset: where a listing that ends here goes on."""

    __slots__ = ("_left", "_parts")

    def __init__(self, size: int) -> None:
        self._left = size
        self._parts: list[bytes] = []

    def add(self, ino: int, next_offset: int, type: int, name: bytes) -> bool:
        """type: DT_*, which is S_IFMT bits >> 12. False: full, this one didn't fit any more."""
        length = len(name)
        pad = _PADS[length & 7]
        size = _DIRENT_SIZE + length + len(pad)
        if size > self._left:
            return False
        self._left -= size
        self._parts.append(_DIRENT.pack(ino, next_offset, length, type) + name + pad)
        return True

    def add_plus(self, entry: bytes, ino: int, next_offset: int, type: int, name: bytes) -> bool:
        """For readdirplus. entry: of `entry`, counted as a lookup by the kernel; nodeid 0 in it means "not looked up"
        (`.` and `..`, for which NO_ENTRY is right)."""
        length = len(name)
        pad = _PADS[length & 7]
        size = _PLUS_SIZE + length + len(pad)
        if size > self._left:
            return False
        self._left -= size
        self._parts.append(entry + _DIRENT.pack(ino, next_offset, length, type) + name + pad)
        return True

    def add_node(
        self, ino: int, attr: Attributes, mode: int, blocks: int, entry_ttl: float, attr_ttl: float, next_offset: int,
        type: int, name: bytes, blksize: int = 65536,
    ) -> bool:  # fmt: skip
        """`add_plus` of `entry` of `pack_attr` in one piece: listings of large directories are made of this."""
        length = len(name)
        pad = _PADS[length & 7]
        size = _PLUS_SIZE + length + len(pad)
        if size > self._left:
            return False
        self._left -= size
        name_s, name_ns = _ttls.get(entry_ttl) or _ttl(entry_ttl)
        attr_s, attr_ns = _ttls.get(attr_ttl) or _ttl(attr_ttl)
        atime, mtime, ctime = attr.atime_ns, attr.mtime_ns, attr.ctime_ns
        self._parts.append(
            _NODE.pack(
                ino, 1, name_s, attr_s, name_ns, attr_ns, ino, attr.length, blocks, atime // _NS, mtime // _NS,
                ctime // _NS, atime % _NS, mtime % _NS, ctime % _NS, mode, attr.nlink, attr.uid, attr.gid, attr.rdev,
                blksize, 0, ino, next_offset, length, type,
            )
            + name
            + pad
        )  # fmt: skip
        return True

    def bytes(self) -> bytes:
        return b"".join(self._parts)


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"
#: For add_plus: a name without attributes
NO_ENTRY: Final = bytes(_ENTRY.size)
