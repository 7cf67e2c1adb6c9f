# SPDX-License-Identifier: Apache-2.0
"""One block to or from the object store: coding, slots, time limits, retries, and what an error says.

The only place of the data path that talks to an `ObjectStore`. Source: data-path §7.4 (upload: retries + 1 attempts,
k² seconds before attempt k), §9.4 and §9.6 (download slots, back-off of (t-1)·300+1 ms), §10 (limits).

Whether trying again helps is a property of the error (`ObjectError.retryable`); a time-out always may be tried again.
A missing object isn't: whoever knows the file's slices must look at them again, because compaction may have
replaced the slice (§9.6); it is reported as `BlockMissing`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from core.chunk.clock import Clock
from core.chunk.encoding import Codec
from core.chunk.link import LinkMeter
from core.chunk.naming import BlockId, block_key
from core.errors import DataCorrupt, FsError, ObjectError, ObjectNotFound
from core.object.api import Buffer, ObjectStore

log = logging.getLogger("sluice.chunk")

# A hop to a thread and back costs 30 µs (uvloop) to 130 µs (asyncio); lz4 and zstd need about that for so many bytes
# (bench/chunk.py codec).
INLINE_ENCODE: Final = 16 << 10
INLINE_DECODE: Final = 64 << 10
MAX_BACKOFF_S: Final = 10.0


class BlockError(FsError):
    """A block couldn't be read or written (EIO; ENOSPC if the store is full); the message names slice, block, key and
    cause. retryable: the store may be back later."""

    def __init__(self, message: str, cause: BaseException | None = None) -> None:
        number, self.retryable = _nature(cause)
        super().__init__(number, message)


class BlockMissing(BlockError):
    """The object of a block doesn't exist. Read the chunk's slices again: compaction may have replaced them."""


class Transfer:
    """Uploads, downloads and deletions of blocks with the limits of one volume in one process."""

    def __init__(
        self,
        objects: ObjectStore,
        codec: Codec,
        *,
        hash_prefix: bool,
        max_uploads: int,
        max_downloads: int,
        get_timeout_s: float,
        put_timeout_s: float,
        retries: int,
        clock: Clock,
    ) -> None:
        self.objects = objects
        self.codec = codec
        self.hash_prefix = hash_prefix
        #: What downloads show of the way to the store.
        self.link = LinkMeter()
        #: Parts of objects can be fetched and mean parts of blocks.
        self.ranges = codec.plain and objects.features.ranges
        #: What is sent is a copy that the store makes: only encryption hides ranges.
        self.copies = not objects.features.ranges
        #: Copies beyond the budget.
        self.copying = asyncio.Semaphore(4)
        self._uploads = asyncio.Semaphore(max(max_uploads, 1))
        #: Blocks that writers have handed over. More than can be sent would only lie in memory that nobody touched
        #: before, and touching it costs 0.5 CPU seconds per GiB (a block that is used again: 0.1).
        self.sending = asyncio.Semaphore(max(max_uploads, 1) + 4)
        self._downloads = asyncio.Semaphore(max_downloads if max_downloads > 0 else 200)
        self._deletes = asyncio.Semaphore(10)  # max-deletes of the reference (§11)
        self._get_timeout_s = get_timeout_s
        self._put_timeout_s = put_timeout_s
        self._retries = max(retries, 0)
        self._clock = clock
        threads = min(4, os.cpu_count() or 1)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="sluice-codec")
        #: Blocks that exist twice, plain and coded: what the threads are at, and what waits for the loop to take it.
        self.coding = asyncio.Semaphore(2 * threads)

    def key(self, block: BlockId) -> str:
        return block_key(*block, self.hash_prefix)

    async def encode(self, data: Buffer) -> Buffer:
        """The object's bytes for a block. The same object as `data` if nothing is compressed."""
        if self.codec.plain or len(data) <= INLINE_ENCODE:
            return self.codec.encode(data)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.codec.encode, data)

    async def put(
        self, block: BlockId, payload: Buffer, give_up: Callable[[], bool] | None = None, *, attempts: int = 0
    ) -> bool:
        """Store an encoded block; raises BlockError after the last attempt. give_up: asked before each new attempt.
        attempts: so many instead of retries + 1.

        True: nobody reads `payload` any more. False (or an exception): an attempt was abandoned and may still be
        reading in a thread, so the memory must never be written again: a late put with other bytes would replace
        the good object.
        """
        key = self.key(block)
        clean = True
        for attempt in range(attempts or self._retries + 1):
            if attempt:
                await self._clock.sleep(attempt**2)
                if give_up is not None and give_up():
                    raise BlockError(f"{_name(block, key)}: upload given up, another block of the slice failed")
            async with self._uploads:
                try:
                    async with asyncio.timeout(self._put_timeout_s):
                        await self.objects.put(key, payload)
                    return clean
                except TimeoutError as e:
                    clean = False
                    cause: Exception = e
                    text = f"no answer from {self.objects.name} within {self._put_timeout_s:g} s"
                except Exception as e:  # the store's own OSErrors count like its ObjectErrors
                    cause = e
                    text = str(e) or type(e).__name__
            if not _may_retry(cause):
                break
            log.warning("%s: upload attempt %d failed: %s", _name(block, key), attempt + 1, text)
        raise BlockError(
            f"{_name(block, key)}: upload failed after {_attempts(attempt + 1)}: {text}{_advice(cause, 'write')}",
            cause,
        ) from cause

    async def get(self, block: BlockId) -> Buffer:
        """A whole plain block. Raises BlockMissing or BlockError."""
        key = self.key(block)
        n = block[2]
        decode = self.codec.decode
        for attempt in range(self._retries + 1):
            if attempt:
                await self._clock.sleep(read_backoff(attempt))
            try:
                async with self._downloads, asyncio.timeout(self._get_timeout_s):
                    raw = await self._metered(key, 0, None)
                if self.codec.plain or n <= INLINE_DECODE:
                    return decode(raw, n)
                async with self.coding:
                    return await asyncio.get_running_loop().run_in_executor(self._threads, decode, raw, n)
            except ObjectNotFound as e:
                raise BlockMissing(f"{_name(block, key)}: the object is missing: {e}") from e
            except TimeoutError as e:
                cause: Exception = e
                text = f"no answer from {self.objects.name} within {self._get_timeout_s:g} s"
            except Exception as e:
                cause = e
                text = str(e) or type(e).__name__
            if not _may_retry(cause):
                break
            log.warning("%s: download attempt %d failed: %s", _name(block, key), attempt + 1, text)
        raise BlockError(
            f"{_name(block, key)}: download failed after {_attempts(attempt + 1)}: {text}{_advice(cause, 'read')}",
            cause,
        ) from cause

    async def get_range(self, block: BlockId, off: int, length: int) -> Buffer | None:
        """Bytes [off, off+length) of a block by one range request, or None if that failed: try `get` (§9.4)."""
        key = self.key(block)
        try:
            async with self._downloads, asyncio.timeout(self._get_timeout_s):
                raw = await self._metered(key, off, length)
        except Exception as e:
            log.debug("%s: range request failed, trying the whole block: %s", _name(block, key), e)
            return None
        return raw if len(raw) == length else None

    async def _metered(self, key: str, off: int, length: int | None) -> Buffer:
        link, n = self.link, 0
        link.begin()
        began = time.monotonic()
        try:
            raw = await self.objects.get(key, off, length)
            n = len(raw)
            return raw
        finally:
            link.end(n, time.monotonic() - began)

    async def delete(self, block: BlockId) -> None:
        """Remove a block; a missing one is fine. Raises ObjectError."""
        key = self.key(block)
        for attempt in range(3):
            if attempt:
                await self._clock.sleep(read_backoff(attempt))
            try:
                async with self._deletes, asyncio.timeout(self._put_timeout_s):
                    await self.objects.delete(key)
                return
            except ObjectNotFound:
                return
            except Exception as e:
                cause = e
                if not _may_retry(e):
                    break
        text = f"no answer within {self._put_timeout_s:g} s" if isinstance(cause, TimeoutError) else str(cause)
        raise ObjectError(f"{_name(block, key)}: deletion failed: {text}") from cause

    def close(self) -> None:
        self._threads.shutdown(wait=False)


