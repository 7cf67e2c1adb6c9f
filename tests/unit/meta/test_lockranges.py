# SPDX-License-Identifier: Apache-2.0
"""POSIX lock algebra against the naive model: one cell per byte. Source: format §4.6, semantics §10.4."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from core.meta.lockranges import MAX_OFFSET, Kind, Range, apply, conflicts, decode, encode

SIZE = 24  # bytes of the model's file; the last one stands for everything up to the end of the file

kinds = st.sampled_from(["R", "W", "U"])
cells = st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE - 1)).map(lambda p: (min(p), max(p)))
steps = st.lists(st.tuples(kinds, st.integers(1, 2), cells, st.integers(0, 2)), max_size=30)

Cell = tuple[Kind, int] | None


def to_end(end: int) -> int:
    return MAX_OFFSET if end == SIZE - 1 else end


def painted(ranges: list[Range]) -> list[Cell]:
    model: list[Cell] = [None] * SIZE
    for r in ranges:
        for at in range(r.start, min(r.end, SIZE - 1) + 1):
            assert model[at] is None, "ranges overlap"
            model[at] = (r.kind, r.pid)
    return model


@given(steps)
@settings(max_examples=300)
def test_a_list_of_ranges_is_what_bytes_painted_one_by_one_are(
    some: list[tuple[Kind, int, tuple[int, int], int]],
) -> None:
    model: list[Cell] = [None] * SIZE
    ranges: list[Range] = []
    for kind, pid, (start, end), _ in some:
        ranges = apply(ranges, kind, pid, start, to_end(end))
        for at in range(start, end + 1):
            model[at] = None if kind == "U" else (kind, pid)
        assert painted(ranges) == model
        assert ranges == sorted(ranges, key=lambda r: r.start)
        for one, two in pairwise(ranges):
            assert one.end < two.start
            assert one.end + 1 < two.start or (one.kind, one.pid) != (two.kind, two.pid), "not merged"
        assert decode(encode(ranges)) == ranges


@given(steps)
@settings(max_examples=300)
def test_conflicts_are_those_of_the_bytes(some: list[tuple[Kind, int, tuple[int, int], int]]) -> None:
    """Three owners lock what they may; each request is refused exactly if a byte is held against it."""
    table: dict[tuple[int, int], bytes] = {}
    model: dict[int, list[Cell]] = {owner: [None] * SIZE for owner in range(3)}
    for kind, pid, (start, end), owner in some:
        me = (7, owner)
        in_way = [] if kind == "U" else conflicts(table, me, kind, start, to_end(end))
        refused = kind != "U" and any(
            cell is not None and "W" in (kind, cell[0])
            for other, row in model.items()
            if other != owner
            for cell in row[start : end + 1]
        )
        assert bool(in_way) == refused
        assert [r.start for _, r in in_way] == sorted(r.start for _, r in in_way)
        if not refused:
            table[me] = encode(apply(decode(table.get(me, b"")), kind, pid, start, to_end(end)))
            model[owner][start : end + 1] = [None if kind == "U" else (kind, pid)] * (end + 1 - start)


def test_the_stored_form_is_that_of_the_format() -> None:
    raw = encode([Range("R", 7, 0, 9), Range("W", 2**32 - 1, 10, MAX_OFFSET)])
    assert raw.hex() == (
        "00000000" "00000007" "0000000000000000" "0000000000000009"
        "00000001" "ffffffff" "000000000000000a" "ffffffffffffffff"
    )  # fmt: skip


def test_records_of_other_platforms_are_read_on_the_safe_side() -> None:
    def stored(code: int) -> bytes:
        return code.to_bytes(4, "big") + bytes(20)

    assert [decode(stored(code))[0].kind for code in range(4)] == ["R", "W", "R", "W"]


@pytest.mark.parametrize("raw", [bytes(23), b"\0\0\0\x04" + bytes(20)])
def test_bytes_that_are_no_lock_list_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="lock"):
        decode(raw)


def test_unlocking_the_middle_leaves_both_ends() -> None:
    whole = [Range("W", 1, 0, MAX_OFFSET)]
    assert apply(whole, "U", 1, 10, 19) == [Range("W", 1, 0, 9), Range("W", 1, 20, MAX_OFFSET)]
    assert apply(whole, "R", 1, 0, 0) == [Range("R", 1, 0, 0), Range("W", 1, 1, MAX_OFFSET)]
    assert apply(apply(whole, "R", 1, 5, 5), "W", 1, 5, 5) == whole
    assert apply(whole, "W", 2, 0, MAX_OFFSET) == [Range("W", 2, 0, MAX_OFFSET)]
