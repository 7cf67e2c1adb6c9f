# SPDX-License-Identifier: Apache-2.0
"""Extended attributes with their switches, POSIX ACLs as attributes, and the flags of chattr.

Who may set what is decided by namespace in the kernel (trusted for administrators, user for owners of files and
directories, security by its module); here is what the volume can hold and what the mount has switched on.
Source: metadata-semantics §5.4–§5.6; xattr(7), acl(5), ioctl_iflags(2).
"""

from __future__ import annotations

import errno
from typing import Final

from core.errors import FsError
from core.meta import keys as k
from core.meta.acl import XATTR_ACCESS, XATTR_DEFAULT
from core.meta.base import show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.inode import XATTR_CREATE, XATTR_REPLACE
from core.meta.records import FLAG_APPEND, FLAG_IMMUTABLE, FLAG_SKIP_TRASH, NodePatch
from core.meta.store import Tx
from core.vfs.posix.attributes import Attributes

#: chattr's letters s, i and a (linux/fs.h) -> flags of an inode
FS_SECRM: Final = 0x1
FS_IMMUTABLE: Final = 0x10
FS_APPEND: Final = 0x20
_FLAGS: Final = {FS_SECRM: FLAG_SKIP_TRASH, FS_IMMUTABLE: FLAG_IMMUTABLE, FS_APPEND: FLAG_APPEND}
_KNOWN_FS: Final = FS_SECRM | FS_IMMUTABLE | FS_APPEND
_KNOWN: Final = FLAG_SKIP_TRASH | FLAG_IMMUTABLE | FLAG_APPEND

_CAPABILITY: Final = b"security.capability"
_SELINUX: Final = b"security.selinux"
_ACLS: Final = frozenset((XATTR_ACCESS, XATTR_DEFAULT))
#: Linux knows no other ones. What doors of another kind keep under names of their own (`s3-etag`) isn't listed, so that
#: programs that copy attributes don't stumble over them; it can be read by name.
_NAMESPACES: Final = (b"user.", b"trusted.", b"security.", b"system.")


