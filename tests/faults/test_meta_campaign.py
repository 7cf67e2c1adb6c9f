# SPDX-License-Identifier: Apache-2.0
"""Many processes on one volume, all on the same few directories; afterwards every record must agree with every other.

Links, parents, counters, statistics, quotas and slice references are proven by `core.check`. The long form runs eight
processes for a minute per engine (heavy); the short one is the same for a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter

import pytest

from core.check import check
from core.meta.format import new_format
from core.meta.meta import Meta, init_format, load_format
from core.volume import open_record_store
from tests.conftest import seed_value
from tests.servers.engines import SHARED, engine

SHARED_DIRS = 3


async def prepare(url: str) -> None:
    store = open_record_store(url)
    await store.open()
    await init_format(store, new_format("campaign", bucket="/nowhere/"), time.time_ns())
    fmt = await load_format(store)
    assert fmt is not None
    meta = Meta(store, fmt.changed(user_group_quota=True))
    await init_format(store, meta.format, time.time_ns())
    await meta.new_session("campaign", heartbeat_s=0)
    for at in range(SHARED_DIRS):
        ino, _ = await meta.mkdir(1, b"shared%d" % at)
        # Limits that are never reached; their usage has to be right at the end.
        await meta.set_quota(0, ino, max_space=1 << 50, max_inodes=1 << 40)
    await meta.close()


async def findings(url: str) -> list[str]:
    store = open_record_store(url)
    await store.open()
    fmt = await load_format(store)
    assert fmt is not None
    meta = Meta(store, fmt)
    await meta.reload_usage()
    found = [str(finding) for finding in await check(meta, confirm=False)]
    await meta.close()
    return found


def campaign(url: str, processes: int, seconds: float) -> tuple[Counter[str], list[str]]:
    """What succeeded, and errors that no race explains."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.meta_worker", url, str(seconds), str(seed_value() + at)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ,
        )
        for at in range(processes)
    ]  # fmt: skip
    done: Counter[str] = Counter()
    wrong = []
    for process in running:
        out, err = process.communicate(timeout=seconds * 3 + 120)
        assert process.returncode == 0, err[-3000:]
        answer = json.loads(out.splitlines()[-1])
        done.update(answer["done"])
        wrong += answer["wrong"]
    return done, wrong


def prove(name: str, processes: int, seconds: float) -> None:
    with engine(name, durable=False) as database:
        url = database.fresh_url()
        asyncio.run(prepare(url))
        done, wrong = campaign(url, processes, seconds)
        print(f"{name}: {sum(done.values())} operations in {seconds} s by {processes} processes: {dict(done)}")
        assert wrong == []
        assert min(done.values()) > 0 and len(done) >= 10, done
        assert asyncio.run(findings(url)) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("sqlite", "redis", "postgres") else pytest.mark.heavy) for n in SHARED],
)
def test_after_a_short_campaign_all_records_agree(name: str) -> None:
    prove(name, 3, 3)


@pytest.mark.heavy
@pytest.mark.parametrize("name", SHARED)
def test_after_a_minute_of_eight_processes_all_records_agree(name: str) -> None:
    prove(name, 8, 60)
