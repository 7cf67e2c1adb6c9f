# SPDX-License-Identifier: Apache-2.0
"""System calls by name, in-process: what `os` has, and through ctypes what Python 3.11 lacks.

Everything raises OSError with the errno of the kernel. Arguments and results can be pickled, so that the same names
work in another process under another user (`actors`). Source of numbers: the kernel's public uapi headers.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)

AT_FDCWD: Final = -100
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_SYMLINK_FOLLOW: Final = 0x400
AT_EMPTY_PATH: Final = 0x1000
AT_STATX_FORCE_SYNC: Final = 0x2000

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4

FALLOC_KEEP_SIZE: Final = 1
FALLOC_PUNCH_HOLE: Final = 2
FALLOC_COLLAPSE: Final = 8
FALLOC_ZERO_RANGE: Final = 0x10
FALLOC_INSERT: Final = 0x20

UTIME_NOW: Final = (1 << 30) - 1
UTIME_OMIT: Final = (1 << 30) - 2

FS_IOC_GETFLAGS: Final = 0x80086601
FS_IOC_SETFLAGS: Final = 0x40086602
FLAG_IMMUTABLE: Final = 0x10
FLAG_APPEND: Final = 0x20

F_OFD_GETLK: Final = 36
F_OFD_SETLK: Final = 37
F_OFD_SETLKW: Final = 38

Path = str | bytes | os.PathLike[str]


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _size(value: int) -> Any:
    return ctypes.c_longlong(value)


# -- names ---------------------------------------------------------------------------------------------------------


def renameat2(old: Path, new: Path, flags: int) -> None:
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), ctypes.c_uint(flags)))


def linkat(old: Path, new: Path, flags: int, old_fd: int = AT_FDCWD) -> None:
    _check(_libc.linkat(old_fd, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def link_fd(fd: int, new: Path) -> None:
    """Give an open file (O_TMPFILE) a name, the way that needs no privilege."""
    linkat(f"/proc/self/fd/{fd}", new, AT_SYMLINK_FOLLOW)


def bind(path: Path) -> None:
    """A unix socket's file. sun_path holds 107 bytes, so it is bound relative to its directory's descriptor."""
    folder, name = os.path.split(os.fspath(path))
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.join(f"/proc/self/fd/{fd}", os.fsdecode(name)))
    finally:
        os.close(fd)


class Entry(NamedTuple):
    ino: int
    offset: int
    kind: int
    name: str


def getdents(fd: int, size: int = 1 << 15) -> list[Entry]:
    """One getdents64(2); an empty list at the end. `offset` of an entry is where the next one is (telldir)."""
    buffer = ctypes.create_string_buffer(size)
    length = _check(_libc.syscall(ctypes.c_long(217), fd, buffer, size))
    found, at = [], 0
    while at < length:
        ino, offset, step, kind = struct.unpack_from("=QqHB", buffer.raw, at)
        name = buffer.raw[at + 19 : at + step].split(b"\0", 1)[0]
        found.append(Entry(ino, offset, kind, os.fsdecode(name)))
        at += step
    return found


# -- attributes ----------------------------------------------------------------------------------------------------


def utimensat(
    path: Path | None, atime: tuple[int, int] | None, mtime: tuple[int, int] | None, flags: int = 0, fd: int = AT_FDCWD
) -> None:
    """(seconds, nanoseconds) each, nanoseconds may be UTIME_NOW or UTIME_OMIT; both None: a null pointer, now."""
    times = None
    if atime is not None and mtime is not None:
        times = (ctypes.c_long * 4)(*atime, *mtime)
    _check(_libc.futimens(fd, times) if path is None else _libc.utimensat(fd, os.fsencode(path), times, flags))


def fchmodat2(path: Path, mode: int, flags: int) -> None:
    _check(_libc.syscall(ctypes.c_long(452), AT_FDCWD, os.fsencode(path), mode, flags))


def faccessat(path: Path, mode: int, flags: int = 0) -> None:
    _check(_libc.syscall(ctypes.c_long(439), AT_FDCWD, os.fsencode(path), mode, flags))


class Statx(NamedTuple):
    mask: int
    blksize: int
    attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime_ns: int
    btime_ns: int
    ctime_ns: int
    mtime_ns: int
    rdev: tuple[int, int]
    mnt_id: int


def statx(path: Path, flags: int = 0, mask: int = 0xFFF, fd: int = AT_FDCWD) -> Statx:
    buffer = ctypes.create_string_buffer(256)
    _check(_libc.statx(fd, os.fsencode(path), flags, ctypes.c_uint(mask), buffer))
    raw = buffer.raw
    head = struct.unpack_from("=IIQIIIHxxQQQQ", raw)
    atime, btime, ctime, mtime = (
        s * 1_000_000_000 + n for s, n in (struct.unpack_from("=qI", raw, at) for at in (64, 80, 96, 112))
    )
    major, minor = struct.unpack_from("=II", raw, 128)
    (mnt_id,) = struct.unpack_from("=Q", raw, 144)
    return Statx._make((*head, atime, btime, ctime, mtime, (major, minor), mnt_id))


def get_flags(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))[:4], "little")
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, flags.to_bytes(8, "little"))
    finally:
        os.close(fd)


# -- content -------------------------------------------------------------------------------------------------------


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(_libc.fallocate(fd, mode, _size(offset), _size(length)))


def copy_file_range(fd_in: int, off_in: int, fd_out: int, off_out: int, length: int, flags: int = 0) -> int:
    a, b = ctypes.c_longlong(off_in), ctypes.c_longlong(off_out)
    return _check(
        _libc.copy_file_range(fd_in, ctypes.byref(a), fd_out, ctypes.byref(b), ctypes.c_size_t(length), flags)
    )


def put(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A file with that content."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def get(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def add(path: Path, data: bytes) -> None:
    """Write at the start, nothing else."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def may_open(path: Path, flags: int = os.O_RDONLY, mode: int = 0o644) -> None:
    os.close(os.open(path, flags, mode))


