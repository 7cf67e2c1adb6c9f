# SPDX-License-Identifier: Apache-2.0
"""Locks of a mount: fcntl's records, those of open file descriptions, flock. `core/meta/locks.py` holds them.

POSIX locks of an owner go when any descriptor of the file is closed by it, whichever took them; those of an open file
description (the kernel makes its owner of the open file) go with the handle that took them, because nobody unlocks
them at its end. A lock is also what programs on several mounts agree by: who gets one sees what was recorded before,
and who lets go has recorded what it wrote.
Source: fcntl(2), flock(2); metadata-semantics §10.3, §10.4.
"""

from __future__ import annotations

import errno
import functools
from typing import Final

from core.errors import FsError
from core.meta import keys as k
from core.vfs.posix.nodes import PosixBase

_ALL: Final = 2**63 - 1
KINDS: Final = ("R", "W", "U")  # F_RDLCK, F_WRLCK, F_UNLCK
UNLOCK: Final = 2


class Locks(PosixBase):
    """Mixin of `Posix`."""

    @functools.cached_property
    def locked(self) -> dict[int, set[int]]:
        """Inode -> owners on this mount that may hold POSIX locks of it."""
        return {}

    @functools.cached_property
    def lockers(self) -> dict[int, set[int]]:
        """Handle -> owners that took POSIX locks through it."""
        return {}

    async def getlk(self, ino: int, owner: int, start: int, end: int, kind: int) -> tuple[int, int, int, int]:
        """What stands against such a lock: kind, start, end (inclusive), process; kind 2 if nothing does."""
        self._require_lockable(ino)
        held, low, high, pid = await self.meta.getlk(ino, owner, _kind(ino, kind), start, min(end, _ALL))
        return KINDS.index(held), low, high, pid

    async def setlk(
        self, fh: int, ino: int, owner: int, start: int, end: int, kind: int, pid: int, *, wait: bool
    ) -> None:
        """EAGAIN, or with `wait` until it is granted or the caller cancelled. EDEADLK."""
        self._require_lockable(ino)
        letter = _kind(ino, kind)
        if kind == UNLOCK:
            if ino not in self.locked:
                return  # nobody here ever locked anything there
            await self._before_unlock(ino)
        else:
            # Before it is asked for: a close that comes while it is granted must not miss it.
            self.locked.setdefault(ino, set()).add(owner)
            self.lockers.setdefault(fh, set()).add(owner)
        await self.meta.setlk(ino, owner, letter, start, min(end, _ALL), pid, block=wait)
        if kind != UNLOCK:
            await self._after_lock(ino)

    async def flock(self, ino: int, owner: int, kind: int, *, wait: bool) -> None:
        self._require_lockable(ino)
        letter = _kind(ino, kind)
        if kind == UNLOCK:
            await self._before_unlock(ino)
        await self.meta.flock(ino, owner, letter, block=wait)
        if kind != UNLOCK:
            await self._after_lock(ino)

    async def unlock_owner(self, ino: int, owner: int) -> None:
        """A descriptor of the file was closed by this owner."""
        owners = self.locked.get(ino)
        if owners is None or owner not in owners:
            return
        await self.meta.setlk(ino, owner, "U", 0, _ALL, 0)
        owners.discard(owner)
        if not owners:
            self.locked.pop(ino, None)

    async def unlock_handle(self, fh: int, ino: int, lock_owner: int, flock: bool) -> None:
        """A handle was released: flock's lock goes, and what is left of locks that were taken through it. Ordinary
        owners have closed their descriptors before, so these are locks of the open file description."""
        try:
            if flock:
                await self.meta.flock(ino, lock_owner, "U")
        finally:
            for owner in self.lockers.pop(fh, ()):
                await self.unlock_owner(ino, owner)

    async def adopt_locks(self, inodes: set[int]) -> None:
        """Which of these are locked by the session that is taken over (1 trip)."""
        if not inodes or not self.meta.sid:
            return
        order = sorted(inodes)
        tables = await self.meta.store.read(*(k.plocks(ino) for ino in order))
        for ino, table in zip(order, tables, strict=True):
            owners = {owner for sid, owner in table if sid == self.meta.sid}
            if owners:
                self.locked[ino] = owners

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _require_lockable(self, ino: int) -> None:
        self.require_ordinary_inode(ino)
        if not self.meta.sid:
            # Nobody can change anything through this mount; the kernel then manages its locks by itself.
            raise FsError(errno.ENOSYS, "a mount that only reads keeps its locks in the kernel")

    async def _before_unlock(self, ino: int) -> None:
        file = self.vfs.file(ino)
        if file is not None:
            await file.settle()

    async def _after_lock(self, ino: int) -> None:
        file = self.vfs.file(ino)
        if file is not None:
            await file.refresh()
            if file.state.seen != file.state.version:
                await self.vfs.invalidated(file)


def _kind(ino: int, kind: int) -> str:
    if not 0 <= kind < len(KINDS):
        raise FsError(errno.EINVAL, f"lock of inode {ino}: type {kind} is none of F_RDLCK, F_WRLCK, F_UNLCK")
    return KINDS[kind]
