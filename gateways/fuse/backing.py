# SPDX-License-Identifier: Apache-2.0
"""Copies of small files that the kernel reads by itself, and how it is told about them.

The kernel reads a backing file to its very end and maps it into memory, so a cache file with checksums behind its data
can't be one, nor can anything that may still have to change: descriptors that read it can't be called back. Each inode
that is read this way gets a file of its own with exactly its bytes, brought up to date when the inode changes.
Source: the kernel's documentation (filesystems/fuse-passthrough, fuse-io) and public protocol header (7.40).
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import pairwise
from typing import Final

from core.chunk.store import BlockSliceStore
from core.meta.records import CHUNK_SIZE, Slice
from core.meta.slices import clip, flatten
from core.vfs.handles import OpenFile

# _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, u32). The map: i32 fd | u32 flags | u64 padding.
_BACKING_OPEN: Final = 0x4010E501
_BACKING_CLOSE: Final = 0x4004E502
_MAP: Final = struct.Struct("=iIQ")
#: Read and written at once while a copy is made.
_STEP: Final = 4 << 20


class Backing:
    """A backing file that the kernel knows by `id`. `close` makes it forget the number; open descriptors go on."""

    def __init__(self, device: int, fd: int) -> None:
        """Raises OSError: EPERM without CAP_SYS_ADMIN, ELOOP where `fd` lies on a stacked file system."""
        self._device = device
        self.id = fcntl.ioctl(device, _BACKING_OPEN, _MAP.pack(fd, 0, 0))

    def close(self) -> None:
        try:
            fcntl.ioctl(self._device, _BACKING_CLOSE, struct.pack("=I", self.id))
        except OSError:
            pass  # the connection is gone, and the number with it


class Mirror:
    """A file with the content of one inode. `update` is called when that may have changed."""

    def __init__(self, slices: BlockSliceStore, threads: Executor, folder: str | None) -> None:
        self._slices = slices
        self._threads = threads
        self._turn = asyncio.Lock()
        self._flat: dict[int, list[Slice]] = {}
        self.length = 0
        # Without a name: it goes with its last user, whatever happens to us.
        self.fd = _unnamed(folder)

    async def update(self, file: OpenFile) -> None:
        """Make it equal to the inode, as this process knows it. Only what differs is copied."""
        async with self._turn:
            await file.settle()
            state = file.state
            while True:
                generation, length = state.generation, state.length
                flat = {
                    index: flatten(await state.records(index)) for index in range(-(-length // CHUNK_SIZE))
                }  # fmt: skip
                # Shorter first: what is cut off and written again must not shine through.
                if length < self.length:
                    os.ftruncate(self.fd, length)
                for index, pieces in flat.items():
                    await self._copy(index, pieces, min(CHUNK_SIZE, length - index * CHUNK_SIZE))
                if length > self.length:
                    os.ftruncate(self.fd, length)
                self._flat, self.length = flat, length
                if generation == state.generation:
                    return

    def busy(self) -> bool:
        """Has anybody but us a descriptor or a mapping? The kernel gives a write lease to a file's only user."""
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            fcntl.fcntl(self.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as e:
            return e.errno == errno.EAGAIN  # else this file system has no leases: as if nobody had
        return False

    def close(self) -> None:
        os.close(self.fd)

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _copy(self, index: int, pieces: list[Slice], length: int) -> None:
        """Bring `length` bytes of a chunk over, as far as they differ from what was copied before."""
        base = index * CHUNK_SIZE
        have = max(0, min(CHUNK_SIZE, self.length - base))
        old = clip(self._flat.get(index, ()), 0, have)
        for at, end, piece in _changed(old, clip(pieces, 0, length)):
            while at < end:
                n = min(end - at, _STEP)
                if piece.id:
                    data = await self._slices.read(piece.id, piece.size, piece.off + at - piece.pos, n)
                    await asyncio.get_running_loop().run_in_executor(self._threads, _write, self.fd, data, base + at)
                elif at < have:  # what lies behind the copy's end is a hole already
                    await asyncio.get_running_loop().run_in_executor(
                        self._threads, _write, self.fd, bytes(min(end, have) - at), base + at
                    )
                at += n


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
            if out and out[-1][1] == start and out[-1][2] is new[j]:
                out[-1] = (out[-1][0], end, new[j])
            else:
                out.append((start, end, new[j]))
    return out


def _source(piece: Slice, at: int) -> tuple[int, int]:
    return (piece.id, piece.off + at - piece.pos) if piece.id else (0, 0)


def _write(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        n = os.pwrite(fd, view, offset)
        view, offset = view[n:], offset + n


def _unnamed(folder: str | None) -> int:
    folder = folder or tempfile.gettempdir()
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # the file system can't
        fd, path = tempfile.mkstemp(prefix=".sluice-backing-", dir=folder)
        os.unlink(path)
        return fd
