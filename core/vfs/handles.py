# SPDX-License-Identifier: Apache-2.0
"""Open files: what doors that read and write in place (FUSE, HDFS, the SDK) hold in their hands.

`OpenFile` is one inode, shared by every handle of it in this process; `Handle` is what one `open` returned. Source:
data-path §7.6, §9; metadata-semantics §6.4, §11.
"""

from __future__ import annotations

import asyncio
import errno
import os
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from core.chunk.readahead import ReadStream
from core.chunk.transfer import BlockMissing
from core.errors import FsError
from core.meta.caller import Caller
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, Attr, Slice
from core.meta.slices import pieces_for
from core.object.api import Buffer
from core.vfs.layouts import MOST
from core.vfs.state import FileState, Views
from core.vfs.writer import FileWriter

if TYPE_CHECKING:
    from core.vfs.vfs import VFS

T = TypeVar("T")

#: Sequential readers of one handle that get read-ahead of their own; kernels send a few requests at once.
MAX_STREAMS: Final = 2
#: Looks at the metadata after a block was found missing, before that is believed.
_MISSING_TRIES: Final = 3
_REFRESH_TRIES: Final = 4
#: Most bytes that are copied from a local object while everybody waits: one request of the kernel, 0.2 ms.
LOCAL_READ: Final = 1 << 20
_ZEROS: Final = memoryview(bytes(1 << 20))
_position = itemgetter(0)


class OpenFile:
    """One open inode of this process."""

    def __init__(self, vfs: VFS, ino: int, attr: Attr, views: Views = (None, None)) -> None:
        self.ino = ino
        self.state = FileState(vfs.meta, ino, attr, vfs.commits, views)
        self.handles: set[Handle] = set()
        self.writers = 0  # handles that may write
        self.writer: FileWriter | None = None
        # How others' changes are told, see `VFS._announce`.
        self.told: Attr | None = None
        self.notices: set[asyncio.Task[None]] = set()  # to the kernel, under way
        self.switching: asyncio.Future[None] | None = None
        self._asked = self._answered = 0
        self._vfs = vfs

    @property
    def length(self) -> int:
        """As this process sees it: what is recorded, or the end of what waits to be."""
        return max(self.state.length, self.writer.end if self.writer is not None else 0)

    def for_writing(self) -> FileWriter:
        if self.writer is None:
            self.writer = self._vfs.new_writer(self.state)
        return self.writer

    async def settle(self) -> None:
        """Our own bytes are recorded, or lost: who reads may look. The writer's error is the writer's."""
        if self.writer is not None and self.writer.pending:
            try:
                await self.writer.flush()
            except FsError:
                if self.writer.error is None:
                    raise  # not an error of the data: it isn't stored in time

    async def settle_range(self, start: int, end: int) -> None:
        """The same for who reads these bytes: what is buffered elsewhere may stay."""
        writer = self.writer
        if writer is not None and writer.pending and (end > self.state.length or writer.touches(start, end)):
            await self.settle()

    def used_blocks(self) -> int | None:
        """512-byte blocks of what is recorded, holes left out, if that is known."""
        blocks = self.state.blocks
        return self._vfs.layouts.find(self.ino, self.state.version) if blocks is None else blocks

    def ask(self) -> int:
        """Before attributes are asked for: a ticket for `saw`, which tells answers that were overtaken."""
        self._asked += 1
        return self._asked

    async def refresh(self, *, measure: bool = False) -> Attr:
        """Fresh attributes; what they prove to be old is forgotten. measure: on the way find out how much of the file
        is used, unless that is known."""
        vfs = self._vfs
        for _ in range(_REFRESH_TRIES):
            since, ticket = vfs.commits.count, self.ask()
            if measure and self.used_blocks() is None and self.state.length < MOST:
                attr = await vfs.layouts.look(self.ino, self.state.length)
            else:
                attr = await vfs.meta.getattr(self.ino)
            if self.state.changed_at <= since:
                self.saw(attr, ticket)
                return self.state.attr
            # The file changed while the answer was on its way: it may be from before (semantics §11).
        # A file that is recorded all the time: our own commits tell its length, the rest is looked up again.
        self.state.forget()
        return msgspec.structs.replace(attr, length=self.state.length, mtime_ns=self.state.version[0])

    def saw(self, attr: Attr, ticket: int) -> bool:
        """Fresh attributes. True: somebody else has changed the file. An answer that came after the one to a later
        question may be older than what is known, and isn't needed: the other one is fresh enough for who asked."""
        if ticket < self._answered:
            return False
        self._answered = ticket
        foreign = self.state.saw(attr)
        if foreign:
            self.state.foreign_s = self._vfs.clock.time()
        return foreign

    def view(self, attr: Attr) -> Attr:
        """Attributes as a process sees them that wrote through us: buffered bytes have been written."""
        writer = self.writer
        if writer is None or not writer.pending:
            return attr
        length, now = max(attr.length, writer.end), writer.mtime_ns
        if length == attr.length and now <= attr.mtime_ns:
            return attr
        return msgspec.structs.replace(
            attr, length=length, mtime_ns=max(attr.mtime_ns, now), ctime_ns=max(attr.ctime_ns, now)
        )

    async def truncate(self, length: int, caller: Caller, *, opened: bool) -> Attr:
        return await self.exclusively(lambda: self._truncate(length, caller, opened))

    async def _truncate(self, length: int, caller: Caller, opened: bool) -> Attr:
        attr = await self._vfs.meta.truncate(self.ino, length, caller, opened=opened)
        self.state.resized(attr)
        return attr

    async def allocate(self, mode: int, offset: int, size: int, caller: Caller) -> Attr:
        """fallocate(2); the errors of `Meta.fallocate`."""
        return await self.exclusively(lambda: self._allocate(mode, offset, size, caller))

    async def _allocate(self, mode: int, offset: int, size: int, caller: Caller) -> Attr:
        attr = await self._vfs.meta.fallocate(self.ino, mode, offset, size, caller)
        self.state.punched(offset)
        self.state.resized(attr)
        return attr

    async def exclusively(self, change: Callable[[], Awaitable[T]]) -> T:
        """Change the content while none of our own bytes are under way."""
        if self.writer is None:
            return await change()
        async with self.writer.stopped():
            return await change()


