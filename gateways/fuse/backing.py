# SPDX-License-Identifier: Apache-2.0
"""Copies of small files that the kernel reads by itself, and how it is told about them.

The kernel reads a backing file to its very end and maps it into memory, so a cache file with checksums behind its data
can't be one, nor can anything that others rely on: descriptors that read it can't be called back, and who has one open
for writing may store into its pages. Each inode that is read this way gets a file of its own with exactly its bytes.
Source: the kernel's documentation (filesystems/fuse-passthrough, fuse-io) and public protocol header (7.40).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Final, TypeVar

from core.chunk.store import BlockSliceStore
from core.chunk.transfer import BlockMissing
from core.meta.records import CHUNK_SIZE, Slice
from core.meta.slices import clip, flatten
from core.object.api import Buffer
from core.vfs.handles import OpenFile

# _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, u32). The map: i32 fd | u32 flags | u64 padding.
_BACKING_OPEN: Final = 0x4010E501
_BACKING_CLOSE: Final = 0x4004E502
_MAP: Final = struct.Struct("=iIQ")
#: Read, compared and written at once.
_STEP: Final = 4 << 20
_PAGE: Final = 4096
#: Looks at the metadata before a missing block is believed.
_MISSING_TRIES: Final = 4

T = TypeVar("T")


def open_backing(device: int, fd: int) -> int:
    """The kernel's number for a file. OSError: EPERM without CAP_SYS_ADMIN, ELOOP on a stacked file system."""
    # Of mutable bytes ioctl() gives the result, of others the bytes.
    number: int = fcntl.ioctl(device, _BACKING_OPEN, bytearray(_MAP.pack(fd, 0, 0)))
    return number


def close_backing(device: int, number: int) -> None:
    """The number is forgotten; open descriptors go on."""
    with contextlib.suppress(OSError):  # the connection is gone, and the number with it
        fcntl.ioctl(device, _BACKING_CLOSE, bytearray(struct.pack("=I", number)))


