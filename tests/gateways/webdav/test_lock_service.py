# SPDX-License-Identifier: Apache-2.0
"""Locks on a volume without HTTP: two servers race, clocks jump, servers are replaced, limits, damaged records."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from core.meta.format import new_format
from core.volume import Volume, format_volume, open_volume
from gateways.webdav.errors import DavError
from gateways.webdav.locks.records import X_LOCK, LockRecords
from gateways.webdav.locks.service import LockConflict, LockService
from gateways.webdav.locks.table import Lock

NS = 1_000_000_000
Open = Callable[..., "asyncio.Future[Server]"]


class Clock:
    """Wall time of all servers of a test, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 1_800_000_000 * NS

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * NS)


class Server:
    """One server's view of the locks of a volume."""

    def __init__(self, volume: Volume, clock: Clock, **limits: int) -> None:
        self.volume = volume
        self.locks = LockService(LockRecords(volume.fs), clock=clock, **limits)

    async def lock(
        self, *path: str, infinite: bool = True, exclusive: bool = True, who: str = "ann", s: int = 600
    ) -> Lock:
        return await self.locks.acquire(
            tuple(name.encode() for name in path), infinite=infinite, exclusive=exclusive, owner="<x/>", principal=who,
            timeout_s=s,
        )  # fmt: skip

    async def covering(self, *path: str) -> list[str]:
        await self.locks.fresh()
        return [lock.token for lock in self.locks.table.covering(tuple(name.encode() for name in path))]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Callable[[], asyncio.Future[Volume]]]:
    """Opens the volume once more, as another process would."""
    url = f"sqlite3://{tmp_path}/meta.db"
    await format_volume(url, new_format("locks", bucket=f"{tmp_path}/o/"))
    async with AsyncExitStack() as stack:

        async def another() -> Volume:
            volume = await open_volume(url, jobs=False)
            stack.push_async_callback(volume.close)
            return volume

        yield another  # type: ignore[misc]


async def test_of_two_servers_that_race_exactly_one_gets_the_lock(opened, clock) -> None:  # type: ignore[no-untyped-def]
    servers = [Server(await opened(), clock) for _ in range(2)]
    for turn in range(8):
        name = f"r{turn}"
        found = await asyncio.gather(
            *(server.lock(name, who=f"u{n}") for server in servers for n in range(4)), return_exceptions=True
        )
        won = [each for each in found if isinstance(each, Lock)]
        assert len(won) == 1, found
        assert all(isinstance(each, LockConflict) for each in found if each is not won[0])
        for server in servers:
            assert await server.covering(name) == [won[0].token]


async def test_trees_and_members_exclude_each_other_across_servers(opened, clock) -> None:  # type: ignore[no-untyped-def]
    a, b = Server(await opened(), clock), Server(await opened(), clock)
    member = await a.lock("top", "in", "file", infinite=False)
    with pytest.raises(LockConflict):
        await b.lock("top")
    with pytest.raises(LockConflict):
        await b.lock()  # the root, with everything below
    flat = await b.lock("top", infinite=False)  # the collection alone
    await b.locks.release([flat.token])
    beside = await b.lock("top2")  # a name that merely begins alike
    await a.locks.release([member.token])
    whole = await b.lock("top")
    for path in (("top",), ("top", "in"), ("top", "in", "file")):
        with pytest.raises(LockConflict):
            await a.lock(*path, infinite=False)
        with pytest.raises(LockConflict):
            await a.lock(*path, infinite=False, exclusive=False)
    await b.locks.release([whole.token, beside.token])
    shared = [await server.lock("top", exclusive=False, who=who) for server, who in ((a, "ann"), (b, "bob"))]
    assert len({lock.token for lock in shared}) == 2
    with pytest.raises(LockConflict):
        await a.lock("top", "in", "file")


async def test_a_lock_ends_when_its_time_is_over_and_not_before(opened, clock) -> None:  # type: ignore[no-untyped-def]
    a, b = Server(await opened(), clock), Server(await opened(), clock)
    lock = await a.lock("f", s=100)
    clock.sleep(99)
    assert await b.covering("f") == [lock.token]
    with pytest.raises(LockConflict):
        await b.lock("f")
    clock.sleep(2)
    assert await b.covering("f") == []
    again = await b.lock("f")
    assert await a.covering("f") == [again.token]
    assert await a.locks.refresh(lock.token, 100) is None, "an ended lock can't be refreshed"


async def test_a_refresh_on_one_server_counts_on_the_other(opened, clock) -> None:  # type: ignore[no-untyped-def]
    a, b = Server(await opened(), clock), Server(await opened(), clock)
    lock = await a.lock("f", s=100)
    assert await b.covering("f") == [lock.token]
    clock.sleep(90)
    refreshed = await a.locks.refresh(lock.token, 100)
    assert refreshed is not None and refreshed.expires == clock.now + 100 * NS
    clock.sleep(90)
    assert await b.covering("f") == [lock.token], "the other server has seen only the first expiry and asks again"
    with pytest.raises(LockConflict):
        await b.lock("f")
    clock.sleep(30)
    assert await b.covering("f") == [], "at most ten seconds more than promised"


