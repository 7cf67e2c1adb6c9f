# SPDX-License-Identifier: Apache-2.0
"""One mount appends, the other reads: never a byte that was not written, never a read shorter than the size told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import sizes
from tests.gateways.fuse.two_mounts.actors import Cast, append_log, append_records, follow_log, read_records
from tests.gateways.fuse.two_mounts.pair import Pair, pair

WAYS = ("one descriptor", "opened anew", "stat by path", "mapped", "direct")
SEED = 20


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), id="1s"),
        pytest.param(("--attr-cache", "0"), id="0s", marks=pytest.mark.heavy),
        pytest.param(("--attr-cache", "5"), id="5s", marks=pytest.mark.heavy),
    ],
)
@sizes(fast=5, heavy=100)
def test_a_reader_sees_what_was_appended_and_nothing_else(size: float, flags: tuple[str, ...]) -> None:
    with pair(*flags) as two:
        _append_and_follow(two, two.b, size)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_readers_on_the_appending_mount_see_it_as_well() -> None:
    """On a machine with more work than cores this may fail, see the limits in docs/fuse.md: a stat that comes between
    our answer to a write and the writer's waking up shows the new end, and the kernel doesn't know it yet."""
    with pair() as two:
        _append_and_follow(two, two.a, 60)


def _append_and_follow(two: Pair, reading: Path, seconds: float) -> None:
    with Cast(len(WAYS) + 1) as cast:
        followers = [cast.start(follow_log, reading, SEED, seconds, how) for how in WAYS]
        written = cast.start(append_log, two.a, SEED, seconds, True).result()
        wrong = []
        for how, follower in zip(WAYS, followers, strict=True):
            seen, checks, bad = follower.result()
            wrong += bad
            if not bad:
                assert seen >= written, f"{how} read {seen} of {written} bytes in {checks} looks"
    assert not wrong, "\n".join(wrong)


@sizes(fast=60, heavy=1500)
def test_records_that_two_mounts_append_at_once_are_all_kept(size: int) -> None:
    with pair() as two, Cast(4) as cast:
        writers = [cast.start(append_records, (two.a, two.b)[who % 2] / "log", who, size) for who in range(4)]
        for writer in writers:
            writer.result()
        for side in (two.a, two.b):
            found = read_records(side / "log")
            assert {who: len(numbers) for who, numbers in found.items()} == dict.fromkeys(range(4), size)
            # What one process appends stays in its order.
            assert all(numbers == sorted(numbers) for numbers in found.values())
