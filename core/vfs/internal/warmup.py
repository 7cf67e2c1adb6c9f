# SPDX-License-Identifier: Apache-2.0
"""Warm-up: bring the blocks of files into this process's cache, take them out, or look which are there.

Files come from a walk that holds one page per directory; their chunks are looked up many files at a time (one trip);
blocks are fetched by a fixed number of workers behind a short queue, so memory doesn't grow with the tree. Whole slices
are taken, even if a file uses a part of one. Source: data-path §11.1, cli §6.4.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from core.chunk.blockcache import BlockCache
from core.chunk.diskcache import DiskCache
from core.chunk.naming import BlockId, iter_blocks
from core.chunk.store import BlockSliceStore
from core.errors import FsError
from core.meta import keys as k
from core.meta.data import chunk_count, parse_chunk
from core.meta.meta import Meta
from core.meta.records import DIRECTORY, FILE, SYMLINK, Attr
from core.vfs.internal.progress import Tally
from core.vfs.internal.protocol import CHECK, EVICT, WARM

log = logging.getLogger("sluice.warmup")

_PAGE: Final = 1000
#: Chunks that are looked up in one trip.
_CHUNKS: Final = 1000
_SYMLINKS: Final = 40
_SCAN_POLL_S: Final = 0.02
_GONE_TRIES: Final = 1000


@dataclass(slots=True)
class Warmed:
    """missing: bytes that weren't in the cache when it was looked at. failed: of those, what couldn't be fetched.
    locations: folder of the cache -> bytes that are there (check)."""

    files: int = 0
    slices: int = 0
    total: int = 0
    missing: int = 0
    failed: int = 0
    locations: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As the control file tells it (data-path §11.1); Failed and Errors are ours."""
        return {
            "FileCount": self.files, "SliceCount": self.slices, "TotalBytes": self.total, "MissBytes": self.missing,
            "Locations": self.locations, "Failed": self.failed, "Errors": self.errors[:20],
        }  # fmt: skip


async def find_paths(meta: Meta, root: int, paths: Sequence[bytes]) -> list[int]:
    """Inodes of paths below directory `root`, or `inode:<number>`. Symbolic links are followed inside that directory.
    ENOENT, ENOTDIR, ELOOP name the path."""
    found = []
    for number, path in enumerate(paths):
        if number % 100 == 99:
            await asyncio.sleep(0)  # a database in this process answers without a turn of the loop
        found.append(await _find(meta, root, path))
    return found


async def _find(meta: Meta, root: int, path: bytes) -> int:
    shown = path.decode("utf-8", "backslashreplace")
    if path.startswith(b"inode:"):
        number = path[6:]
        if not number.isdigit():
            raise FsError(errno.EINVAL, f"{shown}: what follows `inode:` is no number")
        return int(number)
    waiting = [p for p in reversed(path.split(b"/")) if p]
    way: list[int] = [root]
    links = 0
    while waiting:
        name = waiting.pop()
        if name in (b".", b".."):
            if name == b".." and len(way) > 1:
                way.pop()
            continue
        ino, attr = await meta.lookup(way[-1], name)
        if attr.type == SYMLINK:
            links += 1
            target = await meta.readlink(ino)
            if links > _SYMLINKS:
                raise FsError(errno.ELOOP, f"{shown}: more than {_SYMLINKS} symbolic links")
            if target.startswith(b"/"):
                raise FsError(errno.ENOENT, f"{shown}: a symbolic link leads out of the mount")
            waiting += [p for p in reversed(target.split(b"/")) if p]
            continue
        if waiting and attr.type != DIRECTORY:
            raise FsError(errno.ENOTDIR, f"{shown}: {name.decode('utf-8', 'backslashreplace')} is no directory")
        way.append(ino)
    return way[-1]


