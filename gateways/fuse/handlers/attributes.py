# SPDX-License-Identifier: Apache-2.0
"""Kernel requests about attributes of an inode.

statx is left to the kernel, which makes it of getattr: the only field it could add is a time of birth, which volumes
don't hold, and it would ask for that one again and again. Source: linux/fuse.h; metadata-semantics §5.
"""

from __future__ import annotations

import errno
import struct
from typing import Final, Literal

import msgspec

from core.errors import FsError
from core.vfs.posix.attributes import Change
from core.vfs.posix.xattrs import FS_APPEND, FS_IMMUTABLE, FS_SECRM
from gateways.fuse.api import Answer, Buffer, Call, SetAttr
from gateways.fuse.handlers import resent
from gateways.fuse.handlers.translate import Translate, pack, stale
from gateways.fuse.operations import unsupported
from gateways.fuse.wire import replies
from gateways.fuse.wire.constants import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_CTIME,
    FATTR_FH,
    FATTR_GID,
    FATTR_KILL_SUIDGID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    SETXATTR_ACL_KILL_SGID,
)

# linux/fs.h; the second number of each pair is what 32-bit programs use.
GETFLAGS: Final = (0x80086601, 0x80046601)
SETFLAGS: Final = (0x40086602, 0x40046602)
FSGETXATTR: Final = 0x801C581F
FSSETXATTR: Final = 0x401C5820
# struct fsxattr: u32 xflags, extsize, nextents, projid, cowextsize, 8 bytes of padding
_FSXATTR: Final = struct.Struct("=IIIII8x")
_XFLAGS: Final = {0x8: FS_IMMUTABLE, 0x10: FS_APPEND}

_BLOCK: Final = 4096


def _time(valid: int, given: int, now: int, value: int) -> int | Literal["now"] | None:
    if valid & now:
        return "now"
    return value if valid & given else None


def change_of(request: SetAttr) -> Change:
    """FUSE_SETATTR in our words. The change time is nobody's to set."""
    valid = request.valid
    return Change(
        mode=request.mode & 0o7777 if valid & FATTR_MODE else None,
        uid=request.uid if valid & FATTR_UID else None,
        gid=request.gid if valid & FATTR_GID else None,
        size=request.size if valid & FATTR_SIZE else None,
        atime_ns=_time(valid, FATTR_ATIME, FATTR_ATIME_NOW, request.atime_ns),
        mtime_ns=_time(valid, FATTR_MTIME, FATTR_MTIME_NOW, request.mtime_ns),
        kill=bool(valid & FATTR_KILL_SUIDGID),
        opened=bool(valid & FATTR_FH),
    )


