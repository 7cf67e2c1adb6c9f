# SPDX-License-Identifier: Apache-2.0
"""Slices of chunks: which bytes of a 64 MiB chunk come from which slice, and which of them are worth merging.

Pure functions over `core.meta.records.Slice`; no IO, no clock. Later records hide earlier ones, id 0 means zeros,
what no record covers reads as zeros. Source: metadata-semantics §6.1 (overlay), §6.4 (truncate), §6.5 (zero
ranges), §6.6 (copied ranges), §7.2 (what a compaction merges), data-path §8.

`chunk_size` is an argument only so that tests can work with small chunks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from core.meta.records import CHUNK_SIZE, Slice

_position = itemgetter(0)

#: A range of a file to copy from: chunk index -> records, offset in the file, length.
Part = tuple[Mapping[int, Sequence[Slice]], int, int]


def zeros(pos: int, length: int) -> Slice:
    """A record of zero bytes."""
    return Slice(pos, 0, 0, 0, length)


def cut(s: Slice, start: int, end: int) -> Slice:
    """The part of a record within [start, end) of its chunk; the caller knows that they overlap."""
    pos = max(s.pos, start)
    length = min(s.pos + s.length, end) - pos
    return Slice(pos, s.id, s.size, s.off + pos - s.pos if s.id else 0, length)


def flatten(records: Iterable[Slice]) -> list[Slice]:
    """What a reader sees: pieces in order from position 0 on, without overlap or gap; holes have id 0.

    Nothing follows the last piece: the rest of the chunk up to the file's length reads as zeros.
    """
    visible = _overlay(records)
    out: list[Slice] = []
    end = 0
    for piece in visible:
        if piece.pos > end:
            out.append(zeros(end, piece.pos - end))
        out.append(piece)
        end = piece.pos + piece.length
    return out


def clip(flat: Sequence[Slice], start: int, end: int) -> list[Slice]:
    """The pieces of a flattened chunk within [start, end), zeros after the last one included."""
    if start >= end:
        return []
    first = max(bisect_right(flat, start, key=_position) - 1, 0)
    out: list[Slice] = []
    at = start
    for piece in flat[first:]:
        if piece.pos >= end:
            break
        if piece.pos + piece.length > start:
            out.append(piece if piece.pos >= start and piece.pos + piece.length <= end else cut(piece, start, end))
            at = out[-1].pos + out[-1].length
    if at < end:
        out.append(zeros(at, end - at))
    return out


def pieces_for(records: Sequence[Slice], start: int, end: int) -> list[Slice]:
    """The visible pieces of bytes [start, end) of a chunk; together they have exactly end - start bytes."""
    if len(records) == 1:  # by far the most frequent chunk: one slice
        s = records[0]
        if s.pos <= start < end <= s.pos + s.length:
            return [cut(s, start, end)]
    return clip(flatten(records), start, end)


def visible_end(records: Iterable[Slice]) -> int:
    """Position after the last byte that some record covers."""
    return max((s.pos + s.length for s in records), default=0)


# -- changes that move no data --------------------------------------------------------------------------------------


def truncate_records(
    old: int, new: int, existing_chunks: Collection[int], *, chunk_size: int = CHUNK_SIZE
) -> dict[int, Slice]:
    """Zero records to append when a file's length changes from old to new, in either direction: index -> record.

    They cover [min, max) of both lengths, so that whatever lies behind the end stays hidden when the file grows again.
    Chunks in the middle get one only if they have a record already; the first and the last always (§6.4).
    """
    low, high = min(old, new), max(old, new)
    if low == high:
        return {}
    first, pos = divmod(low, chunk_size)
    last, rest = divmod(high, chunk_size)
    out = {first: zeros(pos, min(high - low, chunk_size - pos))}
    for index in sorted(i for i in existing_chunks if first < i < last):
        out[index] = zeros(0, chunk_size)
    if last > first and rest:
        out[last] = zeros(0, rest)
    return out


def zero_records(start: int, end: int, *, chunk_size: int = CHUNK_SIZE) -> dict[int, Slice]:
    """Zero records over bytes [start, end) of a file, split at chunk borders (punch hole, zero range; §6.5)."""
    out: dict[int, Slice] = {}
    at = start
    while at < end:
        index, pos = divmod(at, chunk_size)
        length = min(end - at, chunk_size - pos)
        out[index] = zeros(pos, length)
        at += length
    return out


def assemble(
    parts: Iterable[Part], *, start: int = 0, keep_holes: bool = False, chunk_size: int = CHUNK_SIZE
) -> dict[int, list[Slice]]:
    """Chunk lists of a file that holds ranges of other files one after another, from offset `start` on.

    Each part is (source chunk lists, offset, length); the length is the caller's to clip to the source's.
    Neighbouring pieces of one slice become one record. keep_holes: write zero records for holes, needed when the
    destination already has data there (copy_file_range); a new file doesn't need them.
    Every record with an id is one more reference to its slice, see `count_references`.
    """
    out: dict[int, list[Slice]] = {}
    at = start
    for chunks, offset, length in parts:
        end = offset + length
        first, last = offset // chunk_size, (end - 1) // chunk_size
        # Without holes only existing chunks matter: a sparse file may have 2^31 of them.
        indexes = range(first, last + 1) if keep_holes else sorted(i for i in chunks if first <= i <= last)
        for index in indexes if length > 0 else ():
            base = index * chunk_size
            low, high = max(offset - base, 0), min(end - base, chunk_size)
            for piece in pieces_for(chunks.get(index, ()), low, high):
                if piece.id or keep_holes:
                    _place(out, piece, at + base + piece.pos - offset, chunk_size)
        at += length
    return out


def count_references(chunks: Mapping[int, Iterable[Slice]]) -> list[tuple[int, int, int]]:
    """(slice id, size, number of records that use it) of chunk lists, holes left out."""
    uses = Counter((s.id, s.size) for records in chunks.values() for s in records if s.id)
    return [(slice_id, size, n) for (slice_id, size), n in uses.items()]


# -- compaction -----------------------------------------------------------------------------------------------------

#: A compaction takes so many records at most, and leaves large ones at the front alone (§7.2).
MAX_MERGED: Final = 1000
_SKIP_LENGTH: Final = 1 << 20
_SKIP_SHARE: Final = 5


class Merge(NamedTuple):
    """What one compaction of a chunk does: records [skipped, skipped + merged) become one of `size` bytes at `pos`.

    pieces: what the new slice consists of, gapless. All zeros (one piece with id 0): no slice is needed.
    """

    skipped: int
    merged: int
    pos: int
    size: int
    pieces: list[Slice]

    def record(self, slice_id: int) -> Slice:
        """The record that replaces the merged ones."""
        if not self.pieces[0].id and len(self.pieces) == 1:
            return zeros(self.pos, self.size)
        return Slice(self.pos, slice_id, self.size, 0, self.size)


def plan_merge(records: Sequence[Slice], limit: int = MAX_MERGED, *, skip_length: int = _SKIP_LENGTH) -> Merge | None:
    """The next compaction of a chunk, or None if there is nothing to gain. Looks at the first `limit` records only."""
    head = records[:limit]
    skipped = 0
    pieces = _trimmed(flatten(head))
    while pieces and _stays(head, skipped, pieces, skip_length):
        skipped += 1
        pieces = _trimmed(flatten(head[skipped:]))
    size = sum(piece.length for piece in pieces)
    if len(head) - skipped < 2 or not size:
        return None
    pos = pieces[0].pos
    if any(s.pos < pos + size and pos < s.pos + s.length for s in head[:skipped]):
        return None  # can't be, see `_stays`; merging would hide what it skips
    return Merge(skipped, len(head) - skipped, pos, size, pieces)


def _stays(head: Sequence[Slice], at: int, pieces: Sequence[Slice], skip_length: int) -> bool:
    """Is the first remaining record large, wholly visible, in front of everything else, and only there?"""
    f = head[at]
    return (
        f.length >= skip_length
        and f.length * _SKIP_SHARE >= sum(piece.length for piece in pieces)
        and pieces[0] == f
        and f not in head[at + 1 :]
    )


def _trimmed(flat: Sequence[Slice]) -> list[Slice]:
    """Without zeros at both ends: what no record covers reads as zeros anyway. Of nothing but zeros one byte stays."""
    first, last = 0, len(flat)
    while last - first > 1 and not flat[first].id:
        first += 1
    while last - first > 1 and not flat[last - 1].id:
        last -= 1
    out = list(flat[first:last])
    if len(out) == 1 and not out[0].id:
        return [zeros(out[0].pos, 1)]
    return out


# -- helpers --------------------------------------------------------------------------------------------------------


def _overlay(records: Iterable[Slice]) -> list[Slice]:
    """Visible parts of records in order of position, gaps left out."""
    out: list[Slice] = []
    for new in records:
        if new.length <= 0:
            continue
        start, end = new.pos, new.pos + new.length
        if not out or start >= out[-1].pos + out[-1].length:  # appended behind everything
            out.append(new)
            continue
        # out[low:high] are the pieces that touch [start, end).
        low = bisect_right(out, start, key=_position)
        if low and out[low - 1].pos + out[low - 1].length > start:
            low -= 1
        high = bisect_left(out, end, key=_position)
        middle = [new]
        if low < high:
            left, right = out[low], out[high - 1]
            if left.pos < start:
                middle.insert(0, cut(left, left.pos, start))
            if right.pos + right.length > end:
                middle.append(cut(right, end, right.pos + right.length))
        out[low:high] = middle
    return out


def _place(out: dict[int, list[Slice]], piece: Slice, at: int, chunk_size: int) -> None:
    """Append a piece at file offset `at`, split at chunk borders, merged with its neighbour where it continues it."""
    off, left = piece.off, piece.length
    while left:
        index, pos = divmod(at, chunk_size)
        length = min(left, chunk_size - pos)
        records = out.setdefault(index, [])
        before = records[-1] if records else None
        if (
            before is not None
            and before.id == piece.id
            and before.size == piece.size
            and before.pos + before.length == pos
            and (not piece.id or before.off + before.length == off)
        ):
            records[-1] = before._replace(length=before.length + length)
        else:
            records.append(Slice(pos, piece.id, piece.size, off if piece.id else 0, length))
        at += length
        off += length
        left -= length
