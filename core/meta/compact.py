# SPDX-License-Identifier: Apache-2.0
"""Compaction: the slice records of a chunk become fewer, its content stays what it is.

What to merge is decided by `plan_merge` (pure), the bytes are written by a hook of the volume (`merge_slices`), and one
transaction puts the new record in the place of the old ones if they are still there, whatever was appended meanwhile.
Of two clients that compact one chunk the second one finds other records and drops its slice. Nobody waits for a
compaction, and nothing is lost if it dies: until the commit the new objects belong to nobody and gc finds them.

Source: spec metadata-semantics §7, §13.4; format §3.5, §3.6.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.errors import FsError, MetaError, SluiceError
from core.failpoints import point
from core.meta import keys as k
from core.meta.data import FORCED_RECORDS, Data, chunk_count, parse_chunk
from core.meta.records import DIRECTORY, FILE, SLICE_BYTES, Slice, encode_slice
from core.meta.slices import MAX_MERGED, Merge, plan_merge
from core.meta.store import Tx

log = logging.getLogger("sluice.compact")

#: Compactions in the background at the same time; more are dropped, the next read or write asks again (§7.1).
MAX_BACKGROUND: Final = 10
#: A chunk whose compaction failed is left alone for a while: the object store that failed is the readers' too.
_PAUSE_S: Final = 60
_MAX_KNOWN: Final = 10_000
#: Lost races after which a forced compaction leaves a chunk to whoever wins them.
_MAX_LOST: Final = 5
#: Files whose chunks are looked up in one trip.
_FILES_PER_READ: Final = 100
_DELAYED = struct.Struct(">QI")


@dataclass(slots=True)
class Compacted:
    """What a compaction of many chunks did. removed: records fewer than before."""

    files: int = 0
    chunks: int = 0
    compacted: int = 0
    removed: int = 0
    failures: list[str] = field(default_factory=list)


class _Lost(Exception):
    """The records that were merged are not at the front of the chunk any more."""


class Compaction(Data):
    """Mixin of `Meta`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._compacting: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._in_background = 0
        self._settled: dict[tuple[int, int], int] = {}  # chunk -> number of records that can't be merged further
        self._paused_ns: dict[tuple[int, int], int] = {}  # chunk -> not before

    def _may_compact(self) -> bool:
        return self.merge_slices is not None and not self.read_only

    def compact_soon(self, ino: int, index: int, count: int | None = None) -> None:
        chunk = (ino, index)
        if (
            not self._may_compact()
            or self._in_background >= MAX_BACKGROUND
            or chunk in self._compacting
            or (count is not None and self._settled.get(chunk) == count)
            or self._paused_ns.get(chunk, 0) > self.clock_ns()
        ):
            return
        self._in_background += 1
        self._compacting[chunk] = asyncio.get_running_loop().create_future()
        self.spawn(self._compact_in_background(chunk))

    async def _compact_in_background(self, chunk: tuple[int, int]) -> None:
        try:
            await self._compact_logged(chunk)
        finally:
            self._in_background -= 1
            self._compacting.pop(chunk).set_result(None)

    async def compact_full(self, ino: int, index: int) -> None:
        """Once, unless somebody else has made room while this waited for its turn (§7.1)."""
        chunk = (ino, index)
        if not self._may_compact():
            return
        async with _Turn(self._compacting, chunk) as waited:
            if waited:
                (raw,) = await self.store.read(k.chunk(ino, index))
                if len(raw or b"") // SLICE_BYTES < FORCED_RECORDS:
                    return
            await self._compact_logged(chunk)

    async def _compact_logged(self, chunk: tuple[int, int]) -> None:
        try:
            await self._compact_once(*chunk)
        except (SluiceError, FsError) as e:
            if len(self._paused_ns) >= _MAX_KNOWN:
                self._paused_ns.clear()
            self._paused_ns[chunk] = self.clock_ns() + _PAUSE_S * 1_000_000_000
            log.warning("inode %d, chunk %d can't be compacted now: %s", *chunk, e)

    async def compact_chunk(self, ino: int, index: int) -> int:
        """Merge until nothing more can be merged; returns how many records there are fewer. EIO and the like, with
        the chunk as it was. FsError if this client can't compact."""
        self.require_writable()
        if self.merge_slices is None:
            raise MetaError("this client has no data path, so it can't compact")
        removed = lost = 0
        async with _Turn(self._compacting, (ino, index)):
            while lost < _MAX_LOST:
                fewer = await self._compact_once(ino, index)
                if fewer is None:
                    break
                removed += fewer
                lost += not fewer
        return removed

    # -- one step ------------------------------------------------------------------------------------------------

    async def _compact_once(self, ino: int, index: int) -> int | None:
        """Records fewer by one merge; 0 if another client was faster, None if there is nothing to merge."""
        assert self.merge_slices is not None
        self._counts.pop(ino, None)
        raw, attr = await self.store.read(k.chunk(ino, index), k.node(ino))
        if not raw or attr is None:
            return None
        records = parse_chunk(ino, index, raw)
        most = self.store.caps.max_writes
        plan = plan_merge(records, min(MAX_MERGED, max(most - 8, 2)) if most else MAX_MERGED)
        if plan is None:
            if len(self._settled) >= _MAX_KNOWN:
                self._settled.clear()
            self._settled[ino, index] = len(records)
            return None
        slice_id, size = 0, 0
        if any(piece.id for piece in plan.pieces):
            made = await self.merge_slices(plan.pieces, attr.tier)
            if made is None:
                await self._require_changed(ino, index, raw[: (plan.skipped + plan.merged) * SLICE_BYTES])
                return 0
            slice_id, size = made
            if size != plan.size:
                raise MetaError(f"inode {ino}, chunk {index}: {size} bytes were merged instead of {plan.size}")
        done = False
        try:
            await point("compact.stored")
            try:
                tx = await self._commit_merge(ino, index, raw, records, plan, slice_id)
            except MetaError as e:
                if not e.uncertain or not slice_id:
                    raise
                # Never deleted then: the server may still be at work on it. What isn't in use is found by gc.
                done = True
                if not await self._is_used(ino, index, slice_id):
                    raise
                tx = None
            done = True
        except _Lost:
            log.debug("inode %d, chunk %d: another client was faster", ino, index)
            return 0
        except asyncio.CancelledError:
            done = True  # nobody knows how far it came
            raise
        finally:
            if not done and slice_id:
                await self._drop_new_slice(slice_id, size)
        self._counts.pop(ino, None)
        await point("compact.committed")
        if tx is not None:
            self.after_commit(tx)
        return plan.merged - 1

    async def _commit_merge(
        self, ino: int, index: int, raw: bytes, records: Sequence[Slice], plan: Merge, slice_id: int
    ) -> Tx:
        """One record for many, if the chunk still starts as it was read; what was appended meanwhile stays behind."""
        key = k.chunk(ino, index)
        end = plan.skipped + plan.merged
        prefix = raw[: end * SLICE_BYTES]
        merged = records[plan.skipped : end]
        old = Counter((s.id, s.size) for s in merged if s.id)
        # Kept for the trash days, under the id of the slice that replaces them (format §3.6).
        delay_id = slice_id if not self.trash_days or slice_id or not old else await self.slice_ids.take()

        async def body(tx: Tx) -> Tx:
            now = raw
            if tx.attempt:
                (now,) = await self.store.read(key)
                if not (now or b"").startswith(prefix):
                    raise _Lost
            tx.expect(key, now)
            record = encode_slice(plan.record(slice_id))
            tx.put(key, now[: plan.skipped * SLICE_BYTES] + record + now[len(prefix) :])
            if slice_id:
                tx.put_new(k.sliceref(slice_id, plan.size), 1)
            when = self.clock_ns()
            if self.trash_days > 0:
                if old:
                    waiting = b"".join([_DELAYED.pack(s.id, s.size) for s in merged if s.id])
                    tx.put(k.delslices(delay_id, when // 1_000_000_000), waiting)
            else:
                for (old_id, old_size), number in old.items():
                    tx.add(k.sliceref(old_id, old_size), -number)
            self.log_change(
                tx, "COMPACTCHUNK", ino, index, plan.skipped, plan.merged, plan.pos, slice_id, plan.size, now=when
            )
            return tx

        return await self.store.transact(body)

    async def _require_changed(self, ino: int, index: int, prefix: bytes) -> None:
        """An object was missing: another client has compacted, or the file is deleted. Else it is damage."""
        (now,) = await self.store.read(k.chunk(ino, index))
        if (now or b"").startswith(prefix):
            raise MetaError(f"inode {ino}, chunk {index}: an object of its slices is missing; run `sluice fsck`")

    async def _is_used(self, ino: int, index: int, slice_id: int) -> bool:
        try:
            (raw,) = await self.store.read(k.chunk(ino, index))
        except MetaError:
            return False
        return any(s.id == slice_id for s in parse_chunk(ino, index, raw))

    async def _drop_new_slice(self, slice_id: int, size: int) -> None:
        """A slice that nobody got to know. If its objects can't be deleted now, a count of 0 has the hourly job try."""
        if self.remove_slice is None:
            return
        try:
            await self.remove_slice(slice_id, size)
        except (SluiceError, FsError) as e:
            log.warning("slice %d of a lost compaction stays for the hourly job: %s", slice_id, e)

            async def mark(tx: Tx) -> None:
                tx.put(k.sliceref(slice_id, size), 0)

            await self.store.transact(mark)

    # -- many chunks ---------------------------------------------------------------------------------------------

    async def compact_tree(
        self, ino: int, *, concurrency: int = 10, progress: Callable[[Compacted], None] | None = None
    ) -> Compacted:
        """Every file below a directory (or one file), forced. Failures of single chunks are collected."""
        self.require_writable()
        report = Compacted()
        batch: list[tuple[int, int]] = []

        async def chunks() -> AsyncIterator[tuple[int, int]]:
            async for file in self._files_below(ino):
                batch.append(file)
                if len(batch) >= _FILES_PER_READ:
                    for chunk in await self._chunks_of(batch, report):
                        yield chunk
                    batch.clear()
            for chunk in await self._chunks_of(batch, report):
                yield chunk

        await self.compact_chunks(chunks(), report, concurrency=concurrency, progress=progress)
        return report

    async def compact_chunks(
        self, chunks: AsyncIterator[tuple[int, int]], report: Compacted, *, concurrency: int = 10,
        progress: Callable[[Compacted], None] | None = None,
    ) -> None:  # fmt: skip
        """Chunks with more than one record, `concurrency` at a time."""
        running: set[asyncio.Task[None]] = set()

        async def one(ino: int, index: int) -> None:
            try:
                removed = await self.compact_chunk(ino, index)
            except (SluiceError, FsError) as e:
                report.failures.append(f"inode {ino}, chunk {index}: {e}")
                return
            report.compacted += removed > 0
            report.removed += removed
            if progress is not None:
                progress(report)

        try:
            async for chunk in chunks:
                if len(running) >= max(concurrency, 1):
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running.add(asyncio.create_task(one(*chunk)))
            if running:
                await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _files_below(self, ino: int) -> AsyncIterator[tuple[int, int]]:
        """(inode, length) of every regular file of a tree."""
        attr = await self.getattr(ino)
        if attr.type != DIRECTORY:
            if attr.type == FILE:
                yield ino, attr.length
            return
        waiting = [ino]
        while waiting:
            directory, after = waiting.pop(), b""
            while page := await self.readdir(directory, after, 1000, attrs=True):
                for entry in page:
                    if entry.type == DIRECTORY:
                        waiting.append(entry.ino)
                    elif entry.type == FILE and entry.attr is not None:
                        yield entry.ino, entry.attr.length
                after = page[-1].name
                if len(page) < 1000:
                    break

    async def _chunks_of(self, files: Sequence[tuple[int, int]], report: Compacted) -> list[tuple[int, int]]:
        """Chunks of files that have more than one record."""
        if not files:
            return []
        found = await self.store.read(*(k.chunks(ino, chunk_count(length)) for ino, length in files))
        report.files += len(files)
        report.chunks += sum(map(len, found))
        return [
            (ino, index)
            for (ino, _), chunks in zip(files, found, strict=True)
            for index, raw in chunks.items()
            if len(raw) > SLICE_BYTES
        ]


class _Turn:
    """One compaction of a chunk at a time in this process. The value of `async with`: had it to wait?"""

    def __init__(self, table: dict[tuple[int, int], asyncio.Future[None]], chunk: tuple[int, int]) -> None:
        self._table = table
        self._chunk = chunk

    async def __aenter__(self) -> bool:
        waited = False
        while (running := self._table.get(self._chunk)) is not None:
            waited = True
            await asyncio.shield(running)
        self._table[self._chunk] = asyncio.get_running_loop().create_future()
        return waited

    async def __aexit__(self, *exc: object) -> None:
        self._table.pop(self._chunk).set_result(None)
