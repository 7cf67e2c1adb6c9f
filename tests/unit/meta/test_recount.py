# SPDX-License-Identifier: Apache-2.0
"""Measuring the error of a total that moves: exact when nothing does, never more than is certain otherwise."""

from __future__ import annotations

import random

from hypothesis import given, strategies as st

from core.meta.recount import Drift, Range, Sample, error_range, measure


class Total:
    """A total with a constant error, and counts that see half of what moves meanwhile."""

    def __init__(self, error: int, noise: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.true = 1_000_000
        self.error = error
        self.noise = noise
        self.counts = 0

    def _move(self) -> int:
        step = self.rng.randint(-self.noise, self.noise)
        self.true += step
        return step

    async def count(self) -> Sample:
        self.counts += 1
        before = self.true - self.error
        seen = self.true
        for _ in range(5):
            step = self._move()
            seen += step if self.rng.random() < 0.5 else 0
        after = self.true - self.error
        mark = self.rng.random() if self.noise else 0
        return Sample((before, 0), (seen, 0), (after, 0), hash(mark))


async def test_a_total_at_rest_is_proven_by_two_counts() -> None:
    total = Total(7, 0, 1)
    assert await measure(total.count) == Drift(7, 0, True)
    assert total.counts == 2


async def test_a_right_total_is_proven_by_one() -> None:
    total = Total(0, 0, 1)
    assert await measure(total.count) == Drift(0, 0, True)
    assert total.counts == 1


async def test_a_large_error_is_seen_through_the_noise_and_never_overshot_by_more() -> None:
    for seed in range(50):
        total = Total(1_000_000, 1000, seed)
        found = await measure(total.count)
        assert not found.exact and abs(found.space - 1_000_000) <= 10_000, seed
        total.error -= found.space
        assert abs(total.error) <= 10_000


@given(st.integers(-100, 100), st.integers(-100, 100), st.integers(-100, 100))
def test_ranges_hold_the_error_whatever_value_the_total_had(before: int, counted: int, after: int) -> None:
    found = error_range(before, counted, after)
    assert found.low <= counted - before <= found.high
    assert found.low <= counted - after <= found.high
    assert found.certain == 0 or found.low <= found.certain <= found.high
    assert abs(found.certain) == min(abs(found.low), abs(found.high)) or found.certain == 0
    wider = found.hull(Range(0, 0))
    assert wider.certain == 0
