# SPDX-License-Identifier: Apache-2.0
"""Ties `Metrics` to an opened volume: what its parts do is counted from outside, by wrappers on this one client's
objects. A client without metrics (a command, a test) pays nothing.

Costs, measured: 0.9 µs per metadata operation, 0.3 µs per look into the cache, 1 µs per object request.
Source: cli §11.2.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from core.chunk.diskcache import DiskCache
from core.errors import Conflict, ObjectError, ObjectNotFound
from core.meta.meta import Meta
from core.object.api import Buffer, ObjectInfo, ObjectStore
from core.object.buffers import total
from core.object.hedged import find_hedges
from core.vfs.internal.metrics import Metrics
from core.vfs.vfs import VFS
from core.volume import Volume

#: Operations of `Meta` that a request of a client leads to; the method's name in the metrics is the same.
META_OPERATIONS: Final = (
    "lookup", "getattr", "setattr", "mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename", "readdir",
    "readlink", "check_open", "open_for_reading", "opendir", "read_chunk", "read_chunks", "record_slices",
    "append_pieces", "truncate", "tmpfile", "fallocate", "copy_file_range", "getxattr", "setxattr", "listxattr",
    "removexattr", "flock", "setlk", "getlk", "statfs", "publish", "clone", "remove_tree", "summary", "tree_summary",
)  # fmt: skip
#: Entries of a page after which others get their turn; the kernel's own listings take fewer.
_FULL_PAGE: Final = 1000


def instrument(volume: Volume, metrics: Metrics, vfs: VFS | None = None) -> None:
    """Count from now on. Once per volume."""
    _meta(volume.meta, metrics)
    transfer = volume.slices._transfer
    transfer.objects = CountedStore(transfer.objects, metrics)
    _cache(volume, metrics)
    _gauges(volume, metrics, vfs)


def _meta(meta: Meta, metrics: Metrics) -> None:
    for name in META_OPERATIONS:
        method = getattr(meta, name, None)
        if method is not None:
            setattr(meta, name, _timed(_fair(method) if name == "readdir" else method, name, metrics))
    store = meta.store
    transact, commit = store.transact, store.commit
    now = time.perf_counter

    async def timed_transact(body: Any) -> Any:
        start = now()
        try:
            return await transact(body)
        finally:
            metrics.transactions.observe(now() - start)

    async def counted_commit(checks: Any, writes: Any) -> Any:
        try:
            return await commit(checks, writes)
        except Conflict:
            metrics.transaction_restarts += 1
            raise

    setattr(store, "transact", timed_transact)  # noqa: B010 - mypy forbids the plain assignment to a method
    setattr(store, "commit", counted_commit)  # noqa: B010


def _fair(readdir: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A database in this process answers without a turn of the loop: who lists a huge directory page by page (`info`
    looks for names) must not keep everybody else waiting."""

    async def fair(*args: Any, **kwargs: Any) -> Any:
        page = await readdir(*args, **kwargs)
        if len(page) >= _FULL_PAGE:
            await asyncio.sleep(0)
        return page

    return fair


def _timed(method: Callable[..., Awaitable[Any]], name: str, metrics: Metrics) -> Callable[..., Awaitable[Any]]:
    operation, now = metrics.meta_method(name), time.perf_counter
    cells, buckets = metrics.meta_ops.cells, metrics.meta_ops.buckets

    async def timed(*args: Any, **kwargs: Any) -> Any:
        start = now()
        try:
            return await method(*args, **kwargs)
        finally:
            seconds = now() - start
            operation.count += 1
            operation.seconds += seconds
            cells[bisect_left(buckets, seconds)] += 1

    return timed


def _cache(volume: Volume, metrics: Metrics) -> None:
    """Hits wherever a block lies in memory or on disk; misses are what had to be fetched from the object store."""
    reader, cache, cells = volume.slices.reader, volume.slices.cache, metrics.cache
    read_nowait, now = reader.read_nowait, time.perf_counter

    def counted_read(block: Any, off: int, length: int) -> Any:
        found = read_nowait(block, off, length)
        if found is not None:
            cells["hits"] += 1
            cells["hit_bytes"] += length
        return found

    setattr(reader, "read_nowait", counted_read)  # noqa: B010
    if cache is None:
        return
    get, put = cache.get, cache.put

    async def counted_get(block: Any, off: int, length: int) -> Any:
        start = now()
        found = await get(block, off, length)
        if found is None:
            return None
        metrics.cache_read.observe(now() - start)
        cells["hits"] += 1
        cells["hit_bytes"] += length
        return found

    def counted_put(block: Any, data: bytes) -> bool:
        start = now()
        known = cache.has(block)
        kept = put(block, data)
        if kept:
            metrics.cache_write.observe(now() - start)
            cells["writes"] += 1
            cells["write_bytes"] += len(data)
        elif not known:
            cells["drops"] += 1
        return kept

    setattr(cache, "get", counted_get)  # noqa: B010
    setattr(cache, "put", counted_put)  # noqa: B010
    if isinstance(cache, DiskCache):
        for folder in cache._all:
            _evictions(folder, metrics)


