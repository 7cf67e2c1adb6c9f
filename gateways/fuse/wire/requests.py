# SPDX-License-Identifier: Apache-2.0
"""Bytes of a request → who asks, the method of `Operations`, its arguments.

Pure functions. Every malformed request raises ProtocolError and nothing else. Besides the methods of `Operations` there
are four messages of the session itself: `init`, `interrupt`, `destroy` and `notify_reply`.
All lengths are checked against the request, never against the buffer, which is larger. Names are copied out; only
the data of a large write stays in the buffer.
Source: the kernel's public protocol header (linux/fuse.h); all numbers are in the machine's byte order.
"""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Callable
from typing import Any, Final

from gateways.fuse.api import Call, SetAttr
from gateways.fuse.wire.constants import (
    EXT_GROUPS,
    FSYNC_FDATASYNC,
    GETATTR_FH,
    READ_LOCKOWNER,
    UNIQUE_RESEND,
    WRITE_LOCKOWNER,
    Opcode,
)

Args = tuple[Any, ...]
Buffer = memoryview | bytes | bytearray

# u32 len opcode | u64 unique nodeid | u32 uid gid pid | u16 total_extlen (7.38, 8-byte units), padding
HEADER: Final = struct.Struct("=IIQQIIIHH")
_START: Final = HEADER.size
#: struct write_in is the largest fixed part; a buffer must have room for it and for max_write bytes
OVERHEAD: Final = 4096

_unpack_header: Final = HEADER.unpack_from
_new = tuple.__new__
_RESEND_MASK: Final = UNIQUE_RESEND - 1


#: Data of a write up to this size is copied out as well, so that a request that has to wait keeps only what it needs.
SMALL_WRITE: Final = 16 << 10


class ProtocolError(Exception):
    """A request that makes no sense. errno: what to answer; unique: to whom, or 0 if not even that is known."""

    def __init__(self, message: str, errno: int = errno.EINVAL, unique: int = 0) -> None:
        super().__init__(message)
        self.errno = errno
        self.unique = unique


class GroupedCall(Call):
    """A creating request that names the supplementary group which the new file will get (CREATE_SUPP_GROUP)."""

    groups: tuple[int, ...] = ()


def decode(buffer: Buffer, length: int | None = None, *, setxattr_ext: bool = True) -> tuple[Call, str, Args]:
    """The request in the first `length` bytes of `buffer`. setxattr_ext: what INIT agreed on (SETXATTR_EXT)."""
    if length is None:
        length = len(buffer)
    if length < _START:
        raise ProtocolError(f"a request of {length} bytes is shorter than its header")
    size, opcode, unique, nodeid, uid, gid, pid, extensions, _ = _unpack_header(buffer)
    if size != length:
        raise ProtocolError(f"request {unique} says {size} bytes and brings {length}", unique=unique)
    found = (_TABLE if setxattr_ext else _SHORT_TABLE).get(opcode)
    if found is None:
        raise ProtocolError(f"opcode {opcode} is not known", errno.ENOSYS, unique)
    name, least, arguments = found
    end = length - (extensions << 3)
    if end < least:
        raise ProtocolError(f"{name}: {end - _START} bytes are too few", unique=unique)
    try:
        args = arguments(buffer, end)
    except ProtocolError as e:
        raise ProtocolError(f"{name}: {e}", unique=unique) from None
    if unique > _RESEND_MASK:
        call: Call = _new(Call, (unique & _RESEND_MASK, nodeid, uid, gid, pid, True))
    else:
        call = _new(Call, (unique, nodeid, uid, gid, pid, False))
    if extensions:
        grouped = GroupedCall(*call)
        grouped.groups = _groups(buffer, end, length)
        call = grouped
    return call, name, args


