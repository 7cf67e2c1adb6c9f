# SPDX-License-Identifier: Apache-2.0
"""File content as metadata sees it: slice records, length, reference counts; no bytes here.

Source: spec metadata-semantics §6, §8; format §3.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from core.errors import FsError, MetaError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import READ
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.inode import Inodes
from core.meta.recent import forget_oldest
from core.meta.records import (
    CHUNK_BITS,
    CHUNK_SIZE,
    FILE,
    SLICE_BYTES,
    TRASH,
    Attr,
    Slice,
    align4k,
    decode_slices,
)  # fmt: skip
from core.meta.slices import flatten
from core.meta.store import DELETE, Tx

T = TypeVar("T")

_NS: Final = 1_000_000_000
_MAX_KNOWN: Final = 10_000
_OTHERS: Final = -1  # index of all chunks that nothing else is known of

#: At most so many files are deleted at a time by one client (semantics §8.3).
MAX_DELETING: Final = 100

#: A chunk never gets more records than this: MySQL's column ends at 65,535 bytes (format §5), 2,730 records.
MAX_RECORDS: Final = 2700
#: Reading as many records starts a compaction; writing does at 99, 199 … and always above 350 (semantics §7.1).
_READ_TRIGGER: Final = 5
WRITE_TRIGGER: Final = 350
FORCED_RECORDS: Final = 2500
#: Truncations and holes of a chunk by this client after which it is looked at; they don't read its records.
_ZEROS_TRIGGER: Final = 100
#: Chunks behind the end of a deleted file that are looked for on databases that can't list them, first and later.
_BEHIND_END: Final = 2
_MOST_BEHIND: Final = 1024
#: Most records that one transaction touches where the database sets no limit.
MAX_TOUCHED: Final = 4000

RemoveSlice = Callable[[int, int], Awaitable[None]]
#: Writes visible pieces of a chunk as one new slice of a storage tier: (id, size), or None if a piece is gone.
MergeSlices = Callable[[Sequence[Slice], int], Awaitable[tuple[int, int] | None]]


class Crowded(Exception):
    """A chunk has no room for what shall be appended; it has to be compacted first. Raised by transaction bodies."""

    def __init__(self, ino: int, index: int) -> None:
        super().__init__(f"inode {ino}, chunk {index}")
        self.ino = ino
        self.index = index


def chunk_count(length: int) -> int:
    return (length + CHUNK_SIZE - 1) >> CHUNK_BITS


def parse_chunk(ino: int, index: int, raw: bytes | None) -> list[Slice]:
    """Slice records of a chunk value; EIO names a damaged one."""
    try:
        return decode_slices(raw or b"")
    except ValueError as e:
        raise MetaError(f"inode {ino}, chunk {index}: {e}; run `sluice fsck`") from e


def holds(chunk: bytes, records: bytes) -> bool:
    """Does a chunk value contain these records, whole and together?"""
    at = chunk.find(records)
    while at > 0 and at % SLICE_BYTES:
        at = chunk.find(records, at + 1)
    return at >= 0


class Data(Inodes):
    """Mixin of `Meta`."""

    #: Deletes the objects of a slice; set by the volume that owns the object store. None: this client deletes none.
    remove_slice: RemoveSlice | None = None
    #: Writes merged slices; set by the same. None: this client compacts nothing.
    merge_slices: MergeSlices | None = None
    _deleting: asyncio.Semaphore | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._zeroed: dict[tuple[int, int], int] = {}
        self._counts: dict[int, tuple[Attr, dict[int, int]]] = {}
        self._tried: dict[int, None] = {}  # hashes of what was written lately, the oldest goes first

    def touch_limit(self, reserve: int = 16) -> int:
        """Records that a transaction may still touch after `reserve` for nodes, counters, statistics and quotas."""
        most = self.store.caps.max_writes
        return max(most - reserve, 4) if most else MAX_TOUCHED

    async def read_chunk(self, ino: int, index: int) -> list[Slice]:
        """Slice records of one chunk, oldest first (1 trip). ENOENT, EPERM (no regular file), EIO."""
        raw, attr = await self.store.read(k.chunk(ino, index), k.node(ino))
        if not raw:
            if attr is None:
                raise FsError(errno.ENOENT, f"inode {ino} does not exist")
            if attr.type != FILE:
                raise FsError(errno.EPERM, f"inode {ino} is no regular file")
        return self._read(ino, index, raw)

    async def open_for_reading(self, ino: int, caller: Caller) -> tuple[Attr, list[Slice]]:
        """`check_open`, and the slice records of the first chunk in the same trip: who opens a file to read it wants
        them next. Both are of one moment."""
        attr, raw = await self.store.read(k.node(ino), k.chunk(ino, 0))
        if attr is None or attr.type != FILE:
            return await self.check_open(ino, caller, write=False), []
        if self.store.recent is not None:
            self.store.recent.learn(k.node(ino), attr)
        await self.require_access(caller, ino, attr, READ)
        self.note_access(ino, attr)
        return attr, self._read(ino, 0, raw)

    def _read(self, ino: int, index: int, raw: bytes | None) -> list[Slice]:
        records = parse_chunk(ino, index, raw)
        self.chunk_seen(ino, index, records)
        return records

    def chunk_seen(self, ino: int, index: int, records: Sequence[Slice]) -> None:
        """A chunk was read that lies in many pieces: merge it in the background (semantics §7.1)."""
        if len(records) >= _READ_TRIGGER or (len(records) > 2 and len(flatten(records)) >= _READ_TRIGGER):
            self.compact_soon(ino, index, len(records))

    async def read_chunks(self, ino: int, indexes: Sequence[int]) -> list[list[Slice]]:
        """Several chunks at once (1 trip)."""
        raws = await self.store.read(*(k.chunk(ino, i) for i in indexes))
        return [self._read(ino, i, raw) for i, raw in zip(indexes, raws, strict=True)]

    def _first_try(self, ino: int, index: int, slices: Sequence[Slice]) -> bool:
        """False if some of these may be in the chunk already, because this process has tried to write them."""
        fresh = True
        for s in slices:
            what = hash((ino, index, s))
            if what in self._tried:
                fresh = False
            elif s.id:
                if len(self._tried) >= _MAX_KNOWN:
                    forget_oldest(self._tried)
                self._tried[what] = None
        return fresh

    # What this client knows of the number of records: right as long as the node is the one that it was learnt with,
    # because every append changes the node. A compaction doesn't, and only makes the number smaller.

    def _known_count(self, tx: Tx, ino: int, index: int) -> int | None:
        known = self._counts.get(ino)
        if known is None or tx.recent is None or self.change_log or tx.recent.get(k.node(ino)) != known[0]:
            return None
        return known[1].get(index, known[1].get(_OTHERS))

    async def mknod(
        self, parent: int, name: bytes, kind: int, mode: int, umask: int = 0, caller: Caller = ROOT_CALLER, *,
        rdev: int = 0, target: bytes = b"",
    ) -> tuple[int, Attr]:  # fmt: skip
        ino, attr = await super().mknod(parent, name, kind, mode, umask, caller, rdev=rdev, target=target)
        if kind == FILE and self.store.recent is not None:
            # No chunk has a record yet: the first ones are appended without a look.
            if len(self._counts) >= _MAX_KNOWN:
                self._counts.clear()
            self._counts[ino] = (attr, {_OTHERS: 0})
        return ino, attr

    def _learn_count(self, ino: int, index: int, before: Attr, after: Attr, number: int) -> None:
        known = self._counts.get(ino)
        counts = known[1] if known is not None and known[0] == before else {}
        counts[index] = number
        if known is None and len(self._counts) >= _MAX_KNOWN:
            self._counts.clear()
        self._counts[ino] = (after, counts)

    # -- how full a chunk is -------------------------------------------------------------------------------------

    def require_room(self, ino: int, index: int, raw: bytes | None, more: int) -> None:
        """In a transaction body: `Crowded` if a chunk would get too many records and this client can merge some."""
        if len(raw or b"") // SLICE_BYTES + more > MAX_RECORDS and self.merge_slices is not None:
            raise Crowded(ino, index)

    async def with_room(self, body: Callable[[Tx], Awaitable[T]]) -> T:
        """`transact`, with a compaction in between if the body raises `Crowded`."""
        for _ in range(3):
            try:
                return await self.store.transact(body)
            except Crowded as crowded:
                full = crowded
                await self.compact_full(full.ino, full.index)
        raise FsError(
            errno.EIO, f"{full} holds {MAX_RECORDS} records and can't be compacted; the log says why, try again later"
        )

    async def appended(self, ino: int, index: int, before: int, added: int) -> None:
        """Records were added to a chunk that had `before`: compact it if it is time (semantics §7.1)."""
        number = before + added
        if number >= FORCED_RECORDS:
            await self.compact_full(ino, index)
        elif number > WRITE_TRIGGER or (number + 1) // 100 != (before + 1) // 100:
            self.compact_soon(ino, index, number)

    def zeroed(self, ino: int, indexes: Iterable[int]) -> None:
        """Zero records were added unseen."""
        for index in indexes:
            if len(self._zeroed) >= _MAX_KNOWN:
                self._zeroed.clear()
            number = self._zeroed[ino, index] = self._zeroed.get((ino, index), 0) + 1
            if number >= _ZEROS_TRIGGER:
                del self._zeroed[ino, index]
                self.compact_soon(ino, index)

    def compact_soon(self, ino: int, index: int, count: int | None = None) -> None:
        """Merge records of a chunk in the background, if there is something to gain (`core/meta/compact.py`)."""
        raise NotImplementedError

    async def compact_full(self, ino: int, index: int) -> None:
        """Merge records of a chunk that is (nearly) full; returns when done. Errors are logged."""
        raise NotImplementedError

    # -- length --------------------------------------------------------------------------------------------------

    async def node_and_parents(self, tx: Tx, ino: int) -> tuple[Attr | None, dict[int, int] | None]:
        """A node whose length may change, verified at commit, and the directories that hold links to it, if they came
        along in the same trip."""
        if tx.recent is not None and tx.recent.get(k.node(ino)) is not None:
            (attr,) = await tx.read(k.node(ino))
            return attr, None
        attr, parents = await tx.peek(k.node(ino), k.parents(ino))
        tx.expect(k.node(ino), attr)
        return attr, parents

    async def charge_length(
        self, tx: Tx, ino: int, attr: Attr, length: int, parents: dict[int, int] | None = None
    ) -> None:
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
        if parents is None:
            (parents,) = await tx.peek(k.parents(ino))
            assert parents is not None
        for parent, count in parents.items():
            await self.charge(tx, parent, (length - attr.length) * count, space * count, 0, volume=False, owner=False)

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
        await point("delete.before-chunks")
        for index, raw in (await self._all_chunks(ino, length)).items():
            await self.delete_chunk(ino, index, raw)
        await point("delete.before-record")
        await self.store.commit([], [(DELETE, k.delfile(ino, length), None)])

    async def _all_chunks(self, ino: int, length: int) -> dict[int, bytes]:
        """Every chunk of a deleted file (1 trip). A database that can't list them is asked for those that the length
        tells, and for more as long as there are some: JuiceFS leaves them behind an end that it has cut (§6.4)."""
        if self.store.caps.enumerate_chunks:
            (listed,) = await self.store.read(k.chunks(ino, 1 << 31))
            return dict(listed)
        step = _BEHIND_END
        asked = chunk_count(length) + step
        (first,) = await self.store.read(k.chunks(ino, asked))
        found = dict(first)
        while asked < 1 << 31 and max(found, default=-1) >= asked - step:
            step = min(2 * step, _MOST_BEHIND)
            indexes = range(asked, asked + step)
            raws = await self.store.read(*(k.chunk(ino, index) for index in indexes))
            found.update((index, raw) for index, raw in zip(indexes, raws, strict=True) if raw)
            asked += step
        return found

    async def delete_chunk(self, ino: int, index: int, raw: bytes | None = None) -> None:
        """Remove a chunk of a deleted file and the references of its records (2 trips; 1 if `raw` still holds).

        More records than the database takes at once go from the end, in several transactions: whatever is left in the
        list is still counted.
        """
        left = True
        while left:
            tx, left = await self.store.transact(lambda tx, known=raw: self._cut_chunk(tx, ino, index, known))  # type: ignore[misc]
            raw = None
            await point("delete.chunk-gone")
            for slice_id, size in tx.outcome.freed:
                await self.delete_slice(slice_id, size)

    async def _cut_chunk(self, tx: Tx, ino: int, index: int, known: bytes | None) -> tuple[Tx, bool]:
        """True if something is left."""
        key = k.chunk(ino, index)
        if known and not tx.attempt:
            raw = known
            tx.expect(key, raw)
        else:
            (raw,) = await tx.read(key)
        if not raw:
            return tx, False
        records = parse_chunk(ino, index, raw)
        limit = self.touch_limit(4)
        uses: Counter[tuple[int, int]] = Counter()
        keep = len(records)
        while keep and len(uses) < limit:
            keep -= 1
            if records[keep].id:
                uses[records[keep].id, records[keep].size] += 1
        if keep:
            tx.put(key, raw[: keep * SLICE_BYTES])
        else:
            tx.delete(key)
            self.log_change(tx, "DELCHUNK", ino, index)
        for (slice_id, size), number in uses.items():
            tx.add(k.sliceref(slice_id, size), -number)
        return tx, bool(keep)

    async def delete_slice(self, slice_id: int, size: int) -> None:
        """Objects first, count record second (format §3.4)."""
        if self.remove_slice is None:
            return
        await self.remove_slice(slice_id, size)
        await point("delete.objects-gone")

        async def forget(tx: Tx) -> None:
            tx.delete(k.sliceref(slice_id, size))
            self.log_change(tx, "DELETESLICE", slice_id, size)

        await self.store.transact(forget)

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
            self.log_change(tx, "DELSUSTAINED", sid, ino)
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
