# SPDX-License-Identifier: Apache-2.0
"""Blocks onto the disk of one cache directory so that they survive a power loss, many at the cost of a few fsyncs.

Group commit: a thread takes everybody who waits, writes all their files, asks the disk for all of them at once and then
for each folder once, and only then tells them. Two threads take turns, so that one writes while the other waits for the
disk. Order on the disk: file, its names, then the answer (data-path §6; the reference client doesn't sync).
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from core.chunk import stagefile
from core.chunk.cachedir import CacheDir
from core.chunk.naming import BlockId
from core.failpoints import blocking_point
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk.staging")

_THREADS: Final = 2
#: fsyncs at once: the disk's flushes are merged then. 32 files of 16 KiB in one round: 4 at once took a third of the
#: time of one after another, 32 at once no less and more CPU.
_SYNCS: Final = 4
#: Most bytes of one round: who is in it waits for all of them, and the other thread shall have something to write.
_ROUND_BYTES: Final = 16 << 20
#: A thread that hangs in a dead disk isn't waited for any longer.
_JOIN_S: Final = 5.0
_SYNC_FILE_RANGE_WRITE: Final = 2


class StageJob:
    """One block to be staged. error: set before `done` is called; None: it is on the disk under both names."""

    __slots__ = ("block", "data", "done", "error", "tier")

    def __init__(self, block: BlockId, data: Buffer, done: Callable[[list[StageJob]], None], tier: int = 0) -> None:
        self.block = block
        self.data: Buffer | None = data
        self.done = done
        self.tier = tier
        self.error: BaseException | None = None


class StageWriter:
    """done(jobs): called from a thread, once for each round and function. After it nobody reads the jobs' data."""

    def __init__(self, folder: CacheDir) -> None:
        self.folder = folder
        self.rounds = 0  # how often the disk was asked
        self._queue: queue.SimpleQueue[StageJob | None] = queue.SimpleQueue()
        self._take = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._syncs = ThreadPoolExecutor(_SYNCS, thread_name_prefix="sluice-stage-sync")
        self._durable: set[str] = set()  # folders that are known to be on disk with all folders above them
        self._ended = False

    def start(self) -> None:
        for _ in range(_THREADS):
            thread = threading.Thread(target=self._run, name="sluice-stage", daemon=True)
            self._threads.append(thread)
            thread.start()

    def submit(self, job: StageJob) -> None:
        self._queue.put(job)

    def close(self) -> None:
        """Write what was submitted, end the threads. Blocks."""
        self._ended = True
        self._queue.put(None)
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._syncs.shutdown(wait=False)

    # -- threads ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while jobs := self._next_round():
            try:
                self._store(jobs)
            except BaseException as e:  # who waits must hear of it whatever it is
                log.exception("staging failed")
                for job in jobs:
                    job.error = job.error or e
            for job in jobs:
                if job.error is not None:
                    self.folder.discard(job.block)  # it goes to the object store at once: nothing shall wait here
            told: dict[Callable[[list[StageJob]], None], list[StageJob]] = {}
            for job in jobs:
                job.data = None
                told.setdefault(job.done, []).append(job)
            for done, some in told.items():
                done(some)

    def _next_round(self) -> list[StageJob]:
        """Everybody who waits; the first one is waited for. Empty at the end."""
        with self._take:
            first = None if self._ended and self._queue.empty() else self._queue.get()
            if first is None:
                self._queue.put(None)  # for the other thread
                return []
            jobs, size = [first], first.block[2]
            while size < _ROUND_BYTES:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    self._queue.put(None)
                    break
                jobs.append(job)
                size += job.block[2]
        return jobs

    def _store(self, jobs: list[StageJob]) -> None:
        self.rounds += 1
        opened: list[tuple[StageJob, int]] = []
        folders: set[str] = set()
        try:
            for job in jobs:
                try:
                    opened.append((job, self._write(job, folders)))
                except OSError as e:
                    job.error = e
            blocking_point("stage.written")
            for _, fd in opened:
                _begin_writing(fd)
            if len(opened) > 1:
                list(self._syncs.map(_sync, opened))
            else:
                for one in opened:
                    _sync(one)
            for folder in sorted(folders, key=len, reverse=True):
                try:
                    self._sync_folder(folder)
                except OSError as e:
                    for job, _ in opened:
                        job.error = job.error or e
        finally:
            for _, fd in opened:
                os.close(fd)
        for job, _ in opened:
            if job.error is None:
                self.folder.staged(job.block)

    def _write(self, job: StageJob, folders: set[str]) -> int:
        assert job.data is not None
        home = self.folder
        path = home.stage_path(job.block)
        fd, made = stagefile.create(path, job.data, home.limits.file_mode, home.dir_mode, job.tier)
        try:
            self._durable.difference_update(made)  # a scan may have removed what was empty
            home.link(job.block)
        except BaseException:
            os.close(fd)
            raise
        folders.add(os.path.dirname(path))
        return fd

    def _sync_folder(self, folder: str) -> None:
        """The names in a folder, and its own one in the folder above, up to one that is known to be on disk."""
        _fsync_folder(folder)
        fresh = []
        top = os.path.dirname(os.path.dirname(self.folder.folder))  # above `<cache dir>`, which may be new as well
        while folder not in self._durable and folder != top and len(folder) > 1:
            fresh.append(folder)
            folder = os.path.dirname(folder)
            _fsync_folder(folder)
        self._durable.update(fresh)


def _sync(one: tuple[StageJob, int]) -> None:
    job, fd = one
    try:
        os.fsync(fd)
    except OSError as e:
        job.error = e


def _fsync_folder(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_file_range() -> Callable[[int], object]:
    """Starts writing a file's pages without waiting (sync_file_range(2)), so that the disk has all files of a round at
    once and the file system allocates them in one transaction. Only a hint: without it each fsync does its own."""
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return lambda fd: None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return lambda fd: call(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


_begin_writing: Final = _sync_file_range()