def _groups(buffer: Buffer, start: int, end: int) -> tuple[int, ...]:
    """Extensions are (u32 size, u32 type, body), padded to 8 bytes. Security contexts (types up to 31) are skipped."""
    found: tuple[int, ...] = ()
    while end - start >= 8:
        size, kind = _PAIR.unpack_from(buffer, start)
        if size < 8 or size > end - start:
            raise ProtocolError(f"an extension of {size} bytes in {end - start}")
        if kind == EXT_GROUPS and size >= 12:
            (count,) = _ONE32.unpack_from(buffer, start + 8)
            if count > (size - 12) // 4:
                raise ProtocolError(f"{count} groups in {size} bytes")
            found = struct.unpack_from(f"={count}I", buffer, start + 12)
        start += (size + 7) & ~7
    return found


# -- parts ---------------------------------------------------------------------------------------------------------


def _one_name(buffer: Buffer, start: int, end: int) -> bytes:
    """The rest of the request: one name with its NUL."""
    name = bytes(buffer[start : end - 1])
    if end - start < 2 or buffer[end - 1] or 0 in name:
        raise ProtocolError("a name is empty or does not end where it should")
    return name


def _two_names(buffer: Buffer, start: int, end: int) -> tuple[bytes, bytes]:
    both = bytes(buffer[start:end])
    first, nul, second = both[:-1].partition(b"\0")
    if not first or not nul or both[-1:] != b"\0" or not second or 0 in second:
        raise ProtocolError("two names were expected")
    return first, second


_PAIR: Final = struct.Struct("=II")
_ONE32: Final = struct.Struct("=I")
_ONE64: Final = struct.Struct("=Q")
_FOUR32: Final = struct.Struct("=IIII")
_RENAME2: Final = struct.Struct("=QII")
_GETATTR: Final = struct.Struct("=IIQ")
_STATX: Final = struct.Struct("=IIQII")
# u32 valid, padding | u64 fh size lock_owner | i64 atime mtime ctime | u32 ns of each, mode, -, uid, gid, -
_SETATTR: Final = struct.Struct("=IIQQQqqqIIIIIIII")
_RELEASE: Final = struct.Struct("=QIIQ")
_FLUSH: Final = struct.Struct("=QIIQ")
_FSYNC: Final = struct.Struct("=QII")
# u64 fh offset | u32 size read_flags | u64 lock_owner | u32 flags, padding; write alike
_READ: Final = struct.Struct("=QQIIQII")
_IOCTL: Final = struct.Struct("=QIIQII")
_FALLOCATE: Final = struct.Struct("=QQQII")
_LSEEK: Final = struct.Struct("=QQII")
_COPY: Final = struct.Struct("=7Q")
_POLL: Final = struct.Struct("=QQII")
# u64 fh owner | lock: u64 start end, u32 type pid | u32 lk_flags, padding
_LK: Final = struct.Struct("=QQQQIIII")
_INIT: Final = struct.Struct("=IIII")
_FORGET_ONE: Final = struct.Struct("=QQ")

_NS: Final = 1_000_000_000


def _nothing(buffer: Buffer, end: int) -> Args:
    return ()


def _name(buffer: Buffer, end: int) -> Args:
    # lookup is the most frequent request of all: no second call.
    name = bytes(buffer[_START : end - 1])
    if not name or buffer[end - 1] or 0 in name:
        raise ProtocolError("a name is empty or does not end where it should")
    return (name,)


def _forget(buffer: Buffer, end: int) -> Args:
    return _ONE64.unpack_from(buffer, _START)


def _batch_forget(buffer: Buffer, end: int) -> Args:
    count, _ = _PAIR.unpack_from(buffer, _START)
    start = _START + _PAIR.size
    if count * _FORGET_ONE.size > end - start:
        raise ProtocolError(f"{count} items do not fit")
    return (list(_FORGET_ONE.iter_unpack(bytes(buffer[start : start + count * _FORGET_ONE.size]))),)


def _getattr(buffer: Buffer, end: int) -> Args:
    flags, _, fh = _GETATTR.unpack_from(buffer, _START)
    return (fh if flags & GETATTR_FH else None,)


