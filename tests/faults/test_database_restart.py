# SPDX-License-Identifier: Apache-2.0
"""The database is killed under load and comes back: what was acknowledged is there, once; errors say what to do.

Servers run with durable settings. (The TiKV test server keeps no promise through `kill -9`; it isn't asked to.)
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time

import pytest

from core.errors import FsError, MetaError
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.volume import open_record_store
from tests.conformance.volume.invariants import check_invariants
from tests.conftest import seed_value
from tests.servers.engines import engine

TASKS = 12
KILLS = 3


class Load:
    """Tasks that create and remove names of their own, and remember what they were told."""

    def __init__(self, meta: Meta) -> None:
        self.meta = meta
        self.numbers = itertools.count()
        self.created: set[bytes] = set()
        self.removed: set[bytes] = set()
        self.unsure: set[bytes] = set()
        self.errors: list[MetaError] = []
        self.stop = False

    async def run(self, number: int) -> None:
        dice = random.Random(seed_value() + number)
        mine: list[bytes] = []
        while not self.stop:
            remove = bool(mine) and dice.random() < 0.3
            name = mine.pop() if remove else b"t%d-%d" % (number, next(self.numbers))
            try:
                if remove:
                    await self.meta.unlink(1, name)
                else:
                    await self.meta.create(1, name, exclusive=True)
            except MetaError as e:
                self.unsure.add(name)
                self.created.discard(name)
                self.errors.append(e)
                await asyncio.sleep(0.02)  # what a client with manners does
                continue
            if remove:
                self.created.discard(name)
                self.removed.add(name)
            else:
                mine.append(name)
                self.created.add(name)

    @property
    def told(self) -> int:
        return len(self.created) + len(self.removed)


async def until(load: Load, more: int) -> None:
    """Go on until so many more operations were acknowledged."""
    goal, deadline = load.told + more, time.monotonic() + 60
    while load.told < goal:
        assert time.monotonic() < deadline, f"the client does not recover: {load.errors[-1:]}"
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("name", ("redis", "postgres", "mariadb", "etcd"))
async def test_a_killed_database_loses_and_doubles_nothing(name: str) -> None:
    with engine(name, durable=True) as database:
        assert database.server
        store = open_record_store(database.fresh_url())
        await store.open()
        fmt = new_format("restart", bucket="/nowhere/").changed(trash_days=0)
        await init_format(store, fmt, time.time_ns())
        meta = Meta(store, fmt)
        await meta.new_session("restart", heartbeat_s=0)
        load = Load(meta)
        tasks = [asyncio.create_task(load.run(number)) for number in range(TASKS)]
        try:
            for _ in range(KILLS):
                await until(load, 150)
                database.server.kill()
                await asyncio.to_thread(database.server.start)
            await until(load, 150)
        finally:
            load.stop = True
            await asyncio.gather(*tasks)
        # A client may come through without a single error: it waits, and proves what became of a commit.
        assert all(e.retryable and len(str(e.strerror)) > 30 for e in load.errors), load.errors[:1]
        while meta._background:
            await asyncio.gather(*meta._background, return_exceptions=True)
        found: set[bytes] = set()
        while page := await meta.readdir(1, max(found, default=b""), 1000):
            found |= {e.name for e in page}
        assert load.created - found == set(), "acknowledged, but lost"
        assert load.removed & found == set(), "removed, but there again"
        assert found - load.created - load.unsure == set()
        await check_invariants(meta)
        example = f", such as: {load.errors[0].strerror}" if load.errors else ""
        print(f"{name}: {load.told} acknowledged, {len(load.errors)} errors{example}")
        await meta.close()


@pytest.mark.parametrize(
    "name",
    [
        "sqlite",
        "redis",
        "postgres",
        *(pytest.param(name, marks=pytest.mark.heavy) for name in ("mariadb", "etcd", "tikv")),
    ],
)
async def test_fifty_lost_races_are_a_clear_error_and_change_nothing(name: str) -> None:
    with engine(name) as database:
        url = database.fresh_url()
        stores = [open_record_store(url), open_record_store(url)]
        fmt = new_format("races", bucket="/nowhere/")
        metas = []
        for store in stores:
            await store.open()
            if store is stores[0]:
                await init_format(store, fmt, time.time_ns())
            metas.append(Meta(store, fmt))
            await metas[-1].new_session("races", heartbeat_s=0)
        victim, rival = metas
        ino, _ = await victim.create(1, b"contended")
        modes = itertools.cycle((0o600, 0o640))
        races = 0

        class Unlucky(type(victim.store)):  # type: ignore[misc]
            """Somebody is always quicker between what a transaction reads and its commit."""

            async def commit(self, checks, writes):  # type: ignore[no-untyped-def]
                nonlocal races
                races += 1
                await rival.setattr(ino, {"mode": next(modes)})
                return await super().commit(checks, writes)

        victim.store.__class__ = Unlucky
        with pytest.raises(FsError) as caught:
            await victim.truncate(ino, 10_000)
        victim.store.__class__ = Unlucky.__mro__[1]
        assert races == 50
        assert isinstance(caught.value, MetaError) and caught.value.retryable
        assert "50" in str(caught.value.strerror)
        assert (await rival.getattr(ino)).length == 0
        await check_invariants(rival)
        for meta in metas:
            await meta.close()
