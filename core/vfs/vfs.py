# SPDX-License-Identifier: Apache-2.0
"""Files by inode and handle, for doors that write in place.

Reading and writing through `Handle`s; what has no data in it (lookup, rename, …) is `Meta`'s own. Close-to-open: an
open sees everything that was flushed anywhere before it. Source: data-path §7, §9; metadata-semantics §5.2, §6, §11.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from core.chunk.clock import Clock, SystemClock
from core.chunk.store import BlockSliceStore
from core.errors import FsError
from core.meta.base import Exists
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.meta import Meta
from core.meta.records import FILE, Attr
from core.vfs.handles import Handle, OpenFile
from core.vfs.pending import OpenSlices
from core.vfs.state import FileState
from core.vfs.writer import FLUSH_TIMEOUT_S, FileWriter

log = logging.getLogger("sluice.vfs")

#: How often the ages of slices and read-ahead are looked at while there are any.
TICK_S: Final = 0.2
#: Read-ahead of a handle that isn't read any more is given back after this (data-path §9.2).
STREAM_IDLE_S: Final = 30.0


class VFS:
    """All open files of one volume in one process."""

    def __init__(
        self, meta: Meta, slices: BlockSliceStore, *, clock: Clock | None = None,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:  # fmt: skip
        self.meta = meta
        self.slices = slices
        self.clock = clock or SystemClock()
        self._flush_timeout_s = flush_timeout_s
        self._files: dict[int, OpenFile] = {}
        self._table = OpenSlices(slices)
        self._reading: set[Handle] = set()
        self._ticker: asyncio.Task[None] | None = None

    async def open(self, ino: int, flags: int = os.O_RDONLY, caller: Caller = ROOT_CALLER) -> Handle:
        """Open an existing file (1 trip; O_TRUNC: 3). ENOENT, EACCES, EPERM, EROFS, EISDIR. O_APPEND is honoured."""
        write = flags & os.O_ACCMODE != os.O_RDONLY
        # Before the look: an unlink by this process in between keeps the file then.
        self.meta.opened(ino)
        try:
            file = self._files.get(ino)
            changes = file.state.changes if file is not None else 0
            attr = await self.meta.check_open(
                ino, caller, write=write, append=bool(flags & os.O_APPEND), truncate=bool(flags & os.O_TRUNC)
            )
            if attr.type != FILE:
                code = errno.EISDIR if attr.is_dir else errno.EPERM
                raise FsError(code, f"inode {ino} is no regular file")
            known = self._files.get(ino)
            handle = self._handle(ino, attr, flags, caller)
        except BaseException:
            await self.meta.closed(ino)
            raise
        try:
            if known is not None:
                if known is file and changes == known.state.changes:
                    known.state.saw(attr)
                else:
                    await known.refresh()  # opened or changed by another task meanwhile: whose look is newer?
            if flags & os.O_TRUNC and write:
                await handle.file.truncate(0, caller, opened=True)
        except BaseException:
            await handle.release()
            raise
        return handle

    async def create(
        self, parent: int, name: bytes, flags: int = os.O_RDWR, mode: int = 0o644, umask: int = 0,
        caller: Caller = ROOT_CALLER,
    ) -> Handle:  # fmt: skip
        """Create and open (2 trips); an existing file is opened unless O_EXCL (then EEXIST). The creator may write
        whatever the mode says."""
        try:
            ino, attr = await self.meta.mknod(parent, name, FILE, mode, umask, caller)
        except Exists as e:
            if flags & os.O_EXCL:
                raise
            return await self.open(e.ino, flags, caller)
        self.meta.opened(ino)
        return self._handle(ino, attr, flags & ~os.O_TRUNC, caller)

    def is_open(self, ino: int) -> bool:
        return ino in self._files

    async def getattr(self, ino: int) -> Attr:
        """Fresh attributes (1 trip); the length counts what is buffered here."""
        file = self._files.get(ino)
        if file is None:
            return await self.meta.getattr(ino)
        attr = await file.refresh()
        return attr if file.length == attr.length else msgspec.structs.replace(attr, length=file.length)

    async def setattr(self, ino: int, changes: Mapping[str, Any], caller: Caller = ROOT_CALLER) -> Attr:
        """`Meta.setattr`, after our own writes: recorded later they would overwrite the times that are set."""
        file = self._files.get(ino)
        if file is not None:
            await file.settle()
        return await self.meta.setattr(ino, changes, caller)

    async def truncate(self, ino: int, length: int, caller: Caller = ROOT_CALLER) -> Attr:
        """By inode, without a handle: checks the permission to write."""
        file = self._files.get(ino)
        if file is None:
            return await self.meta.truncate(ino, length, caller)
        return await file.truncate(length, caller, opened=False)

    async def flush(self, ino: int) -> None:
        """What this process wrote to the inode is recorded; raises the writer's error. For doors that look at
        metadata which buffered bytes would change (copy, clone, publish from it)."""
        file = self._files.get(ino)
        if file is not None and file.writer is not None:
            await file.writer.flush()

    async def close(self) -> None:
        """Flush and release every handle."""
        for file in list(self._files.values()):
            for handle in list(file.handles):
                await handle.release()
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
            self._ticker = None

    # -- for handles ------------------------------------------------------------------------------------------------

    def new_writer(self, state: FileState) -> FileWriter:
        return FileWriter(self.meta, state, self._table, self.clock, self._watch, self._flush_timeout_s)

    def reading(self, handle: Handle) -> None:
        """The handle may hold read-ahead."""
        self._reading.add(handle)
        self._watch()

    async def released(self, handle: Handle) -> None:
        """The handle is closed: its bytes leave, and with the last writer the memory of an error."""
        file = handle.file
        self._reading.discard(handle)
        try:
            if handle.writable and file.writer is not None:
                if file.writers > 1:
                    await file.settle()
                else:
                    await file.writer.close()
        except FsError as e:
            log.error("%s", e)
        finally:
            file.handles.discard(handle)
            if handle.writable:
                file.writers -= 1
                if not file.writers:
                    file.writer = None
            if not file.handles and self._files.get(file.ino) is file:
                del self._files[file.ino]
            await self.meta.closed(file.ino)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _handle(self, ino: int, attr: Attr, flags: int, caller: Caller) -> Handle:
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile(self, ino, attr)
        handle = Handle(self, file, flags, caller)
        file.handles.add(handle)
        file.writers += handle.writable
        return handle

    def _watch(self) -> None:
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        """Runs only while something can grow old."""
        while self._table or self._reading:
            await self.clock.sleep(TICK_S)
            now = self.clock.time()
            self._table.freeze_due(now)
            for handle in [h for h in self._reading if not h.close_streams(now - STREAM_IDLE_S)]:
                self._reading.discard(handle)
