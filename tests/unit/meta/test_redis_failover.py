# SPDX-License-Identifier: Apache-2.0
"""Servers that die or hang under load: Sentinel and the cluster put a replica in their place, and the client finds it.

Kept: what was acknowledged and had reached the replica (`WAIT`). Redis copies asynchronously, so no more can be
promised. What the client can't know it says (`uncertain`), within bounded time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from core.errors import MetaError
from core.meta import keys as k
from core.meta.store import PUT, RecordStore
from core.meta.stores.redis import RedisStore
from core.meta.stores.redis.connection import PATIENCE_S
from tests.servers.process import Server, wait_for
from tests.servers.redis import PASSWORD, PASSWORD_IN_URL, RedisServer, Sentinel, linked, replica_of
from tests.servers.redis_cluster import RedisCluster

#: No call may take longer: patience with an unreachable server, one silent second, and the machine's own slowness.
LONGEST_S = PATIENCE_S + 5
WRITERS = 8


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


class Load:
    """Writers that never stop; who was told what."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.acknowledged: list[int] = []
        self.failed: list[MetaError] = []
        self.longest_s = 0.0
        self._next = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._write()) for _ in range(WRITERS)]
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            self._next += 1
            mine, began = self._next, time.monotonic()
            try:
                await self.store.commit([], [(PUT, k.symlink(mine), b"%d" % mine)])
                self.acknowledged.append(mine)
            except MetaError as e:
                self.failed.append(e)
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    async def acknowledges_anew(self) -> None:
        """Until one that begins from now on is acknowledged: not what was on its way."""
        last = self._next
        async with asyncio.timeout(60):
            while not self.acknowledged or max(self.acknowledged[-WRITERS:]) <= last:
                await asyncio.sleep(0.005)

    async def acknowledges(self, more: int, within_s: float = 60) -> None:
        goal = len(self.acknowledged) + more
        async with asyncio.timeout(within_s):
            while len(self.acknowledged) < goal:
                await asyncio.sleep(0.005)


def end(server: Server, how: str) -> None:
    assert server.process
    if how == "dies":
        server.kill()
    else:
        os.kill(server.process.pid, signal.SIGSTOP)


async def survives(store: RecordStore, master: RedisServer, how: str, replaced: Callable[[], Awaitable[None]]) -> float:
    """Load, the end of the master, and what must still be there. Returns the length of the outage."""
    async with Load(store) as load:
        await load.acknowledges(300)
        safe = list(load.acknowledged)
        # Everything acknowledged up to here is on the replica when WAIT, which comes after it, returns.
        assert int(await asyncio.to_thread(master.cli, "WAIT", "1", "10000")) == 1
        began = time.monotonic()
        end(master, how)
        await replaced()
        await load.acknowledges_anew()
        outage = time.monotonic() - began
        await load.acknowledges(300)
    assert load.longest_s < LONGEST_S
    for error in load.failed:
        assert error.retryable, error
        assert "127.0.0.1" in str(error)
        assert PASSWORD not in str(error)
    if how == "hangs":
        assert any(error.uncertain and "has taken its place" in str(error) for error in load.failed)
    found = await store.read(*[k.symlink(i) for i in safe])
    assert found == [b"%d" % i for i in safe]
    return outage


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer, Sentinel]]:
    with RedisServer("--masterauth", PASSWORD) as master:
        assert isinstance(master, RedisServer)
        with replica_of(master) as replica:
            assert isinstance(replica, RedisServer)
            wait_for(lambda: linked(replica), what="the replica")
            with Sentinel(master, down_ms=500) as sentinel:
                assert isinstance(sentinel, Sentinel)
                wait_for(lambda: sentinel.knows_replicas(1), what="the Sentinel's knowledge of the replica")
                yield master, replica, sentinel
                if master.process:
                    os.kill(master.process.pid, signal.SIGCONT)


@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_sentinel_replaces_a_master(pair: tuple[RedisServer, RedisServer, Sentinel], how: str) -> None:
    master, replica, sentinel = pair
    async with opened(f"redis://:{PASSWORD_IN_URL}@vol,127.0.0.1:{sentinel.port}/2") as store:

        def promoted() -> bool:
            try:
                return "role:master" in replica.cli("INFO", "replication")
            except subprocess.CalledProcessError:  # it hangs up on its clients when its role changes
                return False

        async def replaced() -> None:
            await asyncio.to_thread(wait_for, promoted)

        outage = await survives(store, master, how, replaced)
        print(f"Sentinel: a master {how}, {outage:.1f} s to the next acknowledged commit")
        if how == "hangs":  # it comes back, and believes for a while that it is the master
            assert master.process
            os.kill(master.process.pid, signal.SIGCONT)
            await store.commit([], [(PUT, k.symlink(0), b"after")])
            async with opened(replica.url(2)) as direct:
                assert await direct.read(k.symlink(0)) == [b"after"]


async def test_a_sentinel_that_still_names_a_replica_is_asked_again(
    pair: tuple[RedisServer, RedisServer, Sentinel],
) -> None:
    """Between a demotion and the Sentinel's knowledge of it: no stale answer from a server that is no master."""
    master, replica, sentinel = pair
    async with opened(f"redis://:{PASSWORD_IN_URL}@vol,127.0.0.1:{sentinel.port}/2") as store:
        store._connection._patience_s = 1.0
        await store.commit([], [(PUT, k.symlink(1), b"x")])
        assert int(master.cli("WAIT", "1", "10000")) == 1
        replica.cli("REPLICAOF", "NO", "ONE")
        master.cli("REPLICAOF", "127.0.0.1", str(replica.port))
        master.cli("CLIENT", "KILL", "TYPE", "normal")
        try:
            assert await store.read(k.symlink(1)) == [b"x"]
        except MetaError as e:
            assert e.retryable
            assert "no master" in str(e) or "Sentinel" in str(e)


@pytest.mark.parametrize("how", ["dies", "hangs"])
async def test_a_cluster_replaces_the_owner_of_the_slot(how: str) -> None:
    with RedisCluster(replicas=1) as cluster:
        async with opened(cluster.url(3)) as store:
            owner = cluster.owner(3)

            async def replaced() -> None:
                return None  # the load goes on when a replica has taken over; nothing else tells

            outage = await survives(store, owner, how, replaced)
            print(f"Cluster: an owner {how}, {outage:.1f} s to the next acknowledged commit")
            assert owner.process is None or how == "hangs"
            if owner.process:
                os.kill(owner.process.pid, signal.SIGCONT)


async def test_a_walk_does_not_go_on_at_another_server(pair: tuple[RedisServer, RedisServer, Sentinel]) -> None:
    """Cursors of one server mean nothing to the next: rather an error than a walk with holes."""
    master, _, sentinel = pair
    async with opened(f"redis://:{PASSWORD_IN_URL}@vol,127.0.0.1:{sentinel.port}/2") as store:
        await store.commit([], [(PUT, k.symlink(i), b"x") for i in range(5000)])
        assert int(master.cli("WAIT", "1", "10000")) == 1
        walk = store.scan(k.SYMLINK)
        await anext(walk)
        master.kill()
        with pytest.raises(MetaError, match="run it again") as caught:
            async for _ in walk:
                pass
        assert caught.value.retryable
        assert len({key async for key, _ in store.scan(k.SYMLINK)}) == 5000
