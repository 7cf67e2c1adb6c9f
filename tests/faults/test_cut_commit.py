# SPDX-License-Identifier: Apache-2.0
"""The connection to the database breaks at every byte of an operation, on its way there and on its way back.

Whatever the caller is told must be true: done means done, once; an error means that it may or may not have happened,
but never half and never twice, and the message says so. A second client, on a connection of its own, looks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from core.errors import FsError, MetaError
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import Slice
from core.volume import open_record_store
from tests.conformance.volume.invariants import check_invariants
from tests.servers.engines import engine
from tests.servers.proxy import CuttingProxy

#: Engines whose every byte passes one port. (TiKV's client talks to addresses that the placement driver tells it.)
THROUGH_A_PORT = ("redis", "postgres", "mariadb", "etcd")
#: In the short form so many places in either direction.
PLACES = 12


@asynccontextmanager
async def clients(name: str) -> AsyncIterator[tuple[Meta, Meta, CuttingProxy]]:
    """A client behind the proxy and one that talks to the database itself, on one new volume."""
    with engine(name) as database:
        async with CuttingProxy(database.port) as proxy:
            near_url = database.fresh_url()
            far_url = near_url.replace(f":{database.port}", f":{proxy.port}")
            metas = []
            for at, url in enumerate((near_url, far_url)):
                store = open_record_store(url)
                await store.open()
                fmt = new_format("cut", bucket="/nowhere/").changed(trash_days=0)
                if not at:
                    await init_format(store, fmt, time.time_ns())
                meta = Meta(store, fmt)
                await meta.new_session("cut", heartbeat_s=0)
                metas.append(meta)
            judge, victim = metas
            try:
                yield judge, victim, proxy
            finally:
                proxy.arm()
                await victim.close()
                await judge.close()


class Case:
    """One operation and how to see whether it happened: 0 not, 1 once, more: too often."""

    def __init__(self, judge: Meta, victim: Meta) -> None:
        self.judge = judge
        self.victim = victim
        self.number = 0

    async def before(self) -> None:
        """Set the stage, by the judge."""

    async def act(self) -> None:
        raise NotImplementedError

    async def happened(self) -> int:
        raise NotImplementedError


class Create(Case):
    async def act(self) -> None:
        await self.victim.create(1, b"new%d" % self.number, exclusive=True)

    async def happened(self) -> int:
        return await exists(self.judge, b"new%d" % self.number)


class Unlink(Case):
    async def before(self) -> None:
        await self.judge.create(1, b"old%d" % self.number)

    async def act(self) -> None:
        await self.victim.unlink(1, b"old%d" % self.number)

    async def happened(self) -> int:
        return 1 - await exists(self.judge, b"old%d" % self.number)


class Rename(Case):
    async def before(self) -> None:
        await self.judge.create(1, b"from%d" % self.number)

    async def act(self) -> None:
        await self.victim.rename(1, b"from%d" % self.number, 1, b"to%d" % self.number)

    async def happened(self) -> int:
        old, new = await exists(self.judge, b"from%d" % self.number), await exists(self.judge, b"to%d" % self.number)
        assert old + new == 1, "a rename was seen half"
        return new


class Write(Case):
    async def before(self) -> None:
        self.ino, _ = await self.judge.create(1, b"written")
        self.known = len(await self.judge.read_chunk(self.ino, 0))
        if self.victim.slice_ids.take_nowait() is None:
            await self.victim.slice_ids.take()

    async def act(self) -> None:
        ident = self.victim.slice_ids.take_nowait()
        assert ident
        await self.victim.write_slices(self.ino, 0, [Slice(0, ident, 4096, 0, 4096)], time.time_ns())

    async def happened(self) -> int:
        return len(await self.judge.read_chunk(self.ino, 0)) - self.known


CASES: dict[str, type[Case]] = {"create": Create, "unlink": Unlink, "rename": Rename, "write": Write}


async def exists(meta: Meta, name: bytes) -> int:
    try:
        await meta.lookup(1, name)
    except FsError:
        return 0
    return 1


async def settled(case: Case) -> int:
    """What happened, once the server has finished with a connection that broke."""
    seen = await case.happened()
    for _ in range(20):
        await asyncio.sleep(0.002)
        again = await case.happened()
        if again == seen:
            return seen
        seen = again
    return seen


async def warm(case: Case) -> None:
    """The same once before, in peace: a connection that has just been made sends more than the operation itself."""
    case.number += 1
    await case.before()
    await case.act()
    case.number += 1
    await case.before()


async def every_byte(name: str, what: str, step: int = 0) -> tuple[int, int, int]:
    """Cut after 0, step, 2·step … bytes in either direction (step 0: in PLACES places); how many attempts succeeded,
    failed and had not happened, failed and had happened."""
    outcomes = [0, 0, 0]
    async with clients(name) as (judge, victim, proxy):
        case = CASES[what](judge, victim)
        sizes = {"up": 0, "down": 0}
        for _ in range(3):
            await warm(case)
            proxy.arm()
            await case.act()
            sizes = {way: max(size, proxy.counted[way]) for way, size in sizes.items()}
        assert sizes["up"] and sizes["down"]
        began, places = proxy.cuts, 0
        for direction in ("up", "down"):
            for at in range(0, sizes[direction] + 1, step or max(1, sizes[direction] // PLACES)):
                places += 1
                await warm(case)
                proxy.arm(**{direction: at})
                error: FsError | None = None
                try:
                    await asyncio.wait_for(case.act(), 30)
                except FsError as e:
                    error = e
                proxy.arm()
                times = await settled(case)
                assert times in (0, 1), f"cut {direction} at byte {at}: applied {times} times"
                if error is None:
                    assert times == 1, f"cut {direction} at byte {at}: acknowledged, but lost"
                    outcomes[0] += 1
                else:
                    assert isinstance(error, MetaError) and str(error.strerror), f"unclear error: {error!r}"
                    outcomes[1 + times] += 1
                # The client recovers by itself.
                assert await victim.getattr(1)
        assert proxy.cuts - began > places // 3, "hardly anything was cut"
        await idle(judge, victim)
        await check_invariants(judge)
    print(f"{name} {what}: {sizes['up']} bytes up, {sizes['down']} down, {places} places")
    return outcomes[0], outcomes[1], outcomes[2]


async def idle(*metas: Meta) -> None:
    for meta in metas:
        while meta._background:
            await asyncio.gather(*meta._background, return_exceptions=True)


Runner = Callable[[str, str, int], Awaitable[tuple[int, int, int]]]


@pytest.mark.parametrize("what", CASES)
@pytest.mark.parametrize("name", THROUGH_A_PORT)
async def test_a_connection_cut_on_the_way(name: str, what: str) -> None:
    print(name, what, await every_byte(name, what))


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", THROUGH_A_PORT)
async def test_a_connection_cut_at_every_byte_of_a_slice_commit(name: str) -> None:
    print(name, await every_byte(name, "write", 1))
