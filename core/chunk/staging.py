# SPDX-License-Identifier: Apache-2.0
"""Writeback: blocks are acknowledged when they are on a local disk, and uploaded later.

`Staging` decides whether a block may be staged, keeps the list of those that wait, uploads them when it is time, and
forgets those whose slice is deleted. Event loop only; files are the affair of `stagewriter`, `stagefile`, `cachedir`.
Source: data-path §6; the order of writes on the disk is stricter than the reference client's (file and folder are
synced before the block counts as stored).

Nothing is ever taken from the list because something failed: a block leaves it when the object store has it, when its
slice is deleted, or when its file is gone or damaged, and of the latter the log tells.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import heapq
import itertools
import logging
import os
import random
from collections.abc import Callable
from typing import Final

import msgspec

from core.chunk import stagefile
from core.chunk.buffers import MemoryBudget
from core.chunk.cachedir import CacheDir
from core.chunk.cachescan import DAMAGED, Staged
from core.chunk.clock import Clock
from core.chunk.diskcache import DiskCache
from core.chunk.naming import BlockId, block_key
from core.chunk.stagewriter import StageJob, StageWriter
from core.chunk.transfer import Transfer
from core.chunk.uploadhours import UploadHours
from core.errors import DataCorrupt, ObjectError
from core.failpoints import point
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk.staging")

#: Attempts of one upload, with 0, 1 and 4 seconds before them (§6).
ATTEMPTS: Final = 3
#: After a failed upload the block waits again; the reference client looks each minute.
_RETRY_FIRST_S: Final = 5.0
_RETRY_MOST_S: Final = 60.0
#: A block that another process is uploading is looked at again after this.
_BUSY_S: Final = 10.0
#: Uploads under way get so long when the client closes; they are begun anew by the next one.
CLOSE_GRACE_S: Final = 10.0


class StagingOptions(msgspec.Struct, frozen=True):
    """threshold: only blocks shorter than this are staged (0: all). delay_s: between staging and upload. hours: in
    which uploads happen. max_writes: stage writes at once (0: no limit)."""

    threshold: int = 0
    delay_s: float = 0
    hours: UploadHours | None = None
    max_writes: int = 1000


class _Waiting:
    """A block that is staged and not uploaded."""

    __slots__ = ("block", "deleted", "due_s", "folder", "forced", "staged_s", "tries", "uploading")

    def __init__(self, block: BlockId, folder: CacheDir, staged_s: float, due_s: float) -> None:
        self.block = block
        self.folder = folder
        self.staged_s = staged_s
        self.due_s = due_s
        self.tries = 0
        self.forced = False  # leaves whatever delay and hours say
        self.uploading = False
        self.deleted = False  # its slice went while it was being uploaded


_Entry = tuple[float, int, _Waiting]


class Staging:
    """Blocks of one client on their way through a local disk. blocks, bytes: how many wait now."""

    def __init__(
        self,
        cache: DiskCache,
        transfer: Transfer,
        budget: MemoryBudget,
        options: StagingOptions,
        *,
        max_uploads: int,
        put_timeout_s: float,
        clock: Clock,
    ) -> None:
        self.options = options
        self.blocks = 0
        self.bytes = 0
        self.writing = 0  # stage writes under way
        self.written_bytes = 0
        self.errors = 0
        self.uploaded = 0
        self.delayed_s = 0.0  # between the staging of each block and the end of its upload, summed up
        self._cache = cache
        self._transfer = transfer
        self._budget = budget
        self._max_uploads = max(max_uploads, 1)
        self._put_timeout_s = put_timeout_s
        self._clock = clock
        self._writers: dict[CacheDir, StageWriter] = {}
        self._waiting: dict[BlockId, _Waiting] = {}
        # Heaps by due time; entries whose time or place has changed are skipped. What is forced doesn't ask for hours.
        self._due: list[_Entry] = []
        self._forced: list[_Entry] = []
        self._numbers = itertools.count()
        self._uploads: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._scheduler: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Find what earlier clients left in the directories, and begin to upload. The cache has been started."""
        self._loop = asyncio.get_running_loop()
        for folder in self._cache.directories:
            writer = self._writers[folder] = StageWriter(folder)
            writer.start()
            folder.on_staged = self._found_soon
            folder.on_pressure = self._pressed_soon
            try:
                # Waited for: what was acknowledged before the crash is readable from the first moment on.
                found = await self._cache.in_thread(folder.scan_staged)
            except OSError as e:
                log.error("staged blocks in %s can't be listed: %s; they wait for a later start", folder.folder, e)
                continue
            if self._found(folder, found):
                log.warning("%s: %d blocks staged earlier wait for their upload", folder.folder, len(found))
        self._scheduler = self._loop.create_task(self._schedule())

    async def close(self) -> None:
        """End. Stage writes are finished, uploads under way get a few seconds; what waits stays on the disk for the
        next client with `--writeback` and the same directories."""
        if self._closed:
            return
        self._closed = True
        if self._scheduler is not None:
            self._scheduler.cancel()
            await asyncio.gather(self._scheduler, return_exceptions=True)
        if self._uploads:
            await asyncio.wait(self._uploads, timeout=CLOSE_GRACE_S)
        for task in self._uploads:
            task.cancel()
        await asyncio.gather(*self._uploads, return_exceptions=True)
        loop = asyncio.get_running_loop()
        for writer in self._writers.values():
            await loop.run_in_executor(None, writer.close)
        if self._waiting:
            log.warning(
                "%d blocks with %d bytes stay staged in %s; they are uploaded by the next client with --writeback and "
                "the same --cache-dir", self.blocks, self.bytes,
                ", ".join(sorted({w.folder.folder for w in self._waiting.values()})),
            )  # fmt: skip

    # -- staging ----------------------------------------------------------------------------------------------------

    async def stage(self, block: BlockId, data: Buffer) -> bool:
        """Put a block on a local disk; durable when this returns. False: it can't be, and nothing of it is left.

        TimeoutError, or a cancellation: a thread may still be reading `data`; what it writes is removed."""
        folder = self._place(block)
        writer = self._writers.get(folder) if folder is not None else None
        if folder is None or writer is None:
            return False
        await point("stage.before-write")
        done: asyncio.Future[StageJob] = asyncio.get_running_loop().create_future()
        job = _Job(block, data, self._ended, done)
        self.writing += 1
        try:
            writer.submit(job)
            async with asyncio.timeout(self._put_timeout_s):
                await done
        except TimeoutError:
            self.errors += 1
            log.error("%s: no block is staged within %g s; it is uploaded", folder.folder, self._put_timeout_s)
            raise
        finally:
            self.writing -= 1
        if job.error is not None:
            self.errors += 1
            log.warning("block %s can't be staged in %s: %s; it is uploaded", _name(block), folder.folder, job.error)
            if isinstance(job.error, OSError) and job.error.errno in (errno.ENOSPC, errno.EDQUOT):
                folder.full = folder.stage_full = True  # until the next look at the disk
            return False
        self.written_bytes += block[2]
        now = self._clock.time()
        self._add(_Waiting(block, folder, now, now + self.options.delay_s))
        await point("stage.synced")
        return True

    def is_staged(self, block: BlockId) -> bool:
        return block in self._waiting

    async def discard(self, block: BlockId) -> None:
        """The block's slice is deleted: it needs no upload any more. One that is under way deletes its object."""
        item = self._waiting.get(block)
        if item is not None:
            item.deleted = True
            if not item.uploading:
                self._remove(item)
        await self._cache.discard(block)

    async def flush(self) -> None:
        """Upload everything now, whatever delay and hours say; returns when nothing waits any more."""
        for item in list(self._waiting.values()):
            self._force(item)
        while self._waiting:
            self._empty.clear()
            await self._empty.wait()

    def _place(self, block: BlockId) -> CacheDir | None:
        """The directory that may take a block, None if it is to be uploaded at once."""
        options = self.options
        if self._closed or (options.threshold and block[2] >= options.threshold):
            return None
        if options.max_writes and self.writing >= options.max_writes:
            return None
        folder = self._cache.folder_of(block)
        return None if folder is None or folder.stage_full else folder

    def _ended(self, jobs: list[StageJob]) -> None:
        """From a thread: a round is on the disk."""
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, jobs)

    def _tell(self, jobs: list[StageJob]) -> None:
        for job in jobs:
            assert isinstance(job, _Job)
            if not job.waiter.done():
                job.waiter.set_result(job)
            elif job.error is None:
                # Nobody waits any more: its owner has uploaded it, or has given the slice up.
                task = asyncio.ensure_future(self._cache.discard(job.block))
                self._uploads.add(task)
                task.add_done_callback(self._uploads.discard)

    # -- the list ---------------------------------------------------------------------------------------------------

    def _add(self, item: _Waiting) -> None:
        if item.block in self._waiting:
            return  # a scan saw its file before its writer was told
        self._waiting[item.block] = item
        self.blocks += 1
        self.bytes += item.block[2]
        self._queue(item)

    def _queue(self, item: _Waiting) -> None:
        heapq.heappush(self._forced if item.forced else self._due, (item.due_s, next(self._numbers), item))
        self._wake.set()

    def _remove(self, item: _Waiting) -> None:
        if self._waiting.get(item.block) is item:
            del self._waiting[item.block]
            self.blocks -= 1
            self.bytes -= item.block[2]
            if not self._waiting:
                self._empty.set()

    def _force(self, item: _Waiting) -> None:
        if not item.forced and not item.uploading:
            item.forced = True
            item.due_s = 0
            self._queue(item)

    def _found_soon(self, folder: CacheDir, found: list[Staged]) -> None:
        """From a scan, in a thread."""
        if found and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._found, folder, found)

    def _found(self, folder: CacheDir, found: list[Staged]) -> int:
        """Files of earlier clients, or of other processes that stage here. Returns how many weren't known."""
        new = [one for one in found if one.block not in self._waiting]
        for one in new:
            self._add(_Waiting(one.block, folder, one.mtime, one.mtime + self.options.delay_s))
        return len(new)

    def _pressed_soon(self, folder: CacheDir, space: int, inodes: int) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pressed, folder, space, inodes)

    def _pressed(self, folder: CacheDir, space: int, inodes: int) -> None:
        """The disk is short of space and nothing else may go: blocks leave before their time until it is covered.
        Of two random ones the older one, or the larger if they are of the same minute (§5.6)."""
        items = [item for item in self._waiting.values() if item.folder is folder]
        for item in items:
            if item.forced or item.uploading:
                space -= item.block[2]
                inodes -= 1
        free = [item for item in items if not item.forced and not item.uploading]
        random.shuffle(free)
        while free and (space > 0 or inodes > 0):
            item = free.pop()
            if free:
                other = free[-1]
                if (int(other.staged_s) // 60, -other.block[2]) < (int(item.staged_s) // 60, -item.block[2]):
                    free[-1], item = item, other
            self._force(item)
            space -= item.block[2]
            inodes -= 1

    # -- uploads ----------------------------------------------------------------------------------------------------

    async def _schedule(self) -> None:
        """Begins uploads when they are due and there is a slot; sleeps in between."""
        while True:
            self._wake.clear()
            wait_s = self._begin_due(self._clock.time())
            if wait_s is None:
                await self._wake.wait()
                continue
            sleep = asyncio.ensure_future(self._clock.sleep(wait_s))
            wake = asyncio.ensure_future(self._wake.wait())
            try:
                await asyncio.wait((sleep, wake), return_when=asyncio.FIRST_COMPLETED)
            finally:
                sleep.cancel()
                wake.cancel()

    def _begin_due(self, now: float) -> float | None:
        """Start what may start; seconds until something else may, None: only a change of the list can tell."""
        hours = self.options.hours
        waits = [self._begin_from(self._forced, now)]
        if hours is None or not (closed_s := hours.seconds_to_open(now)):
            waits.append(self._begin_from(self._due, now))
        elif self._due:
            waits.append(closed_s)
        return min((wait for wait in waits if wait is not None), default=None)

    def _begin_from(self, heap: list[_Entry], now: float) -> float | None:
        while heap and len(self._uploads) < self._max_uploads:
            due_s, _, item = heap[0]
            moved = item.due_s != due_s or item.forced is not (heap is self._forced)
            if moved or item.uploading or self._waiting.get(item.block) is not item:
                heapq.heappop(heap)
                continue
            if due_s > now:
                return due_s - now
            heapq.heappop(heap)
            item.uploading = True
            task = asyncio.get_running_loop().create_task(self._upload(item))
            self._uploads.add(task)
            task.add_done_callback(self._freed)
        return None

    def _freed(self, task: asyncio.Task[None]) -> None:
        self._uploads.discard(task)
        self._wake.set()
        if not task.cancelled() and task.exception() is not None:
            log.error("an upload of a staged block failed unexpectedly", exc_info=task.exception())

    async def _upload(self, item: _Waiting) -> None:
        again_s = _RETRY_FIRST_S
        try:
            try:
                again_s = await self._upload_file(item)
            except DataCorrupt as e:
                await self._set_aside(item, e)
                again_s = 0
            except FileNotFoundError:
                log.info("block %s was uploaded or deleted by another process", _name(item.block))
                await self._cache.in_thread(item.folder.uploaded, item.block)
                again_s = 0
            except (OSError, ObjectError) as e:
                item.tries += 1
                self.errors += 1
                again_s = min(_RETRY_FIRST_S * 2 ** min(item.tries - 1, 10), _RETRY_MOST_S)
                log.warning(
                    "staged block %s of %s isn't uploaded: %s; it is tried again in %g s",
                    _name(item.block), item.folder.folder, getattr(e, "strerror", None) or e, again_s,
                )  # fmt: skip
        finally:
            item.uploading = False
            if item.deleted:
                self._remove(item)
                await self._delete(item.block)
            elif again_s:
                item.due_s = self._clock.time() + again_s
                self._queue(item)
            else:
                self._remove(item)

    async def _upload_file(self, item: _Waiting) -> float:
        """0: the object store has it; else so many seconds until the next try."""
        block, folder = item.block, item.folder
        path = folder.stage_path(block)
        fd: int = await self._cache.in_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                # Several processes may have found the same file; one of them uploads.
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return _BUSY_S
            if item.deleted:
                return 0
            await self._budget.charge(block[2])
            charged = block[2]
            try:
                data, _ = await self._cache.in_thread(stagefile.read, fd, block[2], path)
                await point("stage.before-upload")
                payload = await self._transfer.encode(data)
                if payload is not data:
                    self._budget.overdraft(len(payload))
                    charged += len(payload)
                await self._transfer.put(block, payload, lambda: item.deleted, attempts=ATTEMPTS)
            finally:
                self._budget.release(charged)
            await point("stage.uploaded")
            if not item.deleted:
                await self._cache.in_thread(folder.uploaded, block)
                self.uploaded += 1
                self.delayed_s += max(0.0, self._clock.time() - item.staged_s)
            await point("stage.done")
            return 0
        finally:
            os.close(fd)

    async def _delete(self, block: BlockId) -> None:
        """The slice went while its block was on its way."""
        try:
            await self._transfer.delete(block)
        except ObjectError as e:
            log.warning("%s; left for gc", e)

    async def _set_aside(self, item: _Waiting, error: DataCorrupt) -> None:
        """A staged file that isn't what was written must never become an object."""
        folder, block = item.folder, item.block
        target = os.path.join(folder.folder, DAMAGED, _name(block))

        def move() -> None:
            os.makedirs(os.path.dirname(target), folder.dir_mode, exist_ok=True)
            os.rename(folder.stage_path(block), target)
            folder.discard(block)

        try:
            await self._cache.in_thread(move)
            where = f"moved to {target}"
        except OSError as e:
            where = f"left where it is ({e})"
        self.errors += 1
        log.error(
            "staged block %s is damaged and isn't uploaded: %s; %s. If a file uses slice %d, reading it fails with "
            "EIO: `sluice fsck` names the file, restore it from a backup", _name(block), error, where, block[0],
        )  # fmt: skip


class _Job(StageJob):
    """With who waits for it."""

    __slots__ = ("waiter",)

    def __init__(
        self, block: BlockId, data: Buffer, done: Callable[[list[StageJob]], None], waiter: asyncio.Future[StageJob]
    ) -> None:
        super().__init__(block, data, done)
        self.waiter = waiter


def _name(block: BlockId) -> str:
    """As it is called in the folders."""
    return block_key(*block).rpartition("/")[2]


class StagedSink:
    """Where a writer or packer sends blocks that may wait on a local disk: staged if that is possible, else uploaded
    at once, as `Transfer` would (`core.chunk.sink.BlockSink`)."""

    def __init__(self, staging: Staging, transfer: Transfer, budget: MemoryBudget) -> None:
        self._staging = staging
        self._transfer = transfer
        self._budget = budget
        self.copies = transfer.copies
        self.copying = transfer.copying
        self.coding = transfer.coding
        self.sending = asyncio.Semaphore(24)  # a disk does no better with more

    async def encode(self, data: Buffer) -> Buffer:
        """Staged blocks are plain; they are encoded when they leave."""
        return data

    async def put(self, block: BlockId, payload: Buffer, give_up: Callable[[], bool] | None = None) -> bool:
        clean = True
        try:
            if await self._staging.stage(block, payload):
                return True
        except TimeoutError:
            clean = False  # a thread may be reading it yet
        encoded = await self._transfer.encode(payload)
        extra = 0 if encoded is payload else len(encoded)
        self._budget.overdraft(extra)
        try:
            return await self._transfer.put(block, encoded, give_up) and clean
        finally:
            self._budget.release(extra)

    async def delete(self, block: BlockId) -> None:
        await self._staging.discard(block)
        await self._transfer.delete(block)
