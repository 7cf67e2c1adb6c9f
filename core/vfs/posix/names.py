# SPDX-License-Identifier: Apache-2.0
"""Names: lookup, create, link, remove, rename. Files are created by `files`, which opens them at once.

The metadata engine has the rules; here is what a kernel's file system has on top: special names, limits, errno as
Linux has them. Source: metadata-semantics §4, §12.1.
"""

from __future__ import annotations

import errno
import stat
from typing import Final

import msgspec

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.namespace import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT, IsDirectory
from core.meta.records import (
    BLOCKDEV,
    CHARDEV,
    DIRECTORY,
    FIFO,
    FILE,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    MAX_SYMLINK,
    ROOT,
    SOCKET,
    SYMLINK,
    TRASH,
    TRASH_NAME,
    Attr,
)  # fmt: skip
from core.meta.store import Tx
from core.vfs.posix.nodes import Node, PosixBase
from core.vfs.posix.whiteout import rename_with_whiteout

#: What mknod(2) makes. Directories and symbolic links have calls of their own.
KINDS: Final = {
    0: FILE, stat.S_IFREG: FILE, stat.S_IFIFO: FIFO, stat.S_IFBLK: BLOCKDEV, stat.S_IFCHR: CHARDEV,
    stat.S_IFSOCK: SOCKET,
}  # fmt: skip