class Mirror:
    """A file with the content of one inode. `update` is called when the inode may have changed."""

    def __init__(self, fd: int, slices: BlockSliceStore, threads: Executor) -> None:
        """fd: of an empty file, or of one with unknown content, for reading and writing; whose it stays."""
        self.fd = fd
        self.length = os.fstat(fd).st_size
        self._slices = slices
        self._threads = threads
        self._turn = asyncio.Lock()
        self._flat: dict[int, list[Slice]] = {}
        self._shadow: bytearray | None = None

    async def update(self, file: OpenFile) -> None:
        """Make it equal to the inode, as this process knows it. Only what differs is copied."""
        async with self._turn:
            await file.settle()
            state, missing = file.state, 0
            while True:
                generation, length = state.generation, state.length
                indexes = range(-(-length // CHUNK_SIZE))
                flat = {index: flatten(await state.records(index)) for index in indexes}
                # Shorter first: what is cut off and comes again as a hole must not shine through.
                if length < self.length:
                    self._resize(length)
                elif self._shadow is not None:
                    self._shadow += bytes(length - len(self._shadow))
                try:
                    for index, pieces in flat.items():
                        await self._copy(index, pieces, min(CHUNK_SIZE, length - index * CHUNK_SIZE))
                except BaseException as e:
                    self._flat = {}  # half of it is new: all of it is copied next time
                    missing += isinstance(e, BlockMissing)
                    if not isinstance(e, BlockMissing) or missing == _MISSING_TRIES:
                        raise
                    state.forget()  # a compaction may have replaced the slices since they were looked up
                    continue
                self._resize(length)
                self._flat = flat
                if generation == state.generation:
                    return

    async def watch(self) -> None:
        """From now on `stored` tells what others store into it; that takes its size in memory."""
        async with self._turn:
            if self._shadow is None:
                self._shadow = bytearray(await self._run(os.pread, self.fd, self.length, 0))

    async def stored(self) -> list[tuple[int, Buffer]]:
        """What was stored into it through mappings since it was copied, or since the last call: offset and bytes."""
        out: list[tuple[int, Buffer]] = []
        async with self._turn:
            known = self._shadow
            if known is None:
                return out
            now = await self._run(os.pread, self.fd, self.length, 0)
            if now != known:
                for at in range(0, len(now), _PAGE):
                    if now[at : at + _PAGE] != known[at : at + _PAGE]:
                        out.append((at, now[at : at + _PAGE]))
                self._shadow = bytearray(now)
        return out

    def busy(self) -> bool:
        """Has anybody but us a descriptor or a mapping? The kernel gives a write lease to a file's only user."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as e:
            return e.errno == errno.EAGAIN  # else this file system has no leases: as if nobody had
        return False

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _run(self, call: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, *args)

    def _resize(self, length: int) -> None:
        os.ftruncate(self.fd, length)
        self.length = length
        if self._shadow is not None:
            del self._shadow[length:]
            self._shadow += bytes(length - len(self._shadow))

    async def _copy(self, index: int, pieces: list[Slice], length: int) -> None:
        """Bring `length` bytes of a chunk over, as far as they differ from what was copied before."""
        base = index * CHUNK_SIZE
        have = max(0, min(CHUNK_SIZE, self.length - base))
        known = self._flat.get(index)
        old = [] if known is None else clip(known, 0, have)  # of what isn't known everything differs, holes too
        for start, end, piece in _changed(old, clip(pieces, 0, length)):
            if not piece.id:
                end = min(end, have)  # what lies behind the copy's end is a hole already
            for at in range(start, end, _STEP):
                data = await self._bytes(piece, at, min(end - at, _STEP))
                if self._shadow is not None:
                    self._shadow[base + at : base + at + len(data)] = data
                await self._run(_write, self.fd, data, base + at)

    async def _bytes(self, piece: Slice, at: int, n: int) -> Buffer:
        if not piece.id:
            return bytes(n)
        return await self._slices.read(piece.id, piece.size, piece.off + at - piece.pos, n)


def _changed(old: Sequence[Slice], new: Sequence[Slice]) -> list[tuple[int, int, Slice]]:
    """Ranges of `new` that don't come from the same bytes in `old`: (start, end, piece that covers them)."""
    edges = sorted({edge for piece in (*old, *new) for edge in (piece.pos, piece.pos + piece.length)})
    out: list[tuple[int, int, Slice]] = []
    i = j = 0
    for start, end in pairwise(edges):
        while i < len(old) and old[i].pos + old[i].length <= start:
            i += 1
        while j < len(new) and new[j].pos + new[j].length <= start:
            j += 1
        if j == len(new) or new[j].pos > start:
            continue
        before = old[i] if i < len(old) and old[i].pos <= start else None
        if before is None or _source(before, start) != _source(new[j], start):
            out.append((start, end, new[j]))
    return out


def _source(piece: Slice, at: int) -> tuple[int, int]:
    return (piece.id, piece.off + at - piece.pos) if piece.id else (0, 0)


def _write(fd: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


class Place:
    """Where copies are kept. With a folder of the mount's own they are called `<inode>.<number>` while the kernel knows
    them by that number, by which a later process finds what an earlier one passed through. Without a folder they vanish
    with this process."""

    def __init__(self, folder: str | None) -> None:
        self.folder = folder
        self._made = 0
        self._paths: dict[int, str] = {}  # of descriptors
        if folder is not None:
            os.makedirs(folder, 0o700, exist_ok=True)

    def new(self) -> int:
        """A descriptor of an empty file; OSError if none can be made."""
        if self.folder is not None:
            self._made += 1
            path = f"{self.folder}/idle-{os.getpid()}-{self._made}"
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            self._paths[fd] = path
            return fd
        try:
            return os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # the file system can't
            fd, path = tempfile.mkstemp(prefix="sluice-copy-")
            os.unlink(path)
            return fd

    def used(self, fd: int, ino: int, number: int) -> None:
        """The kernel knows it by this number."""
        self._rename(fd, f"{self.folder}/{ino}.{number}")

    def idle(self, fd: int) -> None:
        """Not any more."""
        self._made += 1
        self._rename(fd, f"{self.folder}/idle-{os.getpid()}-{self._made}")

    def close(self, fd: int, *, keep: bool = False) -> None:
        """keep: a later process will want it."""
        path = self._paths.pop(fd, None)
        if path is not None and not keep:
            with contextlib.suppress(OSError):
                os.unlink(path)
        os.close(fd)

    def left(self) -> list[tuple[int, int, int]]:
        """(inode, number, descriptor) of what an earlier process had in use."""
        found = []
        for name in os.listdir(self.folder) if self.folder is not None else ():
            ino, _, number = name.partition(".")
            path = f"{self.folder}/{name}"
            if ino.isdigit() and number.isdigit():
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                self._paths[fd] = path
                found.append((int(ino), int(number), fd))
            else:
                os.unlink(path)
        return found

    def clear(self) -> None:
        for name in os.listdir(self.folder) if self.folder is not None else ():
            with contextlib.suppress(OSError):
                os.unlink(f"{self.folder}/{name}")

    def _rename(self, fd: int, path: str) -> None:
        old = self._paths.get(fd)
        if old is not None:
            os.rename(old, path)
            self._paths[fd] = path
