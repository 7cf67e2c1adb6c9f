# SPDX-License-Identifier: Apache-2.0
"""Overlay, truncation and copying of slice records, against a plain bytearray (metadata-semantics §6)."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from core.meta.records import CHUNK_SIZE, Slice
from core.meta.slices import (
    assemble,
    clip,
    count_references,
    flatten,
    pieces_for,
    truncate_records,
    visible_end,
    zero_records,
)

SPAN = 64  # chunk size of these tests


def byte(slice_id: int, off: int) -> int:
    """Content of byte `off` of a slice: different for neighbours and for other slices."""
    return (slice_id * 37 + off * 5) % 255 + 1


def paint(content: bytearray, s: Slice, base: int = 0) -> None:
    for i in range(s.length):
        content[base + s.pos + i] = byte(s.id, s.off + i) if s.id else 0


def render(pieces: list[Slice], length: int) -> bytes:
    out = bytearray(length)
    for piece in pieces:
        paint(out, piece)
    return bytes(out)


@st.composite
def records(draw: st.DrawFn, max_size: int = 12) -> list[Slice]:
    out = []
    for _ in range(draw(st.integers(0, max_size))):
        pos = draw(st.integers(0, SPAN - 1))
        length = draw(st.integers(0 if draw(st.booleans()) else 1, SPAN - pos))
        slice_id = draw(st.integers(0, 5))
        off = draw(st.integers(0, 20)) if slice_id else 0
        out.append(Slice(pos, slice_id, 200 if slice_id else 0, off, length))
    return out


@given(records())
def test_flattening_shows_what_was_written_last(slices: list[Slice]) -> None:
    model = bytearray(SPAN)
    for s in slices:
        paint(model, s)
    flat = flatten(slices)
    assert render(flat, SPAN) == bytes(model)
    end = 0
    for piece in flat:  # gapless from 0, no empty piece, ends where the last record ends
        assert piece.pos == end and piece.length > 0
        end += piece.length
    assert end == max((s.pos + s.length for s in slices if s.length), default=0)
    assert flatten(flat) == flat


@given(records(), st.integers(0, SPAN), st.integers(0, SPAN))
def test_pieces_of_a_range_have_exactly_its_bytes(slices: list[Slice], a: int, b: int) -> None:
    start, end = min(a, b), max(a, b)
    model = bytearray(SPAN)
    for s in slices:
        paint(model, s)
    pieces = pieces_for(slices, start, end)
    assert sum(p.length for p in pieces) == end - start
    assert render(pieces, SPAN)[start:end] == bytes(model[start:end])
    assert pieces == clip(flatten(slices), start, end)
    at = start
    for piece in pieces:
        assert piece.pos == at and piece.length > 0
        at += piece.length


def test_a_hole_before_and_between_pieces_is_a_piece_of_id_zero() -> None:
    flat = flatten([Slice(10, 1, 5, 0, 5), Slice(20, 2, 5, 0, 5)])
    assert flat == [
        Slice(0, 0, 0, 0, 10), Slice(10, 1, 5, 0, 5), Slice(15, 0, 0, 0, 5), Slice(20, 2, 5, 0, 5),
    ]  # fmt: skip
    assert visible_end(flat) == 25


def test_adjacent_pieces_of_one_slice_are_not_merged_by_flattening() -> None:
    parts = [Slice(0, 1, 10, 0, 5), Slice(5, 1, 10, 5, 5)]
    assert flatten(parts) == parts


def test_thousands_of_small_overwrites_flatten_quickly() -> None:
    slices = [Slice(0, 1, CHUNK_SIZE, 0, CHUNK_SIZE)]
    slices += [Slice(i * 7919 % 60_000_000, i + 2, 4096, 0, 4096) for i in range(2500)]
    flat = flatten(slices)
    assert flat[0].pos == 0 and flat[-1].pos + flat[-1].length == CHUNK_SIZE


# -- truncation -----------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(0, 4), records(4), max_size=4),
    st.integers(0, 5 * SPAN),
    st.integers(0, 5 * SPAN),
    st.integers(0, 5 * SPAN),
)
def test_what_was_cut_off_never_comes_back(chunks: dict[int, list[Slice]], length: int, new: int, later: int) -> None:
    # Truncate twice; then every byte that was ever outside the file reads as zero.
    model = bytearray(6 * SPAN)
    for index, slices in chunks.items():
        for s in slices:
            paint(model, s, index * SPAN)
    chunks = {i: list(s) for i, s in chunks.items()}
    # A file of `length` bytes: what lies behind is masked already.
    model[length:] = bytes(len(model) - length)
    for old, to in ((6 * SPAN, length), (length, new), (new, later)):
        for index, record in truncate_records(old, to, chunks.keys(), chunk_size=SPAN).items():
            chunks.setdefault(index, []).append(record)
        model[min(old, to) : max(old, to)] = bytes(abs(old - to))
    for index in range(5):
        got = render(pieces_for(chunks.get(index, []), 0, SPAN), SPAN)
        assert got == bytes(model[index * SPAN : (index + 1) * SPAN])


def test_truncation_writes_the_records_of_the_format() -> None:
    c = CHUNK_SIZE
    zero = lambda pos, length: Slice(pos, 0, 0, 0, length)  # noqa: E731
    assert truncate_records(100, 100, {0}) == {}
    assert truncate_records(100, 300, set()) == {0: zero(100, 200)}
    assert truncate_records(300, 100, set()) == {0: zero(100, 200)}
    # chunk 1 exists, chunk 2 doesn't: only chunk 1 is covered in the middle; the last one always
    assert truncate_records(c - 10, 3 * c + 5, {1}) == {0: zero(c - 10, 10), 1: zero(0, c), 3: zero(0, 5)}
    # the new end on a chunk border touches nothing behind it
    assert truncate_records(10, 2 * c, {0, 1, 2}) == {0: zero(10, c - 10), 1: zero(0, c)}
    # a huge sparse file is no loop over its chunks
    assert truncate_records(1, 1 << 56, {1 << 29}).keys() == {0, 1 << 29}


def test_zero_ranges_are_split_at_chunk_borders() -> None:
    c = CHUNK_SIZE
    assert zero_records(c - 5, 2 * c + 7) == {
        0: Slice(c - 5, 0, 0, 0, 5), 1: Slice(0, 0, 0, 0, c), 2: Slice(0, 0, 0, 0, 7),
    }  # fmt: skip
    assert zero_records(5, 5) == {}


# -- assembling -----------------------------------------------------------------------------------------------------

sources = st.dictionaries(st.integers(0, 2), records(5), max_size=3)
ranges = st.tuples(sources, st.integers(0, 3 * SPAN - 1), st.integers(0, 2 * SPAN))


@settings(max_examples=200)
@given(st.lists(ranges, max_size=4), st.booleans(), st.integers(0, 2 * SPAN))
def test_assembled_parts_read_like_the_ranges_they_came_from(
    parts: list[tuple[dict[int, list[Slice]], int, int]], keep_holes: bool, start: int
) -> None:
    size = 12 * SPAN
    expected = bytearray(size)
    at = start
    for chunks, offset, length in parts:
        model = bytearray(6 * SPAN)
        for index, slices in chunks.items():
            for s in slices:
                paint(model, s, index * SPAN)
        expected[at : at + length] = model[offset : offset + length]
        at += length
    out = assemble(parts, start=start, keep_holes=keep_holes, chunk_size=SPAN)
    got = bytearray(b"\xff" * size if keep_holes else size)  # kept holes hide what was there before
    for index, slices in out.items():
        assert slices
        for s in slices:
            assert s.length > 0 and s.pos + s.length <= SPAN
            assert s.id == 0 or s.off + s.length <= s.size
            paint(got, s, index * SPAN)
    if keep_holes:
        assert got[start:at] == expected[start:at] and set(got[:start] + got[at:]) <= {255}
    else:
        assert got == expected


def test_multipart_parts_become_few_records() -> None:
    # Three parts of 40 MiB, each one slice: 120 MiB in two chunks; the middle one is split at the border.
    mib = 1 << 20
    parts = [({0: [Slice(0, i, 40 * mib, 0, 40 * mib)]}, 0, 40 * mib) for i in (1, 2, 3)]
    out = assemble(parts)
    assert out == {
        0: [Slice(0, 1, 40 * mib, 0, 40 * mib), Slice(40 * mib, 2, 40 * mib, 0, 24 * mib)],
        1: [Slice(0, 2, 40 * mib, 24 * mib, 16 * mib), Slice(16 * mib, 3, 40 * mib, 0, 40 * mib)],
    }
    assert sorted(count_references(out)) == [(1, 40 * mib, 1), (2, 40 * mib, 2), (3, 40 * mib, 1)]


def test_a_range_that_was_split_is_joined_again() -> None:
    source = {0: [Slice(0, 9, 100, 0, 100)]}
    out = assemble([(source, 0, 30), (source, 30, 70)])
    assert out == {0: [Slice(0, 9, 100, 0, 100)]}


def test_a_huge_hole_costs_nothing() -> None:
    far = (1 << 56) // CHUNK_SIZE
    out = assemble([({far: [Slice(0, 1, 10, 0, 10)]}, 0, (1 << 56) + 10)])
    assert out == {far: [Slice(0, 1, 10, 0, 10)]}
