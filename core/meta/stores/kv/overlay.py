# SPDX-License-Identifier: Apache-2.0
"""What a group of commits sees while it is put together: the transaction's values under the writes of earlier members.

Pure. A member that can't be judged here (it needs something the group has made unknowable, or there is no room left)
is told to come again with the next group (`Later`).
"""

from __future__ import annotations

from typing import NamedTuple

from core.meta.stores.kv.driver import Limits, Pair, Range, Transaction


class Later(Exception):
    """This member doesn't fit into the present group; its effects so far are undone."""


class Mark(NamedTuple):
    """A point to return to."""

    writes: dict[bytes, bytes | None]
    wipes: int
    lines: int
    size: int


class Overlay:
    def __init__(self, tx: Transaction, limits: Limits) -> None:
        self.tx = tx
        self.writes: dict[bytes, bytes | None] = {}
        self.wipes: list[tuple[bytes, bytes]] = []
        self.lines: list[bytes] = []
        self._size = 0
        self._limits = limits

    @property
    def dirty(self) -> bool:
        return bool(self.writes or self.wipes or self.lines)

    # -- members -------------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        return Mark(dict(self.writes), len(self.wipes), len(self.lines), self._size)

    def undo(self, mark: Mark) -> None:
        self.writes, self._size = mark.writes, mark.size
        del self.wipes[mark.wipes :], self.lines[mark.lines :]

    def require_room(self, mark: Mark) -> None:
        """Later, if what has been written since `mark` is too much beside what was there before."""
        limits = self._limits
        full = (
            (limits.writes and len(self.writes) + len(self.wipes) + len(self.lines) > limits.writes)
            or (limits.bytes and self._size > limits.bytes)
            or len(self.lines) > limits.log_lines
        )
        if full and (mark.writes or mark.wipes or mark.lines):
            raise Later

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        if key in self.writes:
            return self.writes[key]
        if self._wiped(key):
            return None
        try:
            return self.tx.values[key]
        except KeyError:
            raise Later from None

    def range(self, where: Range) -> list[Pair]:
        """As the database would answer now."""
        start, end, limit, keys_only = where
        found = dict(self.tx.ranges[where]) if where in self.tx.ranges else None
        if found is None:
            raise Later
        complete = not limit or len(found) < limit
        wiped = [key for key in found if self._wiped(key)]
        if wiped and not complete:
            raise Later
        for key in wiped:
            del found[key]
        for key, value in self.writes.items():
            if start <= key < end:
                if value is None:
                    if found.pop(key, None) is not None and not complete:
                        raise Later  # what lies behind it was not read
                else:
                    found[key] = b"" if keys_only else value
        pairs = sorted(found.items())
        return pairs[:limit] if limit else pairs

    def _wiped(self, key: bytes) -> bool:
        return any(start <= key < end for start, end in self.wipes)

    # -- writing -------------------------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes | None) -> None:
        if self._wiped(key):
            if value is None:
                return
            raise Later  # one transaction can't wipe a range and write into it
        self._size += len(key) + len(value or b"")
        self.writes[key] = value

    def wipe(self, start: bytes, end: bytes) -> None:
        for key in [key for key in self.writes if start <= key < end]:
            del self.writes[key]
        self._size += len(start) + len(end)
        self.wipes.append((start, end))

    def log(self, line: bytes) -> None:
        if not self._limits.log_lines:
            return  # a store without a change log
        self._size += len(line) + 32
        self.lines.append(line)
