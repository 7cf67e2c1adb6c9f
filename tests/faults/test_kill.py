# SPDX-License-Identifier: Apache-2.0
"""kill -9 in the middle of 200 concurrent writes: nothing acknowledged is lost, nothing half-written is seen, nothing
stays behind.

Each round starts a gateway with two workers, kills one of them (every third round: all of them) at a random moment,
reads everything back, stops the gateway, cleans up and demands a volume without a trace of the crash.
`SLUICE_TEST_SEED` repeats a run's choices (not the scheduler's).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults.campaign import BUCKET, Campaign, require_clean
from tests.faults.gateway import GatewayProcess, TestVolume
from tests.servers.redis import RedisServer

CLIENTS = 200
OPTIONS = ("--min-part-size", "4K")


@pytest.fixture
def volume() -> Iterator[TestVolume]:
    volume = TestVolume()
    yield volume
    volume.remove()


@pytest.fixture
def redis_volume() -> Iterator[TestVolume]:
    with RedisServer(save=True) as server:
        assert isinstance(server, RedisServer)
        volume = TestVolume(server.url(1))
        yield volume
        volume.remove()


async def run_rounds(volume: TestVolume, rounds: int, rng: random.Random, clients: int = CLIENTS) -> None:
    gateway = GatewayProcess(volume, *OPTIONS)
    campaign = Campaign(gateway, rng)
    for number in range(rounds):
        everything = number % 3 == 2
        victim, after = rng.randrange(2), rng.randint(10, clients)
        with gateway:
            if number == 0:
                assert (await gateway.request("PUT", BUCKET)).ok
            if everything:
                await campaign.round(number, clients, gateway.kill, after)
            else:
                await campaign.round(number, clients, lambda: gateway.kill_worker(victim), after)  # noqa: B023
            if gateway.process is None:
                gateway.start()
            await campaign.verify(
                campaign.keys[-clients - 3 :] + rng.sample(campaign.keys, min(50, len(campaign.keys)))
            )
            if number == rounds - 1:
                await campaign.verify()
        await require_clean(volume)
    print(f"{rounds} rounds: {campaign.acknowledged} acknowledged, {campaign.unanswered} cut or refused")
    assert campaign.unanswered, "no request was ever cut: the kills missed"


async def test_killed_workers_lose_nothing_and_leave_nothing(volume: TestVolume, rng: random.Random) -> None:
    await run_rounds(volume, 4, rng)


@pytest.mark.timeout(120)
async def test_killed_workers_over_redis(redis_volume: TestVolume, rng: random.Random) -> None:
    await run_rounds(redis_volume, 2, rng)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
async def test_twenty_rounds_on_sqlite(volume: TestVolume, rng: random.Random) -> None:
    await run_rounds(volume, 20, rng)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
async def test_twenty_rounds_on_redis(redis_volume: TestVolume, rng: random.Random) -> None:
    await run_rounds(redis_volume, 20, rng)