def _evictions(folder: Any, metrics: Metrics) -> None:
    evict = folder.evict

    def counted() -> None:
        before = folder.index.items
        evict()
        metrics.cache["evicts"] += max(0, before - folder.index.items)

    folder.evict = counted


def _gauges(volume: Volume, metrics: Metrics, vfs: VFS | None) -> None:
    meta, slices, cache = volume.meta, volume.slices, volume.slices.cache
    gauges = metrics.gauges
    # What the last heartbeat and our own changes say; asking the database is not for a file that is read every second.
    gauges["used_space"] = lambda: max(0, meta._used_space)
    gauges["used_inodes"] = lambda: max(0, meta._used_inodes)
    gauges["total_space"] = lambda: meta.capacity
    gauges["total_inodes"] = lambda: meta.max_inodes
    gauges["used_buffer_size_bytes"] = lambda: slices.budget.used
    gauges["used_read_buffer_size_bytes"] = lambda: slices.budget.reads
    gauges["store_cache_size_bytes"] = lambda: slices._hot.used
    gauges["fuse_open_handlers"] = lambda: sum(meta.open_files.values())
    if (scrub := volume.scrub) is not None:
        gauges["scrub_blocks"] = lambda: scrub.blocks
        gauges["scrub_bytes"] = lambda: scrub.bytes
        gauges["scrub_faults"] = lambda: scrub.faults
    if (hedges := find_hedges(volume.objects)) is not None:
        gauges["object_request_hedged"] = lambda: hedges.counts().hedged
        gauges["object_request_hedges_won"] = lambda: hedges.counts().won
        gauges["object_request_hedges_denied"] = lambda: hedges.counts().denied
    folders = cache._all if isinstance(cache, DiskCache) else []
    gauges["blockcache_blocks"] = lambda: sum(f.index.items for f in folders)
    gauges["blockcache_bytes"] = lambda: sum(f.index.used for f in folders)
    staging = slices.staging
    if staging is not None:
        gauges["staging_blocks"] = lambda: staging.blocks
        gauges["staging_block_bytes"] = lambda: staging.bytes
        gauges["staging_writing_blocks"] = lambda: staging.writing
        metrics.staging = staging
    else:  # nothing is acknowledged here before it is uploaded
        for name in ("staging_blocks", "staging_block_bytes", "staging_writing_blocks"):
            gauges[name] = lambda: 0


class CountedStore(ObjectStore):
    """Requests, their time and their bytes. A missing object is an answer, no error."""

    def __init__(self, store: ObjectStore, metrics: Metrics) -> None:
        self.store = store
        self.name = store.name
        self.features = store.features
        self._metrics = metrics

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        self._metrics.object_uploading += 1
        try:
            await self._counted("PUT", self.store.put(key, data), total(data))
        finally:
            self._metrics.object_uploading -= 1

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        data: Buffer = await self._counted("GET", self.store.get(key, start, length))
        size = total(data)
        self._metrics.object_bytes["GET"] += size
        cells = self._metrics.cache
        cells["miss"] += 1
        cells["miss_bytes"] += size
        return data

    async def delete(self, key: str) -> None:
        await self._counted("DELETE", self.store.delete(key))

    async def head(self, key: str) -> ObjectInfo:
        info: ObjectInfo = await self._counted("HEAD", self.store.head(key))
        return info

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        return self.store.list(prefix, after)

    async def create(self) -> None:
        await self.store.create()

    async def close(self) -> None:
        await self.store.close()

    def local_path(self, key: str) -> str | None:
        return self.store.local_path(key)

    async def _counted(self, method: str, request: Awaitable[Any], size: int = 0) -> Any:
        start = time.perf_counter()
        done = 0
        try:
            answer = await request
            done = size
            return answer
        except ObjectNotFound:
            raise
        except (ObjectError, OSError):
            self._metrics.object_errors += 1
            raise
        finally:
            self._metrics.object_request(method, time.perf_counter() - start, done)
