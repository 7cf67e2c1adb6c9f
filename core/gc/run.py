# SPDX-License-Identifier: Apache-2.0
"""One run of `gc` over a volume, part after part. What makes it safe is told in `core/gc/__init__.py`.

Source: spec metadata-semantics §8, §9, §14.1; data-path §11.
"""

from __future__ import annotations

import asyncio
import calendar
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from core.chunk.naming import block_key, parse_block_key
from core.errors import FsError, SluiceError
from core.failpoints import point
from core.gc.local import object_folders, sweep
from core.gc.records import delayed_slices, set_counters, set_references
from core.gc.report import GcReport, Progress
from core.gc.rewrite import rewrite_sparse
from core.gc.seen import SCHEMA as SEEN_SCHEMA, read_book, store_clock_s, write_book
from core.gc.tables import ADD_USE, CLASSES, LEAKED_STILL, SCHEMA, WRONG, WRONG_STILL
from core.ledger import Ledger, Row
from core.meta import keys as k
from core.meta.compact import Compacted
from core.meta.data import parse_chunk
from core.meta.keys import Key
from core.meta.meta import Meta
from core.meta.records import SLICE_BYTES, TRASH
from core.meta.store import RecordStore
from core.object.api import ObjectInfo
from core.object.limited import TokenBucket
from core.object.retried import RetriedStore
from core.volume import Volume

T = TypeVar("T")

log = logging.getLogger("sluice.gc")

FENCE_S: Final = 3600
DETACHED_S: Final = 24 * 3600
#: Of a request to the object store, half a minute altogether.
ATTEMPTS: Final = 5
PAUSE_S: Final = 10.0


async def collect(
    volume: Volume, *, delete: bool = False, compact: bool = False, threads: int = 10, min_age_s: float = FENCE_S,
    deletions_per_s: float = 0, progress: Progress = lambda what, count: None,
) -> GcReport:  # fmt: skip
    """One run over a volume (opened writable if delete or compact). min_age_s 0 is right only if no other client is
    at work. compact: merge every chunk that consists of more than one slice first, and move what is left of slices of
    which little is in use. deletions_per_s: objects deleted per second at most; 0 is no limit.

    Single failures are collected in the report; a store that can't be reached raises.
    """
    run = _Run(volume, delete, threads, min_age_s, deletions_per_s, progress)
    await run.measure_age()
    with run.deleting_slowly():
        await run.metadata()
        if compact:
            await run.compact()
        with Ledger(SCHEMA + SEEN_SCHEMA) as ledger:
            await run.compare(ledger)
        await run.counters()
    return run.report