class _Stream:
    """A reader with read-ahead, and what it was built upon."""

    __slots__ = ("busy", "generation", "next", "reader", "used_s")

    def __init__(self, reader: ReadStream, generation: int) -> None:
        self.reader = reader
        self.generation = generation
        self.busy = False
        self.next = 0
        self.used_s = 0.0


class Handle:
    """One open file. `async with` releases it. All calls may be made at the same time by several tasks."""

    def __init__(self, vfs: VFS, file: OpenFile, flags: int, caller: Caller) -> None:
        self.ino = file.ino
        self.file = file
        self.flags = flags
        self.caller = caller
        self.readable = flags & os.O_ACCMODE != os.O_WRONLY
        self.writable = flags & os.O_ACCMODE != os.O_RDONLY
        self.released = False
        #: Pages that the door's client kept of the file at an earlier open are still right.
        self.keep_cache = False
        #: Failed writes that this handle needn't be told of (any more).
        self.failures = file.writer.failures if file.writer is not None else 0
        self._vfs = vfs
        self._streams: list[_Stream] = []

    async def __aenter__(self) -> Handle:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.release()

    @property
    def length(self) -> int:
        """Of the file as this process knows it, without asking anybody; see `VFS.getattr` for a fresh one."""
        return self.file.length

    async def read(self, offset: int, length: int) -> Buffer:
        """Bytes [offset, offset + length), fewer only at the end of the file. Own writes are seen. EBADF, EINVAL,
        ENOENT (another client deleted the file), EIO."""
        if self.released or not self.readable:
            raise FsError(errno.EBADF, f"inode {self.ino}: handle is closed or not open for reading")
        if offset < 0 or length < 0:
            raise FsError(errno.EINVAL, f"inode {self.ino}: read of {length} bytes at {offset}")
        return await self.read_any(offset, length)

    async def read_any(self, offset: int, length: int) -> Buffer:
        """`read` for a door that has checked everything already."""
        state = self.file.state
        while True:
            await self.file.settle_range(offset, offset + length)
            if length == 0 or offset >= state.length:
                return b""
            generation = state.generation
            stream = self._take_stream(offset)
            try:
                data = await self._read(stream, offset, length)
                stream.next = offset + len(data)
            finally:
                self._put_back(stream)
            # Whoever was told of a greater length meanwhile must not be shown the old end.
            if len(data) >= min(length, state.length - offset) or generation == state.generation:
                return data

    def read_nowait(self, offset: int, length: int) -> Buffer | None:
        """The same if the bytes lie in one block that is in memory, and no read-ahead is due; else None. In memory:
        ours, or the kernel's for an object that is a local file."""
        file = self.file
        state, writer = file.state, file.writer
        if (
            writer is not None
            and writer.pending
            and (offset + length > state.length or writer.touches(offset, offset + length))
        ):
            return None
        n = min(length, state.length - offset)
        if n <= 0:
            return b""
        index, pos = offset >> CHUNK_BITS, offset & (CHUNK_SIZE - 1)
        pieces = state.pieces_nowait(index)
        if pieces is None:
            return None
        p = pieces[bisect_right(pieces, pos, key=_position) - 1]
        skip = pos - p.pos
        if skip + n > p.length:
            return None
        if not p.id:
            return _ZEROS[:n] if n <= len(_ZEROS) else None
        off = p.off + skip
        slices = self._vfs.slices
        # At the end of a block a stream looks ahead.
        if off // slices.block_size == (off + n) // slices.block_size or offset + n >= state.length:
            found = slices.read_cached(p.id, p.size, off, n)
            if found is not None:
                return found
        # Where objects are files of this machine the kernel looks ahead in them. Who reads on where a stream stands has
        # found them not in memory before; there the stream fetches what comes next while this is used.
        if n <= LOCAL_READ and not any(stream.next == offset for stream in self._streams):
            return self._local_nowait(p, off, n)
        return None

    def _local_nowait(self, p: Slice, off: int, n: int) -> Buffer | None:
        """Bytes of a piece from one or two objects that are local files."""
        slices = self._vfs.slices
        cut = slices.block_size - off % slices.block_size
        if n <= cut:
            return slices.read_local_nowait(p.id, p.size, off, n)
        first = slices.read_local_nowait(p.id, p.size, off, cut)
        rest = None if first is None else slices.read_local_nowait(p.id, p.size, off + cut, n - cut)
        return None if first is None or rest is None else b"".join((first, rest))

    async def write(self, offset: int, data: Buffer, *, request: int = 0) -> int:
        """Take a copy of all bytes, at the end of the file if opened with O_APPEND; returns their number. Durable
        after `flush`. Raises the error of an earlier write of this inode."""
        if self.released or not self.writable:
            raise FsError(errno.EBADF, f"inode {self.ino}: handle is closed or not open for writing")
        append = bool(self.flags & os.O_APPEND)
        return await self.file.for_writing().write(offset, data, append=append, request=request)

    async def flush(self) -> None:
        """close(2): all bytes of this inode are stored and recorded, or an error says why not."""
        if self.file.writer is not None:
            await self.file.writer.flush()

    async def flush_once(self) -> None:
        """The same for one descriptor: a failure is told to it once, as errors of writing back are on Linux."""
        writer = self.file.writer
        if writer is None:
            return
        if writer.pending:
            await self.file.settle()
        if self.file.notices:  # appended bytes went elsewhere than the kernel believes: it knows when this returns
            await asyncio.wait(self.file.notices)
        error = writer.failed_since(self.failures)
        if error is not None:
            self.failures = writer.failures
            raise error

    async def fsync(self) -> None:
        """The same: recorded is durable (the database's and the object store's own promise)."""
        await self.flush()

    async def truncate(self, length: int) -> Attr:
        """Set the length. EBADF, EACCES (read-only handle), EINVAL, EFBIG, EDQUOT, ENOSPC."""
        if self.released:
            raise FsError(errno.EBADF, f"inode {self.ino}: handle is closed")
        if not self.writable:
            raise FsError(errno.EACCES, f"inode {self.ino}: handle is not open for writing")
        return await self.file.truncate(length, self.caller, opened=True)

    async def release(self) -> None:
        """Flush and forget the handle. Its error is only logged: `flush` first to have it told."""
        if self.released:
            return
        self.released = True
        self.close_streams()
        await self._vfs.released(self)

    def close_streams(self, unused_since_s: float | None = None) -> bool:
        """Drop what was read ahead (of streams that weren't used since then). True if something is left."""
        left = [s for s in self._streams if s.busy or (unused_since_s is not None and s.used_s > unused_since_s)]
        for s in self._streams:
            if s not in left:
                s.reader.close()
        self._streams = left
        return bool(left)

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _read(self, stream: _Stream, offset: int, length: int) -> Buffer:
        state = self.file.state
        seen: list[Slice] | None = None
        for attempt in range(_MISSING_TRIES + 1):
            if stream.generation != state.generation:
                stream.generation = state.generation
                stream.reader.invalidate(state.length)
            try:
                return await stream.reader.read(offset, length)
            except BlockMissing:
                # A compaction may have replaced the slices since they were looked up (data-path §9.6).
                state.forget()
                now = [s for i in self._chunks_of(offset, length) for s in await state.records(i)]
                if attempt == _MISSING_TRIES or now == seen:
                    raise
                seen = now
        raise AssertionError("unreachable")

    def _chunks_of(self, offset: int, length: int) -> range:
        end = min(offset + length, max(self.file.state.length, offset + 1))
        return range(offset >> CHUNK_BITS, (end - 1 >> CHUNK_BITS) + 1)

    def _take_stream(self, offset: int) -> _Stream:
        """A free stream, best the one that stands here; a temporary one if all are busy."""
        free = [s for s in self._streams if not s.busy]
        stream = next((s for s in free if s.next == offset), None)
        if stream is None and len(self._streams) >= MAX_STREAMS and free:
            stream = min(free, key=lambda s: s.used_s)
        if stream is None:
            stream = _Stream(
                ReadStream(self._vfs.slices, self._pieces, self.file.state.length), self.file.state.generation
            )
            if len(self._streams) < MAX_STREAMS:
                self._streams.append(stream)
        stream.busy = True
        return stream

    def _put_back(self, stream: _Stream) -> None:
        stream.busy = False
        stream.used_s = self._vfs.clock.time()
        if self.released or stream not in self._streams:
            stream.reader.close()
        else:
            self._vfs.reading(self)

    async def _pieces(self, index: int, start: int, end: int) -> Sequence[Slice]:
        return pieces_for(await self.file.state.records(index), start, end)