def read_backoff(attempt: int) -> float:
    """Seconds to wait before read attempt number `attempt` (the first retry is 1): §9.6."""
    return min((attempt - 1) * 0.3 + 0.001, MAX_BACKOFF_S)


def _nature(cause: BaseException | None) -> tuple[int, bool]:
    """(errno, retryable) of a failure with this cause."""
    at = cause
    while at is not None:
        # A quota of the disk below isn't one that the volume's user could look up: EDQUOT means that one.
        if isinstance(at, OSError) and at.errno in (errno.ENOSPC, errno.EDQUOT):
            return errno.ENOSPC, False
        at = at.__cause__
    if isinstance(cause, DataCorrupt):  # reading again was tried
        return errno.EIO, False
    return errno.EIO, isinstance(cause, TimeoutError | ConnectionError) or bool(getattr(cause, "retryable", False))


def _attempts(n: int) -> str:
    return "1 attempt" if n == 1 else f"{n} attempts"


def _advice(cause: Exception, verb: str) -> str:
    """What to do next, as far as the kind of failure tells."""
    number, retryable = _nature(cause)
    if number == errno.ENOSPC:
        return f"; make room in the store, then {verb} again"
    if isinstance(cause, DataCorrupt):
        return "; if it stays so, the object is damaged: `sluice fsck` lists the files that need it"
    if retryable:
        return f"; see whether the store can be reached and isn't overloaded, then {verb} again"
    return ""  # the store's own message says what it wants


def _may_retry(error: Exception) -> bool:
    return isinstance(error, OSError | TimeoutError) or (isinstance(error, ObjectError) and error.retryable)


def _name(block: BlockId, key: str) -> str:
    return f"slice {block[0]} block {block[1]} ({key})"
