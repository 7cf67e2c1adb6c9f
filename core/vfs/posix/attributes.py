# SPDX-License-Identifier: Apache-2.0
"""Attributes of an inode: stat, chmod, chown, truncate, times, access, and what `df` shows.

Extended attributes and chattr flags are in `xattrs`. Changes go through the VFS, so that what is buffered for an open
file counts. Source: metadata-semantics §2.5, §5.1, §6.4; chmod(2), chown(2), truncate(2), utimensat(2).
"""

from __future__ import annotations

import asyncio
import errno
import stat
from typing import Any, Final, Literal

import msgspec

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import EXECUTE, WRITE
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.meta import StatFs
from core.meta.records import DIRECTORY, FILE, FLAG_APPEND, FLAG_IMMUTABLE, Attr, NodePatch
from core.meta.store import Tx
from core.vfs.layouts import LEAST
from core.vfs.posix.nodes import Node, PosixBase

#: df waits this long for fresh counters if there are older ones (semantics §2.5).
STATFS_PATIENCE_S: Final = 0.15

Time = int | Literal["now"] | None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What setattr shall change; None leaves it. Times: ns since 1970, or "now"."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: Time = None
    mtime_ns: Time = None
    kill: bool = False  # take away set-user-id, and set-group-id of what the group may execute
    opened: bool = False  # through a handle that is open for writing: its permission was checked then

    @property
    def only_touches(self) -> bool:
        """Nothing but times, and those to now."""
        return (
            self.mode is None and self.uid is None and self.gid is None and self.size is None and not self.kill
            and self.atime_ns in (None, "now") and self.mtime_ns in (None, "now")
        )  # fmt: skip