async def test_frequent_refreshes_are_not_written_each_time(opened, clock) -> None:  # type: ignore[no-untyped-def]
    server = Server(await opened(), clock)
    lock = await server.lock("f", s=100)
    clock.sleep(1)
    await server.locks.refresh(lock.token, 100)  # stored with ten seconds to spare
    with server.volume.meta.store.round_trips() as trips:
        for _ in range(9):
            clock.sleep(1)
            assert await server.locks.refresh(lock.token, 100) is not None
    assert trips.count == 0
    clock.sleep(2)
    with server.volume.meta.store.round_trips() as trips:
        await server.locks.refresh(lock.token, 100)
    assert trips.count >= 1


async def test_locks_outlive_their_server(opened, clock) -> None:  # type: ignore[no-untyped-def]
    first = await opened()
    lock = await Server(first, clock).lock("a", "b", infinite=True, who="ann", s=600)
    later = Server(await opened(), clock)
    assert await later.covering("a", "b", "c") == [lock.token]
    found = later.locks.table.get(lock.token)
    assert found == lock, "owner, principal, depth and times come back as they were"


async def test_timeouts_are_capped_and_numbers_of_locks_too(opened, clock) -> None:  # type: ignore[no-untyped-def]
    server = Server(await opened(), clock, max_timeout_s=60, max_locks=6, max_of_one=4)
    assert (await server.lock("0", s=10**9)).timeout == 60
    for number in range(1, 4):
        await server.lock(str(number))
    with pytest.raises(DavError) as error:
        await server.lock("4")
    assert error.value.status == 507
    await server.lock("4", who="bob")
    await server.lock("5", who="bob")
    with pytest.raises(DavError):
        await server.lock("6", who="bob")
    clock.sleep(61)
    await server.lock("6", who="bob")


async def test_damaged_records_and_a_removed_folder_are_survived(opened, clock) -> None:  # type: ignore[no-untyped-def]
    volume = await opened()
    server = Server(volume, clock)
    lock = await server.lock("f")
    ino = (await volume.fs.lookup(b"/.sys/.webdav/locks/" + lock.token.encode())).ino
    await volume.fs.set_xattrs(ino, {X_LOCK: b'{"v": 1, "path": 7'})
    other = Server(await opened(), clock)
    assert await other.covering("f") == []
    await volume.fs.remove_tree(b"/.sys", skip_trash=True)
    fresh = Server(await opened(), clock)
    again = await fresh.lock("f")
    assert await fresh.covering("f") == [again.token]


async def test_no_lock_costs_one_trip_and_nothing_is_walked(opened, clock) -> None:  # type: ignore[no-untyped-def]
    server = Server(await opened(), clock)
    lock = await server.lock("x")
    await server.locks.release([lock.token])
    await server.locks.fresh()
    with server.volume.meta.store.round_trips() as trips:
        await server.locks.fresh()
    assert trips.count <= 1


async def test_two_servers_agree_with_a_plain_list_whatever_happens(opened, clock) -> None:  # type: ignore[no-untyped-def]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    servers = [Server(await opened(), clock) for _ in range(2)]
    held: dict[str, Lock] = {}
    paths = [(), ("a",), ("a", "b"), ("a", "c"), ("a", "b", "d"), ("ab",)]
    for _ in range(60):
        server, path = dice.choice(servers), dice.choice(paths)
        infinite, exclusive = dice.random() < 0.5, dice.random() < 0.6
        held = {token: lock for token, lock in held.items() if lock.expires > clock.now}
        where = tuple(name.encode() for name in path)
        if dice.random() < 0.35 and held:
            token = dice.choice(sorted(held))
            await server.locks.fresh()
            await server.locks.release([token])
            del held[token]
        elif dice.random() < 0.2:
            clock.sleep(dice.choice((1, 50, 200)))
        else:
            against = [
                lock for lock in held.values()
                if (exclusive or lock.exclusive) and (
                    lock.path == where
                    or (lock.infinite and where[: len(lock.path)] == lock.path)
                    or (infinite and lock.path[: len(where)] == where)
                )
            ]  # fmt: skip
            try:
                lock = await server.lock(*path, infinite=infinite, exclusive=exclusive, s=150)
                assert not against
                held[lock.token] = lock
            except LockConflict:
                assert against
    for server in servers:
        await server.locks.fresh()
        assert {lock.token for lock in server.locks.table} == {
            token for token, lock in held.items() if lock.expires > clock.now
        }
