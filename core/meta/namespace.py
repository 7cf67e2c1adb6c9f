# SPDX-License-Identifier: Apache-2.0
"""Names: lookup, create, link, unlink, rmdir, rename, listing.

Checks come in the order of spec metadata-semantics §4; every operation is one transaction.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

import msgspec

from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.base import EXECUTE, READ, WRITE, Exists, show
from core.meta.caller import ROOT_CALLER, Caller, Condition
from core.meta.records import (
    DIRECTORY,
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
    DirStat,
    Entry,
    NodePatch,
    node_space,
)  # fmt: skip
from core.meta.store import DirEntry, Resolved, Step, Tx, learn_walk
from core.meta.trash import Trash

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
RENAME_WHITEOUT: Final = 4
RENAME_RESTORE: Final = 0x20

_FROZEN: Final = FLAG_IMMUTABLE | FLAG_APPEND
_DEFAULT_ROOT: Final = Attr(DIRECTORY, 0o777, 0, 0, 0, 0, 0, 2, 4096, 0, ROOT)
_DEFAULT_TRASH: Final = Attr(DIRECTORY, 0o555, 0, 0, 0, 0, 0, 2, 4096, 0, ROOT)


class IsDirectory(FsError):
    """EPERM of unlink on a directory, for doors that answer EISDIR."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.EPERM, message)


class SymlinkInPath(FsError):
    """A component of the path is a symbolic link; whoever knows paths resolves it and tries again."""

    def __init__(self, depth: int, ino: int) -> None:
        super().__init__(errno.ENOTDIR, f"component {depth} of the path is a symbolic link")
        self.depth = depth
        self.ino = ino


