# SPDX-License-Identifier: Apache-2.0
"""pyfuse3's requests, answered by an `Operations` object: its arguments in, the protocol's bytes back into objects.

pyfuse3 leaves out what our handlers want to know: open flags and inode of a handle, and who asks, on reads and writes.
They are remembered from the open. Layouts of answers: gateways.fuse.wire.replies (linux/fuse.h).
"""

from __future__ import annotations

import errno
import inspect
import itertools
import logging
import os
import stat
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import pyfuse3

from gateways.fuse.api import Call, Reply, SetAttr
from gateways.fuse.channel import OnAnswer, OnRequest
from gateways.fuse.operations import Operations
from gateways.fuse.wire import constants as wire

log = logging.getLogger("sluice.fuse")

_ATTR: Final = struct.Struct("=QQQqqqIIIIIIIIII")
_ENTRY: Final = struct.Struct("=QQQQII")
_ATTR_OUT: Final = struct.Struct("=QII")
_OPENED: Final = struct.Struct("=QIi")
_DIRENT: Final = struct.Struct("=QQII")
_STATFS: Final = struct.Struct("=QQQQQIII")
_ENTRY_SIZE: Final = _ENTRY.size + _ATTR.size
#: Asked of a listing at a time; libfuse's own buffer, whose size pyfuse3 doesn't tell, is about this.
_LISTING: Final = 4096
_NS: Final = 1_000_000_000
#: Longest list or value of extended attributes that the kernel takes (linux/limits.h).
_XATTR_MOST: Final = 65536

#: field of pyfuse3.SetattrFields -> bit of SetAttr.valid
_FIELDS: Final = (
    ("update_mode", wire.FATTR_MODE), ("update_uid", wire.FATTR_UID), ("update_gid", wire.FATTR_GID),
    ("update_size", wire.FATTR_SIZE), ("update_atime", wire.FATTR_ATIME), ("update_mtime", wire.FATTR_MTIME),
)  # fmt: skip


_METHODS: Final = [name for name in vars(Operations) if not name.startswith("_")]


class Opened(NamedTuple):
    """What a handle was opened as."""

    ino: int
    flags: int
    ctx: Any


