# SPDX-License-Identifier: Apache-2.0
"""Workers die at random moments under a load that knows every byte: no program may notice more than a pause."""

from __future__ import annotations

import random

import pytest

from tests.gateways.fuse.process.running import kill_worker, load, log_of, restless, serving_worker


def survive(engine: str, kills: int, most_s: float, *flags: str) -> None:
    with restless(engine, "--enable-xattr", *flags) as mount:
        with load(mount, most_s=60 + kills * 15) as working:
            rng, pid = random.Random(working.seed), 0
            for _ in range(kills):
                pid = kill_worker(mount, rng, most_s, pid)
                working.require_alive()
            serving_worker(mount)
            reports = working.finish()
        took_over = log_of(mount).count("after a crash")
        print(f"{kills} kills, {took_over} take-overs: {reports}")
        assert took_over >= kills // 2
        mount.check()


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("redis", marks=pytest.mark.heavy)])
def test_killed_workers_cost_a_pause_and_nothing_else(engine: str) -> None:
    survive(engine, 8, 3.0)


@pytest.mark.heavy
def test_what_the_kernel_reads_by_itself_stays_right_over_kills() -> None:
    survive("sqlite", 8, 2.0, "--passthrough")


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_a_hundred_kills_with_passthrough() -> None:
    survive("redis", 100, 2.0, "--passthrough")


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["sqlite", "redis", "postgres"])
def test_a_hundred_kills(engine: str) -> None:
    survive(engine, 100, 2.0)