class Namespace(Trash):
    """Mixin of `Meta`."""

    # -- looking -------------------------------------------------------------------------------------------------

    async def getattr(self, ino: int) -> Attr:
        """Attributes (1 trip). The root and the trash root always exist."""
        recent = self.store.recent
        changes = recent.changes(ino) if recent is not None else 0
        (attr,) = await self.store.read(k.node(ino))
        if recent is not None:
            if attr is not None and attr.type == DIRECTORY:
                recent.answered_directory(ino, attr, changes)
            else:
                recent.learn(k.node(ino), attr)
        if attr is None:
            if ino == ROOT:
                return _DEFAULT_ROOT
            if ino == TRASH:
                return _DEFAULT_TRASH
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        result: Attr = attr
        return result

    async def lookup(self, parent: int, name: bytes, caller: Caller = ROOT_CALLER) -> tuple[int, Attr]:
        """Find a name (1 trip). ENOENT, EACCES, ENOTDIR (only for `..`)."""
        if name == b"." or (name == b".." and parent == ROOT):
            return parent, await self.getattr(parent)
        if name == b"..":
            attr = await self.getattr(parent)
            if not attr.is_dir:
                raise FsError(errno.ENOTDIR, f"inode {parent} is no directory")
            return attr.parent, await self.getattr(attr.parent)
        if self.is_trash_name(parent, name):
            return TRASH, await self.getattr(TRASH)
        found = await self.store.resolve(parent, [name])
        if self.store.recent is not None:
            learn_walk(self.store.recent, parent, [name], found)
        if found.base is not None and found.base.is_dir:
            await self.require_access(caller, parent, found.base, EXECUTE)
        if not found.steps:
            raise FsError(errno.ENOENT, f"{show(name)}: no such name in directory inode {parent}")
        step = found.steps[0]
        if step.attr is None:
            raise FsError(errno.ENOENT, f"{show(name)}: entry of missing inode {step.entry.ino}; run `sluice fsck`")
        return step.entry.ino, step.attr

    async def readdir(self, ino: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False) -> list[DirEntry]:
        """One page of a directory, in byte order (1 trip), without `.` and `..`. No checks: see `opendir`."""
        page = await self.store.list_entries(ino, after, limit, attrs=attrs)
        if attrs and (recent := self.store.recent) is not None:
            for e in page:
                recent.learn_step(ino, e.name, Entry(e.type, e.ino), e.attr)
        return page

    async def opendir(self, ino: int, caller: Caller = ROOT_CALLER, *, attrs: bool = False) -> Attr:
        """The checks before a listing: ENOENT, ENOTDIR, EACCES."""
        attr = await self.getattr(ino)
        if not attr.is_dir:
            raise FsError(errno.ENOTDIR, f"inode {ino} is no directory")
        await self.require_access(caller, ino, attr, READ | EXECUTE if attrs else READ)
        self.note_access(ino, attr)
        return attr

    async def readlink(self, ino: int) -> bytes:
        target, attr = await self.store.read(k.symlink(ino), k.node(ino))
        if attr is None:
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        if attr.type != SYMLINK:
            raise FsError(errno.EINVAL, f"inode {ino} is no symbolic link")
        if target is None:
            raise MetaError(f"symbolic link inode {ino} has no target record; run `sluice fsck`")
        self.note_access(ino, attr)
        result: bytes = target
        return result

    async def parents(self, ino: int) -> dict[int, int]:
        """Directories that hold a link to the inode, and how many links."""
        attr = await self.getattr(ino)
        if ino in (ROOT, TRASH):
            return {ROOT: 1}
        if attr.parent > 0:
            return {attr.parent: 1}
        (counts,) = await self.store.read(k.parents(ino))
        result: dict[int, int] = counts
        return result

    async def walk_parents(
        self, caller: Caller, base: int, names: Sequence[bytes], found: Resolved, *, make: bool = False
    ) -> tuple[int, Attr | None, int]:
        """The directory that holds (or will hold) the last name of a resolved path.

        Returns the deepest existing directory of the path's parents, its attributes, and how many directories are
        missing
        below it (0 unless `make`). ENOENT, ENOTDIR, EACCES, SymlinkInPath.
        """
        parent, pattr = base, found.base
        for depth, step in enumerate(found.steps[: len(names) - 1]):
            if pattr is not None:
                await self.require_access(caller, parent, pattr, EXECUTE)
            if step.entry.type == SYMLINK:
                raise SymlinkInPath(depth, step.entry.ino)
            if step.entry.type != DIRECTORY:
                raise FsError(errno.ENOTDIR, f"{show(names[depth])}: is no directory")
            parent, pattr = step.entry.ino, step.attr
        missing = max(0, len(names) - 1 - len(found.steps))
        if missing and not make:
            raise FsError(errno.ENOENT, f"{show(names[len(found.steps)])}: no such directory")
        return parent, pattr, missing

    # -- creating ------------------------------------------------------------------------------------------------

    def _require_creatable(self, parent: int, name: bytes) -> None:
        if parent >= TRASH or self.is_trash_name(parent, name):
            raise FsError(errno.EPERM, f"{show(name)}: nothing can be created in the trash or under its name")
        self.require_writable()
        if name in (b".", b".."):
            raise FsError(errno.EEXIST, f"{show(name)}: exists in every directory")
        self.require_name(name)

    async def mknod(
        self, parent: int, name: bytes, kind: int, mode: int, umask: int = 0, caller: Caller = ROOT_CALLER, *,
        rdev: int = 0, target: bytes = b"",
    ) -> tuple[int, Attr]:  # fmt: skip
        """Create a node of any type (2 trips). `Exists` (EEXIST) tells what is there already."""
        if kind == SYMLINK and (not target or len(target) > MAX_SYMLINK or b"\0" in target):
            raise FsError(errno.EINVAL, f"symbolic link target of {len(target)} bytes; 1 to {MAX_SYMLINK}, no NUL")
        if not FILE <= kind <= SOCKET:
            raise FsError(errno.EINVAL, f"unknown node type {kind}")
        self._require_creatable(parent, name)
        ino = self.inodes.take_nowait() or await self.inodes.take()

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            pattr, there = await tx.guess(k.node(parent), free=k.entry(parent, name))
            pattr = await self.require_target_dir(caller, parent, pattr, name)
            if there is not None:
                (attr,) = await tx.peek(k.node(there.ino))
                raise Exists(f"{show(name)}: exists in directory inode {parent}", there.ino, attr)
            now = self.clock_ns()
            attr = await self.new_attr(
                parent, pattr, caller, kind, mode, umask, now, length=len(target), rdev=rdev
            )  # fmt: skip
            tx.expect_identity(parent, pattr)
            tx.expect(k.entry(parent, name), None)
            touched = await self.add_node(tx, parent, pattr, name, ino, attr, now)
            if kind == SYMLINK:
                tx.put(k.symlink(ino), target)
            self.log_create(tx, parent, name, ino, attr, mode, umask, touched, now, caller, target)
            return tx, attr

        tx, attr = await self.store.transact(body)
        self.after_commit(tx)
        return ino, attr

    def log_create(
        self, tx: Tx, parent: int, name: bytes, ino: int, attr: Attr, mode: int, umask: int, touched: bool, now: int,
        caller: Caller, target: bytes = b"",
    ) -> None:  # fmt: skip
        """The change-log line of a new node; mode and umask as they were asked for."""
        self.log_change(
            tx, "CREATE", parent, name, caller.uid, caller.gid, attr.type, mode & 0o7777, umask, target, "linux",
            touched, result=ino, now=now,
        )  # fmt: skip

    async def add_node(self, tx: Tx, parent: int, pattr: Attr, name: bytes, ino: int, attr: Attr, now: int) -> bool:
        """Writes for a new node under a new name: entry, node, parent's times and link count, usage.

        Returns whether the parent's times change.
        """
        tx.put(k.entry(parent, name), Entry(attr.type, ino))
        tx.put(k.node(ino), attr)
        is_dir = attr.type == DIRECTORY
        if is_dir and self.dir_stats:
            tx.put(k.dirstat(ino), DirStat(0, 0, 0))
        touched = self.touch_parent(tx, parent, pattr, now, 1 if is_dir else 0)
        length = attr.length if attr.type == FILE else 0
        await self.charge(tx, parent, length, node_space(attr), 1, uid=attr.uid, gid=attr.gid)
        return touched

    def touch_parent(self, tx: Tx, parent: int, pattr: Attr, now: int, nlink: int = 0) -> bool:
        """Times of a directory whose entries change, and its link count (semantics §1.7). True if they change."""
        if parent >= TRASH:
            return False
        if nlink or now - pattr.mtime_ns >= self.skip_dir_mtime_ns:
            tx.patch(parent, NodePatch(nlink, now, now))
            return True
        return False

    async def create(
        self, parent: int, name: bytes, mode: int = 0o644, umask: int = 0, caller: Caller = ROOT_CALLER, *,
        exclusive: bool = False,
    ) -> tuple[int, Attr]:  # fmt: skip
        """A regular file; an existing one is returned as it is unless `exclusive`."""
        try:
            return await self.mknod(parent, name, FILE, mode, umask, caller)
        except Exists as e:
            if exclusive or e.attr is None or e.attr.type != FILE:
                raise
            return e.ino, e.attr

    async def mkdir(
        self, parent: int, name: bytes, mode: int = 0o755, umask: int = 0, caller: Caller = ROOT_CALLER
    ) -> tuple[int, Attr]:
        return await self.mknod(parent, name, DIRECTORY, mode, umask, caller)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller = ROOT_CALLER) -> tuple[int, Attr]:
        return await self.mknod(parent, name, SYMLINK, 0o777, 0, caller, target=target)

    async def link(self, ino: int, parent: int, name: bytes, caller: Caller = ROOT_CALLER) -> Attr:
        """A hard link (2 trips). The inode's parent becomes 0 for ever; parents are counted from then on."""
        if parent >= TRASH or self.is_trash_name(parent, name):
            raise FsError(errno.EPERM, f"{show(name)}: nothing can be linked into the trash")
        self.require_writable()
        self.require_name(name)
        if name in (b".", b".."):
            raise FsError(errno.EEXIST, f"{show(name)}: exists in every directory")

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            pattr, attr, there = await tx.guess(k.node(parent), k.node(ino), free=k.entry(parent, name))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.type == DIRECTORY:
                raise FsError(errno.EPERM, f"inode {ino} is a directory; directories can't be hard-linked")
            pattr = await self.require_target_dir(caller, parent, pattr, name)
            if attr.flags & _FROZEN:
                raise FsError(errno.EPERM, f"inode {ino} is immutable or append-only")
            if there is not None:
                raise Exists(f"{show(name)}: exists in directory inode {parent}", there.ino, None)
            now = self.clock_ns()
            tx.expect_identity(parent, pattr)
            tx.expect(k.node(ino), attr)
            tx.expect(k.entry(parent, name), None)
            tx.put(k.entry(parent, name), Entry(attr.type, ino))
            linked = msgspec.structs.replace(attr, nlink=attr.nlink + 1, parent=0, ctime_ns=now)
            tx.put(k.node(ino), linked)
            if attr.parent > 0:
                tx.add(k.parent(ino, attr.parent), 1)
            tx.add(k.parent(ino, parent), 1)
            touched = self.touch_parent(tx, parent, pattr, now)
            length = attr.length if attr.type == FILE else 0
            await self.charge(tx, parent, length, node_space(attr), 1, volume=False, uid=attr.uid, gid=attr.gid)
            self.log_change(tx, "LINK", ino, parent, name, touched, result=linked.nlink, now=now)
            return tx, linked

        tx, linked = await self.store.transact(body)
        self.after_commit(tx)
        return linked

    # -- removing ------------------------------------------------------------------------------------------------

    async def require_source_dir(
        self, caller: Caller, parent: int, attr: Attr | None, name: bytes, *, forbidden: int = _FROZEN
    ) -> Attr:
        """The checks on a directory that is about to lose an entry."""
        if attr is None:
            raise FsError(errno.ENOENT, f"directory inode {parent} does not exist any more")
        if attr.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, f"inode {parent}, parent of {show(name)!r}, is no directory")
        await self.require_access(caller, parent, attr, WRITE | EXECUTE)
        if attr.flags & forbidden:
            raise FsError(errno.EPERM, f"directory inode {parent} is immutable or append-only")
        return attr

    @staticmethod
    def require_condition(condition: Condition | None, entry: Entry | None, attr: Attr | None, name: bytes) -> None:
        """What a door asked for about the name: EEXIST for `absent`, ESTALE for any other mismatch."""
        if condition is None:
            return
        if condition.absent:
            if entry is not None:
                raise Exists(f"{show(name)}: exists", entry.ino, attr)
            return
        if entry is None or attr is None or (
            (condition.ino is not None and condition.ino != entry.ino)
            or (condition.mtime_ns is not None and condition.mtime_ns != attr.mtime_ns)
            or (condition.ctime_ns is not None and condition.ctime_ns != attr.ctime_ns)
        ):  # fmt: skip
            raise FsError(errno.ESTALE, f"{show(name)}: has changed since it was looked at")

    def _require_removable(self, parent: int, name: bytes, caller: Caller) -> None:
        if self.is_trash_name(parent, name) or (parent >= TRASH and caller.uid != 0):
            raise FsError(errno.EPERM, f"{show(name)}: only root removes entries of the trash, nobody the trash itself")
        self.require_writable()

    async def unlink(
        self, parent: int, name: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False,
        condition: Condition | None = None, below: Sequence[bytes] = (),
    ) -> int:  # fmt: skip
        """Remove a name of anything but a directory (2 trips); returns the inode it named. Directory: EPERM.

        below: directories between `parent` and the name, walked in the same trip (SymlinkInPath if one is a link).
        """
        names = [*below, name]
        self._require_removable(parent, names[0], caller)
        trash = await self.trash_dir(parent, skip=skip_trash)

        async def body(tx: Tx) -> tuple[Tx, int]:
            top, pattr, step = await self._find_entry(tx, parent, names, caller)
            if step is not None and step.entry.type == DIRECTORY:
                raise IsDirectory(f"{show(name)}: is a directory; remove it with rmdir")
            pattr = await self.require_source_dir(caller, top, pattr, name)
            assert step is not None
            entry, attr = step
            self.require_condition(condition, entry, attr, name)
            if self.sticky_denies(caller, pattr, attr):
                raise FsError(errno.EACCES, f"{show(name)}: directory inode {parent} is sticky and owned by others")
            if attr is not None and attr.flags & _FROZEN:
                raise FsError(errno.EPERM, f"{show(name)}: is immutable or append-only")
            now = self.clock_ns()
            tx.expect_identity(top, pattr)
            tx.expect(k.entry(top, name), entry)
            tx.delete(k.entry(top, name))
            touched = self.touch_parent(tx, top, pattr, now)
            await self.drop_node(tx, top, name, entry, attr, trash, now)
            self.log_unlink(tx, top, name, entry, trash, touched, now)
            return tx, entry.ino

        tx, ino = await self.store.transact(body)
        self.after_commit(tx)
        return ino

    def log_unlink(
        self, tx: Tx, parent: int, name: bytes, entry: Entry, trash: int, touched: bool, now: int
    ) -> None:  # fmt: skip
        opened = entry.type == FILE and bool(self.sid and self.open_files.get(entry.ino))
        self.log_change(tx, "UNLINK", parent, name, trash, opened, touched, result=entry.ino, now=now)

    async def _find_entry(
        self, tx: Tx, base: int, names: Sequence[bytes], caller: Caller
    ) -> tuple[int, Attr | None, Step | None]:
        """Directory, its attributes and the entry of a name that shall be removed (1 trip); ENOENT if there is none.
        The step is None only if the directory itself is missing or no directory: its own check tells which."""
        (found,) = await tx.walk((base, names))
        parent, pattr, _ = await self.walk_parents(caller, base, names, found)
        if len(found.steps) == len(names):
            return parent, pattr, found.steps[-1]
        if pattr is not None and pattr.type == DIRECTORY:
            await self.require_access(caller, parent, pattr, EXECUTE)
            raise FsError(errno.ENOENT, f"{show(names[-1])}: no such name in directory inode {parent}")
        return parent, pattr, None

    async def rmdir(
        self, parent: int, name: bytes, caller: Caller = ROOT_CALLER, *, skip_trash: bool = False,
        below: Sequence[bytes] = (),
    ) -> int:  # fmt: skip
        """Remove an empty directory (2 trips; 4 if it turns out to be occupied). below: as in `unlink`."""
        if name == b".":
            raise FsError(errno.EINVAL, "rmdir of `.`")
        if name == b"..":
            raise FsError(errno.ENOTEMPTY, "rmdir of `..`")
        if parent == TRASH:
            raise FsError(errno.EPERM, f"{show(name)}: directories of the trash go when they expire")
        names = [*below, name]
        self._require_removable(parent, names[0], caller)
        trash = await self.trash_dir(parent, skip=skip_trash)
        tx, ino = await self.store.transact(lambda tx: self._rmdir(tx, parent, names, caller, trash))
        self._dir_parents.pop(ino, None)
        self.after_commit(tx)
        return ino

    async def _rmdir(self, tx: Tx, base: int, names: Sequence[bytes], caller: Caller, trash: int) -> tuple[Tx, int]:
        name = names[-1]
        parent, pattr, step = await self._find_entry(tx, base, names, caller)
        if step is not None and step.entry.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, f"{show(name)}: is no directory")
        pattr = await self.require_source_dir(caller, parent, pattr, name)
        assert step is not None
        entry, attr = step
        if self.sticky_denies(caller, pattr, attr):
            (occupied,) = await tx.peek(k.occupied(entry.ino))
            if occupied:
                raise FsError(errno.ENOTEMPTY, f"{show(name)}: directory is not empty")
            raise FsError(errno.EACCES, f"{show(name)}: directory inode {parent} is sticky and owned by others")
        now = self.clock_ns()
        tx.expect_identity(parent, pattr)
        tx.expect(k.entry(parent, name), entry)
        tx.delete(k.entry(parent, name))
        self.touch_parent(tx, parent, pattr, now, -1)
        if attr is None:
            tx.expect(k.node(entry.ino), None)
            await self.charge(tx, parent, 0, -4096, -1, check=False)
        else:
            await self.drop_directory(tx, parent, name, entry.ino, attr, trash, now)
        self.log_change(tx, "RMDIR", parent, name, trash, result=entry.ino, now=now)
        return tx, entry.ino

    # -- renaming: core/meta/rename.py ---------------------------------------------------------------------------

    async def resolve(self, base: int, names: list[bytes], *, xattrs: bool = False, chunk: bool = False) -> Resolved:
        """Walk names without checks or symlinks (1 trip); the root's `.trash` is known."""
        if names and base == ROOT and names[0] == TRASH_NAME:
            attr = await self.getattr(TRASH)
            rest = await self.store.resolve(TRASH, names[1:], xattrs=xattrs, chunk=chunk)
            return rest._replace(steps=[Step(Entry(DIRECTORY, TRASH), attr), *rest.steps])
        return await self.store.resolve(base, names, xattrs=xattrs, chunk=chunk)