class AttributeHandlers(Translate):
    """Mixin of `PosixOperations`."""

    def getattr(self, call: Call, fh: int | None) -> Answer:
        # Before each change of a directory the kernel asks for its mode again, because of the change before.
        known = self.posix.directory_nowait(call.nodeid, self.ttl.attr)
        if known is not None:
            return replies.attr(pack(known[0]), int(known[1] * 100) / 100)
        return self._getattr(call)

    async def _getattr(self, call: Call) -> Buffer:
        ino, pid, growth = call.nodeid, call.pid, self.growth
        before = growth.last(ino, pid)
        if before is not None:
            await growth.taken_over(ino, before)
        try:
            node = await self.posix.getattr(ino)
        except FsError as e:
            raise stale(e) from e
        last = growth.last(ino, pid)
        if last is not None and last is not before and last.base < node.attr.length:
            node = node._replace(attr=msgspec.structs.replace(node.attr, length=last.base))
        return self.attr(node)

    async def setattr(self, call: Call, change: SetAttr) -> Buffer:
        wanted, caller = change_of(change), self.caller(call)
        try:
            return self.attr(await self.posix.setattr(call.nodeid, wanted, caller))
        except FsError as e:
            if e.errno == errno.EPERM and change.valid & FATTR_CTIME:
                # The kernel writes back the time of a write that it has allowed; an append-only file takes only now.
                touch = msgspec.structs.replace(wanted, mtime_ns="now")
                return self.attr(await self.posix.setattr(call.nodeid, touch, caller))
            raise stale(e) from e

    async def access(self, call: Call, mask: int) -> Buffer:
        if not self._checks:
            raise unsupported("access")  # the kernel checks, and doesn't ask again
        await self.posix.access(call.nodeid, mask, self.caller(call))
        return b""

    async def statfs(self, call: Call) -> Buffer:
        usage = await self.posix.statfs(call.nodeid)
        free = usage.available // _BLOCK
        return replies.statfs(
            max(1, usage.total // _BLOCK), free, free, usage.used_inodes + usage.available_inodes,
            usage.available_inodes, _BLOCK, 255, _BLOCK,
        )  # fmt: skip

    # -- extended attributes -----------------------------------------------------------------------------------------

    def _require_xattrs(self) -> None:
        if not self._config.any_xattr:
            raise unsupported("an extended attribute")  # said once; from then on the kernel knows

    async def setxattr(self, call: Call, name: bytes, value: bytes, flags: int, setxattr_flags: int) -> Buffer:
        self._require_xattrs()
        value = bytes(value)
        try:
            await self.posix.setxattr(
                call.nodeid, name, value, flags, self.caller(call),
                kill_sgid=bool(setxattr_flags & SETXATTR_ACL_KILL_SGID),
            )  # fmt: skip
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            await resent.xattr_was_set(self.posix, e, call.nodeid, name, value)
        return b""

    async def getxattr(self, call: Call, name: bytes, size: int) -> Buffer:
        self._require_xattrs()
        return _sized(await self.posix.getxattr(call.nodeid, name), size)

    async def listxattr(self, call: Call, size: int) -> Buffer:
        self._require_xattrs()
        try:
            names = await self.posix.listxattr(call.nodeid, self.caller(call))
        except FsError as e:
            raise stale(e) from e
        return _sized(b"".join(name + b"\0" for name in names), size)

    async def removexattr(self, call: Call, name: bytes) -> Buffer:
        self._require_xattrs()
        try:
            await self.posix.removexattr(call.nodeid, name, self.caller(call))
        except FsError as e:
            if not call.resent:
                raise stale(e) from e
            resent.xattr_was_removed(e)
        return b""

    # -- chattr ------------------------------------------------------------------------------------------------------

    async def ioctl(self, call: Call, fh: int, flags: int, cmd: int, arg: int, data: Buffer, out_size: int) -> Buffer:
        if cmd in GETFLAGS:
            if out_size not in (4, 8):
                raise FsError(errno.EINVAL, f"GETFLAGS with room for {out_size} bytes; 4 or 8 are possible")
            found = await self.posix.get_flags(call.nodeid)
            return replies.ioctl(0, 0, struct.pack("=I" if out_size == 4 else "=Q", found))
        if cmd in SETFLAGS:
            if len(data) not in (4, 8):
                raise FsError(errno.EINVAL, f"SETFLAGS with {len(data)} bytes; 4 or 8 are possible")
            (wanted,) = struct.unpack_from("=I", data)
            return await self._set_flags(call, wanted)
        if cmd == FSGETXATTR:
            found = await self.posix.get_flags(call.nodeid)
            xflags = sum(x for x, flag in _XFLAGS.items() if found & flag)
            return replies.ioctl(0, 0, _FSXATTR.pack(xflags, 0, 0, 0, 0)[:out_size])
        if cmd == FSSETXATTR:
            return await self._fssetxattr(call, data)
        raise FsError(errno.ENOTTY, f"ioctl {cmd:#x} is none of this file system's")

    async def _fssetxattr(self, call: Call, data: Buffer) -> Buffer:
        if len(data) != _FSXATTR.size:
            raise FsError(errno.EINVAL, f"FSSETXATTR with {len(data)} bytes; {_FSXATTR.size} are needed")
        xflags, extent_size, _, project, cow_size = _FSXATTR.unpack(data)
        kept = await self.posix.get_flags(call.nodeid) & FS_SECRM  # it has no letter here
        if xflags & ~sum(_XFLAGS) or extent_size or project or cow_size:
            raise FsError(errno.ENOTSUP, "only the flags immutable and append-only can be stored")
        wanted = kept | sum(flag for x, flag in _XFLAGS.items() if xflags & x)
        return await self._set_flags(call, wanted)

    async def _set_flags(self, call: Call, wanted: int) -> Buffer:
        await self.posix.set_flags(call.nodeid, wanted, self.caller(call))
        forget = self.posix.vfs.invalidate
        if forget is not None:
            await forget(call.nodeid, False)  # the kernel doesn't know that an ioctl moved the change time
        return replies.ioctl(0)


def _sized(value: bytes, size: int) -> bytes:
    if size == 0:
        return replies.xattr_size(len(value))
    if len(value) > size:
        raise FsError(errno.ERANGE, f"{len(value)} bytes don't fit into {size}")
    return value
