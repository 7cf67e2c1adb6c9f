# SPDX-License-Identifier: Apache-2.0
"""Acknowledged bytes that aren't recorded yet, in a ring of shared memory that outlives a killed writer.

Entries lie one behind the other between two positions, `tail` and `head`, which only grow (a place in the ring is the
position modulo its size). An entry exists as soon as `head` has passed it, which is one 8-byte store after all of it is
written; it is gone when its mark says so, which is another. So whatever instruction a writer dies at, a scan from tail
to head finds every entry that was acknowledged, whole, and nothing else.

    entry: u64 size << 8 | mark | u64 token | u64 ino | u64 offset | u64 request | u32 length | u32 magic | bytes
           size counts header and padding, a multiple of 64; mark: 1 live, 2 gone, 3 filler up to the end of the ring,
           4 withdrawn: given back before anything else was taken, so its request was never served

What is oldest is rarely what is recorded last, so an entry that holds up the tail is copied to the head (same token;
of two, a scan takes one) as long as a good part of the ring is dead. One copy of the bytes per write, no search.
Only kills of the process are survived, not of the machine: the memory belongs to a process.
"""

from __future__ import annotations

import logging
import struct
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Final

from core.vfs.keeper import KeptWrite

log = logging.getLogger("sluice.fuse.keeper")

_HEADER: Final = struct.Struct("@QQQQQII")
HEADER: Final = _HEADER.size
_ALIGN: Final = 64
_MAGIC: Final = 0x534C5547
_LIVE, _GONE, _FILLER, _WITHDRAWN = 1, 2, 3, 4
#: Below so many live bytes per ring, room is made by moving what is old.
_CROWDED: Final = 0.6
#: Bytes that one call moves at most; more is left to the next.
_MOST_MOVED: Final = 4 << 20
#: An empty ring begins anew at its first byte once it went further than this, so that small loads stay in the CPU's
#: cache and touch little memory.
_REWIND: Final = 1 << 20