class _Run:
    """One run; the parts in the order of their calls."""

    def __init__(
        self, volume: Volume, delete: bool, threads: int, min_age_s: float, per_s: float, progress: Progress
    ) -> None:  # fmt: skip
        self.volume = volume
        #: A listing of hours goes on after a request that failed.
        self.objects = RetriedStore(volume.objects, attempts=ATTEMPTS, max_pause_s=PAUSE_S)
        self.meta: Meta = volume.meta
        self.delete = delete
        self.threads = max(1, threads)
        self.min_age_s = min_age_s
        self.now = self._clock_s()
        #: Objects stored later than this are young.
        self.edge = self.now - min_age_s
        self.progress = progress
        self.report = GcReport(delete)
        self._pace = TokenBucket(per_s) if per_s > 0 else None

    def _clock_s(self) -> float:
        return self.meta.clock_ns() / 1e9

    async def measure_age(self) -> None:
        """Before anything is listed: what is put from now on is young by the store's own clock."""
        if not self.objects.features.times and not self.min_age_s:
            self.edge = float("inf")
        elif self.delete:
            self.edge = await store_clock_s(self.objects, self.now) - self.min_age_s

    @contextmanager
    def deleting_slowly(self) -> Iterator[None]:
        """Everything that this run has deleted, also by the engine, keeps to the pace."""
        remove, pace = self.meta.remove_slice, self._pace
        if pace is None or remove is None:
            yield
            return
        block_size = self.volume.format.block_size

        async def slowly(slice_id: int, size: int) -> None:
            await pace.take(-(-size // block_size))
            await remove(slice_id, size)

        self.meta.remove_slice = slowly
        try:
            yield
        finally:
            self.meta.remove_slice = remove

    # -- what records alone tell ---------------------------------------------------------------------------------

    async def metadata(self) -> None:
        meta, report, store = self.meta, self.report, self.meta.store
        days = self.meta.trash_days
        report.stale_sessions = await _count(store, k.SESSION, lambda _, expiry: expiry < self.now)
        report.expired_trash = await self._expired_trash(24 * days)
        seen: dict[Key, int] = {}
        report.detached = await self._each(
            "detached directories",
            self._detached(seen),
            lambda key: meta.remove_detached(key[1], seen[key]),
        )
        if self.delete:
            await self._tried("stale sessions", meta.clean_stale_sessions())
            if report.expired_trash:
                await self._tried("expired trash", meta.clean_trash(24 * days))
            await self._idle()
        report.delfiles = await self._each(
            "removed files",
            (key async for key, _ in store.scan(k.DELFILE)),
            lambda key: meta.delete_data(key[1], key[2]),
        )
        lost = await meta.find_lost()
        report.lost_files = await self._each("files that are lost", _items(lost), lambda one: meta.release_lost(*one))
        delayed_s = days * 86400
        report.delayed_due = await _count(store, k.DELSLICES, lambda key, _: key[2] < int(self.now) - delayed_s)
        if self.delete and report.delayed_due:
            await self._tried("slices replaced by compactions", meta.clean_delayed_slices(delayed_s))
        report.unused_slices = await self._each(
            "unused slices",
            (key async for key, _ in store.scan(k.SLICEREF, 0)),
            lambda key: meta.delete_slice(key[1], key[2]),
        )
        if self.delete:
            await self._idle()

    async def _expired_trash(self, keep_hours: int) -> int:
        """Hourly directories that are older than the volume keeps them."""
        (root,) = await self.meta.store.read(k.node(TRASH))
        expired = 0
        for hour in await self.meta.readdir(TRASH, b"", 1 << 20) if root is not None else ():
            try:
                when = calendar.timegm(time.strptime(hour.name.decode(), "%Y-%m-%d-%H"))
            except ValueError:
                continue
            expired += when < self.now - keep_hours * 3600
        return expired

    async def _detached(self, seen: dict[Key, int]) -> AsyncIterator[Key]:
        """Trees that a clone built and never attached."""
        async for key, when in self.meta.store.scan(k.DETACHED):
            if when < self.now - DETACHED_S:
                seen[key] = when
                yield key

    async def compact(self) -> None:
        """Before objects are listed, so that what this makes superfluous is counted as such."""
        report = self.report.compaction = Compacted()

        async def chunks() -> AsyncIterator[tuple[int, int]]:
            async for key, raw in self.meta.store.scan(k.CHUNK):
                report.chunks += 1
                self._show("chunks read", report.chunks)
                if len(raw) > SLICE_BYTES:
                    yield key[1], key[2]

        await self.meta.compact_chunks(
            chunks(), report, concurrency=self.threads,
            progress=lambda seen: self._show("chunks compacted", seen.compacted),
        )  # fmt: skip
        self.report.failures += report.failures
        await rewrite_sparse(self.volume, self.report, self.threads, self.progress)
        await self._idle()

    # -- objects against records ---------------------------------------------------------------------------------

    async def compare(self, ledger: Ledger) -> None:
        report, store = self.report, self.meta.store
        block_size = self.volume.format.block_size
        await ledger.fill("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", self._listed())
        await point("gc.listed")
        # Counts before uses: a use that comes while they are read makes a count look too low, never too high.
        await ledger.fill(
            "INSERT OR REPLACE INTO ref VALUES (?, ?, ?)",
            ((key[1], key[2], n) async for key, n in store.scan(k.SLICEREF)),
        )
        await self._uses(ledger, "use")
        if not self.objects.features.times and self.min_age_s:
            await read_book(self.objects, ledger)
            if self.delete:
                report.remembered = await write_book(self.objects, ledger)
        await point("gc.compared")
        leaked: list[Row] = []
        async for slice_id, index, length, size, kind in ledger.rows(CLASSES, block_size, self.edge):
            getattr(report, kind).count(size)
            if kind == "leaked":
                leaked.append((slice_id, index, length, size))
                if len(leaked) >= 1000:
                    ledger.add("INSERT INTO leaked VALUES (?, ?, ?, ?)", leaked)
                    leaked.clear()
        ledger.add("INSERT INTO leaked VALUES (?, ?, ?, ?)", leaked)
        ledger.execute(WRONG, self.edge)
        report.miscounted = ledger.one("SELECT COUNT(*) FROM wrong")
        if self.delete and (report.leaked.objects or report.miscounted):
            await self._uses(ledger, "again")
            await point("gc.looked-twice")
            await self._set_right(ledger)
            await self._each("leaked objects", ledger.rows(LEAKED_STILL, block_size), self._delete_object)
        await self._temporary_files()

    async def _listed(self) -> AsyncIterator[Row]:
        """Rows of all objects that carry a name of ours; others are counted as skipped."""
        report, hashed = self.report, self.volume.format.hash_prefix
        async for info in self.objects.list("chunks/"):
            block = parse_block_key(info.key)
            report.scanned.count(info.size)
            self._show("objects listed", report.scanned.objects)
            if block is None or block_key(*block, hashed) != info.key:
                report.skipped.count(info.size)
                continue
            if not info.size or (
                not info.mtime and self.objects.features.times
            ):  # some stores list objects that are still being written so
                info = await self._looked_at(info)
            # Of a store without times: it was there at this moment, not later.
            known = info.mtime if self.objects.features.times else self._clock_s()
            yield *block, info.size, known or self.now + 1

    async def _looked_at(self, info: ObjectInfo) -> ObjectInfo:
        try:
            return await self.objects.head(info.key)
        except SluiceError:
            return info

    async def _uses(self, ledger: Ledger, table: str) -> None:
        """Every slice that a chunk record names, and those that wait for the end of their trash days."""
        store = self.meta.store
        number = 0

        async def of_chunks() -> AsyncIterator[Row]:
            nonlocal number
            async for key, raw in store.scan(k.CHUNK):
                number += 1
                self._show("chunks read", number)
                # A damaged record must stop the run: the slices it named would look unused.
                for s in parse_chunk(key[1], key[2], raw):
                    if s.id:
                        yield s.id, s.size, 0

        # A compaction moves slices from chunks to delayed records; read in this order none is missed.
        await ledger.fill(ADD_USE.format(table), of_chunks())
        await ledger.fill(
            ADD_USE.format(table), ((slice_id, size, 1) async for slice_id, size in delayed_slices(store))
        )

    async def _set_right(self, ledger: Ledger) -> None:
        """Counts that are higher than their uses: members of packs that were never published, mostly."""
        async for slice_id, size, seen, used in ledger.rows(WRONG_STILL):
            if not await set_references(self.meta.store, slice_id, size, seen, used):
                continue
            self.report.corrected += 1
            await point("gc.count-set")
            log.info("slice %d: counted %d times, used %d times; set right", slice_id, seen, used)
            if not used:
                blocks = ledger.execute("SELECT COUNT(*), SUM(bytes) FROM object WHERE id = ?", slice_id)[0]
                if await self._tried(f"slice {slice_id}", self.meta.delete_slice(slice_id, size)):
                    self.report.deleted.objects += blocks[0]
                    self.report.deleted.bytes += blocks[1]

    async def _delete_object(self, row: Row) -> None:
        slice_id, index, length, size = row
        if self._pace is not None:
            await self._pace.take(1)
        await self.objects.delete(block_key(slice_id, index, length, self.volume.format.hash_prefix))
        self.report.deleted.count(size)
        await point("gc.object-gone")

    async def _temporary_files(self) -> None:
        """What a put into a local folder leaves behind when its process is killed."""
        folders = await asyncio.to_thread(object_folders, self.objects, self.volume.format.shards)
        for folder in folders:
            self.report.temporary_files += await asyncio.to_thread(sweep, folder, self.edge, self.delete)

    # -- counters ------------------------------------------------------------------------------------------------

    async def counters(self) -> None:
        """usedSpace and totalInodes against a recount. Written only if nothing changed them meanwhile."""
        meta, keys = self.meta, (k.counter("usedSpace"), k.counter("totalInodes"))
        before = tuple(await meta.store.read(*keys))
        counted = await meta.count_all()
        if counted == before or tuple(await meta.store.read(*keys)) != before:
            return
        self.report.counters = (before, counted)
        if self.delete:
            await set_counters(meta.store, before, counted)

    # -- helpers -------------------------------------------------------------------------------------------------

    async def _each(
        self, what: str, rows: AsyncIterable[T], act: Callable[[T], Awaitable[Any]]
    ) -> int:  # fmt: skip
        """Count rows and, with delete, act on them, `threads` at a time."""
        count = 0
        running: set[asyncio.Task[bool]] = set()
        async for row in rows:
            count += 1
            self._show(what, count)
            if not self.delete:
                continue
            if len(running) >= self.threads:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running.add(asyncio.ensure_future(self._tried(what, act(row))))
        if running:
            await asyncio.wait(running)
        return count

    async def _tried(self, what: str, work: Awaitable[object]) -> bool:
        try:
            await work
        except (SluiceError, FsError) as e:
            self.report.failures.append(f"{what}: {e}")
            log.warning("gc: %s: %s; the next run tries again", what, e)
            return False
        return True

    async def _idle(self) -> None:
        """What the engine started on the side (data of files that left the trash) must be done before counting."""
        while self.meta._background:
            await asyncio.wait(set(self.meta._background))

    def _show(self, what: str, count: int) -> None:
        if count % 1000 == 0 or count == 1:
            self.progress(what, count)


async def _items(found: dict[int, int]) -> AsyncIterator[tuple[int, int]]:
    for item in found.items():
        yield item


async def _count(store: RecordStore, kind: str, wanted: Callable[[Key, int], bool]) -> int:
    return sum([wanted(key, value) async for key, value in store.scan(kind)])