def _statx(buffer: Buffer, end: int) -> Args:
    flags, _, fh, sx_flags, sx_mask = _STATX.unpack_from(buffer, _START)
    return (fh if flags & GETATTR_FH else None, sx_flags, sx_mask)


def _setattr(buffer: Buffer, end: int) -> Args:
    (
        valid, _, fh, size, lock_owner, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid, _
    ) = _SETATTR.unpack_from(buffer, _START)  # fmt: skip
    return (
        SetAttr(
            valid,
            fh,
            size,
            lock_owner,
            atime * _NS + atime_ns,
            mtime * _NS + mtime_ns,
            ctime * _NS + ctime_ns,
            mode,
            uid,
            gid,
        ),
    )


def _symlink(buffer: Buffer, end: int) -> Args:
    return _two_names(buffer, _START, end)


def _mknod(buffer: Buffer, end: int) -> Args:
    mode, rdev, umask, _ = _FOUR32.unpack_from(buffer, _START)
    return (_one_name(buffer, _START + _FOUR32.size, end), mode, rdev, umask)


def _mkdir(buffer: Buffer, end: int) -> Args:
    mode, umask = _PAIR.unpack_from(buffer, _START)
    return (_one_name(buffer, _START + _PAIR.size, end), mode, umask)


def _rename(buffer: Buffer, end: int) -> Args:
    (parent,) = _ONE64.unpack_from(buffer, _START)
    old, new = _two_names(buffer, _START + _ONE64.size, end)
    return (old, parent, new, 0)


def _rename2(buffer: Buffer, end: int) -> Args:
    parent, flags, _ = _RENAME2.unpack_from(buffer, _START)
    old, new = _two_names(buffer, _START + _RENAME2.size, end)
    return (old, parent, new, flags)


def _link(buffer: Buffer, end: int) -> Args:
    (ino,) = _ONE64.unpack_from(buffer, _START)
    return (ino, _one_name(buffer, _START + _ONE64.size, end))


def _open(buffer: Buffer, end: int) -> Args:
    return _PAIR.unpack_from(buffer, _START)


def _opendir(buffer: Buffer, end: int) -> Args:
    return _PAIR.unpack_from(buffer, _START)[:1]


def _create(buffer: Buffer, end: int) -> Args:
    flags, mode, umask, open_flags = _FOUR32.unpack_from(buffer, _START)
    return (_one_name(buffer, _START + _FOUR32.size, end), flags, mode, umask, open_flags)


def _read(buffer: Buffer, end: int) -> Args:
    fh, offset, size, read_flags, owner, flags, _ = _READ.unpack_from(buffer, _START)
    return (fh, offset, size, read_flags, owner if read_flags & READ_LOCKOWNER else 0, flags)


def _readdir(buffer: Buffer, end: int) -> Args:
    return _READ.unpack_from(buffer, _START)[:3]


def _write(buffer: Buffer, end: int) -> Args:
    fh, offset, size, write_flags, owner, flags, _ = _READ.unpack_from(buffer, _START)
    start = _START + _READ.size
    if size != end - start:
        raise ProtocolError(f"{size} bytes were announced and {end - start} brought")
    data = memoryview(buffer)[start:end]
    if size <= SMALL_WRITE:
        data = memoryview(bytes(data))
    return (fh, offset, data, write_flags, owner if write_flags & WRITE_LOCKOWNER else 0, flags)


def _release(buffer: Buffer, end: int) -> Args:
    return _RELEASE.unpack_from(buffer, _START)


def _releasedir(buffer: Buffer, end: int) -> Args:
    return _RELEASE.unpack_from(buffer, _START)[:2]


def _flush(buffer: Buffer, end: int) -> Args:
    fh, _, _, owner = _FLUSH.unpack_from(buffer, _START)
    return (fh, owner)


