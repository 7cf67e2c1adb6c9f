# SPDX-License-Identifier: Apache-2.0
"""Open files of a mount, by handle number: open, create, read, write, flush, release and what POSIX adds to them.

Numbers come from the keeper, so a handle means the same to a process that takes the mount over (`recover`). A number
that this process doesn't know belongs to one before it: inode and flags are enough to open the file again. Permission
bits of a handle aren't looked at here: whoever sends requests (the kernel) has checked them, and with a write-back
cache it reads through handles that were opened for writing only.

`…_nowait` does what can be done at once, or tells that it can't; the coroutine of the same name does it in any case.
Source: open(2), write(2), close(2), fsync(2); metadata-semantics §5.2, §6, §11; data-path §7, §9.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any, Final

from core.errors import FsError, MetaError
from core.meta.base import Exists, show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.records import INTERNAL_BASE, TRASH
from core.object.api import Buffer
from core.vfs.handles import Handle
from core.vfs.journal import replay
from core.vfs.layouts import seek
from core.vfs.posix.locks import Locks
from core.vfs.posix.nodes import Node

#: Flags of open(2) that are about the moment of opening; a handle that is opened once more doesn't repeat them.
_ONCE: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC
#: One copy request: its answer has 32 bits (semantics §6.6).
_MAX_COPY: Final = (1 << 32) - (1 << 26)
_CREATE_TRIES: Final = 5


class Files(Locks):
    """Mixin of `Posix`."""

    #: The kernel gathers writes itself: it owns the length and the times, and decides where appended bytes go.
    writeback_cache: bool = False

    @functools.cached_property
    def handles(self) -> dict[int, Any]:
        """Open files by number: `Handle`s, and those of special files."""
        return {}

    @functools.cached_property
    def _adopted(self) -> dict[int, tuple[int, int]]:
        """Handles of an earlier process that weren't used since: number -> inode and flags."""
        return {}

    # -- opening ----------------------------------------------------------------------------------------------------

    async def open(self, ino: int, flags: int, caller: Caller = ROOT_CALLER) -> tuple[int, bool]:
        """A handle number, and whether pages of the file that the client holds are still right (1 trip)."""
        if self.is_special_inode(ino):
            if flags & (os.O_TRUNC | os.O_APPEND) and self._aside.taken_for_a_file(caller.pid):
                raise FsError(errno.ESTALE, f"inode {ino}: the name may be an ordinary file's; look it up again")
            return self._add(self.internal.open(ino, flags, caller), ino, flags), False  # type: ignore[union-attr]
        if flags & os.O_ACCMODE != os.O_RDONLY:
            self.require_writable()
            self.changed(ino)
        handle = await self.vfs.open(ino, flags, caller)
        try:
            return self._add(handle, ino, flags), handle.keep_cache
        except BaseException:
            await handle.release()
            raise

    async def create(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller = ROOT_CALLER
    ) -> tuple[Node, int]:
        """Create and open (2 trips, or 1 where the directory is known). `Exists` also without O_EXCL: opening what is
        there asks for other rights, see `create_or_open`."""
        self.require_writable()
        self.require_free_name(parent, name)
        above = self.real(parent)
        handle = await self.vfs.create(above, name, flags | os.O_EXCL, mode, umask, caller)
        self.entries_changed(above)
        return await self._made(handle, flags)

    async def create_or_open(
        self, parent: int, name: bytes, flags: int, mode: int, umask: int, caller: Caller, checked: Callable[[], Caller]
    ) -> tuple[Node, int, bool]:
        """The same; a file of that name that somebody else has made meanwhile is opened, unless O_EXCL is among the
        flags. checked: who asks, with all groups; needed only then, as nobody else has looked at that file's mode.
        The last value: pages of the file that the client holds are right. ESTALE: what is there now isn't a file that
        the caller may open, so the name has to be looked up again."""
        for _ in range(_CREATE_TRIES):
            try:
                return *await self.create(parent, name, flags, mode, umask, caller), True
            except Exists as e:
                if flags & os.O_EXCL:
                    raise
                found = e.ino
            try:
                fh, keep = await self.open(found, flags & ~os.O_CREAT, caller if caller.check else checked())
                return await self.node(found, await self.vfs.getattr(found)), fh, keep
            except FsError as e:
                if e.errno == errno.ENOENT:
                    continue  # gone again
                if isinstance(e, MetaError):
                    raise
                raise FsError(errno.ESTALE, e.strerror or "") from e
        raise FsError(errno.ESTALE, f"{show(name)}: others keep making and removing it; open it again")

    async def tmpfile(
        self, parent: int, flags: int, mode: int, umask: int, caller: Caller = ROOT_CALLER
    ) -> tuple[Node, int]:
        """Open a file without a name; linkat may give it one. If nothing does, it goes with its last handle."""
        self.require_writable()
        handle = await self.vfs.tmpfile(self.real(parent), flags, mode, umask, caller)
        return await self._made(handle, flags)

    async def _made(self, handle: Handle, flags: int) -> tuple[Node, int]:
        try:
            self.changed(handle.ino)
            attr = handle.file.view(handle.file.state.attr)
            return Node(handle.ino, attr, self.blocks(handle.ino, attr)), self._add(handle, handle.ino, flags)
        except BaseException:
            await handle.release()
            raise

    def _add(self, handle: Any, ino: int, flags: int) -> int:
        fh = self.keeper.opened(ino, flags & ~_ONCE, False)
        self.handles[fh] = handle
        return fh

    async def handle(self, fh: int, ino: int, flags: int = os.O_RDWR) -> Any:
        """The handle of a number, opened again if an earlier process gave it out."""
        found = self.handles.get(fh)
        if found is not None:
            return found
        if self.is_special_inode(ino):
            found = self.internal.open(ino, flags, ROOT_CALLER)  # type: ignore[union-attr]
            self.handles[fh] = found
            return found
        kept = self._adopted.get(fh)
        if kept is not None:
            ino, flags = kept
        if not ino:
            raise FsError(errno.EBADF, f"handle {fh} is not open")
        handle = await self.vfs.reopen(ino, flags & ~_ONCE)
        there = self.handles.setdefault(fh, handle)
        if there is not handle:  # somebody else was as fast
            await handle.release()
        elif self._adopted.pop(fh, None) is not None:
            await self.meta.closed(ino)  # this handle counts now
        return there

    # -- reading and writing ----------------------------------------------------------------------------------------

    def read_nowait(self, fh: int, ino: int, flags: int, offset: int, size: int) -> Buffer | None:
        handle = self.handles.get(fh)
        if type(handle) is not Handle:
            return None
        data = handle.read_nowait(offset, size)
        if data is not None and len(data) < size and flags & os.O_DIRECT:
            return None
        return data

    async def read(self, fh: int, ino: int, flags: int, offset: int, size: int) -> Buffer:
        """Fewer bytes only at the end of the file."""
        handle = self.handles.get(fh) or await self.handle(fh, ino, flags)
        data: Buffer
        if type(handle) is not Handle:
            data = await handle.read(offset, size)
            return data
        data = await handle.read_any(offset, size)
        if len(data) < size and flags & os.O_DIRECT:
            # Nobody looks at the attributes before a direct read: has the file grown elsewhere?
            length = handle.file.state.length
            await handle.file.refresh()
            if handle.file.state.length > length:
                data = await handle.read_any(offset, size)
        return data

    def write_nowait(
        self, fh: int, ino: int, flags: int, offset: int, data: memoryview, request: int, resent: bool = False
    ) -> int | None:
        """flags: of the open file at this moment. request, resent: see `core/vfs/keeper.py`."""
        handle = self.handles.get(fh)
        if type(handle) is not Handle or (resent and self.keeper.has_write(request)):
            return None
        append = bool(flags & os.O_APPEND) and not self.writeback_cache
        if handle.file.for_writing().write_nowait(offset, data, append=append, request=request):
            return len(data)
        return None

    async def write(
        self, fh: int, ino: int, flags: int, offset: int, data: memoryview, request: int, resent: bool = False
    ) -> int:
        """Takes all bytes, or raises. Durable after flush or fsync."""
        handle = self.handles.get(fh) or await self.handle(fh, ino, flags)
        if type(handle) is not Handle:
            raise FsError(errno.EBADF, f"inode {ino} is a special file of this mount")
        if resent and self.keeper.has_write(request):
            return len(data)  # `recover` has written them again, at the right place
        append = bool(flags & os.O_APPEND) and not self.writeback_cache
        return await handle.file.for_writing().write(offset, data, append=append, request=request)

    async def write_special(self, fh: int, ino: int, offset: int, data: memoryview, caller: Caller) -> int:
        """Into a special file, on the authority of who writes, whoever opened it (semantics §12.2)."""
        handle = self.handles.get(fh) or await self.handle(fh, ino)
        if type(handle) is Handle:
            raise FsError(errno.EBADF, f"handle {fh} is none of a special file")
        n: int = await handle.write(offset, data, caller)
        return n

    # -- closing ----------------------------------------------------------------------------------------------------

    def flush_nowait(self, fh: int, ino: int, lock_owner: int) -> bool:
        """A descriptor was closed. True: there was nothing to do."""
        handle = self.handles.get(fh)
        if type(handle) is not Handle or ino in self.locked:
            return False
        writer = handle.file.writer
        return writer is None or (not writer.pending and writer.failures == handle.failures)

    async def flush(self, fh: int, ino: int, lock_owner: int) -> None:
        """What was written is recorded; then POSIX locks of the owner go, whoever took them through which descriptor.
        An error is told once to each open file."""
        handle = self.handles.get(fh)
        try:
            if type(handle) is Handle:
                await handle.flush_once()
            elif handle is not None:
                await handle.flush()
            else:
                await self.vfs.flush(ino)
        finally:
            if ino in self.locked:
                await self.unlock_owner(ino, lock_owner)

    async def fsync(self, fh: int, ino: int, datasync: bool = False) -> None:
        handle = self.handles.get(fh)
        if type(handle) is Handle:
            await handle.flush_once()
        elif handle is None:
            await self.vfs.flush(ino)

    async def sync(self) -> None:
        """syncfs: everything that was written through this mount is recorded."""
        await self.vfs.flush_all()

    def release_nowait(self, fh: int, ino: int, lock_owner: int, flock: bool) -> bool:
        """The last descriptor of a handle was closed. True: done; else `release` has to do it."""
        handle = self.handles.get(fh)
        if type(handle) is not Handle or flock or fh in self.lockers or not self.vfs.release_nowait(handle):
            return False
        del self.handles[fh]
        self.keeper.closed(fh)
        return True

    async def release(self, fh: int, ino: int, lock_owner: int, flock: bool) -> None:
        handle = self.handles.pop(fh, None)
        kept = self._adopted.pop(fh, None)
        try:
            if handle is not None:
                await handle.release()
        finally:
            try:
                await self.unlock_handle(fh, ino, lock_owner, flock)
            finally:
                self.keeper.closed(fh)
                if kept is not None and handle is None:
                    await self.meta.closed(kept[0])

    # -- without moving data ----------------------------------------------------------------------------------------

    async def allocate(self, fh: int, ino: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2): grow, punch holes, zero ranges. EOPNOTSUPP for what slices can't say (collapse, insert)."""
        self.require_ordinary_inode(ino)
        self.require_writable()
        handle = await self.handle(fh, ino)
        await handle.file.allocate(mode, offset, length, ROOT_CALLER)
        self.changed(ino)

    async def seek(self, fh: int, ino: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE. Zeros that were written are data; what was never written or was punched is none."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FsError(errno.EINVAL, f"inode {ino}: seek mode {whence} is none of SEEK_DATA, SEEK_HOLE")
        self.require_ordinary_inode(ino)
        handle = await self.handle(fh, ino)
        await handle.file.settle()
        await handle.file.refresh()
        state = handle.file.state
        if state.blocks is not None and 0 <= offset < state.length:  # no holes but the one at the end
            return offset if whence == os.SEEK_DATA else state.length
        return await seek(self.meta, ino, state.length, offset, data=whence == os.SEEK_DATA)

    async def copy_range(
        self, fh_in: int, ino_in: int, off_in: int, fh_out: int, ino_out: int, off_out: int, length: int, flags: int = 0
    ) -> int:
        """copy_file_range(2): the destination shares the source's data. Fewer bytes at the end of the source."""
        if flags:
            raise FsError(errno.EINVAL, f"copy_file_range flags {flags:#x} mean nothing")
        if self.is_special_inode(ino_in):
            raise FsError(errno.EOPNOTSUPP, f"inode {ino_in} is a special file of this mount; read it instead")
        self.require_ordinary_inode(ino_out)
        self.require_writable()
        source, target = await self.handle(fh_in, ino_in), await self.handle(fh_out, ino_out)
        if source.file is not target.file:
            await source.file.settle()

        async def copy() -> int:
            try:
                return await self.meta.copy_file_range(ino_in, off_in, ino_out, off_out, min(length, _MAX_COPY))
            finally:
                target.file.state.resized(await self.meta.getattr(ino_out))

        copied: int = await target.file.exclusively(copy)
        target.file.state.punched(off_out)
        self.changed(ino_out)
        return copied

    # -- what may be remembered ---------------------------------------------------------------------------------------

    def is_settled(self, node: Node) -> bool:
        return super().is_settled(node) and not self.vfs.contended(node.ino)

    # -- after another process ----------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """Take over what an earlier process of this mount left to the keeper, in the same session: its handles, the
        bytes that it acknowledged, its locks. After `Meta.adopt_session`, before the first request."""
        kept = [h for h in self.keeper.handles() if not h.directory]
        for h in kept:
            if not INTERNAL_BASE <= h.ino < TRASH:
                self.meta.opened(h.ino)
                self._adopted[h.fh] = (h.ino, h.flags)
        await self.adopt_locks({ino for ino, _ in self._adopted.values()})
        await replay(self.vfs, self.keeper)
