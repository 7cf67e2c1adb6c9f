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
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from core.chunk.clock import Clock, SystemClock
from core.chunk.store import BlockSliceStore
from core.errors import FsError
from core.meta.base import Exists
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.meta import Meta
from core.meta.records import FILE, Attr, Slice
from core.object.api import Buffer
from core.vfs.handles import Handle, OpenFile
from core.vfs.keeper import Keeper
from core.vfs.layouts import LEAST, Layouts
from core.vfs.pending import OpenSlices, finish_now
from core.vfs.state import Commits, FileState, Views
from core.vfs.writer import FLUSH_TIMEOUT_S, FileWriter

log = logging.getLogger("sluice.vfs")

#: (inode, content as well)
Invalidate = Callable[[int, bool], Awaitable[None]]
#: Inode, offset, bytes: caches above us have them now, and a file that ended before them ends there.
Push = Callable[[int, int, Buffer], Awaitable[None]]

#: How often the ages of slices and read-ahead are looked at while there are any.
TICK_S: Final = 0.2
#: Read-ahead of a handle that isn't read any more is given back after this (data-path §9.2).
STREAM_IDLE_S: Final = 30.0
#: A file that somebody else changed so lately is being changed: what is told of it is old at once.
CONTENDED_S: Final = 10.0
#: Closed files of which it is remembered what caches above us hold.
_MAX_VIEWS: Final = 50_000