def _fsync(buffer: Buffer, end: int) -> Args:
    fh, flags, _ = _FSYNC.unpack_from(buffer, _START)
    return (fh, bool(flags & FSYNC_FDATASYNC))


def _setxattr(buffer: Buffer, end: int) -> Args:
    size, flags, extra, _ = _FOUR32.unpack_from(buffer, _START)
    name, value = _name_and_value(buffer, _START + _FOUR32.size, end, size)
    return (name, value, flags, extra)


def _setxattr_short(buffer: Buffer, end: int) -> Args:
    size, flags = _PAIR.unpack_from(buffer, _START)
    name, value = _name_and_value(buffer, _START + _PAIR.size, end, size)
    return (name, value, flags, 0)


def _name_and_value(buffer: Buffer, start: int, end: int, size: int) -> tuple[bytes, bytes]:
    middle = end - size
    if middle < start:
        raise ProtocolError(f"a value of {size} bytes does not fit")
    return _one_name(buffer, start, middle), bytes(buffer[middle:end])


def _getxattr(buffer: Buffer, end: int) -> Args:
    size, _ = _PAIR.unpack_from(buffer, _START)
    return (_one_name(buffer, _START + _PAIR.size, end), size)


def _first32(buffer: Buffer, end: int) -> Args:
    return _PAIR.unpack_from(buffer, _START)[:1]


def _ioctl(buffer: Buffer, end: int) -> Args:
    fh, flags, cmd, arg, in_size, out_size = _IOCTL.unpack_from(buffer, _START)
    start = _START + _IOCTL.size
    if in_size != end - start:
        raise ProtocolError(f"{in_size} bytes were announced and {end - start} brought")
    return (fh, flags, cmd, arg, bytes(buffer[start:end]), out_size)


def _fallocate(buffer: Buffer, end: int) -> Args:
    return _FALLOCATE.unpack_from(buffer, _START)[:4]


def _lseek(buffer: Buffer, end: int) -> Args:
    return _LSEEK.unpack_from(buffer, _START)[:3]


def _copy_file_range(buffer: Buffer, end: int) -> Args:
    return _COPY.unpack_from(buffer, _START)


def _poll(buffer: Buffer, end: int) -> Args:
    return _POLL.unpack_from(buffer, _START)


def _getlk(buffer: Buffer, end: int) -> Args:
    return _LK.unpack_from(buffer, _START)[:7]


def _setlk(buffer: Buffer, end: int) -> Args:
    return (*_LK.unpack_from(buffer, _START)[:7], False)


def _setlkw(buffer: Buffer, end: int) -> Args:
    return (*_LK.unpack_from(buffer, _START)[:7], True)


def _init(buffer: Buffer, end: int) -> Args:
    """(major, minor, max_readahead, flags of 64 bits)."""
    major, minor = _PAIR.unpack_from(buffer, _START)
    if end < _START + _INIT.size:  # kernels that speak another major version send only this much
        return (major, minor, 0, 0)
    major, minor, max_readahead, flags = _INIT.unpack_from(buffer, _START)
    if flags & (1 << 30) and end >= _START + _INIT.size + 4:
        flags |= _ONE32.unpack_from(buffer, _START + _INIT.size)[0] << 32
    return (major, minor, max_readahead, flags)


_Decoder = Callable[[Buffer, int], Args]