class Xattrs(Attributes):
    """Mixin of `Posix`."""

    def has_xattr(self, name: bytes) -> bool:
        """Is this attribute switched on for the mount?"""
        config = self.config
        if name in _ACLS:
            return config.acl
        if name == _CAPABILITY:
            return config.cap
        if name == _SELINUX:
            return config.selinux
        if name.startswith(b"system."):
            return False  # whatever else is there means something to another file system
        return config.xattr or config.cap

    @staticmethod
    def _in_namespace(name: bytes) -> bool:
        return any(name.startswith(space) and len(name) > len(space) for space in _NAMESPACES)

    def _require_xattr(self, name: bytes) -> None:
        if not self._in_namespace(name):
            raise FsError(
                errno.ENOTSUP, f"extended attribute {show(name[:60])!r}: names begin with user., trusted. or security."
            )
        if not self.has_xattr(name):
            switch = "the volume's ACLs" if name in _ACLS else {
                _CAPABILITY: "--enable-cap", _SELINUX: "--enable-selinux"
            }.get(name, "--enable-xattr")  # fmt: skip
            raise FsError(
                errno.ENOTSUP, f"extended attribute {show(name[:60])!r} is not switched on here; mount with {switch}"
            )

    async def setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller, *, kill_sgid: bool | None = None
    ) -> None:
        """Set one (1 trip, 2 with flags). flags: XATTR_CREATE, XATTR_REPLACE. kill_sgid: with an access ACL,
        set-group-id goes (the kernel knows whether the caller is in the group); None: decide by the caller's groups."""
        self.require_writable()
        self.require_ordinary_inode(ino)
        self._require_xattr(name)
        real = self.real(ino)
        await self.require_unmarked(real)
        who = caller
        if name in _ACLS and not caller.check and kill_sgid is not None:
            # Ownership was checked by the kernel, so all that is left of the caller is that one question.
            who = Caller((await self.meta.getattr(real)).uid or 1, ()) if kill_sgid else ROOT_CALLER
        if name in _ACLS:
            self.acl_set(real)
            await self.meta.setxattr(real, name, value, flags, who)
        else:
            await self._store(real, name, value, flags)
        self.changed(real)

    async def _store(self, ino: int, name: bytes, value: bytes | None, flags: int = 0) -> None:
        """Set or (None) remove, and mark the change of the inode, as Linux does and the engine doesn't."""
        meta = self.meta
        meta.require_writable()
        meta.require_xattr(name, value)
        if flags not in (0, XATTR_CREATE, XATTR_REPLACE):
            raise FsError(errno.EINVAL, f"xattr flags {flags:#x} can't be combined")

        async def body(tx: Tx) -> None:
            if tx.attempt:
                (attr,) = await tx.peek(k.node(ino))
                if attr is None:
                    raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if flags or value is None:
                (old,) = await tx.read(k.xattr(ino, name))
                if flags == XATTR_CREATE and old is not None:
                    raise FsError(errno.EEXIST, f"inode {ino} has extended attribute {show(name)!r} already")
                if flags != XATTR_CREATE and old is None:
                    raise FsError(errno.ENODATA, f"inode {ino} has no extended attribute {show(name)!r}")
            if value is None:
                tx.delete(k.xattr(ino, name))
                meta.log_change(tx, "REMOVEXATTR", ino, name)
            else:
                tx.put(k.xattr(ino, name), value)
                meta.log_change(tx, "SETXATTR", ino, name, value, flags)
            tx.patch(ino, NodePatch(ctime_ns=meta.clock_ns()))

        await meta.store.transact(body)

    async def getxattr(self, ino: int, name: bytes) -> bytes:
        """ENODATA if it isn't there or not switched on."""
        if not self.has_xattr(name) or self.is_special_inode(ino):
            raise FsError(errno.ENODATA, f"inode {ino} has no extended attribute {show(name[:60])!r}")
        real = self.real(ino)
        if name in _ACLS and self.has_no_acl(real):
            raise FsError(errno.ENODATA, f"inode {ino} has no ACL")
        return await self.meta.getxattr(real, name)

    async def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        """trusted.* is for root only."""
        if self.is_special_inode(ino):
            return []
        real = self.real(ino)
        try:
            found = await self.meta.listxattr(real)
        except FsError as e:
            if e.errno != errno.ENOENT or self.removed_directory(real) is None:
                raise
            return []
        return [
            name
            for name in found
            if self.has_xattr(name)
            and self._in_namespace(name)
            and (caller.uid == 0 or not name.startswith(b"trusted."))
        ]

    async def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        self.require_writable()
        self.require_ordinary_inode(ino)
        self._require_xattr(name)
        real = self.real(ino)
        await self.require_unmarked(real)
        if name in _ACLS:
            await self.meta.removexattr(real, name, caller if caller.check else ROOT_CALLER)
        else:
            await self._store(real, name, None)
        self.changed(real)

    # -- chattr ------------------------------------------------------------------------------------------------------

    def _require_flags(self, ino: int) -> int:
        if not self.config.ioctl:
            raise FsError(errno.ENOTTY, "file flags are not switched on here; mount with --enable-ioctl")
        self.require_ordinary_inode(ino)
        return self.real(ino)

    async def get_flags(self, ino: int) -> int:
        """FS_IMMUTABLE, FS_APPEND, FS_SECRM (skips the trash), as lsattr shows them. ENOTTY if switched off."""
        flags = (await self.meta.getattr(self._require_flags(ino))).flags
        return sum(shown for shown, stored in _FLAGS.items() if flags & stored)

    async def set_flags(self, ino: int, wanted: int, caller: Caller) -> None:
        """Replace those flags; others that the inode has (of Windows clients) stay. EPERM, ENOTSUP."""
        self.require_writable()
        real = self._require_flags(ino)
        if wanted & ~_KNOWN_FS:
            raise FsError(errno.ENOTSUP, f"file flags {wanted & ~_KNOWN_FS:#x} can't be stored; only s, i and a can")
        attr = await self.meta.getattr(real)
        flags = attr.flags & ~_KNOWN | sum(stored for shown, stored in _FLAGS.items() if wanted & shown)
        if flags == attr.flags:
            return
        if caller.check and caller.uid != 0:
            raise FsError(errno.EPERM, f"inode {ino}: only root changes file flags")
        await self.vfs.setattr(real, {"flags": flags}, caller)
        self.changed(real)
