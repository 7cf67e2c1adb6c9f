# SPDX-License-Identifier: Apache-2.0
"""Proving a running total wrong while others change it: what is missing from it, never more than is certain.

A total (usage counter, quota) changes in the same transaction as what it sums up, so its error is a constant, and
adding that constant is right whatever happens at the same time. The difficulty is to see the error: a count takes
time, and what moves meanwhile may be counted twice or not at all. Two ways out:

- A volume at rest: two counts that saw the very same records (`mark`) around an unmoved total are exact.
- A busy one: each count gives a range (it may belong to any value that the total had meanwhile). Over several counts
  only what lies outside of all ranges is certain, so the smallest correction into their hull is made. It never
  overshoots by more than was in flight at every one of the counts; what remains shows at the next quiet moment.

No store, no clock. Source: metadata-format §1.7; metadata-semantics §2, §3.4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

#: (bytes, inodes)
Pair = tuple[int, int]

#: Counts of a total that moves.
PASSES: Final = 4


class Sample(NamedTuple):
    """One count. before, after: the total as it was stored then; mark: a fingerprint of all that was counted."""

    before: Pair
    counted: Pair
    after: Pair
    mark: int = 0


class Range(NamedTuple):
    """Where the error of a total may lie, ends included."""

    low: int
    high: int

    def hull(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def certain(self) -> int:
        """The smallest correction that some value of the range explains."""
        return max(self.low, 0) + min(self.high, 0)


def error_range(before: int, counted: int, after: int) -> Range:
    return Range(counted - max(before, after), counted - min(before, after))


class Drift(NamedTuple):
    """What to add to a total. exact: nothing moved, so this is all of it; else it is the certain part."""

    space: int
    inodes: int
    exact: bool

    def __bool__(self) -> bool:
        return bool(self.space or self.inodes)


async def measure(count: Callable[[], Awaitable[Sample]], passes: int = PASSES) -> Drift:
    """Count until the error of a total is proven, or nothing speaks against the total, or `passes` are over."""
    ranges: tuple[Range, Range] | None = None
    last: Sample | None = None
    for _ in range(max(2, passes)):
        sample = await count()
        still = sample.before == sample.after
        if still and last is not None and last == sample:
            return Drift(sample.counted[0] - sample.before[0], sample.counted[1] - sample.before[1], True)
        if still and sample.counted == sample.before:
            return Drift(0, 0, True)
        now = tuple(error_range(*values) for values in zip(sample.before, sample.counted, sample.after, strict=True))
        ranges = (now[0], now[1]) if ranges is None else (ranges[0].hull(now[0]), ranges[1].hull(now[1]))
        if not ranges[0].certain and not ranges[1].certain:
            return Drift(0, 0, False)
        last = sample
    assert ranges is not None
    return Drift(ranges[0].certain, ranges[1].certain, False)
