# SPDX-License-Identifier: Apache-2.0
"""When the control file steps aside; with a kernel in between: tests/gateways/fuse/internal/test_control_below.py."""

from __future__ import annotations

import pytest

from core.vfs.posix.aside import ASIDE_S, Aside

FOLDER, OTHER, ME, YOU = 5, 6, 100, 200


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def aside(clock: Clock) -> Aside:
    return Aside(clock)


def test_it_goes_for_a_while(aside: Aside, clock: Clock) -> None:
    aside.go(FOLDER)
    assert aside.is_gone(FOLDER) and not aside.is_gone(OTHER)
    clock.now += ASIDE_S
    assert not aside.is_gone(FOLDER)


def test_who_found_it_and_cuts_it_means_a_file(aside: Aside, clock: Clock) -> None:
    aside.found(FOLDER, ME)
    assert not aside.taken_for_a_file(YOU)
    assert aside.taken_for_a_file(ME) and aside.is_gone(FOLDER)
    assert not aside.taken_for_a_file(ME)  # looked up again, and still the special one: so be it
    aside.found(OTHER, ME)
    clock.now += 2
    assert not aside.taken_for_a_file(ME) and not aside.is_gone(OTHER)


def test_a_look_at_the_root_tells_that_it_was_meant(aside: Aside) -> None:
    aside.found(FOLDER, ME)
    assert aside.taken_for_a_file(ME)
    aside.found(0, ME)
    assert not aside.is_gone(FOLDER) and not aside.taken_for_a_file(ME)


def test_it_remembers_so_many_and_no_more(aside: Aside) -> None:
    for number in range(1, 3000):
        aside.go(number)
        aside.found(number, number)
    assert not aside.is_gone(1) and aside.is_gone(2999)