class Adapter(pyfuse3.Operations):
    """`operations` as pyfuse3 calls it. Observers of a `Channel` (on_answer, counters …) may look here too."""

    enable_writeback_cache = False
    enable_acl = False
    supports_dot_lookup = False

    def __init__(
        self, operations: Operations, *, writeback_cache: bool = False, posix_acl: bool = False, export: bool = False
    ) -> None:  # fmt: skip
        super().__init__()
        self.enable_writeback_cache = writeback_cache
        self.enable_acl = posix_acl
        self.supports_dot_lookup = export
        self.on_request: OnRequest | None = None
        self.on_answer: OnAnswer | None = None
        self.requests = 0
        self.errors = 0
        self.running = 0
        self._operations = operations
        self._methods = {name: getattr(operations, name) for name in _METHODS}
        self._unique = itertools.count(2, 2)
        self._files: dict[int, Opened] = {}
        self._folders: dict[int, Opened] = {}

    # -- names -------------------------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> Any:
        return _entry(await self._ask("lookup", self._call(parent_inode, ctx), name))

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self._operations.batch_forget(self._call(0, None), inode_list)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        return _joined(await self._ask("readlink", self._call(inode, ctx)))

    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Any) -> Any:
        return _entry(await self._ask("symlink", self._call(parent_inode, ctx), name, target))

    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any) -> Any:
        number = kernel_device(rdev)
        call = self._call(parent_inode, ctx)
        return _entry(await self._ask("mknod", call, name, mode, number, ctx.umask))

    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> Any:
        call = self._call(parent_inode, ctx)
        return _entry(await self._ask("mkdir", call, name, stat.S_IMODE(mode), ctx.umask))

    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._ask("unlink", self._call(parent_inode, ctx), name)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        await self._ask("rmdir", self._call(parent_inode, ctx), name)

    async def rename(
        self, parent_inode_old: int, name_old: bytes, parent_inode_new: int, name_new: bytes, flags: int, ctx: Any
    ) -> None:  # fmt: skip
        call = self._call(parent_inode_old, ctx)
        await self._ask("rename", call, name_old, parent_inode_new, name_new, flags)

    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any) -> Any:
        return _entry(await self._ask("link", self._call(new_parent_inode, ctx), inode, new_name))

    # -- attributes --------------------------------------------------------------------------------------------------

    async def getattr(self, inode: int, ctx: Any) -> Any:
        return _attr(await self._ask("getattr", self._call(inode, ctx), None))

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any) -> Any:
        valid = sum(bit for name, bit in _FIELDS if getattr(fields, name)) | (wire.FATTR_FH if fh is not None else 0)
        change = SetAttr(
            valid, fh or 0, attr.st_size, 0, attr.st_atime_ns, attr.st_mtime_ns, attr.st_ctime_ns, attr.st_mode,
            attr.st_uid, attr.st_gid,
        )  # fmt: skip
        return _attr(await self._ask("setattr", self._call(inode, ctx), change))

    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        await self._ask("access", self._call(inode, ctx), mode)
        return True

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        await self._ask("setxattr", self._call(inode, ctx), name, value, 0, 0)

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        return _joined(await self._ask("getxattr", self._call(inode, ctx), name, _XATTR_MOST))

    async def listxattr(self, inode: int, ctx: Any) -> list[bytes]:
        names = _joined(await self._ask("listxattr", self._call(inode, ctx), _XATTR_MOST))
        return names.split(b"\0")[:-1]

    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        await self._ask("removexattr", self._call(inode, ctx), name)

    async def statfs(self, ctx: Any) -> Any:
        reply = _joined(await self._ask("statfs", self._call(pyfuse3.ROOT_INODE, ctx)))
        found = pyfuse3.StatvfsData()
        (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree, found.f_bsize, found.f_namemax,
         found.f_frsize) = _STATFS.unpack_from(reply)  # fmt: skip
        found.f_favail = found.f_ffree
        return found

    # -- directories -------------------------------------------------------------------------------------------------

    async def opendir(self, inode: int, ctx: Any) -> int:
        reply = _joined(await self._ask("opendir", self._call(inode, ctx), os.O_RDONLY | os.O_DIRECTORY))
        fh, _, _ = _OPENED.unpack_from(reply)
        self._folders[fh] = Opened(inode, os.O_RDONLY | os.O_DIRECTORY, ctx)
        return int(fh)

    async def readdir(self, fh: int, start_id: int, token: Any) -> None:
        opened = self._folders[fh]
        offset = start_id
        undelivered: list[int] = []
        while not undelivered:
            call = self._call(opened.ino, opened.ctx)
            reply = _joined(await self._ask("readdirplus", call, fh, offset, _LISTING))
            if not reply:
                return
            for nodeid, attributes, name, next_offset in _listing(reply):
                if undelivered or not pyfuse3.readdir_reply(token, name, attributes, next_offset):
                    undelivered.append(nodeid)
                offset = next_offset
        # Each entry counts as a lookup; these never reach the kernel, which therefore can't forget them.
        self._operations.batch_forget(self._call(0, None), [(nodeid, 1) for nodeid in undelivered if nodeid])

    async def releasedir(self, fh: int) -> None:
        opened = self._folders.pop(fh)
        await self._ask("releasedir", self._call(opened.ino, opened.ctx), fh, opened.flags)

    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        opened = self._folders[fh]
        await self._ask("fsyncdir", self._call(opened.ino, opened.ctx), fh, datasync)

    # -- files -------------------------------------------------------------------------------------------------------

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        # The kernel clears set-id bits itself before writes, but not where opening cuts the file. It isn't told who may
        # keep them: here root alone.
        kill = wire.OPEN_KILL_SUIDGID if flags & os.O_TRUNC and ctx.uid else 0
        reply = _joined(await self._ask("open", self._call(inode, ctx), flags, kill))
        return self._opened(inode, flags, ctx, reply)

    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any) -> tuple[Any, Any]:
        call = self._call(parent_inode, ctx)
        reply = _joined(await self._ask("create", call, name, flags, mode, ctx.umask, 0))
        entry = _entry(reply)
        return self._opened(entry.st_ino, flags, ctx, reply[_ENTRY_SIZE:]), entry

    def _opened(self, ino: int, flags: int, ctx: Any, reply: bytes) -> Any:
        fh, open_flags, _ = _OPENED.unpack_from(reply)
        self._files[fh] = Opened(ino, flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC), ctx)
        return pyfuse3.FileInfo(
            fh=fh,
            direct_io=bool(open_flags & wire.FOPEN_DIRECT_IO),
            keep_cache=bool(open_flags & wire.FOPEN_KEEP_CACHE),
            nonseekable=bool(open_flags & wire.FOPEN_NONSEEKABLE),
        )

    async def read(self, fh: int, off: int, size: int) -> bytes:
        opened = self._files[fh]
        call = self._call(opened.ino, opened.ctx)
        reply = await self._ask("read", call, fh, off, size, 0, 0, opened.flags)
        return _joined(reply)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        opened = self._files[fh]
        call = self._call(opened.ino, opened.ctx)
        reply = await self._ask("write", call, fh, off, memoryview(buf), 0, 0, opened.flags)
        return int.from_bytes(_joined(reply)[:4], "little" if _LITTLE else "big")

    async def flush(self, fh: int) -> None:
        opened = self._files[fh]
        await self._ask("flush", self._call(opened.ino, opened.ctx), fh, 0)

    async def fsync(self, fh: int, datasync: bool) -> None:
        opened = self._files[fh]
        await self._ask("fsync", self._call(opened.ino, opened.ctx), fh, datasync)

    async def release(self, fh: int) -> None:
        opened = self._files.pop(fh)
        await self._ask("release", self._call(opened.ino, opened.ctx), fh, opened.flags, 0, 0)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _call(self, nodeid: int, ctx: Any) -> Call:
        self.requests += 1
        if ctx is None:
            return Call(next(self._unique), nodeid, 0, 0, 0)
        return Call(next(self._unique), nodeid, ctx.uid, ctx.gid, ctx.pid)

    async def _ask(self, name: str, call: Call, *arguments: Any) -> Reply:
        """What the handler answers. pyfuse3 ends the whole mount at any other error than its own."""
        started = time.perf_counter()
        if self.on_request is not None:
            self.on_request(call, name, arguments)
        number, reply = 0, None
        self.running += 1
        try:
            answer = self._methods[name](call, *arguments)
            reply = await answer if inspect.isawaitable(answer) else answer
        except OSError as e:
            number = e.errno or errno.EIO
        except Exception:
            number = errno.EIO
            log.exception("%s failed in a way that nobody expected; the program gets EIO", name)
        finally:
            self.running -= 1
        if self.on_answer is not None:
            self.on_answer(call, name, arguments, number, time.perf_counter() - started, _size(reply))
        if number:
            self.errors += 1
            raise pyfuse3.FUSEError(number)
        return reply


