# SPDX-License-Identifier: Apache-2.0
"""Which cache directory a block belongs to: the reference client's hash ring, so that both use the same files.

Pure functions. Source: data-path §5.5. Ids are the texts of the `.lock` files; keys are block keys without the
volume's prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import mmh3

_START: Final = 100  # points per directory before balancing
_ROUNDS: Final = 5
_SPACE: Final = 1 << 32


class Ring:
    """The ring of some directories; ids must differ. Immutable: make a new one when a directory goes."""

    def __init__(self, ids: Sequence[str]) -> None:
        if not ids:
            raise ValueError("a ring needs at least one directory")
        self.counts = dict.fromkeys(ids, _START)
        points = _points(self.counts)
        if len(ids) > 1:
            for _ in range(_ROUNDS):
                steps = _steps(self.counts, points)
                if all(d == 1 for d in steps.values()):
                    break
                for name, d in steps.items():
                    if d != 1:  # exactly 1 is not applied
                        self.counts[name] += d
                points = _points(self.counts)
        self._hashes = [h for h, _ in points]
        self._owners = [owner for _, owner in points]

    def owner(self, key: str) -> str:
        """Id of the directory a block key belongs to."""
        at = bisect_left(self._hashes, mmh3.hash(key, 0, signed=False))
        return self._owners[at if at < len(self._owners) else 0]


def legacy_index(key: str, count: int) -> int:
    """Where older clients put a block: FNV-1 (32 bits) of the key modulo the number of sorted directories."""
    value = 0x811C9DC5
    for byte in key.encode():  # about 30 bytes, and only on a miss with several directories
        value = (value * 0x01000193 & 0xFFFFFFFF) ^ byte
    return value % count


def _points(counts: dict[str, int]) -> list[tuple[int, str]]:
    return sorted((mmh3.hash(f"{i}{name}", 0, signed=False), name) for name, n in counts.items() for i in range(n))


def _steps(counts: dict[str, int], points: list[tuple[int, str]]) -> dict[str, int]:
    """How many points each directory should gain or lose: three quarters of its deviation, truncated."""
    arcs = dict.fromkeys(counts, 0)
    before = points[-1][0] - _SPACE  # the first point owns the wrap-around as well
    for value, name in points:
        arcs[name] += value - before
        before = value
    expected = 1 / len(counts)
    return {name: int(c * (expected - arcs[name] / _SPACE) / expected * 0.75) for name, c in counts.items()}
