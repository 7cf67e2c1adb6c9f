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
import re
import struct
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

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
#: Bytes that differ, less than eight equal ones between them.
_STRETCH: Final = re.compile(rb"[^\0]+(?:\0{1,7}[^\0]+)*")
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
    """A file with the content of one inode. `update` is called when the inode may have changed.

    Once somebody may store into it through a mapping, a second file, the shadow, has what we put there: what differs
    was stored by others. Both outlive this process, so each is changed in an order that a kill leaves readable: the
    file before its shadow, and the inode (`PassedFiles.collect`) before the shadow is told by `taken`. What a kill
    leaves different without a store is then what the inode has, and taking it over again changes nothing.
    """

    def __init__(self, fd: int, slices: BlockSliceStore, threads: Executor, shadow: int | None = None) -> None:
        """fd: of an empty file, or of one with unknown content, for reading and writing; whose it stays. shadow: of the
        one that an earlier process left."""
        self.fd = fd
        self.shadow = shadow
        self.length = os.fstat(fd).st_size
        self._slices = slices
        self._threads = threads
        self._turn = asyncio.Lock()
        self._flat: dict[int, list[Slice]] = {}
        if shadow is not None:
            # A kill may have come between changes of their lengths. What follows the shorter one is copied again.
            self._resize(min(self.length, os.fstat(shadow).st_size))

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

    async def watch(self, place: Place) -> None:
        """From now on `stored` tells what others store into it. Before the first of them may."""
        async with self._turn:
            if self.shadow is None:
                fd = place.new()
                await self._run(_fill, fd, self.fd, self.length)
                place.is_shadow(fd, self.fd)
                self.shadow = fd

    async def stored(self) -> list[tuple[int, bytes]]:
        """What was stored into it through mappings and isn't `taken`: offset and bytes."""
        async with self._turn:
            return await self._run(self._differing) if self.shadow is not None else []

    async def taken(self, found: list[tuple[int, bytes]]) -> None:
        """The inode has these bytes, or never will."""
        async with self._turn:
            for offset, data in found:
                if self.shadow is not None:
                    await self._run(_write, self.shadow, data[: max(0, self.length - offset)], offset)

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
        if self.shadow is not None:
            os.ftruncate(self.shadow, length)

    def _differing(self) -> list[tuple[int, bytes]]:
        assert self.shadow is not None
        known, now = os.pread(self.shadow, self.length, 0), os.pread(self.fd, self.length, 0)
        return [] if now == known else different(known, now)

    def _put(self, data: Buffer, offset: int) -> None:
        """Write into the file, and note it. Where the inode has what the shadow has, the file has that too, or what
        somebody has stored there since: not to be undone."""
        if self.shadow is None:
            _write(self.fd, data, offset)
            return
        new = bytes(data)
        known = os.pread(self.shadow, len(new), offset)
        for at, piece in different(known + bytes(len(new) - len(known)), new):
            _write(self.fd, piece, offset + at)
            _write(self.shadow, piece, offset + at)

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
                await self._run(self._put, data, base + at)

    async def _bytes(self, piece: Slice, at: int, n: int) -> Buffer:
        if not piece.id:
            return bytes(n)
        return await self._slices.read(piece.id, piece.size, piece.off + at - piece.pos, n)


def different(old: bytes, new: bytes) -> list[tuple[int, bytes]]:
    """Where and what `new` has instead of `old`, both of one length. A few equal bytes don't end a stretch."""
    out = []
    for at in range(0, len(new), _PAGE):
        a, b = old[at : at + _PAGE], new[at : at + _PAGE]
        if a != b:
            xor = (int.from_bytes(a, "little") ^ int.from_bytes(b, "little")).to_bytes(len(b), "little")
            out += [(at + m.start(), b[m.start() : m.end()]) for m in _STRETCH.finditer(xor)]
    return out


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


def _fill(fd: int, source: int, length: int) -> None:
    for at in range(0, length, _STEP):
        _write(fd, os.pread(source, min(_STEP, length - at), at), at)
    os.ftruncate(fd, length)


def _write(fd: int, data: Buffer, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


class Left(NamedTuple):
    """What an earlier process passed through: inode, the kernel's number, descriptors of the copy and its shadow."""

    ino: int
    number: int
    fd: int
    shadow: int | None


class Place:
    """Where copies are kept. With a folder of the mount's own they are called `<inode>.<number>` while the kernel knows
    them by that number, by which a later process finds what an earlier one passed through, and their shadows
    `<inode>.<number>.shadow`. Without a folder they vanish with this process."""

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

    def is_shadow(self, shadow: int, fd: int) -> None:
        """It has all that the other one has."""
        self._rename(shadow, f"{self._paths.get(fd, '')}.shadow")

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

    def left(self) -> list[Left]:
        """What an earlier process had in use."""
        found: list[Left] = []
        names = set(os.listdir(self.folder)) if self.folder is not None else set()
        for name in sorted(names):
            ino, _, number = name.partition(".")
            if ino.isdigit() and number.isdigit():
                shadow = f"{name}.shadow"
                opened = self._open(shadow) if shadow in names else None
                found.append(Left(int(ino), int(number), self._open(name), opened))
            elif name.removesuffix(".shadow") not in names or not ino.isdigit():
                os.unlink(f"{self.folder}/{name}")
        return found

    def _open(self, name: str) -> int:
        path = f"{self.folder}/{name}"
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._paths[fd] = path
        return fd

    def clear(self) -> None:
        for name in os.listdir(self.folder) if self.folder is not None else ():
            with contextlib.suppress(OSError):
                os.unlink(f"{self.folder}/{name}")

    def _rename(self, fd: int, path: str) -> None:
        old = self._paths.get(fd)
        if old is not None:
            os.rename(old, path)
            self._paths[fd] = path