def killed_mode(mode: int) -> int:
    """The mode after a write by somebody who may not keep these bits (semantics of the kernel's KILL_SUIDGID)."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


class Attributes(PosixBase):
    """Mixin of `Posix`."""

    _usage: tuple[int, StatFs] | None = None  # directory and what df showed there last

    def directory_nowait(self, ino: int, ttl_s: float) -> tuple[Node, float] | None:
        """Attributes of a directory that the client had, and forgot because we changed an entry; and for how long it
        may believe them. We know what we changed, and the rest is no older than what it would still believe."""
        real = self.real(ino)
        if real not in self._made_old:
            return None
        self._made_old.discard(real)
        found = self.meta.store.recent.directory(real, ttl_s) if self.meta.store.recent is not None else None
        if found is None:
            return None
        attr, age_s = found
        return Node(ino, attr, self.blocks(real, attr)), ttl_s - age_s

    async def getattr(self, ino: int) -> Node:
        """Fresh attributes (1 trip); the length counts what is buffered here. ENOENT."""
        if self.internal is not None and self.internal.is_internal(ino):
            return self.internal.node(ino)
        real = self.real(ino)
        try:
            attr = await self.vfs.getattr(real)
        except FsError as e:
            gone = self.removed_directory(real) if e.errno == errno.ENOENT else None
            if gone is None:
                raise
            return Node(ino, gone, 0)
        if attr.type == DIRECTORY:
            self.told(real, attr)
        elif attr.type == FILE and attr.length >= LEAST and not self.vfs.blocks_known(real, attr):
            attr = await self.vfs.getattr(real)  # this time with what it consists of
        if self._acl:
            self.saw_acl(real, attr)
        return Node(ino, attr, self.blocks(real, attr))

    async def setattr(self, ino: int, change: Change, caller: Caller) -> Node:
        """Change attributes; the size first, as truncate does, then the rest in one step (2 trips each)."""
        if self.internal is not None and self.internal.is_internal(ino):
            if change.size is not None and self._aside.taken_for_a_file(caller.pid):
                raise FsError(errno.ESTALE, f"inode {ino}: the name may be an ordinary file's; look it up again")
            return self.internal.node(ino)  # `echo > .control` must not fail for the truncation
        try:
            return await self._setattr(ino, change, caller)
        except FsError as e:
            gone = self.removed_directory(self.real(ino)) if e.errno == errno.ENOENT else None
            if gone is None:
                raise
            wanted = {name: value for name, value in self._wanted(change, caller).items() if value != "now"}
            changed = msgspec.structs.replace(gone, ctime_ns=self.meta.clock_ns(), **wanted)
            self._removed[self.real(ino)] = changed
            return Node(ino, changed, 0)

    async def _setattr(self, ino: int, change: Change, caller: Caller) -> Node:
        self.require_writable()
        real = self.real(ino)
        await self.require_unmarked(real, touch=change.only_touches)
        who = caller if caller.check else ROOT_CALLER  # the kernel has checked, capabilities included
        attr: Attr | None = None
        if change.size is not None:
            attr = await self._resize(real, change.size, ROOT_CALLER if change.opened else who)
        wanted = self._wanted(change, caller)
        if change.kill and change.uid is None and change.gid is None:
            attr = attr or await self.meta.getattr(real)
            mode = killed_mode(wanted.get("mode", attr.mode))
            if mode != attr.mode:
                wanted["mode"] = mode
                who = ROOT_CALLER
        if wanted:
            before = self.meta.clock_ns()
            attr = await self.vfs.setattr(real, wanted, who)
            if attr.ctime_ns < before:
                attr = await self._touch_ctime(real, attr)
        elif attr is None:
            attr = await self.vfs.getattr(real)
        self.changed(real)
        return Node(ino, attr, self.blocks(real, attr))

    def _wanted(self, change: Change, caller: Caller) -> dict[str, Any]:
        wanted: dict[str, Any] = {}
        if change.mode is not None:
            wanted["mode"] = change.mode & 0o7777
        if change.uid is not None:
            wanted["uid"] = change.uid
        if change.gid is not None:
            wanted["gid"] = change.gid
        now: int | str = "now" if caller.check else self.meta.clock_ns()  # the same for both times
        for field in ("atime_ns", "mtime_ns"):
            value = getattr(change, field)
            if value is not None:
                wanted[field] = now if value == "now" else value
        return wanted

    async def _resize(self, ino: int, size: int, caller: Caller) -> Attr:
        attr = await self.meta.getattr(ino) if not self.vfs.is_open(ino) and caller.check else None
        if attr is not None and attr.type == DIRECTORY:
            raise FsError(errno.EISDIR, f"inode {ino} is a directory")
        before = self.meta.clock_ns()
        attr = await self.vfs.truncate(ino, size, caller)
        if attr.mtime_ns < before:
            # The length was the same already; ftruncate and O_TRUNC renew the times all the same.
            attr = await self.vfs.setattr(ino, {"mtime_ns": self.meta.clock_ns()}, ROOT_CALLER)
        return attr

    async def _touch_ctime(self, ino: int, attr: Attr) -> Attr:
        """What was set is what was there. The engine writes nothing then; POSIX wants the change marked."""
        now = self.meta.clock_ns()

        async def body(tx: Tx) -> None:
            if tx.attempt and (await tx.peek(k.node(ino)))[0] is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")  # another client has removed it meanwhile
            tx.patch(ino, NodePatch(ctime_ns=now))
            self.meta.log_setattr(tx, ino, {}, msgspec.structs.replace(attr, ctime_ns=now))

        await self.meta.store.transact(body)
        return msgspec.structs.replace(attr, ctime_ns=now)

    async def require_unmarked(self, ino: int, *, touch: bool = False) -> None:
        """EPERM for what chattr +i or +a forbids. The engine leaves this to its callers (semantics §5.1, rule 17).

        It costs nothing: the change itself begins with the same look, and believes what was just seen.
        """
        recent = self.meta.store.recent
        attr = None if recent is None else recent.get(k.node(ino))
        if attr is None:
            attr = await self.meta.getattr(ino)
        if attr.flags & FLAG_IMMUTABLE or (attr.flags & FLAG_APPEND and not touch):
            raise FsError(errno.EPERM, f"inode {ino} is immutable or append-only (chattr -i -a lifts that)")

    def has_privileges(self, ino: int) -> bool:
        """May the mode have bits that a write takes away? Told from what is known of an open file, without asking:
        every single write by anybody but root brings that question."""
        file = self.vfs.file(self.real(ino))
        return file is None or bool(file.state.attr.mode & (stat.S_ISUID | stat.S_ISGID))

    async def kill_privileges(self, ino: int) -> None:
        """Somebody without the right to keep them changed the content: set-user-id and set-group-id go."""
        if self.is_special_inode(ino) or not self.has_privileges(ino):
            return
        real = self.real(ino)
        attr = await self.meta.getattr(real)
        mode = killed_mode(attr.mode)
        if mode != attr.mode:
            await self.vfs.setattr(real, {"mode": mode}, ROOT_CALLER)
            self.changed(real)

    async def access(self, ino: int, mask: int, caller: Caller) -> None:
        """access(2): mask of R_OK 4, W_OK 2, X_OK 1. EACCES, EROFS, ENOENT."""
        attr = (await self.getattr(ino)).attr
        if mask & WRITE and self.config.read_only and attr.type <= 3:
            self.require_writable()
        if mask & EXECUTE and caller.uid == 0 and attr.type != DIRECTORY and not attr.mode & 0o111:
            raise FsError(errno.EACCES, f"inode {ino}: nobody may execute it")
        await self.meta.require_access(caller, ino, attr, mask & 7)

    # -- df ----------------------------------------------------------------------------------------------------------

    async def statfs(self, ino: int) -> StatFs:
        """Space and inodes where `ino` is: of the volume, or what quotas above it leave."""
        real = self.real(ino) if not self.is_special_inode(ino) else self._root
        known = self._usage[1] if self._usage is not None and self._usage[0] == real else None
        if known is None:
            known = await self.meta.statfs(real)
        elif not self.config.fast_statfs:
            try:
                async with asyncio.timeout(STATFS_PATIENCE_S):
                    known = await self.meta.statfs(real)
            except TimeoutError:
                pass  # a slow database: df shows what it showed before
        else:
            self._refresh_usage(real)
        self._usage = (real, known)
        return known

    def _refresh_usage(self, ino: int) -> None:
        """The next df shows what is true now."""

        async def look() -> None:
            self._usage = (ino, await self.meta.statfs(ino))

        self.meta.spawn(look())
