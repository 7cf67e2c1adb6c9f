# SPDX-License-Identifier: Apache-2.0
"""The state machine over each record store. Repeat a run with SLUICE_TEST_SEED=…, which every run prints.

Short on every engine; two thousand examples per engine in the nightly form (`-m heavy`), by which the number of steps
of an example is what makes memory and SQLite deep and the servers affordable.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from core.meta.store import RecordStore
from core.volume import open_record_store
from tests.conftest import seed_value
from tests.model.machine import VolumeMachine
from tests.servers.engines import ALL, engine

#: Engine -> examples and steps of the short form.
SHORT = {"memory": (150, 40), "sqlite": (12, 40), "redis": (12, 40)}
#: Engine -> steps of the nightly form.
LONG_STEPS = {"memory": 60, "sqlite": 30, "redis": 30}


def run(machine: type[VolumeMachine], examples: int, steps: int) -> None:
    seed(seed_value())(machine)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def machine_of(url: str) -> type[VolumeMachine]:
    """Examples share one database, which each finds empty: making tables costs more than emptying them."""

    class EngineMachine(VolumeMachine):
        async def make_store(self, number: int) -> RecordStore:
            if number and url.startswith("memkv"):
                return self.made[0]
            store = open_record_store(url)
            await store.open()
            if not number:
                await store.prepare()
                await store.wipe()
            return store

    return EngineMachine


@pytest.mark.parametrize("name", ALL)
def test_two_clients_agree_with_the_model(name: str) -> None:
    with engine(name) as database:
        run(machine_of(database.fresh_url()), *SHORT.get(name, (6, 30)))


@pytest.mark.heavy
@pytest.mark.parametrize("name", ALL)
def test_two_clients_agree_with_the_model_for_long(name: str) -> None:
    with engine(name) as database:
        run(machine_of(database.fresh_url()), 2000, LONG_STEPS.get(name, 20))
