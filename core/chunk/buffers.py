# SPDX-License-Identifier: Apache-2.0
"""Memory of the data path: one budget for everything, and a pool of block-sized buffers under it.

Event-loop only, no threads. Write buffers, compressed copies, downloads, read-ahead and the memory cache all charge
the same `MemoryBudget`, so that its limit is the truth (design §8, promise 5).

Progress is guaranteed in three ways:
- A waiter is served in order of arrival as soon as memory is returned; caches give theirs back first.
- Downloads somebody waits for have a small reserve of their own, so that a reader gets on while writers that may
  wait for that very reader hold everything. A download ends by itself (timeouts), so the reserve always comes back.
- `overdraft` is for the one who must own more memory before it can return any.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

#: Asked to free about n bytes; frees by `MemoryBudget.release`.
Reclaimer = Callable[[int], None]


class MemoryBudget:
    """Counts bytes. `limit` may be passed only by overdrafts, by the read reserve and by one oversized charge."""

    def __init__(self, limit: int, read_reserve: int = 0) -> None:
        if limit <= 0:
            raise ValueError("a memory budget needs at least one byte")
        self.limit = limit
        self.read_reserve = read_reserve
        self.used = 0
        self.reads = 0  # part of `used` that belongs to downloads somebody waits for
        self._reclaimers: list[Reclaimer] = []
        self._reclaiming = False
        self._readers: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._writers: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def has_waiters(self) -> bool:
        return bool(self._readers or self._writers)

    def add_reclaimer(self, reclaim: Reclaimer) -> None:
        """`reclaim(n)` is called when n bytes are missing; caches shrink there."""
        self._reclaimers.append(reclaim)

    def try_charge(self, n: int, *, reclaim: bool = True) -> bool:
        """Charge n bytes if they are free and nobody waits for memory. Without reclaim: caches keep theirs."""
        if self._writers or self._readers:
            return False
        return self._take(n, reclaim)

    def overdraft(self, n: int) -> None:
        """Charge n bytes at once, whatever the limit says."""
        self.used += n

    async def charge(self, n: int) -> None:
        """Charge n bytes; waits until they are free."""
        if not self.try_charge(n):
            await self._wait(self._writers, n, self.release)

    async def charge_read(self, n: int) -> None:
        """Charge a download somebody waits for; return it with `release_read`."""
        if self._readers or not self._take_read(n):
            await self._wait(self._readers, n, self.release_read)

    def release(self, n: int) -> None:
        self.used -= n
        if (self._readers or self._writers) and not self._reclaiming:
            self._wake()

    def release_read(self, n: int) -> None:
        self.reads -= n
        self.release(n)

    def _take(self, n: int, reclaim: bool = True) -> bool:
        missing = self.used + n - self.limit
        if missing > 0 and reclaim:
            self._reclaiming = True  # what caches return now is for us, not for the next in the queue
            for ask in self._reclaimers:
                ask(missing)
                missing = self.used + n - self.limit
                if missing <= 0:
                    break
            self._reclaiming = False
        # A single charge beyond the limit would otherwise wait forever.
        if missing > 0 and self.used:
            return False
        self.used += n
        return True

    def _take_read(self, n: int) -> bool:
        if self._take(n):
            self.reads += n
            return True
        if self.reads == 0 or self.reads + n <= self.read_reserve:
            self.used += n
            self.reads += n
            return True
        return False

    async def _wait(
        self, queue: deque[tuple[int, asyncio.Future[None]]], n: int, give_back: Callable[[int], None]
    ) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        item = (n, future)
        queue.append(item)
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                give_back(n)  # granted in the moment of the cancellation
            else:
                with suppress(ValueError):
                    queue.remove(item)
                self._wake()  # the next one may be smaller
            raise

    def _wake(self) -> None:
        for queue, take in ((self._readers, self._take_read), (self._writers, self._take)):
            while queue:
                n, future = queue[0]
                if not future.done():  # else cancelled
                    if not take(n):
                        break
                    future.set_result(None)
                queue.popleft()


class BufferPool:
    """Buffers to write into; block-sized ones are used again, which spares clearing and page faults of 4 MiB.

    `spare_bytes` is what isn't charged, so take it off the budget's limit: up to half of it lies idle here, the rest is
    for what nobody counts, such as what sockets take at a time and what codecs work with.
    """

    def __init__(self, block_size: int, budget: MemoryBudget, spare_bytes: int) -> None:
        self.block_size = block_size
        self.budget = budget
        self._keep = -(-spare_bytes // block_size // 2)
        self._idle: list[bytearray] = []

    async def acquire(self, size: int = 0) -> bytearray:
        """A buffer of `size` bytes (default: the block size) with any content. Waits for memory."""
        size = size or self.block_size
        await self.budget.charge(size)
        return self._new(size)

    def acquire_overdraft(self, size: int) -> bytearray:
        """The same at once, for a caller that can't return what it has before it gets this."""
        self.budget.overdraft(size)
        return self._new(size)

    def release(self, buffer: bytearray, *, reuse: bool = True) -> None:
        """Return a buffer. reuse=False: somebody may still be reading it (an abandoned upload), so nobody writes
        into it again."""
        size = len(buffer)
        if reuse and size == self.block_size and len(self._idle) < self._keep:
            self._idle.append(buffer)
        self.budget.release(size)

    def _new(self, size: int) -> bytearray:
        if size == self.block_size and self._idle:
            return self._idle.pop()
        return bytearray(size)
