# SPDX-License-Identifier: Apache-2.0
"""truncate: what a file's new length does to its chunks.

What lies between the two lengths has to read as zeros when the file grows again. Where that is a part of a chunk, a
zero record hides it. Whole chunks behind a new end are removed, in the same transaction and with the references of
their slices: a missing chunk reads as zeros for every client, its space is free, and nothing is left that nobody would
find when the file is deleted (a database that can't list the chunks of a file is asked for those that its length
tells).

The commit verifies the node, so no record that anybody appends is lost unseen, and each removed chunk, so that a
compaction that changed its slices meanwhile makes it look again. As with a compaction, slices stay for the trash days:
readers of another client, and backups of the metadata, may still point at them.
Source: spec metadata-semantics §6.4, §7.2 (delayed slices), §8.3; format §3.3, §3.6.
"""

from __future__ import annotations

import errno
import struct
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

import msgspec

from core.errors import FsError
from core.meta import keys as k
from core.meta.base import WRITE
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.data import MAX_RECORDS, Data, chunk_count, parse_chunk
from core.meta.records import (
    CHUNK_BITS,
    CHUNK_SIZE,
    FILE,
    FLAG_APPEND,
    FLAG_IMMUTABLE,
    MAX_FILE_LENGTH,
    Attr,
    encode_slice,
)  # fmt: skip
from core.meta.slices import truncate_records, zeros
from core.meta.store import Tx

#: Chunks behind the new end that are read together with a node that isn't known.
_TOGETHER: Final = 2
#: Above so many indexes behind the new end the database is asked which chunks exist.
_MAX_ASKED: Final = 1024
_DELAYED = struct.Struct(">QI")


class _Removal(NamedTuple):
    """What one transaction takes off the end of a file. slices: one for each record that is removed."""

    removed: list[int]
    masked: list[int]  # more records than the database changes at once: hidden, and found when the file is deleted
    slices: list[tuple[int, int]]
    length: int  # how far down it gets