class VFS:
    """All open files of one volume in one process."""

    def __init__(
        self, meta: Meta, slices: BlockSliceStore, *, clock: Clock | None = None,
        flush_timeout_s: float = FLUSH_TIMEOUT_S, keeper: Keeper | None = None,
    ) -> None:  # fmt: skip
        #: Forget what you hold of an inode's attributes, and of its content unless told that only they are old. Not
        #: called within reads and writes.
        self.invalidate: Invalidate | None = None
        self.push: Push | None = None
        self.commits = Commits()
        self.layouts = Layouts(meta)
        self.meta = meta
        self.slices = slices
        self.clock = clock or SystemClock()
        self._flush_timeout_s = flush_timeout_s
        self._files: dict[int, OpenFile] = {}
        self._views: OrderedDict[int, Views] = OrderedDict()
        self._table = OpenSlices(slices, keeper)
        self._reading: set[Handle] = set()
        self._ticker: asyncio.Task[None] | None = None

    async def open(self, ino: int, flags: int = os.O_RDONLY, caller: Caller = ROOT_CALLER) -> Handle:
        """Open an existing file (1 trip; O_TRUNC: 3). ENOENT, EACCES, EPERM, EROFS, EISDIR. O_APPEND is honoured."""
        write = flags & os.O_ACCMODE != os.O_RDONLY
        cut = bool(flags & os.O_TRUNC)  # Linux does so for O_RDONLY, too; it takes the right to write
        # Before the look: an unlink by this process in between keeps the file then.
        self.meta.opened(ino)
        try:
            file = self._files.get(ino)
            since = self.commits.count
            ticket = file.ask() if file is not None else 0
            records: list[Slice] | None = None
            if write or cut:
                attr = await self.meta.check_open(
                    ino, caller, write=write or cut, append=bool(flags & os.O_APPEND), truncate=cut
                )
            else:
                attr, records = await self.meta.open_for_reading(ino, caller)
            if attr.type != FILE:
                code = errno.EISDIR if attr.is_dir else errno.EPERM
                raise FsError(code, f"inode {ino} is no regular file")
            known = self._files.get(ino)
            if not attr.nlink and known is None:
                raise FsError(errno.ENOENT, f"inode {ino} has no name any more, and only another client has it open")
            handle = self._handle(ino, attr, flags, caller)
        except BaseException:
            await self.meta.closed(ino)
            raise
        state = handle.file.state
        if known is None and records is not None:
            state.learn(0, records)
        try:
            if known is not None:
                if known is file and known.state.changed_at <= since:
                    known.saw(attr, ticket)
                else:
                    await known.refresh()  # opened or changed by another task meanwhile: whose look is newer?
            if cut:
                await handle.file.truncate(0, caller, opened=True)
                if attr.length == 0:
                    attr = await self.meta.setattr(ino, {"mtime_ns": "now"})  # truncated all the same: open(2)
                    state.touched(attr)
        except BaseException:
            await handle.release()
            raise
        handle.keep_cache = state.seen == state.version or not state.length
        state.seen = state.version
        if state.told != state.version:
            # Who opens a file sees it as it is now: what was told of its length before must not be believed any more.
            await self._announce_open(handle.file)
        return handle

    async def reopen(self, ino: int, flags: int, caller: Caller = ROOT_CALLER) -> Handle:
        """Open without asking whether it is allowed: somebody has it open already (1 trip). ENOENT, EPERM."""
        self.meta.opened(ino)
        try:
            attr = await self.meta.getattr(ino)
            if attr.type != FILE:
                raise FsError(errno.EPERM, f"inode {ino} is no regular file")
            known = self._files.get(ino)
            handle = self._handle(ino, attr, flags & ~os.O_TRUNC, caller)
        except BaseException:
            await self.meta.closed(ino)
            raise
        if known is not None:
            await known.refresh()
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
        return self._created(ino, attr, flags, caller)

    async def tmpfile(
        self, parent: int, flags: int = os.O_RDWR, mode: int = 0o644, umask: int = 0, caller: Caller = ROOT_CALLER
    ) -> Handle:
        """Open a file that has no name (2 trips). Without one it is gone when it is closed, or this client dies."""
        ino, attr = await self.meta.tmpfile(parent, mode, umask, caller)
        return self._created(ino, attr, flags, caller)

    def _created(self, ino: int, attr: Attr, flags: int, caller: Caller) -> Handle:
        handle = self._handle(ino, attr, flags & ~os.O_TRUNC, caller)
        handle.keep_cache = True
        handle.file.state.seen = handle.file.state.told = handle.file.state.version
        return handle

    def is_open(self, ino: int) -> bool:
        return ino in self._files

    def open_inodes(self) -> list[int]:
        return list(self._files)

    def file(self, ino: int) -> OpenFile | None:
        return self._files.get(ino)

    async def getattr(self, ino: int) -> Attr:
        """Fresh attributes (1 trip); length and times count what is buffered here."""
        file = self._files.get(ino)
        if file is not None:
            return await self._announce(file, await file.refresh(measure=True))
        layouts = self.layouts
        if ino in layouts.wanted:
            attr = await layouts.look(ino, layouts.wanted[ino])
        else:
            attr = await self.meta.getattr(ino)
            if not self.blocks_known(ino, attr):
                attr = await layouts.look(ino, attr.length)
        self._told(ino, attr)
        return attr

    async def looked(self, ino: int, attr: Attr, since: int) -> Attr:
        """What to tell somebody of attributes that came with a lookup or a listing; `since` is what `commits.count`
        was before it began. A length that is told must be one that reads reach (0 trips; 1 if we changed the file
        meanwhile)."""
        told = self.looked_nowait(ino, attr, since)
        if told is not None:
            return told
        return await self.getattr(ino)

    def looked_nowait(self, ino: int, attr: Attr, since: int) -> Attr | None:
        """The same if nothing has to be waited for, else None."""
        file = self._files.get(ino)
        if file is None:
            self._told(ino, attr)
            return attr
        if file.state.changed_at > since:
            return None
        state = file.state
        if (attr.mtime_ns, attr.length) != state.version and (
            attr.ctime_ns <= state.attr.ctime_ns or self.invalidate is not None
        ):
            return None  # news, or an answer that was overtaken: asked in order, `refresh` can tell
        file.saw(attr, file.ask())
        return self._tell(file, attr) if self._may_tell(file) else None

    def contended(self, ino: int) -> bool:
        """Is somebody else changing this open file? Whoever remembers its attributes is wrong then."""
        file = self._files.get(ino)
        return file is not None and self.clock.time() - file.state.foreign_s < CONTENDED_S

    def _may_tell(self, file: OpenFile) -> bool:
        """Nobody above us holds anything that new attributes would make wrong."""
        state = file.state
        if file.switching is not None:
            return False
        return self.invalidate is None or state.told is None or state.told == state.version or file.writers > 0

    async def _announce(self, file: OpenFile, attr: Attr) -> Attr:
        """Tell attributes of a file that somebody else may have changed.

        A kernel shows a program what we answer, but takes over a new length only from an answer to a request that it
        sent after the one that it took over last, or a notice to forget; who was shown more than was taken over reads
        too little, and dies of a mapping. So what is told changes for all requests at once, and a greater length is put
        into the kernel before (`_switch`).
        """
        state = file.state
        while file.switching is not None:
            await asyncio.shield(file.switching)
        if self._may_tell(file) or file.told is None:
            return self._tell(file, state.attr)
        await self._switch(file)
        return file.told

    async def _announce_open(self, file: OpenFile) -> None:
        """Who opens a file sees it as it is now: what was told of it before must not be believed any more."""
        if self._may_tell(file):
            await self.invalidated(file, content=False)
            self._tell(file, file.state.attr)
            return
        version = file.state.version
        while file.switching is not None:
            await asyncio.shield(file.switching)
        if file.state.told != version:
            # Nobody else has it open: its pages go by the open itself.
            await self._switch(file, shown=len(file.handles) > 1 or self.contended(file.ino))

    async def _switch(self, file: OpenFile, *, shown: bool = True) -> None:
        """From here on other attributes are told. shown: somebody may be looking at the file.

        Pages go first: the last one has zeros behind the old end. Then the last byte is stored in the kernel: it
        takes that length over at once, and drops those in answers that are still on their way.
        """
        file.switching = asyncio.get_running_loop().create_future()
        attr = file.state.attr
        try:
            await self.invalidated(file, content=shown)
            attr = file.state.attr
            if shown and self.push is not None and file.told is not None and attr.length > file.told.length:
                await self._push_end(file, attr.length)
        finally:
            file.switching.set_result(None)
            file.switching = None
            self._tell(file, attr)

    async def _push_end(self, file: OpenFile, end: int) -> None:
        handle = next((h for h in file.handles if not h.released), None)
        if handle is None or self.push is None:
            return
        try:
            last = await handle.read_any(end - 1, 1)
            if len(last) == 1:
                await self.push(file.ino, end - 1, last)
        except OSError as e:
            log.warning("inode %d: its new end can't be shown to the kernel: %s", file.ino, e)

    def _tell(self, file: OpenFile, attr: Attr) -> Attr:
        version = (attr.mtime_ns, attr.length)
        file.state.told = version
        file.told = file.view(attr)
        return file.told

    def _told(self, ino: int, attr: Attr) -> None:
        """Attributes of a file that isn't open go out."""
        views = self._views
        before = views.get(ino)
        views[ino] = (None if before is None else before[0], (attr.mtime_ns, attr.length))
        if before is None and len(views) > _MAX_VIEWS:
            views.popitem(last=False)

    def blocks(self, ino: int, attr: Attr) -> int:
        """512-byte blocks in use, without holes where they are known; see `Layouts`."""
        file = self._files.get(ino)
        if file is not None:
            used = file.used_blocks()
            if used is not None:
                return used + max(0, (attr.length + 511 >> 9) - (file.state.length + 511 >> 9))
        return self.layouts.blocks(ino, attr)

    def blocks_known(self, ino: int, attr: Attr) -> bool:
        """False: a getattr will find out, so nobody should remember what `blocks` said."""
        if attr.type != FILE or attr.length < LEAST:
            return True
        file = self._files.get(ino)
        if file is not None and file.used_blocks() is not None:
            return True
        self.layouts.blocks(ino, attr)
        return ino not in self.layouts.wanted

    async def setattr(self, ino: int, changes: Mapping[str, Any], caller: Caller = ROOT_CALLER) -> Attr:
        """`Meta.setattr`, after our own writes: recorded later they would overwrite the times that are set."""
        file = self._files.get(ino)
        if file is None:
            return await self.meta.setattr(ino, changes, caller)
        await file.settle()
        attr = await self.meta.setattr(ino, changes, caller)
        file.state.touched(attr)
        return self._tell(file, attr)

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

    async def flush_all(self) -> None:
        """Every file; raises one of the errors after all were tried."""
        files = [f.writer.flush() for f in self._files.values() if f.writer is not None and f.writer.pending]
        for result in await asyncio.gather(*files, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

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
        def changed(_: int) -> None:
            file = self._files.get(state.ino)
            if self.invalidate is not None and file is not None:
                task = asyncio.get_running_loop().create_task(self.invalidated(file))
                file.notices.add(task)
                task.add_done_callback(file.notices.discard)

        return FileWriter(self.meta, state, self._table, self.clock, self._watch, self._flush_timeout_s, changed)

    async def invalidated(self, file: OpenFile | None, *, content: bool = True) -> None:
        """Caches above us forget what they hold of a file that isn't what they believe."""
        if self.invalidate is None or file is None:
            return
        version = file.state.version
        try:
            await self.invalidate(file.ino, content)
        except OSError as e:
            log.warning("inode %d: what the kernel holds of it can't be invalidated: %s", file.ino, e)
            return
        if content and file.state.version == version:
            file.state.seen = version

    def reading(self, handle: Handle) -> None:
        """The handle may hold read-ahead."""
        self._reading.add(handle)
        self._watch()

    def release_nowait(self, handle: Handle) -> bool:
        """Release a handle if nothing has to be waited for: nothing pending, no unlinked file to delete."""
        file = handle.file
        if handle.released:
            return True
        writer = file.writer if handle.writable else None
        if writer is not None and (writer.pending or writer.failure is not None):
            return False
        if file.ino in self.meta.sustained and self.meta.open_files.get(file.ino, 0) < 2:
            return False
        handle.released = True
        handle.close_streams()
        self._reading.discard(handle)
        self._forget(handle)
        finish_now(self.meta.closed(file.ino))
        return True

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
            self._forget(handle)
            await self.meta.closed(file.ino)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _handle(self, ino: int, attr: Attr, flags: int, caller: Caller) -> Handle:
        file = self._files.get(ino)
        if file is None:
            file = self._files[ino] = OpenFile(self, ino, attr, self._views.pop(ino, (None, None)))
            if self.layouts.find(ino, file.state.version) == (attr.length + 511) >> 9:
                file.state.solid = attr.length
        handle = Handle(self, file, flags, caller)
        file.handles.add(handle)
        file.writers += handle.writable
        if handle.writable and flags & os.O_SYNC:  # its bits include those of O_DSYNC
            file.for_writing().require_stored()
        return handle

    def _forget(self, handle: Handle) -> None:
        file = handle.file
        file.handles.discard(handle)
        if handle.writable:
            file.writers -= 1
            if not file.writers:
                file.writer = None
        if not file.handles and self._files.get(file.ino) is file:
            del self._files[file.ino]
            self._remember(file.state)

    def _remember(self, state: FileState) -> None:
        if state.blocks is not None and state.length >= LEAST:
            self.layouts.learn(state.ino, state.version, state.blocks)
        if state.seen is not None or state.told is not None:
            self._views[state.ino] = (state.seen, state.told)
            if len(self._views) > _MAX_VIEWS:
                self._views.popitem(last=False)

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
