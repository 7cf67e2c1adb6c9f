# SPDX-License-Identifier: Apache-2.0
"""Sorted listings of directories, kept because Redis hashes have no order: one round trip per page.

A listing may serve the next page only if nothing changed since it was read. Every change of a directory renews its
mtime, except that clients skip that within 100 ms of the last change (format §1.11). So a listing is kept only if the
mtime read with it was at least a second old, and is used only while mtime and number of entries are still the same.
Pure but for the bookkeeping; the caller reads and verifies.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from typing import Final

#: Older than any mtime update that clients skip (100 ms), with room for clocks that differ a little.
SETTLED_S: Final = 1.0
#: Python's price of one entry beside the name's bytes: two bytes objects, list and dictionary slots.
ENTRY_BYTES: Final = 190
MTIME: Final = slice(23, 35)  # of a stored attribute (format §2)


class Listing:
    """One directory at one moment: names in byte order and their 9-byte values."""

    __slots__ = ("cost", "mtime", "names", "values")

    def __init__(self, values: dict[bytes, bytes], attr: bytes | None) -> None:
        self.values = values
        self.names = sorted(values)
        self.mtime = b"" if attr is None else attr[MTIME]
        self.cost = len(values) * ENTRY_BYTES + sum(map(len, self.names))

    def page(self, after: bytes, limit: int) -> list[bytes]:
        start = bisect_right(self.names, after) if after else 0
        return self.names[start : start + limit]

    def settled(self, now_s: float) -> bool:
        """Was the directory's last change long enough ago for its mtime to tell the next one?"""
        if len(self.mtime) != 12:
            return False
        seconds = int.from_bytes(self.mtime[:8], "big", signed=True) + int.from_bytes(self.mtime[8:], "big") / 1e9
        return now_s - seconds >= SETTLED_S

    def still(self, attr: bytes | None, count: int) -> bool:
        return attr is not None and attr[MTIME] == self.mtime and count == len(self.names)


class Listings:
    """The most recently used listings, bounded by the bytes they take."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._used = 0
        self._kept: OrderedDict[int, Listing] = OrderedDict()

    def find(self, ino: int) -> Listing | None:
        listing = self._kept.get(ino)
        if listing is not None:
            self._kept.move_to_end(ino)
        return listing

    def keep(self, ino: int, listing: Listing) -> None:
        self.drop(ino)
        if listing.cost > self._limit:
            return
        self._kept[ino] = listing
        self._used += listing.cost
        while self._used > self._limit:
            self._used -= self._kept.popitem(last=False)[1].cost

    def drop(self, ino: int) -> None:
        if self._kept and (old := self._kept.pop(ino, None)) is not None:
            self._used -= old.cost

    def clear(self) -> None:
        self._kept.clear()
        self._used = 0
