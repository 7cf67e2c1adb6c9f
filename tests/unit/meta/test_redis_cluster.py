# SPDX-License-Identifier: Apache-2.0
"""A volume in a real cluster: one slot, found through any node, and what happens while it moves to another node.

While keys are under way no answer is made of half of them: calls wait, within bounds, and walks fail.
Source: format §4.2; Redis cluster specification (MIGRATING, IMPORTING, ASK, TRYAGAIN, MOVED).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from core.errors import MetaError
from core.meta import keys as k
from core.meta.records import FILE, Entry
from core.meta.store import ADD, DELETE, EXACT, PUT, Write
from core.meta.stores.redis import RedisStore
from tests.conformance.recordstore.helpers import attr, directory
from tests.servers.redis_cluster import ClusterNode, RedisCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
async def store(cluster: RedisCluster) -> AsyncIterator[RedisStore]:
    store = RedisStore(cluster.url(1))
    await store.open()
    await store.wipe()
    yield store
    await store.close()


def elsewhere(cluster: RedisCluster, db: int) -> ClusterNode:
    owner = cluster.owner(db)
    return next(node for node in cluster.nodes if node is not owner)


async def fill(store: RedisStore) -> None:
    await store.commit([], [
        (PUT, k.node(1), directory()), (PUT, k.entry(1, b"only"), Entry(FILE, 2)), (PUT, k.node(2), attr()),
        *[(PUT, k.symlink(i), b"%d" % i) for i in range(100)],
    ])  # fmt: skip


async def test_every_node_leads_to_the_volume(cluster: RedisCluster, store: RedisStore) -> None:
    await fill(store)
    for node in cluster.nodes:
        one = RedisStore(node.url(1))
        await one.open()
        try:
            with one.round_trips() as n:
                assert await one.read(k.symlink(7)) == [b"7"]
            assert n.count == 1
        finally:
            await one.close()
    owner = cluster.owner(1)
    names = owner.cli("CLUSTER", "GETKEYSINSLOT", str(slot(owner, "{1}")), "1000").split()
    assert len(names) == 103
    assert all(name.startswith("{1}") for name in names)
    assert [node.cli("DBSIZE") for node in cluster.nodes if node is not owner] == ["0", "0"]


def slot(node: ClusterNode, tag: str) -> int:
    return int(node.cli("CLUSTER", "KEYSLOT", tag))


async def test_volumes_of_other_numbers_live_beside_each_other(cluster: RedisCluster, store: RedisStore) -> None:
    other = RedisStore(cluster.url(2))
    await other.open()
    try:
        await store.commit([], [(PUT, k.symlink(1), b"one")])
        await other.commit([], [(PUT, k.symlink(1), b"two")])
        assert [await s.read(k.symlink(1)) for s in (store, other)] == [[b"one"], [b"two"]]
        await other.wipe()
        assert await store.read(k.symlink(1)) == [b"one"]
    finally:
        await other.close()


async def test_a_slot_that_has_moved_is_followed(cluster: RedisCluster, store: RedisStore) -> None:
    await fill(store)
    for _ in range(3):
        target = elsewhere(cluster, 1)
        cluster.begin_move(1, target)
        while cluster.move_keys(1, target, 1000):
            pass
        cluster.end_move(1, target)
        await store.commit([], [(ADD, k.counter("marks"), 1)])
        assert await store.read(k.symlink(5), k.node(2)) == [b"5", attr()]
        assert target.cli("DBSIZE") != "0"
    assert await store.read(k.counter("marks")) == [3]


async def test_nothing_is_answered_from_half_a_slot(cluster: RedisCluster, store: RedisStore) -> None:
    await fill(store)
    target = elsewhere(cluster, 1)
    cluster.begin_move(1, target)
    assert cluster.move_keys(1, target, 40) == 40
    try:
        # Replacing the only entry of a directory: the key is gone for a moment, and is not the source's to create.
        replace: list[Write] = [(DELETE, k.entry(1, b"only"), None), (PUT, k.entry(1, b"new"), Entry(FILE, 2))]
        waiting = [
            asyncio.create_task(store.read(*[k.symlink(i) for i in range(100)])),
            asyncio.create_task(store.read(k.symlink(1000))),
            asyncio.create_task(store.resolve(1, [b"only"])),
            asyncio.create_task(store.list_entries(1, attrs=True)),
            asyncio.create_task(store.commit([(EXACT, k.entry(1, b"only"), Entry(FILE, 2))], replace)),
            asyncio.create_task(store.commit([], [(ADD, k.counter("marks"), 1)])),
            asyncio.create_task(listed(store)),
        ]
        done, _ = await asyncio.wait(waiting, timeout=0.5)
        for task in done:  # what was still there in full may have been answered; never what wasn't
            assert task in waiting[2:4]
    finally:
        while cluster.move_keys(1, target, 1000):
            pass
        cluster.end_move(1, target)
    links, missing, _, _, _, _, found = await asyncio.gather(*waiting)
    assert links == [b"%d" % i for i in range(100)]
    assert missing == [None]
    assert found == {k.symlink(i) for i in range(100)}
    assert [e.name for e in await store.list_entries(1)] == [b"new"]
    assert await store.read(k.counter("marks")) == [1]


async def listed(store: RedisStore) -> set[k.Key]:
    """Again until it is whole, as jobs do."""
    while True:
        try:
            return {key async for key, _ in store.scan(k.SYMLINK)}
        except MetaError as e:
            assert e.retryable


async def test_a_long_move_is_an_error_that_says_so(cluster: RedisCluster, store: RedisStore) -> None:
    await fill(store)
    target = elsewhere(cluster, 1)
    cluster.begin_move(1, target)
    store._connection._patience_s = 0.2
    try:
        for call in (store.commit([], [(PUT, k.symlink(1), b"x")]), store.read(k.symlink(1000)), listed_once(store)):
            with pytest.raises(MetaError, match="moving the volume's slot") as caught:
                await call
            assert caught.value.retryable
            assert not caught.value.uncertain
        assert await store.read(k.symlink(1)) == [b"1"]
    finally:
        while cluster.move_keys(1, target, 1000):
            pass
        cluster.end_move(1, target)


async def listed_once(store: RedisStore) -> int:
    return len([1 async for _ in store.scan(k.SYMLINK)])


async def test_load_goes_on_while_the_slot_wanders(cluster: RedisCluster, store: RedisStore) -> None:
    """Increments by everybody during whole moves: each that was acknowledged counts once."""
    await fill(store)
    done = 0
    running = True

    async def work() -> None:
        nonlocal done
        while running:
            await store.commit([], [(ADD, k.counter("marks"), 1), (PUT, k.symlink(7), b"7")])
            done += 1

    tasks = [asyncio.create_task(work()) for _ in range(5)]
    for _ in range(3):
        target = elsewhere(cluster, 1)
        await asyncio.to_thread(cluster.begin_move, 1, target)
        while await asyncio.to_thread(cluster.move_keys, 1, target, 25):
            pass
        await asyncio.to_thread(cluster.end_move, 1, target)
        goal = done + 20
        async with asyncio.timeout(20):
            while done < goal:
                await asyncio.sleep(0.002)
    running = False
    await asyncio.gather(*tasks)
    assert await store.read(k.counter("marks")) == [done]
