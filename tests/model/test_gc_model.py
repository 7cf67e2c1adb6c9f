# SPDX-License-Identifier: Apache-2.0
"""No interleaving of clean-ups with writers, copies, removals and compactions takes a live object while the fence
holds; and without a fence some do, so it is the fence that is needed, and nothing less.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import HealthCheck, given, seed, settings, strategies as st

from tests.conftest import seed_value
from tests.model.gc_turns import Lost, Model

#: What a client does, and a number: the size of what it writes, or which file it means. Sizes: packed, two blocks.
SIZES = st.sampled_from((700, 5000, 70_000))
PICK = st.integers(0, 5)
CLIENT = st.integers(0, 1)
WORK = st.one_of(
    st.tuples(st.sampled_from(("publish", "publish", "abandon", "overwrite")), CLIENT, SIZES),
    st.tuples(st.sampled_from(("copy", "clone", "remove", "remove", "compact")), CLIENT, PICK),
)
CLEAN = st.tuples(st.just("clean"), CLIENT, PICK)


async def play(
    first: list[tuple[str, int, int]], second: list[tuple[str, int, int]], choices: random.Random, fence: float | None
) -> Model:
    """Some history, then everything at once with two clean-ups among it."""
    options = {} if fence is None else {"fence_s": fence}
    model = Model(choices.randrange, **options)
    await model.open()
    try:
        await model.run([("publish", 0, 700), ("publish", 0, 900), ("publish", 1, 5000), *first])
        model.now += 30  # all of that is old
        await model.run(second)
        await model.require_readable()
        await model.require_clean()
    finally:
        await model.close()
    return model


def model_test(examples: int):  # type: ignore[no-untyped-def]
    @seed(seed_value())
    @settings(max_examples=examples, deadline=None, database=None, print_blob=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        st.lists(WORK, max_size=6), st.lists(WORK, min_size=2, max_size=7), CLEAN, CLEAN,
        st.integers(0, 1 << 32),  # not drawn step by step: a thread may answer a turn earlier or later
    )  # fmt: skip
    def run(first, work, one, two, number):  # type: ignore[no-untyped-def]
        asyncio.run(play(first, [*work, one, two], random.Random(number), None))

    return run


def test_no_interleaving_takes_a_live_object() -> None:
    model_test(20)()


@pytest.mark.heavy
@pytest.mark.timeout(3000)
def test_no_interleaving_of_thousands_takes_a_live_object() -> None:
    model_test(3000)()


#: Uploads under way while two clean-ups run.
_RISKY = [("publish", 0, 70_000), ("publish", 1, 700), ("publish", 0, 5000), ("clean", 0, 0), ("clean", 1, 0)]


def test_without_a_fence_some_do() -> None:
    """The model sees what it is there to see; and the command refuses such a run while clients are registered."""
    lost = 0
    for number in range(200):
        try:
            asyncio.run(play([], _RISKY, random.Random(number), 0))
        except Lost:
            lost += 1
            break
    assert lost, "an upload is never taken for a leftover: does the model interleave at all?"


def test_the_same_work_behind_the_fence_is_safe() -> None:
    for number in range(15):
        asyncio.run(play([], _RISKY, random.Random(number), None))
