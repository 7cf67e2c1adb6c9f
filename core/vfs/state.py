# SPDX-License-Identifier: Apache-2.0
"""What this process knows about the content of an open file: its length and where the bytes of each chunk lie.

Shared by all handles of the inode. Other clients change files at any time; an unequal mtime or length, in fresh
attributes or in what an own commit found, is how we notice, so that everything known is forgotten then
(metadata-semantics §11). No bytes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from core.meta.meta import Meta
from core.meta.recording import Recorded
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, Attr, Slice
from core.meta.slices import pieces_for

#: Chunk lists kept per open file: 16 GiB of it. Beyond that they are read again.
MAX_LISTS: Final = 256

#: mtime and length of a file: what tells that its content changed.
Version = tuple[int, int]


#: What pages and attributes above us agree with.
Views = tuple[Version | None, Version | None]


class Commits:
    """Counts the changes that this process made to any file or noticed, so that answers to questions from before one
    can be told."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class FileState:
    """length: as committed by anybody, as far as known. Buffered writes come on top (`FileWriter.end`).

    seen: the version that pages above us (the kernel's) agree with, told: the one that attributes do; None if that
    isn't known. They follow our own changes, and stay behind when somebody else changed the file. foreign_s: when that
    was noticed last. solid: bytes [0, solid) surely are no hole.
    """

    def __init__(
        self, meta: Meta, ino: int, attr: Attr, commits: Commits, views: Views = (None, None)
    ) -> None:  # fmt: skip
        self.ino = ino
        self.attr = attr
        self.length = attr.length
        self.generation = 0  # moves whenever anything that was known may be wrong; readers compare it
        self.changed_at = commits.count  # attributes that were asked for before are old
        self.seen, self.told = views
        self.foreign_s = float("-inf")
        self.solid = 0
        self._commits = commits
        self._meta = meta
        self._mtime_ns = attr.mtime_ns
        self._lists: dict[int, list[Slice]] = {}
        self._pieces: dict[int, Sequence[Slice]] = {}  # gapless, up to the end of the file

    @property
    def version(self) -> Version:
        return (self._mtime_ns, self.length)

    @property
    def blocks(self) -> int | None:
        """512-byte blocks in use if there is surely no hole."""
        return (self.length + 511) >> 9 if self.solid >= self.length else None

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
                    self._pieces.clear()
                self._lists[index] = known
        return known

    def learn(self, index: int, records: list[Slice]) -> None:
        """They came together with the attributes that this was made of."""
        self._lists[index] = records

    def pieces_nowait(self, index: int) -> Sequence[Slice] | None:
        """Visible pieces of a chunk up to the end of the file, if its list is known."""
        pieces = self._pieces.get(index)
        if pieces is None and (known := self._lists.get(index)) is not None:
            pieces = self._pieces[index] = pieces_for(known, 0, min(CHUNK_SIZE, self.length - index * CHUNK_SIZE))
        return pieces

    def saw(self, attr: Attr) -> bool:
        """Fresh attributes, asked for after every own change that is known here. True: somebody else changed the
        content."""
        self.attr = attr
        if attr.mtime_ns == self._mtime_ns and attr.length == self.length:
            return False
        self._mtime_ns = attr.mtime_ns
        self._set_length(attr.length)
        self.solid = 0
        # Whoever asked before this and gets its answer later must not turn it back.
        self._commits.count += 1
        self.changed_at = self._commits.count
        self.forget()
        return True

    def committed(self, recorded: Recorded, start: int, end: int) -> bool:
        """Slices were added by us, without a gap over file offsets [start, end), perhaps elsewhere in the same chunk.
        True: somebody else had changed the content before."""
        before, after = recorded.before, recorded.after
        foreign = before is None or before.mtime_ns != self._mtime_ns or before.length != self.length
        self._own_change(after, foreign)
        if foreign:
            self.solid = 0
            self.forget()
        else:
            self.generation += 1
            for index in range(start >> CHUNK_BITS, (end - 1 >> CHUNK_BITS) + 1):
                self._lists.pop(index, None)
            self._pieces.clear()  # they end where the file did
        if start <= self.solid:
            self.solid = max(self.solid, end)
        return foreign

    def resized(self, attr: Attr) -> None:
        """Truncated, or made of other pieces, by us."""
        self._own_change(attr, True)
        self.told = self.version  # the answer says so
        # Whether somebody else changed it just before isn't known, unless nothing is left of that.
        self.seen = None if attr.length else self.version
        self.forget()

    def touched(self, attr: Attr) -> bool:
        """Attributes were set by us, times perhaps. True: the length says that somebody else changed the content."""
        if attr.length != self.length:
            return self.saw(attr)
        self.attr = attr
        if attr.mtime_ns != self._mtime_ns:
            self._mtime_ns = attr.mtime_ns
            # Whether somebody else changed it just before isn't known, unless nothing is left of that.
            self.seen = None if attr.length else self.version
            self.forget()
        return False

    def punched(self, start: int) -> None:
        """There may be a hole from this offset on."""
        self.solid = min(self.solid, start)

    def forget(self) -> None:
        self.generation += 1
        self._lists.clear()
        self._pieces.clear()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _own_change(self, attr: Attr, foreign: bool) -> None:
        self._commits.count += 1
        self.changed_at = self._commits.count
        agreed = self.seen == self.version and not foreign
        agreed_told = self.told == self.version and not foreign
        self.attr = attr
        self._mtime_ns = attr.mtime_ns
        self._set_length(attr.length)
        if agreed:
            self.seen = self.version
        if agreed_told:
            self.told = self.version

    def _set_length(self, length: int) -> None:
        self.length = length
        self.solid = min(self.solid, length)
