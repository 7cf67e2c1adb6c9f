# SPDX-License-Identifier: Apache-2.0
"""The state machine over each record store. Repeat a run with SLUICE_TEST_SEED=…, which every run prints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore
from core.meta.stores.redis import RedisStore
from core.meta.stores.sqlite import SQLiteStore
from tests.conftest import seed_value
from tests.model.machine import VolumeMachine
from tests.servers.redis import RedisServer


def run(machine: type[VolumeMachine], examples: int, steps: int = 40) -> None:
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


class MemoryMachine(VolumeMachine):
    async def make_store(self, number: int) -> RecordStore:
        return self.made[0] if number else MemoryStore()


def sqlite_machine(folder: Path) -> type[VolumeMachine]:
    numbers = itertools.count()

    class SQLiteMachine(VolumeMachine):
        async def make_store(self, number: int) -> RecordStore:
            if not number:
                self.path = str(folder / f"{next(numbers)}.db")
            store = SQLiteStore(self.path)
            await store.open()
            return store

    return SQLiteMachine


def redis_machine(server: RedisServer) -> type[VolumeMachine]:
    class RedisMachine(VolumeMachine):
        async def make_store(self, number: int) -> RecordStore:
            store = RedisStore(server.url(2))
            await store.open()
            if not number:
                await store.wipe()
            return store

    return RedisMachine


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


def test_memory() -> None:
    run(MemoryMachine, 150)


def test_sqlite(tmp_path: Path) -> None:
    run(sqlite_machine(tmp_path), 12)


def test_redis(redis_server: RedisServer) -> None:
    run(redis_machine(redis_server), 12)


@pytest.mark.heavy
def test_memory_for_long() -> None:
    run(MemoryMachine, 2000, 60)


@pytest.mark.heavy
def test_sqlite_for_long(tmp_path: Path) -> None:
    run(sqlite_machine(tmp_path), 100)


@pytest.mark.heavy
def test_redis_for_long(redis_server: RedisServer) -> None:
    run(redis_machine(redis_server), 100)