def _table() -> dict[int, tuple[str, int, _Decoder]]:
    """opcode → (method, least bytes, decoder of the arguments)."""
    rows: list[tuple[Opcode, str, int, _Decoder]] = [
        (Opcode.LOOKUP, "lookup", 2, _name),
        (Opcode.FORGET, "forget", 8, _forget),
        (Opcode.GETATTR, "getattr", _GETATTR.size, _getattr),
        (Opcode.SETATTR, "setattr", _SETATTR.size, _setattr),
        (Opcode.READLINK, "readlink", 0, _nothing),
        (Opcode.SYMLINK, "symlink", 4, _symlink),
        (Opcode.MKNOD, "mknod", _FOUR32.size + 2, _mknod),
        (Opcode.MKDIR, "mkdir", _PAIR.size + 2, _mkdir),
        (Opcode.UNLINK, "unlink", 2, _name),
        (Opcode.RMDIR, "rmdir", 2, _name),
        (Opcode.RENAME, "rename", _ONE64.size + 4, _rename),
        (Opcode.LINK, "link", _ONE64.size + 2, _link),
        (Opcode.OPEN, "open", _PAIR.size, _open),
        (Opcode.READ, "read", _READ.size, _read),
        (Opcode.WRITE, "write", _READ.size, _write),
        (Opcode.STATFS, "statfs", 0, _nothing),
        (Opcode.RELEASE, "release", _RELEASE.size, _release),
        (Opcode.FSYNC, "fsync", _FSYNC.size, _fsync),
        (Opcode.SETXATTR, "setxattr", _FOUR32.size + 2, _setxattr),
        (Opcode.GETXATTR, "getxattr", _PAIR.size + 2, _getxattr),
        (Opcode.LISTXATTR, "listxattr", _PAIR.size, _first32),
        (Opcode.REMOVEXATTR, "removexattr", 2, _name),
        (Opcode.FLUSH, "flush", _FLUSH.size, _flush),
        (Opcode.INIT, "init", _PAIR.size, _init),
        (Opcode.OPENDIR, "opendir", _PAIR.size, _opendir),
        (Opcode.READDIR, "readdir", _READ.size, _readdir),
        (Opcode.RELEASEDIR, "releasedir", _RELEASE.size, _releasedir),
        (Opcode.FSYNCDIR, "fsyncdir", _FSYNC.size, _fsync),
        (Opcode.GETLK, "getlk", _LK.size, _getlk),
        (Opcode.SETLK, "setlk", _LK.size, _setlk),
        (Opcode.SETLKW, "setlk", _LK.size, _setlkw),
        (Opcode.ACCESS, "access", _PAIR.size, _first32),
        (Opcode.CREATE, "create", _FOUR32.size + 2, _create),
        (Opcode.INTERRUPT, "interrupt", 8, _forget),
        (Opcode.DESTROY, "destroy", 0, _nothing),
        (Opcode.IOCTL, "ioctl", _IOCTL.size, _ioctl),
        (Opcode.POLL, "poll", _POLL.size, _poll),
        (Opcode.NOTIFY_REPLY, "notify_reply", 0, _nothing),
        (Opcode.BATCH_FORGET, "batch_forget", _PAIR.size, _batch_forget),
        (Opcode.FALLOCATE, "fallocate", _FALLOCATE.size, _fallocate),
        (Opcode.READDIRPLUS, "readdirplus", _READ.size, _readdir),
        (Opcode.RENAME2, "rename", _RENAME2.size + 4, _rename2),
        (Opcode.LSEEK, "lseek", _LSEEK.size, _lseek),
        (Opcode.COPY_FILE_RANGE, "copy_file_range", _COPY.size, _copy_file_range),
        (Opcode.SYNCFS, "syncfs", 8, _nothing),
        (Opcode.TMPFILE, "tmpfile", _FOUR32.size + 2, _create),
        (Opcode.STATX, "statx", _STATX.size, _statx),
    ]
    if sys.byteorder == "little":  # see wire.replies.written
        rows.append((Opcode.COPY_FILE_RANGE_64, "copy_file_range", _COPY.size, _copy_file_range))
    return {int(opcode): (name, _START + least, decoder) for opcode, name, least, decoder in rows}


_TABLE: Final = _table()
#: Without SETXATTR_EXT the structure before the name is half as long.
_SHORT_TABLE: Final = {**_TABLE, int(Opcode.SETXATTR): ("setxattr", _START + _PAIR.size + 2, _setxattr_short)}
