# SPDX-License-Identifier: Apache-2.0
"""Chunk records of files that don't exist: found, and released like those of a removed file.

JuiceFS leaves them on Redis: it looks only for the chunks that a removed file's last length tells, and a file that was
cut before has others. An inode number is never used twice, and a file's record comes in the same transaction as its
first chunk or earlier; so what has no inode record when it is asked for after its chunks, isn't open for a session and
isn't being deleted, is nobody's, now and later.
Source: spec metadata-semantics §6.4, §8.2, §8.3, §14.1; format §1.
"""

from __future__ import annotations

from typing import Final

from core.meta import keys as k
from core.meta.data import Data
from core.meta.records import CHUNK_BITS
from core.meta.store import Tx

#: Inodes that are asked for in one trip.
_TOGETHER: Final = 1000
#: Most files that one search returns; the next one finds the others.
MOST_FOUND: Final = 100_000


class Lost(Data):
    """Mixin of `Meta`."""

    async def find_lost(self) -> dict[int, int]:
        """Inodes that don't exist any more but have chunks -> index of the last one. Reads all chunk records."""
        found: dict[int, int] = {}
        asked: dict[int, int] = {}
        async for key, _ in self.store.scan(k.CHUNK):
            asked[key[1]] = max(key[2], asked.get(key[1], 0))
            if len(asked) >= _TOGETHER:
                await self._without_node(asked, found)
        await self._without_node(asked, found)
        if found:
            # Read after the nodes: a file that was removed meanwhile is in the list before its node is gone.
            async for key, _ in self.store.scan(k.DELFILE):
                found.pop(key[1], None)
            async for key, _ in self.store.scan(k.SUSTAINED):
                found.pop(key[2], None)
        return found

    async def _without_node(self, asked: dict[int, int], found: dict[int, int]) -> None:
        inodes = [ino for ino in asked if ino in found or len(found) < MOST_FOUND]
        nodes = await self.store.read(*(k.node(ino) for ino in inodes)) if inodes else []
        for ino, attr in zip(inodes, nodes, strict=True):
            if attr is None:
                found[ino] = max(asked[ino], found.get(ino, 0))
        asked.clear()

    async def release_lost(self, ino: int, last: int) -> bool:
        """Delete chunks up to index `last` of a file that `find_lost` has found; False if there is nothing to delete
        or the inode exists. It is recorded as a removed file first, so that any client finishes an interrupted run."""
        self.require_writable()
        length = (last + 1) << CHUNK_BITS

        async def body(tx: Tx) -> bool:
            attr, raw = await self.store.read(k.node(ino), k.chunk(ino, last))
            if attr is not None or not raw:
                return False
            tx.expect(k.node(ino), None)
            tx.put(k.delfile(ino, length), self.clock_ns() // 1_000_000_000)
            return True

        if not await self.store.transact(body):
            return False
        await self.delete_data(ino, length)
        return True
