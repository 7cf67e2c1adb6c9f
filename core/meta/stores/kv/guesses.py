# SPDX-License-Identifier: Apache-2.0
"""What keys probably hold: the last this client saw or wrote. Nothing here is believed, only asked for or compared.

A wrong guess costs one more round trip; a right one saves it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

#: Memory for values and keys together; a record of an inode and its entry take about 400 bytes.
_BYTES: Final = 32 << 20
#: Larger values would push out many small ones.
_LARGEST: Final = 64 << 10
_OVERHEAD: Final = 150


class Guesses:
    """Bounded, the oldest goes first (by when it was learned, which is cheap, and good enough for guesses)."""

    def __init__(self, most_bytes: int = _BYTES) -> None:
        self._most = most_bytes
        self._held = 0
        self._known: dict[bytes, tuple[int, bytes | None]] = {}

    def about(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        known = self._known
        return {key: known[key][1] for key in keys if key in known}

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def get(self, key: bytes) -> bytes | None:
        return self._known.get(key, (0, None))[1]

    def learn(self, seen: Mapping[bytes, bytes | None], when: int = 0) -> None:
        """when: grows with the database's commits; a slow read doesn't replace what was seen later. 0: unknown."""
        known = self._known
        for key, value in seen.items():
            old = known.get(key)
            if old is not None:
                if when < old[0] and when:
                    continue
                del known[key]
                self._held -= _OVERHEAD + len(key) + len(old[1] or b"")
            if value is None or len(value) <= _LARGEST:
                known[key] = (when, value)
                self._held += _OVERHEAD + len(key) + len(value or b"")
        while self._held > self._most:
            oldest = next(iter(known))
            self._held -= _OVERHEAD + len(oldest) + len(known.pop(oldest)[1] or b"")

    def clear(self) -> None:
        self._known.clear()
        self._held = 0
