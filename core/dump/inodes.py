# SPDX-License-Identifier: Apache-2.0
"""A set of inode numbers that stays small: numbers are handed out in runs, so they are kept as bits.

About one byte an inode where they are dense, 200 bytes where no two are within 512 of each other.
"""

from __future__ import annotations

from typing import Final

_BITS: Final = 9
_MASK: Final = (1 << _BITS) - 1


class InodeSet:
    __slots__ = ("_words",)

    def __init__(self) -> None:
        self._words: dict[int, int] = {}

    def add(self, ino: int) -> bool:
        """False if it was there already."""
        words, word, bit = self._words, ino >> _BITS, 1 << (ino & _MASK)
        old = words.get(word, 0)
        if old & bit:
            return False
        words[word] = old | bit
        return True

    def __contains__(self, ino: int) -> bool:
        return bool(self._words.get(ino >> _BITS, 0) >> (ino & _MASK) & 1)