def execute(path: Path, *args: str) -> tuple[int, bytes]:
    """Exit status and output of a program; OSError if it can't be executed."""
    done = subprocess.run([os.fspath(path), *args], capture_output=True, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout


# -- locks ---------------------------------------------------------------------------------------------------------

_FLOCK = struct.Struct("=hhxxxxqqixxxx")


class Lock(NamedTuple):
    kind: int
    start: int
    length: int
    pid: int


def _lock(fd: int, command: int, kind: int, start: int, length: int, whence: int) -> Lock:
    answer = fcntl.fcntl(fd, command, _FLOCK.pack(kind, whence, start, length, 0))
    kind, _, start, length, pid = _FLOCK.unpack(answer)
    return Lock(kind, start, length, pid)


def set_lock(fd: int, kind: int, start: int = 0, length: int = 0, *, wait: bool = False, whence: int = 0) -> None:
    """A POSIX record lock. kind: F_RDLCK, F_WRLCK, F_UNLCK. length 0: to the end, however far it grows."""
    _lock(fd, fcntl.F_SETLKW if wait else fcntl.F_SETLK, kind, start, length, whence)


def get_lock(fd: int, kind: int, start: int = 0, length: int = 0) -> Lock:
    return _lock(fd, fcntl.F_GETLK, kind, start, length, 0)


def set_ofd_lock(fd: int, kind: int, start: int = 0, length: int = 0, *, wait: bool = False) -> None:
    _lock(fd, F_OFD_SETLKW if wait else F_OFD_SETLK, kind, start, length, 0)


def get_ofd_lock(fd: int, kind: int, start: int = 0, length: int = 0) -> Lock:
    return _lock(fd, F_OFD_GETLK, kind, start, length, 0)


def flock(fd: int, operation: int) -> None:
    fcntl.flock(fd, operation)


# -- wild pointers -------------------------------------------------------------------------------------------------

_WILD: Final = ctypes.c_void_p(8)  # page 0 is never mapped


def wild(name: str, *args: Any) -> None:
    """A libc call in which the argument None is a pointer to nowhere."""
    _check(getattr(_libc, name)(*[_WILD if a is None else a for a in args]))


def in_folder(folder: Path, name: str, *args: Any) -> Any:
    """One call with `folder` as working directory."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        return find(name)(*args)
    finally:
        os.fchdir(before)
        os.close(before)


def several(calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    return [find(name)(*args) for name, args in calls]


def find(name: str) -> Any:
    return globals().get(name) or getattr(os, name)
