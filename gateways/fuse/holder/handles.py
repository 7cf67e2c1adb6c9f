# SPDX-License-Identifier: Apache-2.0
"""Open handles in shared memory: fixed slots that a process can be killed over at any instruction.

A slot is free or valid by one aligned 8-byte word, which is stored last when a handle opens and first when it closes.
A single store of that size either happened or didn't, so a scan after a crash sees whole handles only.

    slot (32 bytes, native byte order): u64 mark = generation << 1 | valid | u64 ino | u32 flags | u32 directory | u64 0

The number that clients know is generation << 32 | slot + 1: a late request with the number of a closed handle never
reaches the one that took its slot.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from typing import Final

from core.errors import FsError
from core.vfs.keeper import KeptHandle

SLOT: Final = 32
#: Native sizes: the packer then copies whole words, other modes store byte by byte.
_REST: Final = struct.Struct("@QII")
_WHOLE: Final = struct.Struct("@QQIIQ")
_GENERATIONS: Final = 0x7FFFFFFF


class HandleSlots:
    """high: one-word view of the number of slots that were ever used, so that a scan needn't touch the others."""

    def __init__(self, memory: memoryview, high: memoryview) -> None:
        self._memory = memory
        self._marks = memory.cast("Q")
        self._high = high
        self._capacity = len(memory) // SLOT
        self._used = min(int(high[0]), self._capacity)
        self._free: list[int] = []
        self._kept: list[KeptHandle] = []
        for slot, (mark, ino, flags, directory, _) in enumerate(_WHOLE.iter_unpack(memory[: self._used * SLOT])):
            if mark & 1:
                self._kept.append(KeptHandle(_number(mark >> 1, slot), ino, flags, bool(directory)))
            else:
                self._free.append(slot)
        self._open = len(self._kept)

    def __len__(self) -> int:
        """Open now."""
        return self._open

    def opened(self, ino: int, flags: int, directory: bool) -> int:
        if self._free:
            slot = self._free.pop()
        elif self._used < self._capacity:
            slot = self._used
            self._used += 1
            self._high[0] = self._used
        else:
            raise FsError(errno.EMFILE, f"{self._open} handles are open, and there is room for no more; close some")
        word = slot * (SLOT // 8)
        generation = ((self._marks[word] >> 1) + 1) & _GENERATIONS
        _REST.pack_into(self._memory, slot * SLOT + 8, ino, flags & 0xFFFFFFFF, directory)
        self._marks[word] = generation << 1 | 1
        self._open += 1
        return generation << 32 | slot + 1

    def closed(self, fh: int) -> None:
        """A number that isn't open is ignored: the same release may come twice after a crash."""
        slot = (fh & 0xFFFFFFFF) - 1
        if not 0 <= slot < self._used:
            return
        word = slot * (SLOT // 8)
        if self._marks[word] == (fh >> 32) << 1 | 1:
            self._marks[word] = (fh >> 32) << 1
            self._free.append(slot)
            self._open -= 1

    def handles(self) -> Iterator[KeptHandle]:
        """What earlier processes opened."""
        return iter(self._kept)

    def release(self) -> None:
        self._kept.clear()
        for view in (self._marks, self._memory, self._high):
            view.release()


def _number(generation: int, slot: int) -> int:
    return generation << 32 | slot + 1
