# SPDX-License-Identifier: Apache-2.0
"""The process dies, or the call fails, at every named point of the write, publish and delete paths.

Each point is run through by some traffic of a one-worker gateway that kills itself there; afterwards everything that
was acknowledged is there, nothing else is visible, and a clean-up leaves no trace.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from core import failpoints
from core.errors import ConfigError, FsError
from core.failpoints import POINTS
from tests.faults.campaign import BUCKET, Campaign, Key, content, digest, require_clean
from tests.faults.gateway import GatewayProcess, TestVolume

#: Reached by writing through open files, which the S3 gateway doesn't do; the engine's own test below runs through it.
BY_HANDLES = frozenset({"write.before-commit", "write.committed"})
#: Nor does it copy ranges, compact, clone or clean up; tests/conformance/volume, tests/unit/cli and test_gc_kill.py run
#: through those points.
NOT_BY_S3 = BY_HANDLES | {
    n for n in POINTS if n.startswith(("copy.", "compact.", "clone.", "detached.", "stage.", "gc."))
}

#: Neighbours of other points; test_data_kill.py runs through these, too.
NEAR = frozenset({"slice.id-taken", "block.before-encode", "block.put", "pack.id-taken"})


def points(names: set[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.heavy if name in NEAR else ()) for name in sorted(names)]


@pytest.fixture
def volume() -> Iterator[TestVolume]:
    volume = TestVolume()
    yield volume
    volume.remove()


async def traffic(campaign: Campaign, rng: random.Random) -> None:
    """One after another: small (packed) and big bodies, overwrites, removals; stops at the first cut connection."""
    for number in range(12):
        key = Key(f"{BUCKET}/f{number % 4}")
        key = next((known for known in campaign.keys if known.path == key.path), key)
        if key not in campaign.keys:
            campaign.keys.append(key)
        if number % 5 == 4:
            await campaign._delete(key)
        elif number % 3 == 2:
            body = content(rng) + bytes(5 << 20)  # two blocks, not packed
            await campaign._send(
                key, digest(body), lambda key=key, body=body: campaign.gateway.request("PUT", key.path, body)
            )  # type: ignore[misc]
        else:
            await campaign._put(key, rng)
        if campaign.unanswered:
            return


@pytest.mark.parametrize("name", points(set(POINTS) - NOT_BY_S3))
async def test_a_kill_at_each_point_leaves_a_whole_volume(name: str, volume: TestVolume, rng: random.Random) -> None:
    with GatewayProcess(volume, workers=1) as plain:
        assert (await plain.request("PUT", BUCKET)).ok
    doomed = GatewayProcess(volume, workers=1, failpoints=f"{name}=kill:2")
    campaign = Campaign(doomed, rng)
    with doomed:
        await traffic(campaign, rng)
        assert doomed.wait_killed() == -9, f"{name} was not reached"
    with GatewayProcess(volume, workers=1) as after:
        campaign.gateway = after
        await campaign.verify()
        campaign.unanswered = 0
        await traffic(campaign, rng)
        await campaign.verify()
    await require_clean(volume)


@pytest.mark.parametrize("name", points({n for n in set(POINTS) - NOT_BY_S3 if not n.startswith("delete.")}))
async def test_an_error_at_each_point_is_an_answer_and_leaves_nothing(
    name: str, volume: TestVolume, rng: random.Random
) -> None:
    with GatewayProcess(volume, workers=1, failpoints=f"{name}=raise:3") as gateway:
        campaign = Campaign(gateway, rng)
        assert (await gateway.request("PUT", BUCKET)).ok
        for _ in range(3):
            await traffic(campaign, rng)
            campaign.unanswered = 0
        await campaign.verify()
        assert f"failpoint {name}" in gateway.log_text(), "the log doesn't say why"
    await require_clean(volume)


@pytest.mark.parametrize("name", sorted(BY_HANDLES))
async def test_a_failure_while_slices_of_a_file_are_committed(
    name: str, volume: TestVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = await volume.open()
    try:
        ino, _ = await opened.meta.create(1, b"f")
        stored = await opened.fs.content_of(b"x" * 1000)
        failpoints.arm(f"{name}=raise")
        with pytest.raises(FsError, match=name):
            await opened.meta.write_slices(ino, 0, stored.chunks[0], 1)
        committed = bool(await opened.meta.read_chunk(ino, 0))
        assert committed == (name == "write.committed")
    finally:
        failpoints.arm("")
        await opened.close()
    await require_clean(volume)


def test_points_that_do_not_exist_are_refused() -> None:
    for text in ("nowhere=kill", "publish.committed=explode", "publish.committed=kill:0"):
        with pytest.raises(ConfigError, match="SLUICE_FAILPOINTS"):
            failpoints.arm(text)


async def test_the_nth_call_counts() -> None:
    try:
        failpoints.arm("pack.stored=raise:2; block.stored=raise:2+")
        await failpoints.point("pack.stored")
        with pytest.raises(FsError):
            await failpoints.point("pack.stored")
        await failpoints.point("pack.stored")
        await failpoints.point("block.stored")
        for _ in range(2):
            with pytest.raises(FsError):
                await failpoints.point("block.stored")
        assert failpoints.calls("pack.stored") == 3
    finally:
        failpoints.arm("")