class Warmer:
    """One run. The caller says which inodes; `report` grows while `run` works."""

    def __init__(
        self, meta: Meta, slices: BlockSliceStore, action: int, threads: int, tally: Tally | None = None
    ) -> None:  # fmt: skip
        if slices.cache is None:
            raise FsError(
                errno.ENOTSUP, "this client has no disk cache to warm up; give it --cache-dir and --cache-size"
            )
        self.report = Warmed()
        self._meta = meta
        self._slices = slices
        self._cache: BlockCache = slices.cache
        self._threads = max(1, min(threads, 1000))
        self._tally = tally or Tally()
        self._queue: asyncio.Queue[BlockId] = asyncio.Queue(4 * self._threads)
        self._handle: Callable[[BlockId], Any] = {WARM: self._warm, EVICT: self._evict, CHECK: self._check}[action]
        self._seen: set[tuple[int, int]] = set()  # slices of several files (packs, clones) are looked at once

    async def run(self, inodes: Sequence[int]) -> Warmed:
        """Blocks that can't be fetched are counted and logged. Raises what the metadata raises."""
        await self._scanned()
        workers = [asyncio.create_task(self._work()) for _ in range(self._threads)]
        feeding = asyncio.create_task(self._feed(inodes))
        joining = asyncio.create_task(self._joined(feeding))
        try:
            await asyncio.wait([joining, *workers], return_when=asyncio.FIRST_COMPLETED)
            for worker in workers:
                if worker.done():
                    worker.result()  # only a bug ends a worker
            await joining
        finally:
            for task in (feeding, joining, *workers):
                task.cancel()
            await asyncio.gather(feeding, joining, *workers, return_exceptions=True)
        self._tell()
        return self.report

    async def _joined(self, feeding: asyncio.Task[None]) -> None:
        await feeding
        await self._queue.join()

    # -- which blocks -----------------------------------------------------------------------------------------------

    async def _feed(self, inodes: Sequence[int]) -> None:
        batch: list[tuple[int, int]] = []
        async for ino, attr in self._files(inodes):
            self.report.files += 1
            for index in range(chunk_count(attr.length)):
                batch.append((ino, index))
                if len(batch) == _CHUNKS:
                    await self._look_up(batch)
                    batch.clear()
            self._tell()
        if batch:
            await self._look_up(batch)

    async def _files(self, inodes: Sequence[int]) -> AsyncIterator[tuple[int, Attr]]:
        waiting: list[int] = []
        for start in inodes:
            attr = await self._meta.getattr(start)
            await asyncio.sleep(0)
            if attr.type == FILE:
                yield start, attr
            elif attr.type == DIRECTORY:
                waiting.append(start)
            while waiting:
                here, after = waiting.pop(), b""
                await asyncio.sleep(0)
                while page := await self._meta.readdir(here, after, _PAGE, attrs=True):
                    for entry in page:
                        if entry.type == DIRECTORY:
                            waiting.append(entry.ino)
                        elif entry.type == FILE and entry.attr is not None:
                            yield entry.ino, entry.attr
                    after = page[-1].name
                    if len(page) < _PAGE:
                        break

    async def _look_up(self, chunks: Sequence[tuple[int, int]]) -> None:
        raws = await self._meta.store.read(*(k.chunk(ino, index) for ino, index in chunks))
        for (ino, index), raw in zip(chunks, raws, strict=True):
            for record in parse_chunk(ino, index, raw):
                if not record.id or (record.id, record.size) in self._seen:
                    continue
                if len(self._seen) >= 1_000_000:
                    self._seen.clear()  # looked at twice is only slower
                self._seen.add((record.id, record.size))
                self.report.slices += 1
                for block in iter_blocks(record.id, record.size, self._slices.block_size):
                    self.report.total += block[2]
                    await self._queue.put(block)
        self._tell()

    # -- what happens to them ---------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            block = await self._queue.get()
            await self._handle(block)
            self._queue.task_done()

    async def _warm(self, block: BlockId) -> None:
        if self._cache.has(block):
            return
        self.report.missing += block[2]
        try:
            await self._slices.reader.load(block)
        except FsError as e:
            self.report.failed += block[2]
            if len(self.report.errors) < 20:
                self.report.errors.append(e.strerror or str(e))
            log.warning("warm-up: %s", e.strerror)

    async def _evict(self, block: BlockId) -> None:
        # What waits for its upload stays: it may be the only copy.
        if not self._cache.has(block) or self._cache.is_pinned(block):
            self.report.missing += block[2]
            return
        self._slices.reader.forget(block)
        # A thread unlinks; whoever looks afterwards shall not find it.
        for _ in range(_GONE_TRIES):
            if not self._cache.has(block):
                break
            await asyncio.sleep(0.001)

    async def _check(self, block: BlockId) -> None:
        if not self._cache.has(block):
            self.report.missing += block[2]
            return
        where = _location(self._cache, block)
        self.report.locations[where] = self.report.locations.get(where, 0) + block[2]

    async def _scanned(self) -> None:
        """What earlier processes left in the cache is known only after its first scan."""
        if isinstance(self._cache, DiskCache):
            while not all(  # noqa: ASYNC110 - threads
                f.scanned or f.health.state != "normal" or f.limits.scan_interval_s < 0 for f in self._cache.directories
            ):
                await asyncio.sleep(_SCAN_POLL_S)

    def _tell(self) -> None:
        self._tally.set(self.report.files, self.report.total)


def _location(cache: BlockCache, block: BlockId) -> str:
    """Folder of the cache that holds a block, without the volume's own part of it."""
    folder = cache._folder(block) if isinstance(cache, DiskCache) else None
    return os.path.dirname(folder.folder) if folder is not None else "memory"