class Names(PosixBase):
    """Mixin of `Posix`. Parents and inodes are the mount's."""

    async def lookup(self, parent: int, name: bytes, caller: Caller) -> Node:
        """Find a name (1 trip); `.` and `..` too, for file handles of an NFS server. ENOENT, EACCES, ENAMETOOLONG."""
        if name[:1] == b".":
            special = self.find_special(parent, name)
            if special is not None and parent != ROOT:
                return await self._lookup_below(parent, name, caller, special)
            if special is not None:
                self._aside.found(0, caller.pid)
                return special
            if name == b".." and parent == 1:
                name = b"."
            elif self.is_trash(parent, name):
                name = TRASH_NAME
            if name == b"." and self.internal is not None and self.internal.is_internal(parent):
                return self.internal.node(parent)
        self.require_length(name)
        return await self._lookup(parent, name, caller)

    async def _lookup(self, parent: int, name: bytes, caller: Caller) -> Node:
        since = self.vfs.commits.count
        ino, attr = await self.meta.lookup(self.real(parent), name, caller)
        return await self.node(ino, attr, since)

    async def _lookup_below(self, parent: int, name: bytes, caller: Caller, special: Node) -> Node:
        """A user's file, or else the special one that is found everywhere."""
        try:
            return await self._lookup(parent, name, caller)
        except FsError as e:
            if e.errno != errno.ENOENT or self._aside.is_gone(parent):
                raise
        self._aside.found(parent, caller.pid)
        return special

    async def readlink(self, ino: int) -> bytes:
        return await self.meta.readlink(self.real(ino))

    # -- creating ----------------------------------------------------------------------------------------------------

    async def mknod(self, parent: int, name: bytes, mode: int, rdev: int, umask: int, caller: Caller) -> Node:
        """A file, FIFO, device or socket (2 trips); mode has the type, umask is ignored under a default ACL."""
        kind = KINDS.get(stat.S_IFMT(mode))
        if kind is None:
            raise FsError(errno.EINVAL, f"{show(name)}: mknod makes no node of type {stat.S_IFMT(mode):#o}")
        if kind not in (BLOCKDEV, CHARDEV):
            rdev = 0
        return await self._make(parent, name, kind, mode, umask, caller, rdev=rdev)

    async def mkdir(self, parent: int, name: bytes, mode: int, umask: int, caller: Caller) -> Node:
        return await self._make(parent, name, DIRECTORY, mode, umask, caller)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Node:
        if len(target) >= MAX_SYMLINK:
            raise FsError(
                errno.ENAMETOOLONG, f"{show(name)}: target of {len(target)} bytes; at most {MAX_SYMLINK - 1} fit"
            )
        return await self._make(parent, name, SYMLINK, 0o777, 0, caller, target=target)

    async def _make(
        self, parent: int, name: bytes, kind: int, mode: int, umask: int, caller: Caller, *, rdev: int = 0,
        target: bytes = b"",
    ) -> Node:  # fmt: skip
        self.require_writable()
        self.require_free_name(parent, name)
        above = self.real(parent)
        ino, attr = await self.meta.mknod(above, name, kind, mode & 0o7777, umask, caller, rdev=rdev, target=target)
        self.entries_changed(above)
        return await self.node(ino, attr)

    async def link(self, ino: int, parent: int, name: bytes, caller: Caller) -> Node:
        """One more name for a file, also for one that has none any more (O_TMPFILE)."""
        self.require_writable()
        self.require_ordinary_inode(ino)
        self.require_length(name)
        if self.is_special(parent, name):
            raise FsError(errno.EPERM, f"{show(name)}: is a special name of every mount's root")
        above = self.real(parent)
        since = self.vfs.commits.count
        attr = await self.meta.link(ino, above, name, caller)
        if attr.nlink == 1:
            attr = await self._first_name(ino, above, attr)
        self.entries_changed(above)
        self.changed(ino)
        return await self.node(ino, attr, since)

    async def _first_name(self, ino: int, parent: int, attr: Attr) -> Attr:
        """A file that had lost its last name has one again: its parent is this directory, as of a new file. The engine
        has taken the link for a second one, and counted the directory that the file was once made in."""

        async def body(tx: Tx) -> Attr:
            (now,) = await tx.read(k.node(ino))
            if now is None or now.nlink != 1 or now.parent:
                return now or attr
            hung: Attr = msgspec.structs.replace(now, parent=parent)
            tx.put(k.node(ino), hung)
            tx.delete(k.parents(ino))
            return hung

        return await self.meta.store.transact(body)

    # -- removing and moving -----------------------------------------------------------------------------------------

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove a name (2 trips). An open file stays readable and writable until its last handle is closed."""
        self.require_writable()
        self.require_ordinary_name(parent, name)
        above = self.real(parent)
        try:
            ino = await self.meta.unlink(above, name, _authority(caller, above))
        except IsDirectory as e:
            raise FsError(errno.EISDIR, e.strerror or "") from None
        except FsError as e:
            if e.errno != errno.ENOENT or not self._shown_below(parent, name):
                raise
            self._aside.go(parent)
            return
        self.entry_removed(above, name)
        self.entries_changed(above)
        self.changed(ino)

    async def rmdir(self, parent: int, name: bytes, caller: Caller) -> None:
        self.require_writable()
        self.require_ordinary_name(parent, name)
        above = self.real(parent)
        await self._require_unmarked(above, name)
        ino = await self.meta.rmdir(above, name, _authority(caller, above))
        self.directory_removed(ino)
        self.entry_removed(above, name)
        self.entries_changed(above)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> None:  # fmt: skip
        """flags: RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT as renameat2(2) combines them."""
        self.require_writable()
        self.require_ordinary_name(parent, name)
        self.require_ordinary_name(new_parent, new_name)
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT) or (
            flags & RENAME_EXCHANGE and flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)
        ):
            raise FsError(errno.EINVAL, f"rename flags {flags:#x} are unknown or can't be combined")
        source, target = self.real(parent), self.real(new_parent)
        who = _authority(caller, source, target)
        try:
            if flags & RENAME_WHITEOUT:
                ino = await rename_with_whiteout(self.meta, source, name, target, new_name, flags, caller, who)
            else:
                ino = await self.meta.rename(source, name, target, new_name, flags, who)
        except FsError as e:
            if e.errno == errno.ENOENT and not flags & RENAME_EXCHANGE and self._shown_below(parent, name):
                raise FsError(errno.EPERM, f"{show(name)}: is special; it can't be renamed") from None
            if e.errno == errno.EPERM and await self._is_inside(target, source, name):
                raise FsError(errno.EINVAL, f"{show(name)}: a directory can't move below itself") from None
            raise
        if flags & (RENAME_EXCHANGE | RENAME_WHITEOUT):
            self.entry_replaced(source, name)
        elif source != target or name != new_name:
            self.entry_removed(source, name)
        self.entry_replaced(target, new_name)
        self.entries_changed(source)
        self.entries_changed(target)
        self.changed(ino)

    def _shown_below(self, parent: int, name: bytes) -> bool:
        return parent != ROOT and self.find_special(parent, name) is not None and not self._aside.is_gone(parent)

    async def _require_unmarked(self, parent: int, name: bytes) -> None:
        """The engine asks only whether the directory above is marked immutable or append-only (semantics §4.6). This
        costs nothing: the removal begins with the same look, and believes what was just seen."""
        recent, attr = self.meta.store.recent, None
        if recent is not None and (entry := recent.get(k.entry(parent, name))) is not None:
            attr = recent.get(k.node(entry.ino))
        if attr is None:
            _, attr = await self.meta.lookup(parent, name)
        if attr.flags & (FLAG_IMMUTABLE | FLAG_APPEND):
            raise FsError(errno.EPERM, f"{show(name)}: is immutable or append-only (chattr -i -a lifts that)")

    async def _is_inside(self, directory: int, parent: int, name: bytes) -> bool:
        """Does the name lead to this directory or to the one above it? The engine calls that EPERM, Linux EINVAL."""
        try:
            ino, _ = await self.meta.lookup(parent, name)
            return ino == directory or ino == (await self.meta.getattr(directory)).parent
        except FsError:
            return False


def _authority(caller: Caller, *parents: int) -> Caller:
    """Who removes and moves. The engine tests sticky directories by uid alone; where the kernel has decided (with
    capabilities, and for directories as Linux does) its word counts. The trash has rules that it doesn't know."""
    return caller if caller.check or any(parent >= TRASH for parent in parents) else ROOT_CALLER
