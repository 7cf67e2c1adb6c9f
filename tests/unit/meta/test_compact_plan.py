# SPDX-License-Identifier: Apache-2.0
"""The planner of compactions: content stays what it is, large slices at the front stay where they are (§7.2)."""

from __future__ import annotations

from hypothesis import given, settings, strategies as st

from core.meta.records import Slice
from core.meta.slices import Merge, flatten, plan_merge
from tests.unit.meta.test_slices import SPAN, byte, paint, records, render

MIB = 1 << 20


def apply(slices: list[Slice], plan: Merge) -> tuple[bytes, list[Slice]]:
    """Content of the chunk after a merge, and its records."""
    front, rest = slices[: plan.skipped], slices[plan.skipped + plan.merged :]
    merged = plan.record(9999)
    out = bytearray(SPAN)
    for s in front:
        paint(out, s)
    if merged.id:
        assert plan.size == sum(piece.length for piece in plan.pieces)
        out[plan.pos : plan.pos + plan.size] = render(plan.pieces, SPAN)[plan.pos : plan.pos + plan.size]
    else:
        paint(out, merged)
    for s in rest:
        paint(out, s)
    return bytes(out), [*front, merged, *rest]


@settings(max_examples=400)
@given(records(), st.integers(2, 14), st.integers(1, 70))
def test_content_is_the_same_before_and_after(slices: list[Slice], limit: int, skip_length: int) -> None:
    plan = plan_merge(slices, limit, skip_length=skip_length)
    if plan is None:
        return
    after, left = apply(slices, plan)
    assert after == render(flatten(slices), SPAN)
    assert len(left) < len(slices) and plan.skipped + plan.merged == min(limit, len(slices))
    end = plan.pos
    for piece in plan.pieces:  # gapless
        assert piece.pos == end and piece.length > 0
        end += piece.length
    assert end == plan.pos + plan.size <= SPAN
    assert all(piece.id for piece in (plan.pieces[0], plan.pieces[-1])) or (plan.size, len(plan.pieces)) == (1, 1)
    for s in slices[: plan.skipped]:
        assert s.length >= skip_length and (s.pos + s.length <= plan.pos or s.pos >= plan.pos + plan.size)


@given(records(), st.integers(1, 70))
def test_nothing_is_left_to_do_in_the_end(slices: list[Slice], skip_length: int) -> None:
    """Merging goes on until one record is left beside those that are skipped; the content never changes."""
    before = render(flatten(slices), SPAN)
    sources: dict[int, bytes] = {}
    step = 0
    while (plan := plan_merge(slices, 5, skip_length=skip_length)) is not None:
        step += 1
        out = bytearray(SPAN)
        for piece in plan.pieces:
            for i in range(piece.length):
                known = sources.get(piece.id)
                at = piece.off + i
                out[piece.pos + i] = (known[at] if known else byte(piece.id, at)) if piece.id else 0
        sources[1000 + step] = bytes(out[plan.pos : plan.pos + plan.size])
        slices = [*slices[: plan.skipped], plan.record(1000 + step), *slices[plan.skipped + plan.merged :]]
    final = bytearray(SPAN)
    for piece in flatten(slices):
        for i in range(piece.length):
            known = sources.get(piece.id)
            final[piece.pos + i] = (known[piece.off + i] if known else byte(piece.id, piece.off + i)) if piece.id else 0
    assert bytes(final) == before


def large(pos: int, slice_id: int, length: int) -> Slice:
    return Slice(pos, slice_id, length, 0, length)


def test_a_large_front_is_skipped() -> None:
    big, small = large(0, 1, 4 * MIB), [large(4 * MIB + i * 1000, 2 + i, 1000) for i in range(5)]
    assert plan_merge([big, *small]) == Merge(1, 5, 4 * MIB, 5000, small)
    also = large(4 * MIB, 9, 2 * MIB)
    rest = [s._replace(pos=s.pos + 2 * MIB) for s in small]
    assert plan_merge([big, also, *rest]) == Merge(2, 5, 6 * MIB, 5000, rest)


def test_what_keeps_a_front_from_being_skipped() -> None:
    small = [large(8 * MIB + i * 1000, 2 + i, 1000) for i in range(2)]
    big = large(0, 1, 4 * MIB)

    def skipped(*slices: Slice) -> int:
        plan = plan_merge(slices)
        assert plan is not None
        return plan.skipped

    assert skipped(big, *small) == 1
    assert skipped(large(0, 1, MIB - 1), *small) == 0  # too short
    assert skipped(large(0, 1, MIB), large(2 * MIB, 7, 5 * MIB), *small) == 0  # less than a fifth
    tail = [s._replace(pos=s.pos - 3 * MIB - 2000) for s in small]
    assert skipped(large(0, 1, MIB), large(2 * MIB, 7, 3 * MIB - 2000), *tail) == 2  # just a fifth
    assert skipped(big, large(100, 7, 10), *small) == 0  # not wholly visible
    assert skipped(large(9 * MIB, 1, 4 * MIB), *small) == 0  # not in front
    assert skipped(big, small[0], big) == 0  # there again


def test_nothing_to_gain() -> None:
    assert plan_merge([]) is None
    assert plan_merge([large(0, 1, 10)]) is None
    assert plan_merge([large(0, 1, 4 * MIB), large(4 * MIB, 2, 10)]) is None
    assert plan_merge([Slice(0, 5, 10, 0, 0), Slice(3, 5, 10, 0, 0)]) is None


def test_zeros_at_both_ends_go_and_of_nothing_else_one_byte_stays() -> None:
    plan = plan_merge([Slice(0, 0, 0, 0, 10), large(10, 1, 5), Slice(15, 0, 0, 0, 30)])
    assert plan == Merge(0, 3, 10, 5, [large(10, 1, 5)])
    plan = plan_merge([large(5, 1, 10), Slice(0, 0, 0, 0, 30)])
    assert plan is not None and plan.size == 1 and plan.record(7) == Slice(plan.pos, 0, 0, 0, 1)


def test_the_limit_leaves_the_rest_behind() -> None:
    many = [large(i * 10, 1 + i, 10) for i in range(1500)]
    plan = plan_merge(many)
    assert plan is not None and (plan.skipped, plan.merged, plan.size) == (0, 1000, 10_000)
