# SPDX-License-Identifier: Apache-2.0
"""fallocate and copy_file_range: changes of a file's content that move no data.

A copy holds against everything that may happen to its source: the commit verifies the very records that it refers to
and counts the new references in the same transaction, so that a compaction, an overwrite or a removal in between makes
it look again instead of pointing at slices that are gone. Source: spec metadata-semantics §6.5, §6.6; format §3.3.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from core.errors import FsError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import READ, WRITE
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.data import Data, parse_chunk
from core.meta.records import (
    CHUNK_BITS,
    CHUNK_SIZE,
    FIFO,
    FILE,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    MAX_FILE_LENGTH,
    SLICE_BYTES,
    Attr,
    Slice,
    encode_slice,
    encode_slices,
)  # fmt: skip
from core.meta.slices import assemble, count_references, pieces_for, zero_records
from core.meta.store import Tx

FALLOC_KEEP_SIZE: Final = 0x01
FALLOC_PUNCH_HOLE: Final = 0x02
FALLOC_COLLAPSE_RANGE: Final = 0x08
FALLOC_ZERO_RANGE: Final = 0x10
FALLOC_INSERT_RANGE: Final = 0x20
_KNOWN_MODES: Final = FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE

#: Chunks of the source that one transaction of a copy looks at: 4 GiB, what the kernel asks for at once.
_CHUNKS_PER_STEP: Final = 64
#: Records that one transaction of a copy appends at most: keeps a chunk value below 64 KiB and a commit short.
_RECORDS_PER_STEP: Final = 1000
#: Above so many chunks a hole is only recorded in those that exist.
_BLIND_CHUNKS: Final = 64
#: Tries with the source's attributes unchanged, before only its records and what it is have to be.
_EXACT_TRIES: Final = 8


class Ranges(Data):
    """Mixin of `Meta`."""

    # -- fallocate -----------------------------------------------------------------------------------------------

    async def fallocate(
        self, ino: int, mode: int, offset: int, size: int, caller: Caller = ROOT_CALLER
    ) -> Attr:  # fmt: skip
        """Set the length, or make a range read as zeros (2 trips; several times 2 for more chunks than the database
        changes at once). No space is reserved. EINVAL, ENOTSUP, EFBIG, ENOENT, EPIPE, EPERM, EACCES, EDQUOT, ENOSPC.
        """
        self._require_mode(ino, mode, offset, size)
        self.require_writable()
        done = offset  # where the holes recorded so far end

        async def body(tx: Tx) -> tuple[Tx, Attr, int]:
            found, parents = await self.node_and_parents(tx, ino)
            attr = await self._require_allocatable(ino, found, mode, caller)
            length = attr.length if mode & FALLOC_KEEP_SIZE else max(attr.length, offset + size)
            end = min(offset + size, attr.length)
            if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE) and done < end:
                reached = await self._punch(tx, ino, done, end)
            else:
                reached = end
            if reached < end:
                length = attr.length  # the rest comes with the next transaction
            now = self.clock_ns()
            new = msgspec.structs.replace(attr, length=length, mtime_ns=now, ctime_ns=now)
            tx.put(k.node(ino), new)
            part = reached - done if reached < end else offset + size - done
            self.log_change(tx, "FALLOCATE", ino, done, part, mode, now=now)
            await self.charge_length(tx, ino, attr, length, parents)
            return tx, new, reached if reached < end else -1

        while True:
            tx, attr, reached = await self.store.transact(body)
            self.after_commit(tx)
            if reached < 0:
                return attr
            done = reached

    @staticmethod
    def _require_mode(ino: int, mode: int, offset: int, size: int) -> None:
        for single in (FALLOC_COLLAPSE_RANGE, FALLOC_INSERT_RANGE):
            if mode & single:
                if mode != single:
                    raise FsError(errno.EINVAL, f"inode {ino}: fallocate mode {mode:#x} combines what excludes others")
                raise FsError(errno.ENOTSUP, f"inode {ino}: collapsing and inserting ranges is not supported")
        if mode & FALLOC_PUNCH_HOLE and not mode & FALLOC_KEEP_SIZE:
            raise FsError(errno.EINVAL, f"inode {ino}: punching a hole needs FALLOC_FL_KEEP_SIZE too")
        if size <= 0 or offset < 0:
            raise FsError(errno.EINVAL, f"inode {ino}: fallocate of {size} bytes at {offset}")
        if mode & ~_KNOWN_MODES:
            raise FsError(errno.ENOTSUP, f"inode {ino}: fallocate mode {mode:#x} is not supported")
        if offset + size >= MAX_FILE_LENGTH:
            raise FsError(errno.EFBIG, f"inode {ino}: fallocate up to {offset + size}, the limit is 2^57 - 1 bytes")

    async def _require_allocatable(self, ino: int, attr: Attr | None, mode: int, caller: Caller) -> Attr:
        if attr is None:
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        if attr.type == FIFO:
            raise FsError(errno.EPIPE, f"inode {ino} is a FIFO")
        if attr.type != FILE or attr.flags & FLAG_IMMUTABLE:
            raise FsError(errno.EPERM, f"inode {ino} is no regular file, or immutable")
        await self.require_access(caller, ino, attr, WRITE)
        if attr.flags & FLAG_APPEND and mode & ~FALLOC_KEEP_SIZE:
            raise FsError(errno.EPERM, f"inode {ino} is append-only; no hole can be made in it")
        return attr

    async def _punch(self, tx: Tx, ino: int, start: int, end: int) -> int:
        """Zero records over [start, end), as far as one transaction reaches; returns where they end."""
        limit = min(self.touch_limit(), _RECORDS_PER_STEP)
        first, last = start >> CHUNK_BITS, end - 1 >> CHUNK_BITS
        if last - first < min(_BLIND_CHUNKS, limit):
            records = zero_records(start, end)
        else:
            # A write that makes a new chunk changes the node, which the commit verifies.
            (chunks,) = await tx.peek(k.chunks(ino, last + 1))
            there = [index for index in chunks if first <= index]
            if len(there) > limit:
                end = min(end, there[limit] << CHUNK_BITS)
            records = {}
            for index in there[:limit]:
                base = index << CHUNK_BITS
                low, high = max(start, base), min(end, base + CHUNK_SIZE)
                records.update(zero_records(low, high))
        for index, record in records.items():
            tx.append(k.chunk(ino, index), encode_slice(record))
        tx.after.append(lambda: self.zeroed(ino, records))
        return end

    # -- copy_file_range -----------------------------------------------------------------------------------------

    async def copy_file_range(
        self, src: int, src_off: int, dst: int, dst_off: int, size: int, caller: Caller | None = None
    ) -> int:
        """Let [dst_off, …) of one file share the data of [src_off, …) of another, or of the same one if the ranges
        don't overlap; returns how many bytes, fewer only at the end of the source (2 trips for what lies in one
        chunk). Several atomic steps if the range has many pieces: after an error the steps before it stay done.

        caller: checked for reading and writing if given; who has handles was checked when they were opened.
        ENOENT, EINVAL (no regular file, overlap, negative), EPERM, EACCES, EFBIG, EDQUOT, ENOSPC, EIO.
        """
        self.require_writable()
        if src_off < 0 or dst_off < 0 or size < 0:
            raise FsError(errno.EINVAL, f"copy of {size} bytes from {src_off} to {dst_off}")
        copied = 0
        while copied < size:
            step = _Step(src, src_off + copied, dst, dst_off + copied, size - copied)
            done = await self.with_room(lambda tx, step=step: self._copy_step(tx, step, caller))  # type: ignore[misc]
            await point("copy.committed")
            self.after_commit(done.tx)
            for index, (before, added) in done.grown.items():
                await self.appended(dst, index, before, added)
            if not copied:
                size = done.possible  # the copy itself may make the source longer
            if not done.length:
                break
            copied += done.length
        return copied

    async def _copy_step(self, tx: Tx, step: _Step, caller: Caller | None) -> _Done:
        """One transaction."""
        src, dst = step.src, step.dst
        room = self.touch_limit(24)
        # Each chunk of the source is a check; it needs an append and a reference at least.
        most = max(1, min(_CHUNKS_PER_STEP, room // 4))
        first = step.src_off >> CHUNK_BITS
        indexes = range(first, min(first + most, (step.src_off + step.size - 1 >> CHUNK_BITS) + 1))
        targets = range(step.dst_off >> CHUNK_BITS, (step.dst_off >> CHUNK_BITS) + len(indexes) + 1)
        values = await self.store.read(
            k.node(src), k.node(dst), *(k.chunk(src, i) for i in indexes), *(k.chunk(dst, i) for i in targets)
        )
        sattr, dattr = values[:2]
        raws = dict(zip(indexes, values[2 : 2 + len(indexes)], strict=True))
        there = dict(zip(targets, values[2 + len(indexes) :], strict=True))
        size = await self._require_copyable(step, sattr, dattr, caller)
        if not size:
            return _Done(tx, 0, 0, {})
        possible = size
        chunks = {index: parse_chunk(src, index, raw) for index, raw in raws.items() if raw}
        size = _fitting(chunks, indexes, step.src_off, size, min(room - 2 * len(indexes), _RECORDS_PER_STEP))
        end = step.src_off + size
        # All of it as it was at one moment: with the node unchanged, so is every chunk. A source that never rests is
        # taken as long as its records hold; its length may then be a moment older or younger.
        if src == dst:
            pass
        elif tx.attempt < _EXACT_TRIES:
            tx.expect(k.node(src), sattr)
        else:
            tx.expect_identity(src, sattr)
        tx.expect(k.node(dst), dattr)
        for index in indexes:
            if index << CHUNK_BITS < end:
                tx.expect(k.chunk(src, index), raws[index])
        added = assemble([(chunks, step.src_off, size)], start=step.dst_off, keep_holes=True)
        grown: dict[int, tuple[int, int]] = {}
        for index, records in added.items():
            raw = there.get(index)
            self.require_room(dst, index, raw, len(records))
            grown[index] = (len(raw or b"") // SLICE_BYTES, len(records))
            tx.append(k.chunk(dst, index), encode_slices(records))
        for slice_id, slice_size, number in count_references(added):
            tx.add(k.sliceref(slice_id, slice_size), number)
        now = self.clock_ns()
        new = msgspec.structs.replace(
            dattr, length=max(dattr.length, step.dst_off + size), mtime_ns=now, ctime_ns=now
        )  # fmt: skip
        tx.put(k.node(dst), new)
        self.log_change(
            tx, "COPYFILERANGE", src, step.src_off, dst, step.dst_off, size, result=new.length, now=now
        )  # fmt: skip
        await self.charge_length(tx, dst, dattr, new.length)
        await point("copy.before-commit")
        return _Done(tx, size, possible, grown)

    async def _require_copyable(
        self, step: _Step, sattr: Attr | None, dattr: Attr | None, caller: Caller | None
    ) -> int:
        """The checks of §6.6; returns the size clipped to the source."""
        src, dst = step.src, step.dst
        if sattr is None or dattr is None:
            raise FsError(errno.ENOENT, f"inode {src if sattr is None else dst} does not exist")
        if sattr.type != FILE:
            raise FsError(errno.EINVAL, f"inode {src}, the source of a copy, is no regular file")
        if step.src_off >= sattr.length:
            return 0
        size = min(step.size, sattr.length - step.src_off)
        if dattr.type != FILE:
            raise FsError(errno.EINVAL, f"inode {dst}, the target of a copy, is no regular file")
        if dattr.flags & (FLAG_IMMUTABLE | FLAG_APPEND):
            raise FsError(errno.EPERM, f"inode {dst} is immutable or append-only")
        if src == dst and step.src_off < step.dst_off + size and step.dst_off < step.src_off + size:
            raise FsError(errno.EINVAL, f"inode {src}: the ranges of a copy within one file overlap")
        if step.dst_off + size >= MAX_FILE_LENGTH:
            raise FsError(errno.EFBIG, f"inode {dst}: copy up to {step.dst_off + size}, the limit is 2^57 - 1 bytes")
        if caller is not None:
            await self.require_access(caller, src, sattr, READ)
            await self.require_access(caller, dst, dattr, WRITE)
        return size


class _Step(msgspec.Struct, frozen=True):
    src: int
    src_off: int
    dst: int
    dst_off: int
    size: int


class _Done(NamedTuple):
    tx: Tx
    length: int  # bytes that this transaction copied
    possible: int  # bytes up to the end of the source, as it was
    grown: Mapping[int, tuple[int, int]]  # chunk of the destination -> records before, records added


def _fitting(
    chunks: Mapping[int, Sequence[Slice]], indexes: range, offset: int, size: int, limit: int
) -> int:  # fmt: skip
    """How many of `size` bytes from `offset` on a transaction of `limit` records takes: at least one piece."""
    end = offset + size
    number = 0
    at = offset
    for index in indexes:
        base = index << CHUNK_BITS
        low, high = max(offset - base, 0), min(end - base, CHUNK_SIZE)
        number += 1  # a piece that crosses a border of the destination's chunks becomes two records
        for piece in pieces_for(chunks.get(index, ()), low, high):
            number += 1
            if number > limit and at > offset:
                return at - offset
            at = base + piece.pos + piece.length
    return at - offset
