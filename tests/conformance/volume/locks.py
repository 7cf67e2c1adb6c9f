# SPDX-License-Identifier: Apache-2.0
"""Volume suite: flock and POSIX locks, among the owners of one client and between two clients of a volume.

Source: spec metadata-semantics §10.1, §10.3, §10.4; format §4.6, §9.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.format import Format
from core.meta.lockranges import MAX_OFFSET, Range
from core.meta.meta import Meta
from core.meta.records import FILE, ROOT
from tests.conformance.volume.base import NOW, Ticking, VolumeBase

END = 2**63 - 1


async def refused(number: int, call: Awaitable[Any]) -> FsError:
    with pytest.raises(FsError) as caught:
        await call
    assert caught.value.errno == number, caught.value
    return caught.value


async def until(condition: Any) -> None:
    """Let other tasks run until it is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Locks(VolumeBase):
    @pytest.fixture
    async def other(self, meta: Meta) -> AsyncIterator[Meta]:
        """Another client of the same volume."""
        other = Meta(meta.store, meta.format, clock_ns=Ticking())
        await other.new_session("other", heartbeat_s=0)
        yield other
        await other.end_session()

    async def a_file(self, meta: Meta, name: bytes = b"locked") -> int:
        ino, _ = await meta.mknod(ROOT, name, FILE, 0o644)
        return ino

    async def waiting(self, meta: Meta, key: k.Key, count: int) -> None:
        """Until so many requests sleep there: tried, refused, and part of no circle."""
        await until(
            lambda: (
                key in meta._lock_tables
                and sum(bool(request.event._waiters) for request in meta._lock_tables[key].waiting) == count
            )  # type: ignore[attr-defined]
        )

    # -- flock ---------------------------------------------------------------------------------------------------

    async def test_flock_readers_share_and_a_writer_is_alone(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.flock(ino, 1, "R")
        await meta.flock(ino, 2, "R")
        await other.flock(ino, 1, "R")  # the same number of another client is another owner
        await refused(errno.EAGAIN, meta.flock(ino, 3, "W"))
        await refused(errno.EAGAIN, other.flock(ino, 3, "W"))
        await refused(errno.EAGAIN, meta.flock(ino, 1, "W"))
        assert (await meta.list_locks(ino)).flocks == {(meta.sid, 1): "R", (meta.sid, 2): "R", (other.sid, 1): "R"}
        await meta.flock(ino, 2, "U")
        await other.flock(ino, 1, "U")
        await meta.flock(ino, 1, "W")  # the last reader may become the writer
        await refused(errno.EAGAIN, meta.flock(ino, 2, "R"))
        await refused(errno.EAGAIN, other.flock(ino, 2, "R"))
        await meta.flock(ino, 1, "R")
        await other.flock(ino, 2, "R")
        await meta.flock(ino, 1, "U")
        await other.flock(ino, 2, "U")
        await meta.flock(ino, 9, "U")  # unlocking what isn't locked is fine
        assert await meta.store.read(k.flocks(ino)) == [{}]

    async def test_flock_of_the_largest_owner(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        for owner in (0, 2**63, 2**64 - 1):
            await meta.flock(ino, owner, "W")
            await refused(errno.EAGAIN, other.flock(ino, owner, "R"))
            assert (await other.list_locks(ino)).flocks == {(meta.sid, owner): "W"}
            await meta.flock(ino, owner, "U")

    async def test_locks_of_nonsense_are_refused(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        for call in (
            meta.flock(ino, 1, "X"), meta.setlk(ino, 1, "r", 0, 1, 1), meta.getlk(ino, 1, "", 0, 1),
            meta.setlk(ino, 1, "W", 5, 4, 1), meta.setlk(ino, 1, "W", -1, 4, 1),
            meta.setlk(ino, 1, "W", 0, 2**64, 1), meta.setlk(ino, 1, "W", 0, 1, 2**32), meta.flock(ino, 2**64, "W"),
        ):  # fmt: skip
            await refused(errno.EINVAL, call)
        assert (await meta.list_locks(ino)) == ({}, {})

    async def test_only_what_exists_can_be_locked(self, meta: Meta) -> None:
        await refused(errno.ENOENT, meta.flock(987654, 1, "W"))
        await refused(errno.ENOENT, meta.flock(987654, 1, "R", block=True))
        await refused(errno.ENOENT, meta.setlk(987654, 1, "R", 0, END, 7))
        await meta.flock(987654, 1, "U")
        await meta.setlk(987654, 1, "U", 0, END, 7)
        assert await meta.getlk(987654, 1, "W", 0, END) == ("U", 0, 0, 0)

    async def test_a_client_that_may_not_write_takes_no_locks(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        reader = Meta(meta.store, meta.format, read_only=True)
        await reader.new_session("reader", heartbeat_s=0)
        await refused(errno.EROFS, reader.flock(ino, 1, "R"))
        await reader.flock(ino, 1, "U")
        unregistered = Meta(meta.store, meta.format)
        await refused(errno.ENOLCK, unregistered.setlk(ino, 1, "R", 0, 1, 1))

    # -- POSIX ---------------------------------------------------------------------------------------------------

    async def test_ranges_are_cut_merged_and_listed(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.setlk(ino, 1, "W", 0, END, 11)
        await meta.setlk(ino, 1, "R", 100, 199, 11)
        await meta.setlk(ino, 1, "U", 150, 159, 11)
        expected = [
            Range("W", 11, 0, 99), Range("R", 11, 100, 149), Range("R", 11, 160, 199), Range("W", 11, 200, END),
        ]  # fmt: skip
        assert (await other.list_locks(ino)).plocks == {(meta.sid, 1): expected}
        await meta.setlk(ino, 1, "W", 100, 199, 11)
        assert (await other.list_locks(ino)).plocks == {(meta.sid, 1): [Range("W", 11, 0, END)]}
        await meta.setlk(ino, 1, "U", 0, MAX_OFFSET, 11)
        assert await meta.store.read(k.plocks(ino)) == [{}]

    async def test_ranges_of_two_clients_conflict_where_they_meet(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.setlk(ino, 1, "W", 100, 199, 11)
        await meta.setlk(ino, 1, "R", 300, 399, 11)
        await other.setlk(ino, 1, "W", 0, 99, 22)
        await other.setlk(ino, 1, "W", 200, 299, 22)
        await other.setlk(ino, 1, "R", 350, 500, 22)
        for start, end, kind in ((0, 100, "R"), (199, 199, "R"), (399, 399, "W"), (0, END, "W")):
            await refused(errno.EAGAIN, other.setlk(ino, 1, kind, start, end, 22))
        assert await other.getlk(ino, 1, "R", 0, END) == ("W", 100, 199, 0)  # no process number of another client
        assert await meta.getlk(ino, 2, "R", 0, END) == ("W", 0, 99, 0)
        assert await meta.getlk(ino, 2, "R", 100, END) == ("W", 100, 199, 11)
        assert await meta.getlk(ino, 1, "W", 100, 199) == ("U", 0, 0, 0)
        assert await meta.getlk(ino, 2, "R", 300, 600) == ("U", 0, 0, 0)
        assert await meta.getlk(ino, 2, "U", 0, END) == ("U", 0, 0, 0)

    async def test_flocks_and_ranges_have_nothing_to_do_with_each_other(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.flock(ino, 1, "W")
        await other.setlk(ino, 1, "W", 0, END, 1)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def test_a_waiter_of_this_process_is_woken_and_costs_the_store_nothing(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.flock(ino, 1, "W")
        with meta.store.round_trips() as n:
            waiter = asyncio.create_task(meta.flock(ino, 2, "W", block=True))
            await self.waiting(meta, k.flocks(ino), 1)
            for _ in range(30):
                await asyncio.sleep(0.001)
        assert n.count == 0
        with meta.store.round_trips() as n:
            await meta.flock(ino, 1, "U")
            await waiter
        assert n.count == 2  # both know what the table holds: one commit each
        assert (await meta.list_locks(ino)).flocks == {(meta.sid, 2): "W"}

    async def test_locks_cost_at_most_two_round_trips(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        for call, most in (
            (meta.flock(ino, 1, "W"), 2), (meta.flock(ino, 1, "R"), 1), (meta.flock(ino, 2, "W"), 0 + 1),
            (meta.flock(ino, 1, "U"), 1), (meta.flock(ino, 1, "U"), 1),
            (meta.setlk(ino, 1, "W", 0, 9, 1), 2), (meta.setlk(ino, 1, "W", 10, 19, 1), 1),
            (meta.getlk(ino, 2, "W", 0, 9), 1), (meta.setlk(ino, 1, "U", 0, END, 1), 1),
        ):  # fmt: skip
            with meta.store.round_trips() as n:
                await asyncio.gather(call, return_exceptions=True)
            assert n.count <= most
        with meta.store.round_trips() as n:
            await meta.flock(ROOT, 1, "U")
        assert n.count == 0  # never locked here

    async def test_writers_of_one_process_get_their_turn_in_order(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.flock(ino, 0, "W")
        order: list[int] = []

        async def work(owner: int) -> None:
            await meta.flock(ino, owner, "W", block=True)
            order.append(owner)
            assert (await meta.list_locks(ino)).flocks == {(meta.sid, owner): "W"}
            await meta.flock(ino, owner, "U")

        tasks = []
        for owner in range(1, 12):
            tasks.append(asyncio.create_task(work(owner)))
            await self.waiting(meta, k.flocks(ino), owner)
        await meta.flock(ino, 0, "U")
        await asyncio.gather(*tasks)
        assert order == list(range(1, 12))
        assert meta._lock_tables == {}

    async def test_a_writer_is_not_starved_by_readers(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.flock(ino, 1, "R")
        writer = asyncio.create_task(meta.flock(ino, 2, "W", block=True))
        await self.waiting(meta, k.flocks(ino), 1)
        readers = [asyncio.create_task(meta.flock(ino, owner, "R", block=True)) for owner in (3, 4, 5)]
        await self.waiting(meta, k.flocks(ino), 4)
        await meta.flock(ino, 1, "U")
        await writer
        assert not any(task.done() for task in readers)
        await meta.flock(ino, 2, "U")
        await asyncio.gather(*readers)

    async def test_letting_others_go_first_makes_no_deadlock(self, meta: Meta) -> None:
        """A reader behind a writer that waits for another reader, who in turn waits for the first one elsewhere."""
        one, two = await self.a_file(meta, b"one"), await self.a_file(meta, b"two")
        await meta.flock(two, 1, "W")
        await meta.flock(one, 3, "R")
        writer = asyncio.create_task(meta.flock(one, 2, "W", block=True))
        await self.waiting(meta, k.flocks(one), 1)
        third = asyncio.create_task(meta.flock(two, 3, "W", block=True))
        await self.waiting(meta, k.flocks(two), 1)
        async with asyncio.timeout(20):
            await meta.flock(one, 1, "R", block=True)
        for ino in (one, two):
            await meta.flock(ino, 1, "U")
        await third
        await meta.flock(one, 3, "U")
        await writer

    async def test_two_who_want_to_become_the_writer_both_do(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        for clients in ((meta, meta), (meta, other)):
            holders = [(client, owner) for owner, client in enumerate(clients)]
            for client, owner in holders:
                await client.flock(ino, owner, "R")

            async def upgrade(client: Meta, owner: int) -> None:
                await client.flock(ino, owner, "W", block=True)
                await client.flock(ino, owner, "U")

            async with asyncio.timeout(20):
                await asyncio.gather(*[upgrade(*holder) for holder in holders])
        assert await meta.store.read(k.flocks(ino)) == [{}]

    async def test_a_lock_of_another_client_is_waited_for(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await other.flock(ino, 1, "W")
        await other.setlk(ino, 1, "W", 0, 9, 5)
        waiters = [
            asyncio.create_task(meta.flock(ino, 1, "R", block=True)),
            asyncio.create_task(meta.setlk(ino, 1, "W", 5, 6, 5, block=True)),
        ]
        await self.waiting(meta, k.flocks(ino), 1)
        await self.waiting(meta, k.plocks(ino), 1)
        await other.flock(ino, 1, "U")
        await other.setlk(ino, 1, "U", 0, 9, 5)
        async with asyncio.timeout(20):
            await asyncio.gather(*waiters)
        await refused(errno.EAGAIN, other.flock(ino, 1, "W"))

    async def test_ranges_that_do_not_meet_do_not_wait_for_each_other(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.setlk(ino, 1, "W", 0, 9, 1)
        waiter = asyncio.create_task(meta.setlk(ino, 2, "W", 5, 15, 1, block=True))
        await self.waiting(meta, k.plocks(ino), 1)
        await meta.setlk(ino, 3, "W", 20, 29, 1, block=True)
        behind = asyncio.create_task(meta.setlk(ino, 4, "W", 12, 13, 1, block=True))
        await self.waiting(meta, k.plocks(ino), 2)
        await meta.setlk(ino, 1, "U", 0, 4, 1)
        assert not waiter.done()
        await meta.setlk(ino, 1, "U", 5, 9, 1)
        await waiter
        await meta.setlk(ino, 2, "U", 0, END, 1)
        await behind

    async def test_a_wait_ends_when_its_time_is_over(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        for holder in (meta, other):
            await holder.flock(ino, 1, "W")
            await refused(errno.EAGAIN, meta.flock(ino, 2, "W", block=True, timeout_s=0.02))
            await holder.flock(ino, 1, "U")
        await self.idle(meta)
        assert meta._lock_tables == {}

    @pytest.mark.parametrize("holder_is_other", [False, True])
    async def test_a_cancelled_wait_leaves_nothing_behind(self, meta: Meta, other: Meta, holder_is_other: bool) -> None:
        ino = await self.a_file(meta)
        holder = other if holder_is_other else meta
        await holder.setlk(ino, 1, "W", 0, 99, 1)
        tasks = [asyncio.create_task(meta.setlk(ino, i, "W", 50, 60, 1, block=True)) for i in range(2, 6)]
        await self.waiting(meta, k.plocks(ino), 4)
        for task in tasks[:3]:
            task.cancel()
        found = await asyncio.gather(*tasks[:3], return_exceptions=True)
        assert all(isinstance(e, asyncio.CancelledError) for e in found)
        await holder.setlk(ino, 1, "U", 0, END, 1)
        async with asyncio.timeout(20):
            await tasks[3]
        await self.idle(meta)
        assert (await meta.list_locks(ino)).plocks == {(meta.sid, 5): [Range("W", 1, 50, 60)]}

    async def test_cancelling_at_any_moment_gives_back_what_was_held_before(self, meta: Meta) -> None:
        """The commit may be on its way: it is taken back, and the owner holds what it held."""
        ino = await self.a_file(meta)
        before = [Range("R", 1, 0, 9), Range("R", 1, 20, 29)]
        for turns in range(12):
            await meta.flock(ino, 1, "R")
            for r in before:
                await meta.setlk(ino, 1, r.kind, r.start, r.end, r.pid)
            tasks = [
                asyncio.create_task(meta.setlk(ino, 1, "W", 5, 25, 1)),
                asyncio.create_task(meta.flock(ino, 1, "W", block=True)),
                asyncio.create_task(meta.flock(ino, 2 + turns, "R", block=True)),
            ]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            cancelled = [
                isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*tasks, return_exceptions=True)
            ]
            await self.idle(meta)
            flocks, plocks = await meta.list_locks(ino)
            if cancelled[0]:
                assert plocks == {(meta.sid, 1): before}
            if cancelled[1]:
                assert flocks.get((meta.sid, 1)) == "R"
            assert ((meta.sid, 2 + turns) in flocks) != cancelled[2]
            await meta.setlk(ino, 1, "U", 0, END, 1)
            await meta.flock(ino, 2 + turns, "U")
            await meta.flock(ino, 1, "U")
        assert await meta.list_locks(ino) == ({}, {})
        assert meta._lock_tables == {}

    # -- deadlocks -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [2, 5])
    async def test_a_circle_of_waiting_owners_is_a_deadlock(self, meta: Meta, size: int) -> None:
        files = [await self.a_file(meta, b"f%d" % i) for i in range(size)]
        for i, ino in enumerate(files):
            await meta.setlk(ino, i, "W", 0, END, i)
        tasks = []
        for i in range(size - 1):
            tasks.append(asyncio.create_task(meta.setlk(files[i + 1], i, "R", 7, 7, i, block=True)))
            await self.waiting(meta, k.plocks(files[i + 1]), 1)
        with meta.store.round_trips() as n:
            await refused(errno.EDEADLK, meta.setlk(files[0], size - 1, "W", 5, 5, size - 1, block=True))
        assert n.count == 0
        await refused(errno.EAGAIN, meta.setlk(files[0], size - 1, "W", 5, 5, size - 1))
        assert not any(task.done() for task in tasks)
        for i in reversed(range(size)):  # the one who was told releases, then everybody gets on
            await meta.setlk(files[i], i, "U", 0, END, i)
            if i:
                await tasks[i - 1]

    async def test_two_readers_of_a_range_who_both_want_to_write_it(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.setlk(ino, 1, "R", 0, 9, 1)
        await meta.setlk(ino, 2, "R", 0, 9, 2)
        first = asyncio.create_task(meta.setlk(ino, 1, "W", 0, 9, 1, block=True))
        await self.waiting(meta, k.plocks(ino), 1)
        await refused(errno.EDEADLK, meta.setlk(ino, 2, "W", 0, 9, 2, block=True))
        await meta.setlk(ino, 2, "U", 0, 9, 2)
        await first

    async def test_waiting_in_a_line_is_no_deadlock(self, meta: Meta) -> None:
        one, two = await self.a_file(meta, b"one"), await self.a_file(meta, b"two")
        await meta.setlk(one, 1, "W", 0, 0, 1)
        await meta.setlk(two, 2, "W", 0, 0, 1)
        tasks = [
            asyncio.create_task(meta.setlk(one, owner, "W", 0, 0, 1, block=True)) for owner in (2, 3, 4)
        ] + [asyncio.create_task(meta.setlk(two, owner, "W", 0, 0, 1, block=True)) for owner in (5, 3)]  # fmt: skip
        await self.waiting(meta, k.plocks(one), 3)
        await self.waiting(meta, k.plocks(two), 2)
        await meta.setlk(one, 1, "U", 0, 0, 1)
        await tasks[0]
        await meta.setlk(one, 2, "U", 0, 0, 1)
        await meta.setlk(two, 2, "U", 0, 0, 1)
        await tasks[1]
        await tasks[3]
        await meta.setlk(one, 3, "U", 0, 0, 1)
        await tasks[2]
        await meta.setlk(two, 5, "U", 0, 0, 1)
        await tasks[4]

    # -- many at once --------------------------------------------------------------------------------------------

    async def test_nobody_is_ever_inside_with_somebody_else(self, meta: Meta, other: Meta) -> None:
        """Two clients, flocks and ranges: a counter that everybody reads, waits and writes loses nothing."""
        ino = await self.a_file(meta)
        counted = {"flock": 0, "range": 0}
        rounds, owners = 3, 4

        async def inside(what: str) -> None:
            seen = counted[what]
            await asyncio.sleep(0)
            counted[what] = seen + 1

        async def work(client: Meta, owner: int) -> None:
            for _ in range(rounds):
                await client.flock(ino, owner, "W", block=True)
                await inside("flock")
                await client.flock(ino, owner, "U")
                await client.setlk(ino, owner, "W", 10, 20 + owner, owner, block=True)
                await inside("range")
                await client.setlk(ino, owner, "U", 0, END, owner)

        async with asyncio.timeout(60):
            await asyncio.gather(*[work(client, owner) for client in (meta, other) for owner in range(owners)])
        assert counted == {"flock": 2 * owners * rounds, "range": 2 * owners * rounds}
        assert await meta.list_locks(ino) == ({}, {})

    # -- the volume ----------------------------------------------------------------------------------------------

    async def test_locks_do_not_care_what_else_changes_on_the_inode(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await meta.flock(ino, 1, "R")
        await other.setattr(ino, {"mode": 0o600})
        await meta.flock(ino, 1, "W")
        await meta.flock(ino, 1, "U")

    async def test_a_dead_client_loses_its_locks_shared_ones_too(self, meta: Meta, other: Meta) -> None:
        ino, two = await self.a_file(meta), await self.a_file(meta, b"two")
        dead = Meta(meta.store, meta.format, clock_ns=Ticking(NOW - 400 * 86400 * 10**9))
        await dead.new_session("dead", heartbeat_s=0)
        await dead.flock(ino, 1, "R")
        await dead.flock(two, 1, "W")
        await dead.setlk(ino, 2, "R", 0, 9, 1)
        await other.flock(ino, 3, "R")
        await refused(errno.EAGAIN, meta.flock(ino, 1, "W"))
        assert await meta.clean_stale_sessions() == 1
        assert await meta.list_locks(ino) == ({(other.sid, 3): "R"}, {})
        assert await meta.list_locks(two) == ({}, {})
        await other.flock(ino, 3, "U")
        await meta.flock(ino, 1, "W")

    async def test_the_end_of_a_session_ends_its_locks(self, meta: Meta) -> None:
        inodes = [await self.a_file(meta, b"%d" % i) for i in range(5)]
        leaving = Meta(meta.store, meta.format, clock_ns=Ticking())
        await leaving.new_session("leaving", heartbeat_s=0)
        for ino in inodes:
            await leaving.flock(ino, 1, "R")
            await leaving.setlk(ino, 1, "W", 0, 9, 1)
            await meta.setlk(ino, 1, "W", 10, 19, 1)
        await leaving.end_session()
        for ino in inodes:
            assert await meta.list_locks(ino) == ({}, {(meta.sid, 1): [Range("W", 1, 10, 19)]})

    async def test_a_waiter_learns_that_the_holder_died(self, meta: Meta, other: Meta) -> None:
        ino = await self.a_file(meta)
        await other.flock(ino, 1, "W")
        waiter = asyncio.create_task(meta.flock(ino, 1, "W", block=True))
        await self.waiting(meta, k.flocks(ino), 1)
        await meta.clean_session(other.sid)
        async with asyncio.timeout(20):
            await waiter

    async def test_an_unlock_that_fails_is_made_up_for(self, meta: Meta, monkeypatch: pytest.MonkeyPatch) -> None:
        """The database is away while a file is closed: nobody comes back to unlock it."""
        ino = await self.a_file(meta)
        commit, away = meta.store.commit, True

        async def sometimes(checks: Any, writes: Any) -> Any:
            if away:
                raise MetaError("the database is away", retryable=True)
            return await commit(checks, writes)

        await meta.flock(ino, 1, "W")
        await meta.setlk(ino, 1, "W", 0, 99, 7)
        waiter = asyncio.create_task(meta.flock(ino, 2, "W", block=True))
        await self.waiting(meta, k.flocks(ino), 1)
        monkeypatch.setattr(meta.store, "commit", sometimes)
        await refused(errno.EIO, meta.flock(ino, 1, "U"))
        await refused(errno.EIO, meta.setlk(ino, 1, "U", 0, 49, 7))
        await refused(errno.EIO, meta.setlk(ino, 1, "U", 60, 69, 7))
        away = False
        await meta.setlk(ino, 1, "R", 0, 9, 7)  # what is new comes after what is owed
        assert (await meta.list_locks(ino)).plocks == {
            (meta.sid, 1): [Range("R", 7, 0, 9), Range("W", 7, 50, 59), Range("W", 7, 70, 99)]
        }
        async with asyncio.timeout(20):
            await waiter
        assert (await meta.list_locks(ino)).flocks == {(meta.sid, 2): "W"}
        assert meta._owed == {}

    async def test_a_cancelled_unlock_happens_all_the_same(self, meta: Meta) -> None:
        ino = await self.a_file(meta)
        for turns in range(6):
            await meta.flock(ino, 1, "W")
            task = asyncio.create_task(meta.flock(ino, 1, "U"))
            waiter = asyncio.create_task(meta.flock(ino, 2, "W", block=True))
            for _ in range(turns + 1):
                await asyncio.sleep(0)
            task.cancel()
            async with asyncio.timeout(20):
                await waiter
            await meta.flock(ino, 2, "U")
        await self.idle(meta)
        assert meta._lock_tables == {}

    async def test_locks_are_written_to_the_change_log(self, meta: Meta) -> None:
        if not meta.store.caps.change_log:
            return  # this engine keeps none
        ino = await self.a_file(meta)
        meta.use_format(Format.parse(meta.format.changed(change_log=True).to_json()))
        await meta.flock(ino, 2**64 - 1, "R")
        await meta.flock(ino, 2**64 - 1, "R")  # no change, no line
        await meta.flock(ino, 2**64 - 1, "U")
        await meta.setlk(ino, 5, "W", 0, END, 77)
        await meta.setlk(ino, 5, "U", 10, 19, 77)
        lines = [raw.split(b"|")[1].decode() async for _, raw in meta.store.scan(k.CHANGELOG)]
        assert lines == [
            f"FLOCK({ino},{2**64 - 1},R)", f"FLOCK({ino},{2**64 - 1},U)",
            f"SETLK({ino},5,W,0,{END},77)", f"SETLK({ino},5,U,10,19,77)",
        ]  # fmt: skip
