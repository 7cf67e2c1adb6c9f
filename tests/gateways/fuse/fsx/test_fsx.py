# SPDX-License-Identifier: Apache-2.0
"""Random operations on one file against a model: one mount, and two mounts that take turns (close-to-open)."""

from __future__ import annotations

import random

import pytest

from tests.gateways.fuse.fsx.tester import Tester
from tests.gateways.fuse.mounts import Watchdog
from tests.gateways.fuse.posix import places
from tests.gateways.fuse.posix.places import Place

FAST, HEAVY = 3_000, 100_000
#: On further engines in the fast set: all they do here is hold records, and the suites of stores test that.
SHORT = 1_000
#: Where in the file: at its start, and around the border of the first two chunks.
ORIGINS = {"start": 0, "border": (64 << 20) - (100 << 10)}


def run(place: Place, rng: random.Random, operations: int, origin: str, *, mounts: int) -> None:
    seed = rng.randrange(1 << 32)
    print(f"fsx seed {seed}")
    without = [name for name in ("zero_range", "zero_keep") if place.lacks("zero_range")]
    name = f"fsx-{seed}"
    watchdog = Watchdog()
    if place.mount:
        watchdog.guard(120 + operations / 50, place.mount)
    if mounts == 1:
        Tester([str(place.root / name)], seed, origin=ORIGINS[origin], without=without).run(operations)
    else:
        with place.second() as other:
            paths = [str(place.root / name), str(other / name)]
            Tester(paths, seed, origin=ORIGINS[origin], without=without).run(operations)
    watchdog.rest()
    assert not watchdog.fired, "the mount did not answer"


@pytest.mark.parametrize("origin", ["border"])
def test_one_mount(place: Place, rng: random.Random, origin: str) -> None:
    run(place, rng, FAST, origin, mounts=1)


@pytest.mark.every_engine
@pytest.mark.parametrize("origin", ["start"])
def test_two_mounts_in_turns(place: Place, rng: random.Random, origin: str) -> None:
    run(place, rng, FAST if place.name in places.FAST or places.given() else SHORT, origin, mounts=2)


@pytest.mark.heavy
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("mounts", [1, 2])
def test_a_hundred_thousand_operations(place: Place, rng: random.Random, origin: str, mounts: int) -> None:
    run(place, rng, HEAVY, origin, mounts=mounts)
    if place.mount:
        place.check()
