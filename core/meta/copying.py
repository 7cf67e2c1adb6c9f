# SPDX-License-Identifier: Apache-2.0
"""Copies of nodes that share their data: what one transaction of a clone reads, verifies and writes.

Every copy is verified at its commit: the source's node says that its content is what was read (every change of content
changes the node), its chunk records say that the slices are still referenced (a compaction changes only those). Files
with more records than one transaction takes are built in several, where nobody sees them.
Source: spec metadata-semantics §13.2; format §1.14, §3.3, §3.4.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from core.errors import FsError
from core.failpoints import point
from core.meta import keys as k
from core.meta.base import READ
from core.meta.caller import Caller
from core.meta.data import chunk_count, parse_chunk
from core.meta.detached import Detached, sum_stat
from core.meta.records import DIRECTORY, FILE, SLICE_BYTES, SYMLINK, Attr, DirStat, Entry, NodePatch, node_space
from core.meta.store import DirEntry, Tx

#: (nodes cloned so far, nodes expected).
Progress = Callable[[int, int], None]

CLONE_PRESERVE: Final = 2  # mode bit of the change log and of JuiceFS's control message
#: Files with more chunks are built piece by piece.
_MAX_CHUNKS: Final = 64
#: Chunks of a huge file that are read in one trip.
_CHUNKS_PER_READ: Final = 1000
#: Lost races after which a batch is taken file by file: one of them is being written all the time.
_BUSY_TRIES: Final = 4
#: Times that a file with many chunks is begun anew because it changed meanwhile.
_REBUILDS: Final = 5

#: Source, copy, attributes of the copy.
Made = tuple[int, int, Attr]


class TooLarge(Exception):
    """A file with more records than one transaction takes."""


class _Busy(Exception):
    """A batch keeps losing races."""


class _Changed(Exception):
    """A file changed while it was copied piece by piece."""


@dataclass(slots=True)
class CloneJob:
    """One clone on its way."""

    caller: Caller
    preserve: bool
    umask: int
    progress: Progress
    gate: asyncio.Semaphore
    concurrency: int
    top: int = 0
    when: int = 0  # value of the detached record
    total: int = 0
    nodes: int = 0
    space: int = 0

    @property
    def bits(self) -> int:
        return CLONE_PRESERVE if self.preserve else 0

    def attr(self, source: Attr, parent: int, now: int) -> Attr:
        """Attributes of a copy (the table of §13.2)."""
        made = msgspec.structs.replace(source, parent=parent, nlink=2 if source.is_dir else 1)
        if self.preserve:
            return made
        return msgspec.structs.replace(
            made, uid=self.caller.uid, gid=self.caller.gid, mode=source.mode & ~self.umask, atime_ns=now, mtime_ns=now,
            ctime_ns=now,
        )  # fmt: skip

    def count(self, made: Iterable[Attr], sign: int = 1) -> None:
        for attr in made:
            self.nodes += sign
            self.space += sign * node_space(attr)
        self.progress(self.nodes, max(self.nodes, self.total))


class Source(NamedTuple):
    """What was read of a node that is copied."""

    ino: int
    attr: Attr
    xattrs: Mapping[bytes, bytes]
    target: bytes | None = None
    chunks: Mapping[int, bytes] = {}

    def uses(self) -> Counter[tuple[int, int]]:
        """References that the copy adds."""
        found: Counter[tuple[int, int]] = Counter()
        for index, raw in self.chunks.items():
            found.update((s.id, s.size) for s in parse_chunk(self.ino, index, raw) if s.id)
        return found


class _Huge(NamedTuple):
    """A file that is built piece by piece."""

    ino: int
    attr: Attr


class Copying(Detached):
    """Mixin of `Meta`."""

    # -- one node ------------------------------------------------------------------------------------------------

    async def whole_source(
        self, ino: int, attr: Attr, xattrs: Mapping[bytes, bytes], target: bytes | None, chunks: Mapping[int, bytes],
        asked: int,
    ) -> Source:  # fmt: skip
        """Of what was read with the first `asked` chunks; one trip more if the file has others."""
        if attr.type == FILE:
            count = chunk_count(attr.length)
            if count > _MAX_CHUNKS:
                raise TooLarge
            if count > asked:
                (chunks,) = await self.store.read(k.chunks(ino, count))
            # Chunks behind the end have nothing that the copy could show.
            return Source(ino, attr, xattrs, None, {i: raw for i, raw in chunks.items() if raw and i < count})
        return Source(ino, attr, xattrs, target if attr.type == SYMLINK else None)

    @staticmethod
    def weight(source: Source) -> int:
        """Records that a transaction touches for one copy."""
        return 5 + len(source.xattrs) + 2 * len(source.chunks) + len(source.uses())

    def put_copy(
        self, tx: Tx, job: CloneJob, source: Source, parent: int, name: bytes, ino: int, attr: Attr, now: int, *,
        top: bool = False, verify: bool = True,
    ) -> None:  # fmt: skip
        """Writes of a copy and checks of its source; parent and usage are the caller's."""
        if verify and not attr.is_dir:
            # Every change of content changes the node, except a compaction, and that changes the chunk.
            tx.expect(k.node(source.ino), source.attr)
        for index, raw in source.chunks.items():
            tx.expect(k.chunk(source.ino, index), raw)
            tx.put(k.chunk(ino, index), raw)
        for (slice_id, size), number in source.uses().items():
            tx.add(k.sliceref(slice_id, size), number)
        tx.put(k.entry(parent, name), Entry(attr.type, ino))
        self.put_node(tx, source, ino, attr)
        self.log_change(
            tx, "CLONE", source.ino, parent, name, ino, job.bits, job.umask, top, result=ino, now=now
        )  # fmt: skip

    def put_node(self, tx: Tx, source: Source, ino: int, attr: Attr) -> None:
        tx.put(k.node(ino), attr)
        for xname, value in source.xattrs.items():
            tx.put(k.xattr(ino, xname), value)
        if source.target is not None:
            tx.put(k.symlink(ino), source.target)
        if attr.is_dir and self.dir_stats:
            tx.put(k.dirstat(ino), DirStat(0, 0, 0))

    # -- batches ----------------------------------------------------------------------------------------------------

    async def clone_entries(
        self, job: CloneJob, ino: int, attr: Attr, entries: Sequence[DirEntry], below: list[Made]
    ) -> None:
        """Children of one directory into a detached one, as many per transaction as it takes."""
        inos: dict[bytes, int] = {}
        at, step = 0, len(entries)
        while at < len(entries):
            try:
                tx, taken, made = await self.store.transact(
                    lambda tx, part=entries[at : at + step]: self._batch(tx, job, ino, attr, part, inos)  # type: ignore[misc]
                )
            except _Busy:
                step = 1
                continue
            except TooLarge:
                await self.build_huge(job, attr, ino, entries[at].name, entries[at].ino)
                at += 1
                continue
            self.after_commit(tx)
            job.count(copy for _, _, copy in made)
            below += [(source, copied, copy) for source, copied, copy in made if copy.is_dir]
            at += taken
            await point("clone.batch")

    async def _batch(
        self, tx: Tx, job: CloneJob, parent: int, pattr: Attr, entries: Sequence[DirEntry], inos: dict[bytes, int]
    ) -> tuple[Tx, int, list[Made]]:
        """One transaction: how many of the entries were dealt with, and (source, inode, attributes) of the copies."""
        if tx.attempt >= _BUSY_TRIES and len(entries) > 1:
            raise _Busy
        await require_standing(tx, parent)
        now = self.clock_ns()
        room = self.touch_limit(24)
        made: list[Made] = []
        taken = 0
        for entry, source in zip(entries, await self._sources(entries), strict=True):
            if source is not None:
                await self.require_access(job.caller, source.ino, source.attr, READ)
                if isinstance(source, Source):
                    room -= self.weight(source)
                if not isinstance(source, Source) or (room < 0 and (taken or source.chunks)):
                    if not taken:
                        raise TooLarge
                    break
                copied = inos.get(entry.name) or self.inodes.take_nowait() or await self.inodes.take()
                inos[entry.name] = copied
                attr = job.attr(source.attr, parent, now)
                self.put_copy(tx, job, source, parent, entry.name, copied, attr, now)
                made.append((source.ino, copied, attr))
            taken += 1
        if made:
            # Whoever removes the tree removes this directory too: a commit that arrives late finds it gone.
            tx.expect_identity(parent, pattr)
            copies = [attr for _, _, attr in made]
            await self._charge_children(tx, parent, copies, 1)
        return tx, taken, made

    async def _charge_children(self, tx: Tx, parent: int, copies: Sequence[Attr], sign: int) -> None:
        """Children that a detached directory gets or loses: its links and statistics, usage of volume and owners."""
        directories = sum(attr.is_dir for attr in copies)
        if directories:
            tx.patch(parent, NodePatch(sign * directories))
        if self.dir_stats:
            tx.add(k.dirstat(parent), sum_stat(copies, sign))
        await self.charge_nodes(tx, copies, sign)

    async def _sources(self, entries: Sequence[DirEntry]) -> list[Source | _Huge | None]:
        """What is there of each entry (1 trip); None: vanished. Files that grew since the listing are read again."""
        keys: list[k.Key] = []
        asked: list[int] = []
        for entry in entries:
            keys += (k.node(entry.ino), k.xattrs(entry.ino))
            count = max(1, min(chunk_count(entry.attr.length), _MAX_CHUNKS)) if entry.attr is not None else 1
            asked.append(count)
            if entry.type == SYMLINK:
                keys.append(k.symlink(entry.ino))
            elif entry.type == FILE:
                keys.append(k.chunks(entry.ino, count))
        values = iter(await self.store.read(*keys))
        found: list[Source | _Huge | None] = []
        for entry, count in zip(entries, asked, strict=True):
            attr, xattrs = next(values), next(values)
            more = next(values) if entry.type in (SYMLINK, FILE) else {}
            if attr is None or attr.in_trash or (attr.type != DIRECTORY and not attr.nlink):
                found.append(None)
                continue
            target: bytes | None = more if entry.type == SYMLINK else None  # type: ignore[assignment]
            chunks: Mapping[int, bytes] = more if entry.type == FILE else {}
            try:
                found.append(await self.whole_source(entry.ino, attr, xattrs, target, chunks, count))
            except TooLarge:
                found.append(_Huge(entry.ino, attr))
        return found

    # -- huge files ----------------------------------------------------------------------------------------------

    async def build_huge(
        self, job: CloneJob, pattr: Attr, parent: int, name: bytes, src: int
    ) -> tuple[int, Attr] | None:
        """A file in a detached directory, in many transactions; None if the source vanished. It is a copy of one
        moment: the source's node must be the same before the first and after the last chunk was read."""
        for _ in range(_REBUILDS):
            sattr, xattrs = await self.store.read(k.node(src), k.xattrs(src))
            if sattr is None:
                return None
            await self.require_access(job.caller, src, sattr, READ)
            ino = self.inodes.take_nowait() or await self.inodes.take()
            attr = job.attr(sattr, parent, self.clock_ns())
            source = Source(src, sattr, xattrs)
            await self.store.transact(
                lambda tx, source=source, ino=ino, attr=attr: self._create_huge(  # type: ignore[misc]
                    tx, job, source, parent, pattr, name, ino, attr
                )
            )
            job.count([attr])
            try:
                await self._copy_chunks(src, sattr, ino)
                (still,) = await self.store.read(k.node(src))
                if still is not None and _content(still) == _content(sattr):
                    return ino, attr
            except _Changed:
                pass
            await self.remove_names(parent, [name])
            job.count([attr], -1)
        raise FsError(errno.EBUSY, f"inode {src} is changed all the time, and too large to be cloned at once")

    async def _create_huge(
        self, tx: Tx, job: CloneJob, source: Source, parent: int, pattr: Attr, name: bytes, ino: int, attr: Attr
    ) -> None:
        await require_standing(tx, parent)
        tx.expect_identity(parent, pattr)
        # Without a check of the source: its node is compared at the end.
        self.put_copy(tx, job, source, parent, name, ino, attr, self.clock_ns(), verify=False)
        await self._charge_children(tx, parent, [attr], 1)

    async def _copy_chunks(self, src: int, sattr: Attr, ino: int) -> None:
        count = chunk_count(sattr.length)
        for first in range(0, count, _CHUNKS_PER_READ):
            indexes: Collection[int] = range(first, min(first + _CHUNKS_PER_READ, count))
            values = await self.store.read(*(k.chunk(src, index) for index in indexes))
            here = [(index, raw) for index, raw in zip(indexes, values, strict=True) if raw]
            while here:
                taken = await self.store.transact(lambda tx, here=here: self._copy_some(tx, src, ino, here))  # type: ignore[misc]
                if not taken:
                    await self._copy_long(src, ino, *here[0])
                here = here[max(taken, 1) :]
                await point("clone.batch")

    async def _copy_some(self, tx: Tx, src: int, ino: int, chunks: list[tuple[int, bytes]]) -> int:
        """As many whole chunks as one transaction takes; 0 if the first one is too long."""
        if tx.attempt:  # compacted meanwhile, or written, which shows at the end
            values = await self.store.read(*(k.chunk(src, index) for index, _ in chunks))
            chunks[:] = [(index, raw or b"") for (index, _), raw in zip(chunks, values, strict=True)]
        room = self.touch_limit()
        uses: Counter[tuple[int, int]] = Counter()
        taken = 0
        for index, raw in chunks:
            more = Counter((s.id, s.size) for s in parse_chunk(src, index, raw) if s.id)
            if 2 * (taken + 1) + len(uses | more) > room:
                break
            uses += more
            taken += 1
            if raw:
                tx.expect(k.chunk(src, index), raw)
                tx.put(k.chunk(ino, index), raw)
        for (slice_id, size), number in uses.items():
            tx.add(k.sliceref(slice_id, size), number)
        return taken

    async def _copy_long(self, src: int, ino: int, index: int, raw: bytes) -> None:
        """One chunk with more records than a transaction takes, from its front on. `_Changed` if it did."""
        at = 0
        while at < len(raw):
            end = at + (self.touch_limit() - 2) * SLICE_BYTES

            async def body(tx: Tx, part: bytes = raw[at:end]) -> None:
                if tx.attempt:
                    raise _Changed
                tx.expect(k.chunk(src, index), raw)
                tx.append(k.chunk(ino, index), part)
                uses = Counter((s.id, s.size) for s in parse_chunk(src, index, part) if s.id)
                for (slice_id, size), number in uses.items():
                    tx.add(k.sliceref(slice_id, size), number)

            await self.store.transact(body)
            at = end


def _content(attr: Attr) -> tuple[int, int, int]:
    """What changes with every change of a file's content."""
    return attr.length, attr.mtime_ns, attr.ctime_ns


async def require_standing(tx: Tx, ino: int) -> None:
    """A transaction that lost a race looks whether its detached directory is still there."""
    if tx.attempt:
        (attr,) = await tx.peek(k.node(ino))
        if attr is None:
            raise FsError(errno.EIO, "the unfinished clone was removed by another client; try again")
