# SPDX-License-Identifier: Apache-2.0
"""Reading blocks: caches first, then the object store, one download per block however many ask.

Source: data-path §9.4 (when a part of a block is fetched), §9.5 (whole blocks ahead for the cache), §9.6 (retries, in
`transfer`). Where the object store is a local folder, small reads are answered by `pread` on the spot.

Unlike the reference, which brings in the whole block after each range request, this waits until half of the block was
fetched in parts: a random reader of 128 KiB pieces would else fetch 32 bytes for each one it uses.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict, deque
from functools import partial
from typing import Final

from core.chunk.api import FileRange
from core.chunk.blockcache import BlockCache
from core.chunk.buffers import MemoryBudget
from core.chunk.localread import pread_nowait
from core.chunk.memcache import MemoryCache
from core.chunk.naming import BlockId
from core.chunk.transfer import BlockError, BlockMissing, Transfer
from core.object.api import Buffer

log = logging.getLogger("sluice.chunk")

#: Objects up to this size are fetched whole and kept in memory: a request costs the same, and packs of small files
#: are read again soon by whoever reads their neighbours.
SMALL_OBJECT: Final = 128 << 10
#: Up to here a read of a local file is cheaper than a thread hop (bench/chunk.py: 64 KiB in 9 µs, a hop 30-130 µs).
INLINE_READ: Final = 64 << 10
#: A look at a local object that took longer (a network file system, whose open is a request) is not repeated for a
#: while: everybody waits for it. As `core.object.file` has it.
SLOW_LOOK_S: Final = 0.02
SLOW_PENALTY_S: Final = 5.0


#: A block of which this share was fetched in parts is worth fetching whole; like renting until buying would have cost
#: as much, it never costs more than three times the best choice, and for pieces at random next to nothing.
WHOLE_SHARE: Final = 2
#: Blocks whose parts are counted; those touched least recently are forgotten.
COUNTED_BLOCKS: Final = 4096


class _Flight:
    """One download, how many wait for it, and what it owes to the memory budget until they have its bytes."""

    __slots__ = ("owed", "task", "waiters")

    task: asyncio.Task[Buffer]

    def __init__(self) -> None:
        self.waiters = 0
        self.owed = 0


class BlockReader:
    """hot: small objects in memory. cache: the configured block cache, or None. What it keeps (§5.7): large_write also
    full blocks that are written; partial_only no full blocks that are read as a whole."""

    def __init__(
        self,
        transfer: Transfer,
        budget: MemoryBudget,
        hot: MemoryCache,
        cache: BlockCache | None,
        *,
        prefetch_workers: int = 1,
        large_write: bool = False,
        partial_only: bool = False,
        block_size: int = 0,
    ) -> None:
        self._transfer = transfer
        self._budget = budget
        self._hot = hot
        self._cache = cache
        self._local = transfer.codec.plain and transfer.objects.features.local_path
        self._slow_until = 0.0
        self._flights: dict[BlockId, _Flight] = {}
        self._prefetch_workers = prefetch_workers
        self._large_write = large_write
        self._full = block_size if partial_only else 0  # blocks of this size are kept only if somebody wanted parts
        self._wanted: deque[BlockId] = deque(maxlen=max(4 * prefetch_workers, 10))
        self._prefetching: set[asyncio.Task[None]] = set()
        self._for_cache: set[BlockId] = set()  # being fetched because the cache shall have them
        self._in_parts: OrderedDict[BlockId, int] = OrderedDict()  # bytes that range requests brought
        #: A part of a block is a request of its own and is there sooner than the block.
        self.ranges = transfer.ranges and not self._local

    def partial(self, block: BlockId) -> bool:
        """Nobody would keep the rest of this block: what isn't wanted needn't be fetched."""
        return (
            self._transfer.ranges and block[2] > SMALL_OBJECT and (self._cache is None or not self._cache.keeps_blocks)
        )

    def read_nowait(self, block: BlockId, off: int, length: int) -> Buffer | None:
        """From memory, or None."""
        found = self._hot.get_nowait(block, off, length)
        if found is None and self._cache is not None:
            found = self._cache.get_nowait(block, off, length)
        return found

    def read_local_nowait(self, block: BlockId, off: int, length: int) -> Buffer | None:
        """From an object that is a local file, if the kernel has these bytes in memory; else None."""
        if not self._local:
            return None
        began = time.monotonic()
        if began < self._slow_until:
            return None
        try:
            return self._read_local(block, off, length)
        finally:
            ended = time.monotonic()
            if ended - began > SLOW_LOOK_S:
                self._slow_until = ended + SLOW_PENALTY_S

    def local_range(self, block: BlockId, off: int, length: int) -> FileRange | None:
        if self._local:
            path = self._transfer.objects.local_path(self._transfer.key(block))
            if path is not None:
                try:
                    # A file that is too short is damaged; `read` says so, sendfile would just stop.
                    return FileRange(path, off, length) if os.stat(path).st_size >= block[2] else None
                except OSError:
                    return None
        return None if self._cache is None else self._cache.local_range(block, off, length)

    async def read(self, block: BlockId, off: int, length: int) -> Buffer:
        """Bytes [off, off+length) of a block. Raises BlockError."""
        found = self.read_nowait(block, off, length)
        if found is not None:
            return found
        if length <= INLINE_READ:
            found = self.read_local_nowait(block, off, length)
            if found is not None:
                return found
        if self._cache is not None:
            found = await self._cache.get(block, off, length)
            if found is not None:
                return found
        if length < block[2] and block not in self._flights and self._wants_range(block, off, length):
            await self._budget.charge_read(length)
            try:
                part = await self._transfer.get_range(block, off, length)
            finally:
                self._budget.release_read(length)
            if part is not None:
                self._fetched_part(block, length)
                return part
        data = await self.fetch(block)
        if length == block[2]:
            return data
        part = memoryview(data)[off : off + length]
        # A part that keeps a whole block alive in somebody's hands would hide it from the budget.
        return part if length * 2 > block[2] else bytes(part)

    async def fetch(self, block: BlockId, *, charged: bool = False) -> Buffer:
        """The whole block from the object store, joining a download that is under way; it goes to the caches.

        charged: the caller has charged its bytes to the memory budget already.
        """
        flight = self._flights.get(block)
        if flight is None:
            flight = self._flights[block] = _Flight()
            flight.task = asyncio.get_running_loop().create_task(self._download(block, flight, charged))
            flight.task.add_done_callback(partial(self._landed, block, flight))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task)
        except BlockError as e:
            # A fresh exception per waiter: they are raised in different tasks.
            raise type(e)(e.strerror or str(e), e) from e.__cause__
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                # Nobody wants it any more. Out of the table first: who comes now must not join a cancelled download.
                self._landed(block, flight)
                flight.task.cancel()
            elif not flight.waiters:
                self._repay(flight)

    async def fetch_part(self, block: BlockId, off: int, length: int) -> Buffer:
        """Bytes [off, off + length) for a read stream, which has charged them: from the disk cache, else by a request
        for exactly these. Raises BlockError."""
        if self._cache is not None:
            found = await self._cache.get(block, off, length)
            if found is not None:
                return found
        if length < block[2]:
            flight = self._flights.get(block)
            part = None if flight is not None else await self._transfer.get_range(block, off, length)
            if part is not None:
                return part
            return bytes(memoryview(await self.fetch(block))[off : off + length])
        return await self.fetch(block, charged=True)

    def prefetch_nowait(self, block: BlockId) -> None:
        """Fetch a whole block for the cache in the background; the oldest wishes are forgotten when too many."""
        cache = self._cache
        if cache is None or not cache.keeps_blocks or not self._prefetch_workers:
            return
        if block in self._flights or block in self._wanted or cache.has(block):
            return
        self._wanted.append(block)
        if len(self._prefetching) < self._prefetch_workers:
            task = asyncio.get_running_loop().create_task(self._prefetch())
            self._prefetching.add(task)
            task.add_done_callback(self._prefetching.discard)

    async def load(self, block: BlockId) -> None:
        """Have a block in the cache (warm-up). Raises BlockError."""
        if self._cache is None or self._cache.has(block):
            return
        data = await self.fetch(block)
        await self._cache.put_wait(block, data if isinstance(data, bytes) else bytes(data))

    def stored(self, block: BlockId, data: Buffer, *, full: bool) -> None:
        """A block was written: keep it if it is small (§5.7; full blocks would push out everything else)."""
        if full and not self._large_write:
            return
        # Where objects are local files, this one is in the kernel's memory already, and is read there: a second file
        # in the cache would cost as much again (200 of the 400 µs that flushing a 4 KiB file took).
        cache = None if self._local else self._cache
        if block[2] > SMALL_OBJECT and (cache is None or not cache.keeps_blocks):
            return
        self._keep(block, data if isinstance(data, bytes) else bytes(data), cache)

    def forget(self, block: BlockId) -> None:
        """A block is being deleted."""
        self._hot.remove(block)
        if self._cache is not None:
            self._cache.remove(block)

    async def close(self) -> None:
        self._wanted.clear()
        tasks: list[asyncio.Task[None] | asyncio.Task[Buffer]] = [*self._prefetching]
        tasks += [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _fetched_part(self, block: BlockId, n: int) -> None:
        if self._cache is None or not self._cache.keeps_blocks:
            return
        counted = self._in_parts
        n += counted.pop(block, 0)
        if n * WHOLE_SHARE >= block[2]:
            self.prefetch_nowait(block)
            return
        counted[block] = n
        if len(counted) > COUNTED_BLOCKS:
            counted.popitem(last=False)

    def _wants_range(self, block: BlockId, off: int, length: int) -> bool:
        if not self._transfer.ranges or block[2] <= SMALL_OBJECT:
            return False
        if self._cache is None or not self._cache.keeps_blocks:
            return True  # nobody would keep the rest
        # Unlike the reference also at the begin of a block: sequences are the business of read streams.
        return length <= block[2] // 4

    def _read_local(self, block: BlockId, off: int, length: int) -> Buffer | None:
        """From the object's own file if the kernel has it at hand; whole and kept if it is small."""
        path = self._transfer.objects.local_path(self._transfer.key(block))
        if path is None:
            return None
        n = block[2]
        if n > INLINE_READ:
            return pread_nowait(path, off, length)
        data = pread_nowait(path, 0, n)
        if data is None:
            return None
        kept = bytes(data)
        self._hot.put(block, kept)
        return kept if length == n else memoryview(kept)[off : off + length]

    async def _download(self, block: BlockId, flight: _Flight, charged: bool) -> Buffer:
        n = block[2]
        if not charged:
            await self._budget.charge_read(n)
            flight.owed = n
        try:
            data = await self._transfer.get(block)
        except BlockMissing:
            # It may wait for its upload on this very machine, put there by another process (§6).
            saved = await self._cache.rescue(block) if self._cache is not None else None
            if saved is None:
                raise
            return saved
        if n <= SMALL_OBJECT or (self._cache is not None and self._cache.keeps_blocks):
            # The cache wants bytes of exactly this length; stores and codecs nearly always return those.
            if not isinstance(data, bytes):
                data = bytes(data)
            self._keep(block, data, self._cache if n != self._full or block in self._for_cache else None)
        return data

    def _keep(self, block: BlockId, data: bytes, cache: BlockCache | None) -> None:
        if block[2] <= SMALL_OBJECT:
            self._hot.put(block, data)
        if cache is not None:
            cache.put(block, data)

    def _landed(self, block: BlockId, flight: _Flight, _: object = None) -> None:
        if self._flights.get(block) is flight:
            del self._flights[block]
        if not flight.task.done():
            return
        if not flight.task.cancelled():
            flight.task.exception()  # seen, even if all waiters left
        if not flight.waiters:
            self._repay(flight)

    def _repay(self, flight: _Flight) -> None:
        if flight.owed:
            self._budget.release_read(flight.owed)
            flight.owed = 0

    async def _prefetch(self) -> None:
        while self._wanted:
            block = self._wanted.popleft()
            # Read-ahead is a courtesy: without free memory it doesn't happen.
            if not self._budget.try_charge(block[2], reclaim=False):
                continue
            self._for_cache.add(block)
            try:
                await self.fetch(block, charged=True)
            except BlockError as e:
                log.debug("prefetch: %s", e)
            finally:
                self._for_cache.discard(block)
                self._budget.release(block[2])
