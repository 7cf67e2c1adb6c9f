# SPDX-License-Identifier: Apache-2.0
"""One open directory: pages of entries, and positions in it that stay true while names come and go.

A position (telldir) is `ordinal << 32 | crc32(name)` of the last entry that was returned; ordinals are handed out once,
so a position means the same for as long as the listing is open. The names behind recent ordinals are kept; older ones
are found again by the checksum, within the page they came from. A position of another process (a mount that was taken
over, an NFS server) is found by its checksum alone. Entries come in the order of names, and a page is read from the
name where the last one ended, so removing and creating names never makes another name appear twice or not at all.
Positions below 2^32 are those of the entries that every directory has. Pure: `directories` does the reading.
Source: readdir(3), telldir(3); metadata-semantics §4.8.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple
from zlib import crc32

from core.meta.store import DirEntry

#: Entries of the first page, of the second, of all later ones: small directories are common, large ones are read whole.
PAGES: Final = (256, 1024, 2048)
#: Names kept of pages that were passed, so that a program can go back to any of them.
KEPT_NAMES: Final = 65_536
#: What was read ahead is used for so long, as the kernel would keep the attributes.
FRESH_S: Final = 1.0

_MASK: Final = 0xFFFFFFFF


def position(ordinal: int, name: bytes) -> int:
    return (ordinal & 0x7FFFFFFF) << 32 | crc32(name)


class Fixed(NamedTuple):
    """An entry that isn't stored: `.`, `..`, special files. type: S_IFMT >> 12."""

    name: bytes
    ino: int
    type: int


class Page:
    """Entries that were read together. names: None when they had to make room."""

    __slots__ = ("after", "count", "first", "names")

    def __init__(self, first: int, after: bytes, names: list[bytes]) -> None:
        self.first = first
        self.after = after
        self.count = len(names)
        self.names: list[bytes] | None = names


class Listing:
    """State of one directory handle."""

    __slots__ = (
        "after", "complete", "dead", "entries", "first", "fixed", "gone", "ino", "loads", "next_ordinal", "pages",
        "plus", "read_at", "since", "touched",
    )  # fmt: skip

    def __init__(self, ino: int) -> None:
        self.ino = ino  # of the volume
        self.fixed: list[Fixed] = []
        self.rewind()

    def rewind(self) -> None:
        """rewinddir: everything is read again."""
        self.pages: list[Page] = []
        self.next_ordinal = 1
        self.loads = 0
        self.gone = False
        self.forget()

    def forget(self) -> None:
        """What was read ahead is old."""
        self.entries: Sequence[DirEntry] = ()
        self.after = b""  # the name before them
        self.first = 0  # ordinal of the first of them
        self.complete = False  # nothing comes after them
        self.plus = False  # they have attributes
        self.read_at = 0.0
        self.since = 0  # the VFS's own changes at that time
        self.dead: set[bytes] = set()  # removed since
        self.touched: set[int] = set()  # inodes whose attributes changed since

    def shrink(self) -> None:
        """Nobody reads on for now: all that is kept is where the pages are."""
        self.forget()
        for page in self.pages:
            page.names = None

    # -- pages -------------------------------------------------------------------------------------------------------

    @property
    def page_size(self) -> int:
        return PAGES[min(self.loads, len(PAGES) - 1)]

    def loaded(
        self, after: bytes, entries: Sequence[DirEntry], limit: int, plus: bool, asked: tuple[float, int]
    ) -> None:
        """A page was read. asked: time, and the VFS's own changes, when it was asked for."""
        self.forget()
        self.entries = entries
        self.after = after
        self.first = self.next_ordinal
        self.next_ordinal += len(entries)
        self.complete = len(entries) < limit
        self.plus = plus
        self.read_at, self.since = asked
        self.loads += 1
        if entries:
            self.pages.append(Page(self.first, after, [e.name for e in entries]))
            self._make_room()

    def _make_room(self) -> None:
        kept = 0
        for page in reversed(self.pages):
            if page.names is None:
                break
            kept += page.count
            if kept > KEPT_NAMES and page is not self.pages[-1]:
                page.names = None

    def live_from(self, index: int) -> int:
        """The next entry, from `index` on, that wasn't removed meanwhile."""
        if self.dead:
            while index < len(self.entries) and self.entries[index].name in self.dead:
                index += 1
        return index

    # -- positions ---------------------------------------------------------------------------------------------------

    def index_of(self, offset: int) -> int | None:
        """Where in what was read ahead the listing goes on after `offset`; None if it isn't there."""
        index = (offset >> 32) - self.first
        if self.entries and 0 <= index < len(self.entries) and crc32(self.entries[index].name) == offset & _MASK:
            return index + 1
        return None

    def name_at(self, offset: int) -> tuple[bytes | None, Page | None]:
        """The name that a position stands for, or the page in which to look for it; neither: it isn't ours."""
        ordinal = offset >> 32
        at = bisect_right(self.pages, ordinal, key=lambda page: page.first) - 1
        if at < 0:
            return None, None
        page = self.pages[at]
        index = ordinal - page.first
        if index >= page.count:
            return None, None
        if page.names is None:
            return None, page
        name = page.names[index]
        return (name, page) if crc32(name) == offset & _MASK else (None, None)

    # -- changes by this mount ---------------------------------------------------------------------------------------

    def _find(self, name: bytes) -> bool:
        at = bisect_left(self.entries, name, key=lambda e: e.name)
        return at < len(self.entries) and self.entries[at].name == name

    def removed(self, name: bytes) -> None:
        if self.entries and self._find(name):
            self.dead.add(name)

    def replaced(self, name: bytes) -> None:
        """Another node may have the name: what was read ahead of it must not be shown."""
        if self.entries and self._find(name):
            self.read_at = float("-inf")


def same_position(names: Sequence[DirEntry], offset: int) -> int | None:
    """Index of the entry whose name has the checksum of a position."""
    wanted = offset & _MASK
    return next((at for at, e in enumerate(names) if crc32(e.name) == wanted), None)
