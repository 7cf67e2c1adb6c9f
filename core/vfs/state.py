# SPDX-License-Identifier: Apache-2.0
"""What this process knows about the content of an open file: its length and where the bytes of each chunk lie.

Shared by all handles of the inode. Other clients change files at any time; an unequal mtime in fresh attributes is how
we notice, so that everything known is forgotten then (metadata-semantics §11). No bytes here.
"""

from __future__ import annotations

from typing import Final

from core.meta.meta import Meta
from core.meta.records import Attr, Slice

#: Chunk lists kept per open file: 16 GiB of it. Beyond that they are read again.
MAX_LISTS: Final = 256


class FileState:
    """length: as committed by anybody, as far as known. Buffered writes come on top (`FileWriter.end`)."""

    def __init__(self, meta: Meta, ino: int, attr: Attr) -> None:
        self.ino = ino
        self.length = attr.length
        self.generation = 0  # moves whenever anything that was known may be wrong; readers compare it
        self.changes = 0  # own commits; attributes that were asked for before one are old
        self._meta = meta
        self._mtime_ns = attr.mtime_ns
        self._lists: dict[int, list[Slice]] = {}

    async def records(self, index: int) -> list[Slice]:
        """Slice records of a chunk (1 trip unless known)."""
        known = self._lists.get(index)
        if known is None:
            generation = self.generation
            known = await self._meta.read_chunk(self.ino, index)
            # A list that was on its way while the file changed serves this read, and no later one.
            if generation == self.generation:
                if len(self._lists) >= MAX_LISTS:
                    self._lists.clear()
                self._lists[index] = known
        return known

    def saw(self, attr: Attr) -> None:
        """Fresh attributes, asked for after every own change that is known here."""
        if attr.mtime_ns != self._mtime_ns or attr.length != self.length:
            self._mtime_ns = attr.mtime_ns
            self.length = attr.length
            self.forget()

    def committed(self, index: int, attr: Attr) -> None:
        """Slices of a chunk were added by us. The mtime isn't taken over: others may have changed other chunks just
        before, and the next fresh attributes must still show that."""
        self.changes += 1
        self.generation += 1
        self.length = attr.length
        self._lists.pop(index, None)

    def resized(self, attr: Attr) -> None:
        self.changes += 1
        self.length = attr.length
        self.forget()

    def forget(self) -> None:
        self.generation += 1
        self._lists.clear()
