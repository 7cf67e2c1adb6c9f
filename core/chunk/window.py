# SPDX-License-Identifier: Apache-2.0
"""How far ahead of a reader to fetch, judged by what it asked for so far. Pure; no memory, no IO.

Source: data-path §9.3 (a block at the start of a file or of a sequence, doubled while the reader keeps going, halved
when memory is short). Beyond it: after the first step the window grows by four, and only while the reader has to wait,
so that a slow reader holds little; a reader that leaves gaps gets none, because whole blocks would be wasted on it; one
that goes backwards is followed backwards.
"""

from __future__ import annotations

from typing import Final

#: A sequence that uses less than this part of what it runs over is no sequence.
COVERAGE: Final = 0.6
#: Requests downwards in a row, each ending where the one before began, until that is taken for a direction.
DOWNWARDS: Final = 2


class Window:
    """`seen(offset, length)` tells of a request and returns the window in bytes.

    maximum: never more. `direction` is -1 while the reader goes backwards.
    """

    def __init__(self, block_size: int, maximum: int) -> None:
        self.size = 0
        self.direction = 1
        self._block = block_size
        self._max = maximum
        self._last = 0  # where the reader stood after its last request
        self._total = 0  # bytes it read in sequence
        self._from = 0  # where the sequence began
        self._low = 0  # begin of the last request
        self._down = 0  # requests downwards in a row
        self._started = False

    def open(self, size: int) -> None:
        """What is wanted is known: begin with so much."""
        self.size = max(self.size, min(size, self._max))

    def seen(
        self, offset: int, length: int, *, cap: int | None = None, waited: bool = True, short_of_memory: bool = False
    ) -> int:
        """cap: what is allowed at the moment. waited: the reader had to wait for the request before."""
        if self._started and length and offset + length == self._low:
            self._down += 1
        else:
            self._down = 0
        self._low = offset
        if self._down >= DOWNWARDS:
            self._go_down(offset, length)
        else:
            self._go_on(offset, length)
        return self._resize(offset, waited, short_of_memory, self._max if cap is None else min(cap, self._max))

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _go_on(self, offset: int, length: int) -> None:
        forward = self._last <= offset <= self._last + self.size + self._block
        backward = self._last - max(self.size // 8, self._block) <= offset < self._last
        if self.direction < 0 or not self._started or not (forward or backward):
            self._begin(offset)
        self._started = True
        self._total += length
        self._last = max(self._last, offset + length) if backward else offset + length
        span = self._last - self._from
        if span > self._block // 4 and self._total < span * COVERAGE:
            self._begin(offset)
            self._total, self._last = length, offset + length

    def _go_down(self, offset: int, length: int) -> None:
        if self.direction > 0:
            self._begin(offset)
            self.direction = -1
        self._total += length
        self._last = offset + length

    def _begin(self, offset: int) -> None:
        self.size, self._total, self._from, self.direction = 0, 0, offset, 1

    def _resize(self, offset: int, waited: bool, short: bool, cap: int) -> int:
        if not self.size:
            # A first read in the middle says nothing yet; its neighbour does.
            going = self.direction < 0 or offset == 0 or self._from < offset
            if going and self._max >= self._block:
                self.size = self._block
        elif short or self.size > max(cap, self._block):
            # One block is left as long as there is memory for it: without it each request would be a fetch.
            self.size = max(self.size // 2, self._block)
        elif waited and self.size < cap:
            # Carefully at first; who came back for the second block goes on, and each step costs a round trip.
            self.size = min(self.size * (2 if self.size < 2 * self._block else 4), cap)
        return self.size