class Lengths(Data):
    """Mixin of `Meta`."""

    async def truncate(self, ino: int, length: int, caller: Caller = ROOT_CALLER, *, opened: bool = False) -> Attr:
        """Set the length, growing or shrinking (2 trips; 3 if more than two chunks go; several times that if more
        records go than the database changes at once). `opened`: through a writable handle.
        ENOENT, EPERM, EACCES, EINVAL, EFBIG, EDQUOT, ENOSPC, EIO (slice records that can't be read)."""
        self.require_writable()
        if length < 0:
            raise FsError(errno.EINVAL, f"inode {ino}: negative length {length}")
        if length >= MAX_FILE_LENGTH:
            raise FsError(errno.EFBIG, f"inode {ino}: length {length} is over the limit of 2^57 - 1 bytes")

        async def body(tx: Tx) -> tuple[Tx, Attr]:
            attr, parents, chunks = await self._find(tx, ino, length)
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.type != FILE or attr.flags & (FLAG_IMMUTABLE | FLAG_APPEND) or (attr.in_trash and not opened):
                raise FsError(errno.EPERM, f"inode {ino}: no regular file, immutable, append-only, or in the trash")
            if not opened:
                await self.require_access(caller, ino, attr, WRITE)
            if attr.length == length:
                return tx, attr
            removal = self._plan_removal(ino, chunks)
            if length < attr.length:
                reached = max(length, removal.length)
                self._hide_rest(tx, ino, reached, attr.length)
            else:
                reached = await self._mask_growth(tx, ino, attr.length, length)
            now = self.clock_ns()
            new = msgspec.structs.replace(attr, length=reached, mtime_ns=now, ctime_ns=now)
            tx.put(k.node(ino), new)
            self.log_change(tx, "TRUNCATE", ino, attr.length, reached, int(opened), now=now)
            await self._remove(tx, ino, chunks, removal, now)
            await self.charge_length(tx, ino, attr, reached, parents)
            return tx, new

        while True:
            tx, attr = await self.store.transact(body)
            self.after_commit(tx)
            if attr.length == length:
                return attr

    async def _find(
        self, tx: Tx, ino: int, length: int
    ) -> tuple[Attr | None, dict[int, int] | None, Mapping[int, bytes]]:
        """The node, which the commit verifies; the directories that hold links to it, if they came along; the chunks
        that lie wholly behind the new length."""
        first = chunk_count(length)
        attr: Attr | None
        parents: dict[int, int] | None = None
        if tx.recent is not None and tx.recent.get(k.node(ino)) is not None:
            (attr,) = await tx.read(k.node(ino))
            together: dict[int, bytes] = {}
            asked = first
        else:
            asked = first + _TOGETHER
            attr, parents, *found = await tx.peek(
                k.node(ino), k.parents(ino), *(k.chunk(ino, index) for index in range(first, asked))
            )
            tx.expect(k.node(ino), attr)
            together = {index: raw for index, raw in zip(range(first, asked), found, strict=True) if raw}
        count = chunk_count(attr.length) if attr is not None and attr.type == FILE else 0
        if count - asked > _MAX_ASKED:
            (chunks,) = await tx.peek(k.chunks(ino, count))
            return attr, parents, {index: raw for index, raw in chunks.items() if index >= first}
        if count > asked:
            assert attr is not None
            more = [k.chunk(ino, index) for index in range(asked, count)]
            linked = parents is None and attr.parent == 0 and attr.nlink > 0
            *found, links = await tx.peek(*more, k.parents(ino)) if linked else [*await tx.peek(*more), parents]
            parents = links
            together |= {index: raw for index, raw in zip(range(asked, count), found, strict=True) if raw}
        return attr, parents, {index: raw for index, raw in together.items() if index < count}

    # -- shrinking -----------------------------------------------------------------------------------------------

    def _plan_removal(self, ino: int, chunks: Mapping[int, bytes]) -> _Removal:
        """From the end of the file on, as much as one transaction takes; one chunk at least."""
        most = room = self.touch_limit()
        plan = _Removal([], [], [], 0)
        counted: set[tuple[int, int]] = set()
        for index in sorted(chunks, reverse=True):
            used = [(s.id, s.size) for s in parse_chunk(ino, index, chunks[index]) if s.id]
            # A check and a deletion; the counts of its slices, or a part of the one record of delayed slices.
            cost = 2 + (0 if self.trash_days > 0 else len(set(used) - counted))
            whole = cost <= most or not self.store.caps.max_writes
            if not whole:
                cost = 1
            crowded = cost > room or (whole and len(plan.slices) + len(used) > MAX_RECORDS)
            if crowded and (plan.removed or plan.masked):
                return plan._replace(length=index + 1 << CHUNK_BITS)
            room -= cost
            if whole:
                plan.removed.append(index)
                plan.slices.extend(used)
                counted.update(used)
            else:
                plan.masked.append(index)
        return plan

    async def _remove(self, tx: Tx, ino: int, chunks: Mapping[int, bytes], plan: _Removal, now: int) -> None:
        for index in plan.masked:
            tx.append(k.chunk(ino, index), encode_slice(zeros(0, CHUNK_SIZE)))
        for index in plan.removed:
            tx.expect(k.chunk(ino, index), chunks[index])
            tx.delete(k.chunk(ino, index))
            self.log_change(tx, "DELCHUNK", ino, index, now=now)
        if not plan.slices:
            return
        if self.trash_days > 0:
            # Under an id of its own, as no slice replaces them (format §3.6).
            delay_id = self.slice_ids.take_nowait() or await self.slice_ids.take()
            waiting = b"".join([_DELAYED.pack(*used) for used in plan.slices])
            tx.put(k.delslices(delay_id, now // 1_000_000_000), waiting)
        else:
            for (slice_id, size), number in Counter(plan.slices).items():
                tx.add(k.sliceref(slice_id, size), -number)

    def _hide_rest(self, tx: Tx, ino: int, new: int, old: int) -> None:
        """What lies behind the new end in the chunk where it is."""
        index, pos = divmod(new, CHUNK_SIZE)
        if pos:
            tx.append(k.chunk(ino, index), encode_slice(zeros(pos, min(old - new, CHUNK_SIZE - pos))))
            tx.after.append(lambda: self.zeroed(ino, [index]))

    # -- growing -------------------------------------------------------------------------------------------------

    async def _mask_growth(self, tx: Tx, ino: int, old: int, new: int) -> int:
        """Zero records over what becomes part of the file: JuiceFS leaves chunks behind the end where they are.
        Returns the length that this transaction can reach."""
        middle: Collection[int] = ()
        last = new >> CHUNK_BITS
        if last - (old >> CHUNK_BITS) > 1:
            (middle,) = await tx.peek(k.chunks(ino, last))
        records = truncate_records(old, new, middle)
        limit = self.touch_limit()
        if len(records) > limit:
            kept = sorted(records)[:limit]
            new = kept[-1] + 1 << CHUNK_BITS
            records = {index: records[index] for index in kept}
        for index, record in records.items():
            tx.append(k.chunk(ino, index), encode_slice(record))
        tx.after.append(lambda: self.zeroed(ino, records))
        return new