def _size(reply: Reply) -> int:
    if reply is None:
        return 0
    return len(reply) if isinstance(reply, bytes | bytearray | memoryview) else sum(map(len, reply))


def _joined(reply: Reply) -> bytes:
    if reply is None:
        return b""
    if isinstance(reply, bytes):
        return reply
    if isinstance(reply, bytearray | memoryview):
        return bytes(reply)
    return b"".join(reply)


def _fill(found: Any, packed: bytes, offset: int) -> Any:
    """EntryAttributes from fuse_attr."""
    (ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid, rdev, blksize,
     _) = _ATTR.unpack_from(packed, offset)  # fmt: skip
    found.st_ino = ino
    found.st_size, found.st_blocks, found.st_blksize = size, blocks, blksize
    found.st_atime_ns = atime * _NS + atime_ns
    found.st_mtime_ns = mtime * _NS + mtime_ns
    found.st_ctime_ns = ctime * _NS + ctime_ns
    found.st_mode, found.st_nlink, found.st_uid, found.st_gid = mode, nlink, uid, gid
    found.st_rdev = user_device(rdev)
    return found


def _entry(reply: Reply, offset: int = 0) -> Any:
    """EntryAttributes from fuse_entry_out."""
    packed = _joined(reply)
    nodeid, generation, entry_s, attr_s, entry_ns, attr_ns = _ENTRY.unpack_from(packed, offset)
    found = _fill(pyfuse3.EntryAttributes(), packed, offset + _ENTRY.size)
    found.st_ino = nodeid  # 0: there is no such name
    found.generation = generation
    found.entry_timeout = entry_s + entry_ns / _NS
    found.attr_timeout = attr_s + attr_ns / _NS
    return found


def _attr(reply: Reply) -> Any:
    """EntryAttributes from fuse_attr_out."""
    packed = _joined(reply)
    seconds, ns, _ = _ATTR_OUT.unpack_from(packed)
    found = _fill(pyfuse3.EntryAttributes(), packed, _ATTR_OUT.size)
    found.attr_timeout = seconds + ns / _NS
    return found


def _listing(reply: bytes) -> Iterator[tuple[int, Any, bytes, int]]:
    """(inode that counts as looked up or 0, EntryAttributes, name, where the next one is) of fuse_direntplus."""
    at = 0
    while at < len(reply):
        ino, next_offset, length, kind = _DIRENT.unpack_from(reply, at + _ENTRY_SIZE)
        start = at + _ENTRY_SIZE + _DIRENT.size
        found = _entry(reply, at)
        nodeid = int(found.st_ino)
        if not nodeid:  # a name without attributes, such as `.`; the kernel takes inode and type, and looks up the rest
            found.st_ino, found.st_mode = ino, kind << 12
        yield nodeid, found, reply[start : start + length], next_offset
        at = start + (length + 7 & ~7)


def kernel_device(rdev: int) -> int:
    """The protocol's 32 bits of a device number as C programs have it."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12


def user_device(rdev: int) -> int:
    return os.makedev((rdev & 0xFFF00) >> 8, (rdev & 0xFF) | ((rdev >> 12) & 0xFFF00))


_LITTLE: Final = struct.pack("=H", 1) == b"\x01\x00"
