# SPDX-License-Identifier: Apache-2.0
"""Clean-ups in a loop beside processes that write: no live object is removed, every byte is there afterwards.

Writers publish packed and large files, write in place, copy, rename and remove; each knows what it has written
(`data_journal.py`). The fence is the default one hour, or as short as twenty seconds, which is longer than any upload
here takes. The long form: eight writers, five minutes, three engines. What the fence is good for is shown by
tests/model/test_gc_model.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from typing import Any

import pytest

from core.check import check
from core.gc import collect
from tests.faults.campaign import require_clean, stored, used
from tests.faults.data_journal import read_journal
from tests.faults.gateway import TestVolume
from tests.faults.test_data_kill import listing, read_file
from tests.servers.engines import engine


def start(module: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "JFS_GC_SKIPPEDTIME"}
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.faults.{module}", *map(str, arguments)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def end(process: subprocess.Popen[str], seconds: float) -> dict[str, Any]:
    out, err = process.communicate(timeout=seconds + 200)
    assert process.returncode == 0, err[-3000:]
    answer: dict[str, Any] = json.loads(out.splitlines()[-1])
    return answer


def race(
    place: TestVolume, rng: random.Random, *, writers: int, seconds: float, fence: float | None, pause_s: float = 0
) -> None:  # fmt: skip
    """Writers and two clean-ups at once; then everything is proven."""
    journals = [place.folder / f"journal{number}" for number in range(writers)]
    running = [
        start("data_worker", place.url, f"/w{number}", rng.randrange(1 << 30), seconds, journal,
              place.folder / f"cache{number}", pause_s)
        for number, journal in enumerate(journals)
    ]  # fmt: skip
    fences = [] if fence is None else [fence]
    cleaning = [start("gc_worker", place.url, seconds + 1, *fences) for _ in range(2)]
    done = [end(process, seconds) for process in running]
    cleaned = [end(process, seconds) for process in cleaning]
    print(f"{sum(answer['done'] for answer in done)} operations by {writers} writers in {seconds:g} s, fence "
          f"{'an hour' if fence is None else f'{fence:g} s'}; clean-ups: {cleaned}")  # fmt: skip
    assert not [text for answer in done for text in answer["failed"]], done
    assert not [text for answer in cleaned for text in answer["failures"]], cleaned
    asyncio.run(prove(place, [f"/w{number}" for number in range(writers)], journals))


async def prove(place: TestVolume, folders: list[str], journals: list[Any]) -> None:
    volume = await place.open()
    try:
        assert await used(volume) <= await stored(volume), "a live object is gone"
        for folder, journal in zip(folders, journals, strict=True):
            expected, acknowledged, errors = read_journal(journal)
            assert not errors and not expected.doubt and acknowledged
            wrong = [text for path in sorted(expected.files)
                     if (text := expected.wrong(path, await read_file(volume, path)))]  # fmt: skip
            assert not wrong, "\n".join(wrong)
            assert set(await listing(volume, folder)) == set(expected.files)
        # Members of packs that were removed before they were published may leave a count too high; gc's to set right.
        await collect(volume, delete=True, min_age_s=0)
        assert await check(volume.meta, objects=volume.objects, confirm=False) == []
        assert await stored(volume) == await used(volume)
    finally:
        await volume.close()
    await require_clean(place)


@pytest.mark.timeout(200)
def test_clean_ups_beside_writers_for_twenty_seconds(rng: random.Random) -> None:
    place = TestVolume(block_size=64 << 10)
    try:
        race(place, rng, writers=3, seconds=20, fence=5, pause_s=0.2)
    finally:
        place.remove()


@pytest.mark.heavy
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("fence", [None, 20], ids=["an-hour", "twenty-seconds"])
@pytest.mark.parametrize("name", ["sqlite", "redis", "postgres"])
def test_clean_ups_beside_eight_writers_for_five_minutes(name: str, fence: float | None, rng: random.Random) -> None:
    with engine(name) as database:
        place = TestVolume(database.fresh_url(), block_size=64 << 10)
        try:
            race(place, rng, writers=8, seconds=300, fence=fence)
        finally:
            place.remove()
