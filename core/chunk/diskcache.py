# SPDX-License-Identifier: Apache-2.0
"""The block cache on local disks: several directories, each block in the one that the ring names.

Event-loop side of `cachedir`. Source: data-path §5 (layout, ring, what is looked up where, what happens when a disk
dies). Shareable with the reference client, also at the same time: file names, checksums and directory choice are the
same.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from core.chunk.api import FileRange
from core.chunk.blockcache import BlockCache
from core.chunk.buffers import MemoryBudget
from core.chunk.cachedir import CacheDir, CacheLimits
from core.chunk.cachefile import NotInMemory
from core.chunk.memcache import MemoryCache
from core.chunk.naming import BlockId, block_key
from core.chunk.ring import Ring, legacy_index
from core.errors import ConfigError
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk.cache")

# Reading 64 KiB that are in memory takes 25 µs with checksums, a hop to a thread more (bench/chunk.py).
_INLINE_READ: Final = 64 << 10
#: What takes the place of the directories when the last of them is given up (§5.6, §5.8).
LAST_RESORT_BYTES: Final = 100 << 20
_WATCH_EVERY_S: Final = 1.0


class DiskCache(BlockCache):
    """`folders` are cache directories without the volume's UUID; limits count for all together."""

    def __init__(
        self, folders: Sequence[str], volume_uuid: str, limits: CacheLimits, *, hash_prefix: bool = False
    ) -> None:
        if not folders:
            raise ConfigError("a disk cache needs at least one directory (--cache-dir)")
        folders = sorted(set(folders))
        n = len(folders)
        share = msgspec.structs.replace(
            limits, size=limits.size // n, items=-(-limits.items // n), queue_bytes=limits.queue_bytes // n
        )
        self._hash_prefix = hash_prefix
        self._all = [
            CacheDir(os.path.join(f, volume_uuid), share, hash_prefix=hash_prefix, on_written=self._written)
            for f in folders
        ]
        self._dirs: dict[str, CacheDir] = {}
        self._ring: Ring | None = None
        self._only: CacheDir | None = None
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="sluice-cache-read")
        self._budget: MemoryBudget | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room = asyncio.Event()  # set whenever a queued block was written
        self._memory: MemoryCache | None = None  # when no directory is left
        self._timer: asyncio.TimerHandle | None = None
        self._io_limit_s = self._all[0].health.limits.max_io_s

    def attach(self, budget: MemoryBudget) -> None:
        self._budget = budget

    @property
    def directories(self) -> list[CacheDir]:
        """Those in use."""
        return list(self._dirs.values())

    async def start(self) -> None:
        """Prepare the directories; one that can't be used is left out with a log line."""
        self._loop = asyncio.get_running_loop()
        for folder in self._all:
            try:
                await self._loop.run_in_executor(self._threads, folder.prepare)
            except OSError as e:
                log.error("cache directory %s can't be used: %s", folder.folder, e)
                continue
            if folder.id in self._dirs:
                log.error("cache directory %s is the same as %s", folder.folder, self._dirs[folder.id].folder)
                continue
            self._dirs[folder.id] = folder
            folder.start()
        self._arrange()
        self._timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)

    def get_nowait(self, block: BlockId, off: int, length: int) -> Buffer | None:
        if self._memory is not None:
            return self._memory.get_nowait(block, off, length)
        folder = self._folder(block)
        data = folder.pending.get(block) if folder is not None else None
        if data is None:
            return None
        return data if length == len(data) else memoryview(data)[off : off + length]

    async def get(self, block: BlockId, off: int, length: int) -> Buffer | None:
        found = self.get_nowait(block, off, length)
        if found is not None:
            return found
        folder = self._folder(block)
        if folder is None:
            return None
        if folder.may_have(block):
            found = await self._read(folder, block, off, length)
        if found is None and self._only is None:
            legacy = self._all[legacy_index(block_key(*block, self._hash_prefix), len(self._all))]
            if legacy is not folder and legacy.id and legacy.may_have(block):
                found = await self._read(legacy, block, off, length)
        return found

    async def rescue(self, block: BlockId) -> Buffer | None:
        for folder in self.directories:  # also where another set of directories would have put it
            found: Buffer | None = await self.in_thread(folder.rescue, block)
            if found is not None:
                return found
        return None

    def put(self, block: BlockId, data: bytes) -> bool:
        if self._memory is not None:
            return self._memory.put(block, data)
        folder = self._folder(block)
        if folder is None or (self._budget is not None and not self._budget.try_charge(len(data), reclaim=False)):
            return False
        if folder.offer(block, data):
            return True
        if self._budget is not None:
            self._budget.release(len(data))
        return False

    async def put_wait(self, block: BlockId, data: bytes) -> bool:
        folder = self._folder(block)
        if folder is None:
            return self.put(block, data)
        while not self.put(block, data):
            if folder.health.state != "normal" or not folder.pending or block in folder.index:
                return block in folder.index
            self._room.clear()
            await self._room.wait()
        return True

    def has(self, block: BlockId) -> bool:
        if self._memory is not None:
            return self._memory.has(block)
        folder = self._folder(block)
        return folder is not None and not folder.down and (block in folder.pending or block in folder.index)

    def local_range(self, block: BlockId, off: int, length: int) -> FileRange | None:
        folder = self._folder(block)
        return None if folder is None else folder.local_range(block, off, length)

    def remove(self, block: BlockId) -> None:
        # In the thread pool: unlink of a large file takes milliseconds on some disks.
        if self._memory is not None:
            self._memory.remove(block)
        folder = self._folder(block)
        if folder is not None and folder.may_have(block):
            self._threads.submit(folder.remove, block)

    def is_pinned(self, block: BlockId) -> bool:
        folder = self._folder(block)
        entry = folder.index.find(block) if folder is not None else None
        return entry is not None and entry.size < 0

    async def discard(self, block: BlockId) -> None:
        if self._memory is not None:
            self._memory.remove(block)
        folder = self._folder(block)
        if folder is not None and (folder.limits.writeback or folder.may_have(block)):
            await self.in_thread(folder.discard, block)

    async def in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run blocking work on one of the disks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        for folder in self._all:
            await loop.run_in_executor(None, folder.close)
        self._dirs.clear()
        self._ring = self._only = None
        if self._memory is not None:
            await self._memory.close()
            self._memory = None
        self._threads.shutdown(wait=False)
        await asyncio.sleep(0)  # what the writer threads returned to the budget arrives

    # -- helpers ----------------------------------------------------------------------------------------------------

    def folder_of(self, block: BlockId) -> CacheDir | None:
        """The directory that a block belongs to; None if there is none left."""
        return self._folder(block)

    def _arrange(self) -> None:
        """Which directory has which block, from the directories in use; balanced anew when one has gone (§5.5)."""
        dirs = list(self._dirs.values())
        self._ring = Ring(list(self._dirs)) if dirs else None
        self._only = dirs[0] if len(dirs) == 1 else None
        if not dirs and self._memory is None:
            log.error("no cache directory can be used; %d MiB of memory take their place", LAST_RESORT_BYTES >> 20)
            self._memory = MemoryCache(LAST_RESORT_BYTES)
            if self._budget is not None:
                self._memory.attach(self._budget)

    def _watch(self) -> None:
        """Each second: a directory whose disk is given up leaves the ring, and its blocks go elsewhere."""
        assert self._loop is not None
        self._timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        gone = [name for name, folder in self._dirs.items() if not folder.watch()]
        for name in gone:
            del self._dirs[name]
        if gone:
            self._room.set()
            self._arrange()

    def _folder(self, block: BlockId) -> CacheDir | None:
        if self._only is not None:
            return self._only
        if self._ring is None:
            return None
        return self._dirs[self._ring.owner(block_key(*block, self._hash_prefix))]

    async def _read(self, folder: CacheDir, block: BlockId, off: int, length: int) -> Buffer | None:
        if length <= _INLINE_READ:
            try:
                return folder.read(block, off, length, wait=False)
            except NotInMemory:
                pass
        loop = asyncio.get_running_loop()
        try:
            # A disk that hangs is noticed by `watch`; who waits for it meanwhile is served by the object store.
            async with asyncio.timeout(self._io_limit_s):
                return await loop.run_in_executor(self._threads, folder.read, block, off, length)
        except TimeoutError:
            log.error("cache directory %s: a read takes longer than %g s", folder.folder, self._io_limit_s)
            return None

    def _written(self, block: BlockId, data: bytes) -> None:
        """From a writer thread, or from a removal: the budget lives on the loop."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(self._return, len(data))

    def _return(self, n: int) -> None:
        if self._budget is not None:
            self._budget.release(n)
        self._room.set()


def split_dirs(option: str) -> list[str]:
    """Directories of a `--cache-dir` value: split at ":" (or "," where there is none), patterns expanded (§5.1)."""
    names = [os.path.expanduser(n) for n in option.split(":" if ":" in option else ",") if n]
    out: list[str] = []
    for name in names:
        # Of /disk*/cache the disks must be there, the folders on them needn't.
        pattern, rest = name, ""
        while glob.has_magic(pattern) and not glob.has_magic(os.path.basename(pattern)):
            pattern, last = os.path.split(pattern)
            rest = os.path.join(last, rest) if rest else last
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        out += [os.path.join(folder, rest) if rest else folder for folder in found]
    return out
