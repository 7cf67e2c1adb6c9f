# SPDX-License-Identifier: Apache-2.0
"""What a block cache is: plain blocks by (slice id, index, length), lost at any time, never wrong.

Blocks are immutable and ids are never used again, so nothing in a cache can be outdated; invalidation is only for
space. Errors of a cache are its own affair: it logs them, answers None and the object store is asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from core.chunk.api import FileRange
from core.chunk.buffers import MemoryBudget
from core.chunk.naming import BlockId
from core.object.api import Buffer


class BlockCache(ABC):
    """Nothing here raises. Methods that aren't coroutines never wait."""

    #: Keeps blocks of any size, and whole blocks are worth fetching ahead for it.
    keeps_blocks: bool = True

    def attach(self, budget: MemoryBudget) -> None:  # noqa: B027 - optional
        """Called once by the slice store: memory used from now on is charged there."""

    async def start(self) -> None:  # noqa: B027 - optional
        """Begin work that needs threads or disks."""

    @abstractmethod
    def get_nowait(self, block: BlockId, off: int, length: int) -> Buffer | None:
        """Bytes [off, off+length) of a block if they lie in memory."""

    @abstractmethod
    async def get(self, block: BlockId, off: int, length: int) -> Buffer | None:
        """Bytes [off, off+length) of a block, or None."""

    @abstractmethod
    def put(self, block: BlockId, data: bytes) -> bool:
        """Keep a whole block; False: dropped (no room, too busy). The cache may keep `data` itself."""

    async def put_wait(self, block: BlockId, data: bytes) -> bool:
        """Keep a whole block, waiting for a full queue (warm-up)."""
        return self.put(block, data)

    @abstractmethod
    def has(self, block: BlockId) -> bool:
        """Is it there, as far as can be told without IO?"""

    def local_range(self, block: BlockId, off: int, length: int) -> FileRange | None:
        """A local file with these bytes, verified. The file may vanish before it is opened: read then."""
        return None

    @abstractmethod
    def remove(self, block: BlockId) -> None:
        """Drop a block to save space; one that waits for its upload stays."""

    async def discard(self, block: BlockId) -> None:
        """The block is deleted for good: drop it, also if it waits for its upload."""
        self.remove(block)

    def is_pinned(self, block: BlockId) -> bool:
        """Does it wait for its upload? Then `remove` leaves it alone."""
        return False

    async def rescue(self, block: BlockId) -> Buffer | None:
        """A whole block that the object store doesn't have; perhaps another process has staged it on this machine."""
        return None

    async def close(self) -> None:  # noqa: B027 - optional
        """Stop threads. What is on disk stays."""
