# SPDX-License-Identifier: Apache-2.0
"""File content as metadata sees it: slice records, length, reference counts; no bytes here.

Source: spec metadata-semantics §6, §8; format §3.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import msgspec

from core.errors import FsError, MetaError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import WRITE
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.inode import Inodes
from core.meta.records import (
    CHUNK_BITS,
    CHUNK_SIZE,
    FILE,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    MAX_FILE_LENGTH,
    TRASH,
    Attr,
    Slice,
    align4k,
    decode_slices,
    encode_slice,
    encode_slices,
)
from core.meta.slices import truncate_records
from core.meta.store import DELETE, Tx

#: At most so many files are deleted at a time by one client (semantics §8.3).
MAX_DELETING: Final = 100

RemoveSlice = Callable[[int, int], Awaitable[None]]


def chunk_count(length: int) -> int:
    return (length + CHUNK_SIZE - 1) >> CHUNK_BITS


def parse_chunk(ino: int, index: int, raw: bytes | None) -> list[Slice]:
    """Slice records of a chunk value; EIO names a damaged one."""
    try:
        return decode_slices(raw or b"")
    except ValueError as e:
        raise MetaError(f"inode {ino}, chunk {index}: {e}; run `sluice fsck`") from e


class Data(Inodes):
    """Mixin of `Meta`."""

    #: Deletes the objects of a slice; set by the volume that owns the object store. None: this client deletes none.
    remove_slice: RemoveSlice | None = None
    _deleting: asyncio.Semaphore | None = None

    async def read_chunk(self, ino: int, index: int) -> list[Slice]:
        """Slice records of one chunk, oldest first (1 trip). ENOENT, EPERM (no regular file), EIO."""
        raw, attr = await self.store.read(k.chunk(ino, index), k.node(ino))
        if not raw:
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.type != FILE:
                raise FsError(errno.EPERM, f"inode {ino} is no regular file")
        return parse_chunk(ino, index, raw)

    async def read_chunks(self, ino: int, indexes: Sequence[int]) -> list[list[Slice]]:
        """Several chunks at once (1 trip)."""
        raws = await self.store.read(*(k.chunk(ino, i) for i in indexes))
        return [parse_chunk(ino, i, raw) for i, raw in zip(indexes, raws, strict=True)]

    async def write_slices(
        self, ino: int, index: int, slices: Sequence[Slice], mtime_ns: int, *, refs: Sequence[int] | None = None
    ) -> Attr:
        """Commit slices whose objects are stored already, in order (2 trips). ENOENT, EPERM, EDQUOT, ENOSPC.

        refs: reference counts to register for fresh slices (default 1 each; packs register more).
        """
        self.require_writable()
        end = (index << CHUNK_BITS) + max(s.pos + s.length for s in slices)

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            (attr,) = await tx.read(k.node(ino))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} was deleted while it was written")
            if attr.type != FILE:
                raise FsError(errno.EPERM, f"inode {ino} is no regular file")
            new = msgspec.structs.replace(
                attr, length=max(attr.length, end), mtime_ns=mtime_ns, ctime_ns=self.clock_ns()
            )
            tx.append(k.chunk(ino, index), encode_slices(list(slices)))
            tx.put(k.node(ino), new)
            for at, s in enumerate(slices):
                if s.id:
                    tx.put_new(k.sliceref(s.id, s.size), refs[at] if refs else 1)
            await self.charge_length(tx, ino, attr, new.length)
            await point("write.before-commit")
            return tx, new

        tx, attr = await self.store.transact(body)
        await point("write.committed")
        self.after_commit(tx)
        return attr

    async def charge_length(self, tx: Tx, ino: int, attr: Attr, length: int) -> None:
        """Account a new length: volume, owner, and every directory that holds a link (semantics §2.4)."""
        if length == attr.length:
            return
        space = align4k(length) - align4k(attr.length)
        if not attr.nlink:
            # Unlinked while open: its directory lost it already (and may be gone itself), the volume hasn't.
            await self.charge(tx, 0, 0, space, 0, uid=attr.uid, gid=attr.gid)
            return
        if attr.parent > 0:
            await self.charge(
                tx, attr.parent, length - attr.length, space, 0, uid=attr.uid, gid=attr.gid, check=attr.parent < TRASH
            )
            return
        await self.charge(tx, 0, 0, space, 0, uid=attr.uid, gid=attr.gid)
        (parents,) = await tx.peek(k.parents(ino))
        for parent, count in parents.items():
            await self.charge(tx, parent, (length - attr.length) * count, space * count, 0, volume=False, owner=False)

    async def truncate(self, ino: int, length: int, caller: Caller = ROOT_CALLER, *, opened: bool = False) -> Attr:
        """Set the length, growing or shrinking (2 trips). `opened`: through a writable handle."""
        self.require_writable()
        if length < 0:
            raise FsError(errno.EINVAL, f"inode {ino}: negative length {length}")
        if length >= MAX_FILE_LENGTH:
            raise FsError(errno.EFBIG, f"inode {ino}: length {length} is over the limit of 2^57 - 1 bytes")

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            (attr,) = await tx.read(k.node(ino))
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.type != FILE or attr.flags & (FLAG_IMMUTABLE | FLAG_APPEND) or (attr.in_trash and not opened):
                raise FsError(errno.EPERM, f"inode {ino}: no regular file, immutable, append-only, or in the trash")
            if not opened:
                await self.require_access(caller, ino, attr, WRITE)
            if attr.length == length:
                return tx, attr
            await self._mask_range(tx, ino, attr.length, length)
            now = self.clock_ns()
            new = msgspec.structs.replace(attr, length=length, mtime_ns=now, ctime_ns=now)
            tx.put(k.node(ino), new)
            await self.charge_length(tx, ino, attr, length)
            return tx, new

        tx, attr = await self.store.transact(body)
        self.after_commit(tx)
        return attr

    async def _mask_range(self, tx: Tx, ino: int, old: int, new: int) -> None:
        """Hide what lies between two lengths (format §3.3)."""
        middle: Collection[int] = ()
        last = max(old, new) >> CHUNK_BITS
        if last - (min(old, new) >> CHUNK_BITS) > 1:
            (middle,) = await tx.peek(k.chunks(ino, last))
        for index, record in truncate_records(old, new, middle).items():
            tx.append(k.chunk(ino, index), encode_slice(record))

    # -- deletion: entry gone -> delfile -> chunks -> reference counts -> objects --------------------------------

    def delete_data_soon(self, ino: int, length: int) -> None:
        """Start deleting a file's data. Over the limit of parallel deletions the hourly job does it."""
        if self._deleting is None:
            self._deleting = asyncio.Semaphore(MAX_DELETING)
        if not self._deleting.locked():
            self.spawn(self._delete_limited(self._deleting, ino, length))

    async def _delete_limited(self, limit: asyncio.Semaphore, ino: int, length: int) -> None:
        async with limit:
            await self.delete_data(ino, length)

    async def delete_data(self, ino: int, length: int) -> None:
        """Chunks, then objects of unused slices, then the record: whatever stops this, a later run goes on."""
        count = (1 << 31) if self.store.caps.enumerate_chunks else chunk_count(length)
        await point("delete.before-chunks")
        (chunks,) = await self.store.read(k.chunks(ino, count))
        for index in chunks:
            await self.delete_chunk(ino, index)
        await point("delete.before-record")
        await self.store.commit([], [(DELETE, k.delfile(ino, length), None)])

    async def delete_chunk(self, ino: int, index: int) -> None:
        async def body(tx: Tx) -> Tx:
            (raw,) = await tx.read(k.chunk(ino, index))
            if raw:
                tx.delete(k.chunk(ino, index))
                for s in parse_chunk(ino, index, raw):
                    if s.id:
                        tx.add(k.sliceref(s.id, s.size), -1)
            return tx

        tx = await self.store.transact(body)
        await point("delete.chunk-gone")
        for slice_id, size in tx.outcome.freed:
            await self.delete_slice(slice_id, size)

    async def delete_slice(self, slice_id: int, size: int) -> None:
        """Objects first, count record second (format §3.4)."""
        if self.remove_slice is None:
            return
        await self.remove_slice(slice_id, size)
        await point("delete.objects-gone")
        await self.store.commit([], [(DELETE, k.sliceref(slice_id, size), None)])

    def delete_slices_soon(self, freed: Sequence[tuple[int, int]]) -> None:
        for slice_id, size in freed:
            self.spawn(self.delete_slice(slice_id, size))

    # -- open files ----------------------------------------------------------------------------------------------

    def opened(self, ino: int) -> None:
        self.open_files[ino] = self.open_files.get(ino, 0) + 1

    async def closed(self, ino: int) -> None:
        """One handle less; the last one of an unlinked file deletes it."""
        left = self.open_files.get(ino, 0) - 1
        if left > 0:
            self.open_files[ino] = left
            return
        self.open_files.pop(ino, None)
        if ino in self.sustained:
            self.sustained.discard(ino)
            await self.finalise_sustained(self.sid, ino)

    async def finalise_sustained(self, sid: int, ino: int) -> None:
        """Delete a file that was unlinked while open (semantics §8.2). A new link (linkat) keeps it."""

        async def body(tx: Tx) -> tuple[Tx, Attr | None]:
            (attr,) = await tx.read(k.node(ino))
            tx.delete(k.sustained(sid, ino))
            if attr is None or attr.nlink > 0:
                return tx, None
            tx.delete(k.node(ino))
            tx.put(k.delfile(ino, attr.length), self.clock_ns() // 1_000_000_000)
            await self.charge(tx, 0, 0, -align4k(attr.length), -1, uid=attr.uid, gid=attr.gid, check=False)
            return tx, attr

        tx, attr = await self.store.transact(body)
        self.after_commit(tx)
        if attr is not None:
            self.delete_data_soon(ino, attr.length)
