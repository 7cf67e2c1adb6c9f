# SPDX-License-Identifier: Apache-2.0
"""Open files of a mount, by handle number: open, create, read, write, flush, release and what POSIX adds to them.

Numbers come from the keeper, so a handle means the same to a process that takes the mount over (`recover`). A number
that this process doesn't know belongs to one before it: inode and flags are enough to open the file again. Permission
bits of a handle aren't looked at here: whoever sends requests (the kernel) has checked them, and with a write-back
cache it reads through handles that were opened for writing only.
Source: open(2), write(2), close(2); metadata-semantics §5.2, §6, §11; data-path §7, §9.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
from typing import Any, Final

from core.errors import FsError
from core.meta.caller import ROOT_CALLER, Caller
from core.object.api import Buffer
from core.vfs.handles import Handle
from core.vfs.posix.nodes import Node, PosixBase

#: Flags of open(2) that are about the moment of opening; a handle that is opened once more doesn't repeat them.
_ONCE: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC


class Files(PosixBase):
    """Mixin of `Posix`."""

    #: The kernel gathers writes itself: it owns the length and the times, and decides where appended bytes go.
    writeback_cache: bool = False

    @functools.cached_property
    def handles(self) -> dict[int, Any]:
        """Open files by number: `Handle`s, and those of internal files."""
        return {}

    # -- opening ----------------------------------------------------------------------------------------------------

    async def open(self, ino: int, flags: int, caller: Caller = ROOT_CALLER) -> tuple[int, bool]:
        """A handle number, and whether pages of the file that the client holds are still right (1 trip)."""
        if self.is_special_inode(ino):
            special: Any = self.internal.open(ino, flags, caller)  # type: ignore[union-attr]
            if inspect.isawaitable(special):
                special = await special
            return self._add(special, ino, flags), False
        handle = await self.vfs.open(ino, flags, caller)
        try:
            return self._add(handle, ino, flags), False
        except BaseException:
            await handle.release()
            raise

    async def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller = ROOT_CALLER
    ) -> tuple[Node, int]:
        """Create and open (2 trips, or 1 where the directory is known)."""
        handle = await self.vfs.create(self.real(parent), name, flags, mode, umask, caller)
        try:
            return await self.node(handle.ino, await self.vfs.getattr(handle.ino)), self._add(handle, handle.ino, flags)
        except BaseException:
            await handle.release()
            raise

    def _add(self, handle: Any, ino: int, flags: int) -> int:
        fh = self.keeper.opened(ino, flags, False)
        self.handles[fh] = handle
        return fh

    async def handle(self, fh: int, ino: int, flags: int = os.O_RDWR) -> Any:
        """The handle of a number, opened again if an earlier process gave it out."""
        found = self.handles.get(fh)
        if found is None:
            if not ino:
                raise FsError(errno.EBADF, f"handle {fh} is not open")
            found = self.handles[fh] = await self.vfs.open(ino, flags & ~_ONCE)
        return found

    # -- reading and writing ----------------------------------------------------------------------------------------

    def read_nowait(self, fh: int, ino: int, flags: int, offset: int, size: int) -> Buffer | None:
        return None

    async def read(self, fh: int, ino: int, flags: int, offset: int, size: int) -> Buffer:
        handle = await self.handle(fh, ino, flags)
        data: Any = handle.read(offset, size)
        return await data if inspect.isawaitable(data) else data

    def write_nowait(
        self, fh: int, ino: int, flags: int, offset: int, data: memoryview, request: int, resent: bool = False
    ) -> int | None:
        return None

    async def write(
        self, fh: int, ino: int, flags: int, offset: int, data: memoryview, request: int, resent: bool = False
    ) -> int:
        handle = await self.handle(fh, ino, flags)
        n: Any = handle.write(offset, data)
        return await n if inspect.isawaitable(n) else n

    # -- closing ----------------------------------------------------------------------------------------------------

    async def flush(self, fh: int, ino: int, lock_owner: int) -> None:
        handle = self.handles.get(fh)
        if handle is not None:
            done = handle.flush()
            if inspect.isawaitable(done):
                await done

    async def fsync(self, fh: int, ino: int, datasync: bool = False) -> None:
        handle = self.handles.get(fh)
        if isinstance(handle, Handle):
            await handle.fsync()

    async def release(self, fh: int, ino: int, lock_owner: int, flock: bool) -> None:
        handle = self.handles.pop(fh, None)
        self.keeper.closed(fh)
        if handle is not None:
            done = handle.release()
            if inspect.isawaitable(done):
                await done
