# SPDX-License-Identifier: Apache-2.0
"""What the layers above see of the data path: slices in, bytes out.

A slice is immutable, has a 64-bit id and a size, and is stored as ceil(size / block size) objects (data-path §1.1).
A `Piece` is a part of a slice as a file uses it; files that were packed together share one slice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import NamedTuple, Protocol

from core.object.api import Buffer

#: Hands out fresh slice ids (from the metadata counter, in batches).
NewSliceId = Callable[[], Awaitable[int]]


class Durability(Enum):
    """What "stored" means for a write. STAGED may become STORED at any time: a full disk, a large block."""

    STORED = "stored"  # in the object store
    STAGED = "staged"  # on a local disk, synced; uploaded later by this client, or the next one with its directories


class Piece(NamedTuple):
    """Part [off, off+length) of slice `id`, whose whole size is `size`.

    refs: how many pieces were cut from this slice when it was written; whoever commits the piece registers the
    slice with that count (`put_new(sliceref(id, size), refs)`), and who gives up calls `SliceStore.forget`.
    """

    id: int
    size: int
    off: int
    length: int
    refs: int = 1


class FileRange(NamedTuple):
    """Bytes of a local file, for sendfile: [offset, offset+length) of `path`."""

    path: str
    offset: int
    length: int


class SliceWriter(Protocol):
    """One slice being written front to back. Blocks leave as soon as they are full; nothing is visible before commit.

    At most 64 MiB. The writer owns pooled buffers until `finish` or `abort`.
    """

    length: int

    def buffer(self) -> memoryview:
        """Writable rest of the current block buffer (never empty); fill some of it, then `await advance(n)`."""
        ...

    async def advance(self, n: int) -> None:
        """n bytes of `buffer()` were filled. Uploads full blocks; waits while the memory budget is used up."""
        ...

    async def write(self, data: Buffer) -> None:
        """Append a copy of data."""
        ...

    async def finish(self) -> Piece:
        """Wait until every block is stored. Raises FsError(EIO) naming the cause if one couldn't be."""
        ...

    async def abort(self) -> None:
        """Give up: free the buffers, delete what was uploaded (best effort)."""
        ...


class SliceStore(Protocol):
    """The data path of one volume in one process."""

    block_size: int

    async def writer(self, size_hint: int | None = None, durability: Durability | None = None) -> SliceWriter:
        """Start a slice. size_hint: expected length, saves memory if it is less than a block. durability: of its
        blocks when `finish` returns; None: what this client does by default (`--writeback`)."""
        ...

    async def pack(self, data: Buffer, durability: Durability | None = None) -> Piece:
        """Store a small piece (< block size), sharing one object with others that are written at the same moment.

        Group commit: a lone caller's object leaves at once; callers during an upload gather in the next one.
        Returns when the object is stored, or staged, as for `writer`.
        """
        ...

    async def read(self, slice_id: int, size: int, off: int, length: int) -> Buffer:
        """Bytes [off, off+length), through caches, one download per block however many ask. EIO on failure."""
        ...

    def read_cached(self, slice_id: int, size: int, off: int, length: int) -> Buffer | None:
        """The same without waiting: the bytes if they lie in one block that is in memory, else None."""
        ...

    def local_range(self, slice_id: int, size: int, off: int, length: int) -> FileRange | None:
        """Where the range lies in one local file byte for byte (file store, verified cache), or None."""
        ...

    async def forget(self, piece: Piece) -> None:
        """A piece that will never be committed: its objects are deleted unless others share them (gc does that)."""
        ...

    async def remove(self, slice_id: int, size: int) -> None:
        """Delete all blocks of a slice; missing ones are fine. Raises ObjectError if one couldn't be deleted."""
        ...

    async def prefetch(self, slice_id: int, size: int, off: int, length: int) -> None:
        """Bring the blocks of a range into the cache; errors are ignored."""
        ...

    async def close(self) -> None: ...
