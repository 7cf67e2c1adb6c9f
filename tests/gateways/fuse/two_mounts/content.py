# SPDX-License-Identifier: Apache-2.0
"""Bytes whose value follows from where they are: any wrong one is found, and what it is instead can be told.

No byte is zero, so a hole is never mistaken for data. The period is a prime, so no two pages, blocks or chunks that
lie near each other look the same.
"""

from __future__ import annotations

import random
from typing import Final

PERIOD: Final = 1_048_573


class Pattern:
    """The content of an endless file."""

    def __init__(self, seed: int) -> None:
        once = random.Random(seed).randbytes(PERIOD).replace(b"\0", b"\1")
        self._twice = once + once

    def at(self, offset: int, length: int) -> bytes:
        start = offset % PERIOD
        if start + length <= 2 * PERIOD:
            return self._twice[start : start + length]
        first = 2 * PERIOD - start
        return self._twice[start:] + self.at(offset + first, length - first)

    def wrong(self, offset: int, data: bytes) -> str | None:
        """What is wrong with data read at that offset; None if nothing is."""
        expected = self.at(offset, len(data))
        if data == expected:
            return None
        first = next(i for i, (got, want) in enumerate(zip(data, expected, strict=True)) if got != want)
        bad = sum(got != want for got, want in zip(data, expected, strict=True))
        zeros = len(data) - first - len(data[first:].lstrip(b"\0"))
        return (
            f"{bad} of {len(data)} bytes read at {offset} were never written; the first at {offset + first}"
            f" (page offset {(offset + first) % 4096}), {zeros} zeros from there"
        )
