# SPDX-License-Identifier: Apache-2.0
"""The algebra of POSIX record locks: one owner's ranges, what a request makes of them, who is in its way.

Pure functions over lists of `Range` and their stored form. A list is sorted by start, without overlaps, and neighbours
of equal kind and process that touch are one range. `end` is inclusive; the end of the file is a number that the kernel
gives (2^63-1 or 2^64-1) and nothing special here.
Source: format §4.6 (record, list, conflict), semantics §10.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["R", "W", "U"]

#: Who holds a lock: session and, within it, the number that the kernel or the door calls the lock's owner.
Holder = tuple[int, int]

MAX_OFFSET: Final = 2**64 - 1

# offset 0  u32 type | 4 u32 process | 8 u64 start | 16 u64 end (inclusive), big endian
_RECORD: Final = struct.Struct(">IIQQ")

#: We write Linux's numbers. Other platforms write theirs (macOS and Windows: 3 is a write lock, Windows: 2 a read
#: lock); their 1 means a read lock but is Linux's write lock, and the stricter reading is the safe one.
_CODES: Final = {"R": 0, "W": 1}
_KINDS: Final[dict[int, Kind]] = {0: "R", 1: "W", 2: "R", 3: "W"}


class Range(NamedTuple):
    """One locked range of one owner."""

    kind: Kind
    pid: int
    start: int
    end: int


def decode(raw: bytes) -> list[Range]:
    """Ranges of a stored list. ValueError for bytes that are none."""
    if len(raw) % _RECORD.size:
        raise ValueError(f"lock list of {len(raw)} bytes is no multiple of {_RECORD.size}")
    found = []
    for code, pid, start, end in _RECORD.iter_unpack(raw):
        kind = _KINDS.get(code)
        if kind is None:
            raise ValueError(f"lock record of unknown type {code}")
        found.append(Range(kind, pid, start, end))
    return found


def encode(ranges: Iterable[Range]) -> bytes:
    return b"".join([_RECORD.pack(_CODES[r.kind], r.pid, r.start, r.end) for r in ranges])


def apply(ranges: Iterable[Range], kind: Kind, pid: int, start: int, end: int) -> list[Range]:
    """One owner's ranges after it locked or unlocked [start, end]: what is covered is replaced, the rest stays."""
    pieces = []
    for r in ranges:
        if r.end < start or r.start > end:
            pieces.append(r)
            continue
        if r.start < start:
            pieces.append(r._replace(end=start - 1))
        if r.end > end:
            pieces.append(r._replace(start=end + 1))
    if kind != "U":
        pieces.append(Range(kind, pid, start, end))
    pieces.sort(key=lambda r: r.start)
    merged: list[Range] = []
    for r in pieces:
        last = merged[-1] if merged else None
        if last is not None and last.end + 1 == r.start and (last.kind, last.pid) == (r.kind, r.pid):
            merged[-1] = last._replace(end=r.end)
        else:
            merged.append(r)
    return merged


def clash(kind: Kind, start: int, end: int, other: Kind, other_start: int, other_end: int) -> bool:
    """Do two requests of different owners exclude each other?"""
    return "W" in (kind, other) and start <= other_end and other_start <= end


def conflicts(
    table: Mapping[Holder, bytes], me: Holder, kind: Kind, start: int, end: int
) -> list[tuple[Holder, Range]]:
    """Ranges of others that stand in the way of a request, by start."""
    found = [
        (holder, r)
        for holder, raw in table.items()
        if holder != me
        for r in decode(raw)
        if clash(kind, start, end, r.kind, r.start, r.end)
    ]
    found.sort(key=lambda item: (item[1].start, item[0]))
    return found