class WriteLog:
    """positions: two words, [head, tail]."""

    def __init__(self, memory: memoryview, positions: memoryview) -> None:
        self._memory = memory
        self._words = memory.cast("Q")
        self._positions = positions
        self._size = len(memory)
        # Stays free, so that what holds up the tail can be moved.
        self._reserve = min(self._size // 16, (1 << 20) + 4096)
        self._head: int = positions[0]
        self._tail: int = positions[1]
        self._moved: dict[int, int] = {}  # token -> position, of entries that lie elsewhere than their token says
        self._live_bytes = 0
        self._live = 0
        self._latest = 0  # token of the latest write, if nothing has happened since
        self._old: dict[tuple[int, int, int, int], deque[int]] = defaultdict(deque)  # not adopted yet
        self._kept: list[tuple[int, int, int, int, int, int]] = []
        self._requests: set[int] = set()
        # Requests that an earlier process took and didn't answer come again, perhaps after yet another process has
        # recorded and not answered them. So what is recorded stays in sight until `settled`.
        self._holding = self._tail < self._head
        self._scan()

    def __len__(self) -> int:
        """Entries that are live."""
        return self._live

    @property
    def live_bytes(self) -> int:
        """What they take, headers and padding counted."""
        return self._live_bytes

    # -- writing ----------------------------------------------------------------------------------------------------

    def wrote(self, ino: int, offset: int, data: memoryview, request: int) -> int:
        length = len(data)
        if self._old and (tokens := self._old.get((ino, offset, length, request))):
            # A kept write on its way through the VFS again: it is here already, and its place in the order counts.
            token = tokens.popleft()
            if not tokens:
                del self._old[ino, offset, length, request]
            return token
        size = (HEADER + length + _ALIGN - 1) & -_ALIGN
        place = self._head % self._size
        rest = self._size - place
        need = size if size <= rest else size + rest
        if need > self._size - self._reserve - (self._head - self._tail) and not self._make_room(size):
            return 0
        head = self._head
        place = head % self._size
        if self._size - place < size:
            head = self._fill(head, place)
            place = 0
        token = head + 1
        _HEADER.pack_into(self._memory, place, size << 8 | _LIVE, token, ino, offset, request, length, _MAGIC)
        self._memory[place + HEADER : place + HEADER + length] = data
        self._positions[0] = self._head = head + size
        self._live_bytes += size
        self._live += 1
        self._latest = token
        return token

    def recorded(self, token: int) -> None:
        """A token that isn't live is ignored. One that comes back at once was not recorded but withdrawn."""
        latest, self._latest = self._latest, 0
        position = self._moved.pop(token, token - 1) if self._moved else token - 1
        if not self._tail <= position < self._head:
            return
        place = position % self._size
        word = self._words[place >> 3]
        if word & 0xFF != _LIVE or self._words[(place >> 3) + 1] != token:
            return
        self._words[place >> 3] = word ^ (_LIVE ^ (_WITHDRAWN if token == latest else _GONE))
        self._live_bytes -= word >> 8
        self._live -= 1
        if position == self._tail:
            self._advance()

    # -- after a crash ----------------------------------------------------------------------------------------------

    def writes(self) -> Iterator[KeptWrite]:
        """What earlier processes took and nobody has recorded, oldest first. The bytes stay in place until their token
        is `recorded`: who writes them again through `wrote` (same inode, offset and length) gets that token."""
        for _, ino, offset, request, length, place in self._kept:
            yield KeptWrite(ino, offset, self._memory[place + HEADER : place + HEADER + length], request)

    def has_write(self, request: int) -> bool:
        return request in self._requests

    def replayed(self) -> int:
        """Every kept write was written again or given up: what nobody asked a token for goes. Returns how many."""
        left = [token for tokens in self._old.values() for token in tokens]
        self._old.clear()
        self._kept.clear()
        for token in left:
            self.recorded(token)
        return len(left)

    def settled(self) -> None:
        """Requests of earlier processes have been asked again and answered: they may be forgotten."""
        if self._holding:
            self._holding = False
            self._advance()

    def release(self) -> None:
        for view in (self._words, self._memory, self._positions):
            view.release()

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _fill(self, head: int, place: int) -> int:
        """Filler up to the end of the ring; the position behind it."""
        rest = self._size - place
        _HEADER.pack_into(self._memory, place, rest << 8 | _FILLER, 0, 0, 0, 0, 0, _MAGIC)
        return head + rest

    def _advance(self) -> None:
        """Move the tail over what is gone."""
        if self._holding:
            return
        tail, head, size, words = self._tail, self._head, self._size, self._words
        while tail < head:
            word = words[(tail % size) >> 3]
            if word & 0xFF == _LIVE:
                break
            tail += word >> 8
        if tail == head and head % size > _REWIND:
            # Tail first: whoever looks in between finds tail > head, which is an empty ring too.
            tail += size - head % size
            self._positions[1] = self._tail = tail
            self._positions[0] = self._head = tail
            return
        self._positions[1] = self._tail = tail

    def _make_room(self, size: int) -> bool:
        """Copy what holds up the tail to the head until `size` bytes fit in one piece."""
        self.settled()  # whoever fills the log has answered much since it began
        budget = _MOST_MOVED
        while True:
            place = self._head % self._size
            rest = self._size - place
            free = self._size - (self._head - self._tail)
            if free - self._reserve >= (size if size <= rest else size + rest):
                return True
            if budget <= 0 or self._live_bytes + size > self._size * _CROWDED:
                return False
            at = self._tail % self._size
            word = self._words[at >> 3]
            old = word >> 8
            if free < (old if old <= rest else old + rest):
                return False
            head = self._fill(self._head, place) if old > rest else self._head
            to = head % self._size
            self._memory[to : to + old] = self._memory[at : at + old]
            token = self._words[(to >> 3) + 1]
            self._positions[0] = self._head = head + old
            # Both are live for a moment, with one token between them.
            self._moved[token] = head
            self._words[at >> 3] = word ^ (_LIVE ^ _GONE)
            self._advance()
            budget -= old

    def _scan(self) -> None:
        if self._tail > self._head:  # died while it began anew
            self._positions[0] = self._head = self._tail
        found: dict[int, int] = {}  # token -> position
        position, size, words = self._tail, self._size, self._words
        while position < self._head:
            place = position % size
            word, token, ino, offset, request, length, magic = _HEADER.unpack_from(self._memory, place)
            step, mark = word >> 8, word & 0xFF
            if magic != _MAGIC or step <= 0 or step % _ALIGN or place + step > size or mark not in (1, 2, 3, 4):
                # Never seen; better to lose what can't be read than to write rubbish into a file.
                log.critical(
                    "the log of unrecorded writes is damaged at %d; what was taken after that is lost", position
                )
                self._positions[0] = self._head = position
                break
            if mark == _LIVE:
                if token in found:  # copied, and the original not yet struck out
                    old = found[token] % size
                    words[old >> 3] = words[old >> 3] ^ (_LIVE ^ _GONE)
                found[token] = position
            if mark in (_LIVE, _GONE):
                # Also of those that are recorded: the kernel may not have heard of it.
                self._requests.add(request)
            position += step
        for token, position in sorted(found.items()):
            place = position % size
            word, _, ino, offset, request, length, _ = _HEADER.unpack_from(self._memory, place)
            self._kept.append((token, ino, offset, request, length, place))
            self._old[ino, offset, length, request].append(token)
            self._live_bytes += word >> 8
            self._live += 1
            if position != token - 1:
                self._moved[token] = position
        self._advance()
