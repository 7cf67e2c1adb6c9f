# SPDX-License-Identifier: Apache-2.0
"""The data path of one volume in one process: slices in, bytes out.

Puts the parts together: writer and packer on the way in, reader and caches on the way out, one memory budget under
all of them. Contract: `core.chunk.api.SliceStore`; facts: data-path §7-§11.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from core.chunk.api import Durability, FileRange, NewSliceId, Piece
from core.chunk.blockcache import BlockCache
from core.chunk.buffers import BufferPool, MemoryBudget
from core.chunk.clock import Clock, SystemClock
from core.chunk.diskcache import DiskCache
from core.chunk.encoding import codec_for
from core.chunk.malloc import return_large_blocks
from core.chunk.memcache import MemoryCache
from core.chunk.naming import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, BlockId, iter_blocks
from core.chunk.packer import COMPANY_REMOTE, IN_FLIGHT_LOCAL, IN_FLIGHT_REMOTE, Packer
from core.chunk.reader import SMALL_OBJECT, BlockReader
from core.chunk.readpool import ReadPool
from core.chunk.sink import BlockSink
from core.chunk.staging import StagedSink, Staging, StagingOptions
from core.chunk.transfer import BlockError, Transfer
from core.chunk.writer import BlockSliceWriter, first_buffer_size
from core.errors import ConfigError, FsError, ObjectError
from core.object.api import Buffer, ObjectStore

log = logging.getLogger("sluice.chunk")


class BlockSliceStore:
    """A `SliceStore` over an object store that holds the volume (prefix, shards and encryption already applied).

    cache: whole blocks on disk or in memory; small objects are kept in memory in any case. memory_budget: bytes for
    everything together, caches included; at least 8 blocks. share_slices: pack small pieces of several files together.
    retries: of uploads and downloads, beside the first try. staging: blocks are acknowledged when they are on the disks
    of `cache` (a `DiskCache`). cache_large_write, cache_partial_only: see `BlockReader`. max_readahead: see
    `ReadPool`.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        block_size: int,
        compression: str,
        hash_prefix: bool,
        new_slice_id: NewSliceId,
        cache: BlockCache | None = None,
        memory_budget: int = 300 << 20,
        max_uploads: int = 20,
        max_downloads: int = 200,
        get_timeout_s: float = 60,
        put_timeout_s: float = 60,
        retries: int = 10,
        clock: Clock | None = None,
        prefetch: int = 1,
        max_packs: int | None = None,
        share_slices: bool = True,
        staging: StagingOptions | None = None,
        cache_large_write: bool = False,
        cache_partial_only: bool = False,
        max_readahead: int | None = None,
    ) -> None:
        if block_size & (block_size - 1) or not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE:
            raise ConfigError(f"block size {block_size} is no power of two between 64 KiB and 16 MiB")
        memory_budget = max(memory_budget, 8 * block_size)
        return_large_blocks()
        spare = memory_budget // 8 // block_size * block_size
        self.block_size = block_size
        self.objects = objects
        #: Most bytes ahead of one sequential reader; None: as many as pay.
        self.max_readahead = max_readahead
        #: Layers above charge their own buffers here as well.
        self.budget = MemoryBudget(memory_budget - spare, read_reserve=2 * block_size)
        self.pool = BufferPool(block_size, self.budget, spare)
        self.cache = cache
        # A quarter for small objects; it shrinks whenever somebody needs memory.
        hot = MemoryCache(memory_budget // 4, max_block=SMALL_OBJECT)
        hot.attach(self.budget)
        if cache is not None:
            cache.attach(self.budget)
        self._transfer = Transfer(
            objects,
            codec_for(compression),
            hash_prefix=hash_prefix,
            max_uploads=max_uploads,
            max_downloads=max_downloads,
            get_timeout_s=get_timeout_s,
            put_timeout_s=put_timeout_s,
            retries=retries,
            clock=clock or SystemClock(),
        )
        self.reader = BlockReader(
            self._transfer,
            self.budget,
            hot,
            cache,
            prefetch_workers=prefetch,
            large_write=cache_large_write,
            partial_only=cache_partial_only,
            block_size=block_size,
        )
        self.streams = ReadPool(self.budget, block_size, self._transfer.link, maximum=max_readahead)
        self._new_slice_id = new_slice_id
        # A writer that runs ahead of a local disk only fills fresh memory, and clearing 4 MiB costs as much as writing
        # them: with 16 blocks under way 64 MiB took 1.5 to 3 times as long as with 4 (bench/chunk.py write). Far away
        # all of a slice's blocks may travel together.
        self._max_in_flight = min(max(max_uploads, 1), 4 if objects.features.local_path else 16)
        company = 1
        if max_packs is None:
            max_packs = IN_FLIGHT_LOCAL if objects.features.local_path else IN_FLIGHT_REMOTE
            company = 1 if objects.features.local_path or not share_slices else COMPANY_REMOTE
        if not share_slices:
            max_packs = max_uploads

        def packer(sink: BlockSink, most: int) -> Packer:
            return Packer(
                sink,
                self.budget,
                new_slice_id,
                block_size,
                self._pack_stored,
                most,
                share=share_slices,
                company=company if sink is self._transfer else 1,
            )

        self._packer = packer(self._transfer, max_packs)
        #: What writes are by default.
        self.durability = Durability.STORED
        self.staging: Staging | None = None
        self._sinks: dict[Durability, BlockSink] = dict.fromkeys(Durability, self._transfer)
        self._packers = dict.fromkeys(Durability, self._packer)
        if staging is not None:
            if not isinstance(cache, DiskCache):
                raise ConfigError("--writeback needs a disk cache: give --cache-dir and a --cache-size above 0")
            self.durability = Durability.STAGED
            self.staging = Staging(
                cache,
                self._transfer,
                self.budget,
                staging,
                max_uploads=max_uploads,
                put_timeout_s=put_timeout_s,
                clock=clock or SystemClock(),
            )
            sink = StagedSink(self.staging, self._transfer, self.budget)
            self._sinks[Durability.STAGED] = sink
            self._packers[Durability.STAGED] = packer(sink, IN_FLIGHT_LOCAL if share_slices else max_uploads)
        self._shift = block_size.bit_length() - 1
        self._mask = block_size - 1
        self._hot = hot
        self._local = self._transfer.codec.plain and objects.features.local_path

    async def start(self) -> None:
        """Start the cache's threads. Without it the store works, uncached."""
        if self.cache is not None:
            await self.cache.start()
        if self.staging is not None:
            await self.staging.start()

    async def close(self) -> None:
        for packer in set(self._packers.values()):
            await packer.close()
        if self.staging is not None:
            await self.staging.close()
        await self.reader.close()
        if self.cache is not None:
            await self.cache.close()
        self._transfer.close()

    # -- writing ----------------------------------------------------------------------------------------------------

    async def writer(self, size_hint: int | None = None, durability: Durability | None = None) -> BlockSliceWriter:
        """Start a slice. Waits while the memory budget is used up. size_hint: expected length, saves memory if it is
        less than a block; the slice may become longer."""
        buffer = await self.pool.acquire(first_buffer_size(size_hint, self.block_size))
        return BlockSliceWriter(
            self._sinks[durability or self.durability],
            self.pool,
            self._new_slice_id,
            buffer,
            self._block_stored,
            self.reader.forget,
            self._max_in_flight,
        )

    async def pack(self, data: Buffer, durability: Durability | None = None) -> Piece:
        return await self._packers[durability or self.durability].pack(data)

    def begin_pack(self, data: Buffer, durability: Durability | None = None) -> asyncio.Future[Piece]:
        """`pack` for who needs no task that waits."""
        return self._packers[durability or self.durability].begin(data)

    async def forget(self, piece: Piece) -> None:
        """A piece that will never be committed. Alone in its slice: the objects are deleted (best effort).

        One of several: nothing can be done here, because the others may be registered already with a count that
        includes this piece. The count stays one too high, so the object lives until gc finds that nobody uses it;
        too low would be the end of the neighbours' data, and that never happens.
        """
        if piece.refs != 1 or not piece.id:
            return
        try:
            await self.remove(piece.id, piece.size)
        except ObjectError as e:
            log.warning("%s; left for gc", e)

    # -- reading ----------------------------------------------------------------------------------------------------

    def read_cached(self, slice_id: int, size: int, off: int, length: int) -> Buffer | None:
        index = off >> self._shift
        start = index << self._shift
        n = size - start
        if n > self.block_size:
            n = self.block_size
        off -= start
        if length <= 0 or off < 0 or off + length > n:
            return None
        return self.reader.read_nowait((slice_id, index, n), off, length)

    def read_local_nowait(self, slice_id: int, size: int, off: int, length: int) -> Buffer | None:
        """A range of one block from the file that is its object, if that is local and in the kernel's memory."""
        index = off >> self._shift
        start = index << self._shift
        n = min(size - start, self.block_size)
        off -= start
        if not self._local or length <= 0 or off < 0 or off + length > n:
            return None
        return self.reader.read_local_nowait((slice_id, index, n), off, length)

    def local_range(self, slice_id: int, size: int, off: int, length: int) -> FileRange | None:
        """The file may be deleted (gc, eviction) before it is opened; read the bytes then."""
        if not self._local and self.cache is None:
            return None
        index = off >> self._shift
        start = index << self._shift
        n = min(size - start, self.block_size)
        off -= start
        if length <= 0 or off < 0 or off + length > n:
            return None
        return self.reader.local_range((slice_id, index, n), off, length)

    async def read(self, slice_id: int, size: int, off: int, length: int) -> Buffer:
        """Raises `BlockMissing` (an EIO) if the slice's object is gone: look at the chunk's slices again then."""
        if length <= 0:
            return b""
        if not slice_id:
            return bytes(length)
        if off < 0 or off + length > size:
            raise FsError(
                errno.EIO, f"slice {slice_id}: bytes {off}+{length} lie outside its {size} bytes; the record is damaged"
            )
        index = off >> self._shift
        if (off + length - 1) >> self._shift == index:
            start = index << self._shift
            return await self.reader.read((slice_id, index, min(size - start, self.block_size)), off - start, length)
        return await self._read_blocks(slice_id, size, off, length)

    async def prefetch(self, slice_id: int, size: int, off: int, length: int) -> None:
        if not slice_id or length <= 0:
            return
        for block in iter_blocks(slice_id, size, self.block_size):
            start = block[1] << self._shift
            if start < off + length and start + block[2] > off:
                try:
                    await self.reader.load(block)
                except BlockError as e:
                    log.debug("prefetch: %s", e)

    # -- the end of a slice -----------------------------------------------------------------------------------------

    async def remove(self, slice_id: int, size: int) -> None:
        blocks = list(iter_blocks(slice_id, size, self.block_size))
        for block in blocks:
            self.reader.forget(block)
        if len(blocks) == 1:
            await self._delete(blocks[0])
            return
        results = await asyncio.gather(*map(self._delete, blocks), return_exceptions=True)
        failures = [r for r in results if isinstance(r, BaseException)]
        if failures:
            # All were tried; one message is enough to say why.
            raise failures[0]

    # -- helpers ----------------------------------------------------------------------------------------------------

    async def _delete(self, block: BlockId) -> None:
        """Everywhere: also where it waits for its upload, on the disks of this client."""
        if self.staging is None and self.cache is not None:
            await self.cache.discard(block)
        await self._sinks[Durability.STAGED].delete(block)

    async def _read_blocks(self, slice_id: int, size: int, off: int, length: int) -> Buffer:
        """A range over several blocks, fetched together and joined."""
        out = memoryview(bytearray(length))

        async def part(index: int) -> None:
            start = index << self._shift
            n = min(size - start, self.block_size)
            low, high = max(off - start, 0), min(off + length - start, n)
            at = start + low - off
            out[at : at + high - low] = await self.reader.read((slice_id, index, n), low, high - low)

        last = (off + length - 1) >> self._shift
        tasks = [asyncio.ensure_future(part(index)) for index in range(off >> self._shift, last + 1)]
        try:
            await asyncio.gather(*tasks)
        finally:
            # On an error or a cancellation the others end before the buffer goes.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return out

    def _block_stored(self, block: BlockId, view: memoryview) -> None:
        self.reader.stored(block, view, full=block[2] == self.block_size)

    def _pack_stored(self, block: BlockId, data: bytes) -> None:
        self.reader.stored(block, data, full=block[2] == self.block_size)
