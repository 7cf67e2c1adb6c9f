# SPDX-License-Identifier: Apache-2.0
"""Volume suite: sessions, background jobs and their gates. Source: spec metadata-semantics §8, §10."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest

from core.errors import VolumeError
from core.meta import keys as k
from core.meta.jobs import GATE_S, HOUR_S
from core.meta.meta import Meta
from core.meta.records import ROOT, TRASH, Slice
from core.meta.store import DELETE, PUT
from core.scrub.job import GATE, PERIOD_S
from tests.conformance.volume.base import VolumeBase

DAY_S = 86400


class Jobs(VolumeBase):
    @pytest.fixture
    async def neighbour(self, meta: Meta) -> AsyncIterator[Meta]:
        """Another client of the volume, with heartbeats of twelve seconds that only a test makes."""
        client = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        client.remove_slice = meta.remove_slice
        await client.new_session("neighbour", heartbeat_s=12)
        assert client._beat is not None
        client._beat.cancel()
        await asyncio.gather(client._beat, return_exceptions=True)
        yield client
        await self.idle(client)
        await client.end_session()

    def later(self, meta: Meta, seconds: float) -> int:
        """Move the clock of all clients; the time then, in seconds."""
        meta.clock_ns.now_ns += int(seconds * 10**9)  # type: ignore[attr-defined]
        return int(meta.clock_ns.now_ns // 10**9)  # type: ignore[attr-defined]

    async def count(self, meta: Meta, kind: str) -> int:
        return len([key async for key, _ in meta.store.scan(kind)])

    async def file(self, meta: Meta, name: bytes, slice_id: int) -> int:
        ino, _ = await meta.create(ROOT, name)
        await meta.write_slices(ino, 0, [Slice(0, slice_id, 1000, 0, 1000)], meta.clock_ns())
        return ino

    # -- gates -----------------------------------------------------------------------------------------------------

    async def test_a_gate_lets_one_of_many_through_per_period(self, meta: Meta, neighbour: Meta) -> None:
        now = self.later(meta, 0)
        passed = await asyncio.gather(*(m.store.gate("lastCleanupFiles", now, GATE_S) for m in (meta, neighbour) * 5))
        assert sum(passed) == 1
        assert not await meta.store.gate("lastCleanupFiles", now + GATE_S - 1, GATE_S)
        assert await meta.store.gate("lastCleanupFiles", now + GATE_S, GATE_S)
        assert await meta.store.gate("nextCleanupSlices", now, GATE_S)

    async def test_a_gate_of_our_own_works_as_the_others_do(self, meta: Meta, neighbour: Meta) -> None:
        now = self.later(meta, 0)
        passed = await asyncio.gather(*(m.store.gate(GATE, now, PERIOD_S) for m in (meta, neighbour) * 3))
        assert sum(passed) == 1
        assert await neighbour.store.gate(GATE, now + PERIOD_S, PERIOD_S)
        assert not await meta.store.gate(GATE, now + PERIOD_S + 1, PERIOD_S)

    async def test_each_hour_one_client_does_the_jobs(self, meta: Meta, neighbour: Meta) -> None:
        meta.on_deleted = None  # as if this client had died at once
        for round_ in range(3):
            for n in range(3):
                await self.file(meta, b"%d" % n, 100 * (round_ + 1) + n)
                await meta.unlink(ROOT, b"%d" % n, skip_trash=True)
            self.later(meta, HOUR_S + 60)
            await asyncio.gather(meta.run_jobs(), neighbour.run_jobs())
            assert await self.count(meta, k.DELFILE) == 0
        # Files and slices have gates of their own, so two clients may remove the same objects: that is no error.
        assert sorted({i for i, _ in self.removed}) == [100, 101, 102, 200, 201, 202, 300, 301, 302]

    # -- deleted files, slices ---------------------------------------------------------------------------------------

    async def test_removed_files_are_left_to_their_client_for_an_hour(self, meta: Meta) -> None:
        meta.on_deleted = None
        ino = await self.file(meta, b"f", 7)
        await meta.unlink(ROOT, b"f", skip_trash=True)
        assert await self.count(meta, k.DELFILE) == 1
        await meta.run_jobs()
        assert self.removed == []
        self.later(meta, HOUR_S + 60)
        await meta.run_jobs()
        assert self.removed == [(7, 1000)]
        assert [await self.count(meta, kind) for kind in (k.DELFILE, k.CHUNK, k.SLICEREF)] == [0, 0, 0]
        assert await meta.store.read(k.chunk(ino, 0)) == [None]

    async def test_a_shared_slice_outlives_all_but_its_last_user(self, meta: Meta) -> None:
        await self.file(meta, b"f", 7)
        await meta.clone((await meta.lookup(ROOT, b"f"))[0], ROOT, b"g")
        await meta.unlink(ROOT, b"f", skip_trash=True)
        await self.idle(meta)
        assert self.removed == []
        await meta.unlink(ROOT, b"g", skip_trash=True)
        await self.idle(meta)
        assert self.removed == [(7, 1000)]

    async def test_a_deletion_that_failed_is_tried_again(self, meta: Meta) -> None:
        async def refuse(slice_id: int, size: int) -> None:
            raise VolumeError("the object store is away")

        works, meta.remove_slice = meta.remove_slice, refuse
        await self.file(meta, b"f", 7)
        await meta.unlink(ROOT, b"f", skip_trash=True)
        while meta._background:
            await asyncio.gather(*meta._background, return_exceptions=True)
        assert [key[1:] async for key, _ in meta.store.scan(k.SLICEREF, 0)] == [(7, 1000)]
        meta.remove_slice = works
        assert await meta.clean_unused_slices() == 1
        assert self.removed == [(7, 1000)]
        assert await self.count(meta, k.SLICEREF) == 0
        await meta.clean_deleted_files()

    async def test_replaced_slices_wait_for_the_trash_days(self, meta: Meta) -> None:
        now = self.later(meta, 0)
        raw = struct.pack(">QI", 7, 1000) + struct.pack(">QI", 8, 500)
        await meta.store.commit(
            [], [(PUT, k.delslices(9, now), raw), (PUT, k.sliceref(7, 1000), 1), (PUT, k.sliceref(8, 500), 1)]
        )
        assert await meta.clean_delayed_slices(DAY_S) == 0
        self.later(meta, DAY_S + 10)
        assert await meta.clean_delayed_slices(DAY_S) == 1
        assert sorted(self.removed) == [(7, 1000), (8, 500)]
        assert [await self.count(meta, kind) for kind in (k.DELSLICES, k.SLICEREF)] == [0, 0]

    # -- trash -------------------------------------------------------------------------------------------------------

    async def test_expired_trash_goes_with_its_data(self, meta: Meta) -> None:
        await self.file(meta, b"f", 7)
        await meta.unlink(ROOT, b"f")
        await meta.run_jobs()
        assert len(await meta.readdir(TRASH)) == 1
        self.later(meta, (24 * meta.trash_days + 4) * 3600)
        await meta.run_jobs()
        await self.idle(meta)
        assert await meta.readdir(TRASH) == []
        assert self.removed == [(7, 1000)]
        assert await meta.count_all() == (0, 0)
        ino, _ = await meta.create(ROOT, b"g")
        await meta.unlink(ROOT, b"g")  # makes a new hour, though it remembered the old one
        assert (await meta.getattr(ino)).in_trash

    async def test_unparsable_names_in_the_trash_are_left_alone(self, meta: Meta) -> None:
        await self.file(meta, b"f", 7)
        await meta.unlink(ROOT, b"f")
        (hour,) = await meta.readdir(TRASH)
        entry = (await meta.store.read(k.entry(TRASH, hour.name)))[0]
        await meta.store.commit(
            [], [(DELETE, k.entry(TRASH, hour.name), None), (PUT, k.entry(TRASH, b"by hand"), entry)]
        )
        self.later(meta, 100 * DAY_S)
        assert await meta.clean_trash(26) == 0
        assert len(await meta.readdir(TRASH)) == 1

    # -- sessions ----------------------------------------------------------------------------------------------------

    async def test_a_session_says_who_it_is(self, meta: Meta, neighbour: Meta) -> None:
        found = {s["Sid"]: s for s in await meta.sessions()}
        assert found[neighbour.sid]["MountPoint"] == "neighbour" and found[meta.sid]["MountPoint"] == "suite"
        assert found[neighbour.sid]["ProcessID"] > 0 and found[neighbour.sid]["HostName"]
        (raw,) = await meta.store.read(k.sessioninfo(neighbour.sid))
        assert json.loads(raw)["MountTime"].endswith("Z")
        assert neighbour.sid != meta.sid

    async def test_heartbeats_keep_a_session_and_silence_ends_it(self, meta: Meta, neighbour: Meta) -> None:
        for _ in range(10):
            self.later(meta, 50)
            await neighbour.refresh()
            assert await meta.clean_stale_sessions() == 0
        self.later(meta, 61)
        assert await meta.clean_stale_sessions() == 1
        assert neighbour.sid not in [s["Sid"] for s in await meta.sessions()]
        await neighbour.refresh()  # it only slept: it is back
        assert {s["Sid"]: s for s in await meta.sessions()}[neighbour.sid]["MountPoint"] == "neighbour"

    async def test_heartbeats_clean_up_after_the_dead(self, meta: Meta, neighbour: Meta) -> None:
        dead = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await dead.new_session("dead", heartbeat_s=0)
        await meta.store.commit([], [(PUT, k.session(dead.sid), self.later(meta, 0) - 1)])
        self.later(meta, 12)
        await neighbour.refresh()
        assert dead.sid not in [s["Sid"] for s in await meta.sessions()]

    async def test_the_dead_lose_their_locks_and_open_files(self, meta: Meta, neighbour: Meta) -> None:
        ino = await self.file(neighbour, b"f", 7)
        held = await self.file(neighbour, b"held", 8)
        await neighbour.flock(held, 5, "W")
        await neighbour.setlk(held, 6, "W", 0, 100, 1)
        neighbour.opened(ino)
        await neighbour.unlink(ROOT, b"f", skip_trash=True)
        assert (await meta.getattr(ino)).nlink == 0
        assert await meta.store.read(k.sustained(neighbour.sid, ino)) == [True]
        assert (await meta.count_all())[1] == 2
        self.later(meta, 61)
        assert await meta.clean_stale_sessions() == 1
        await self.idle(meta)
        assert await meta.store.read(k.node(ino), k.flocks(held), k.plocks(held)) == [None, {}, {}]
        assert self.removed == [(7, 1000)]
        assert (await meta.count_all())[1] == 1
        neighbour.open_files.clear()
        neighbour.sustained.clear()

    async def test_an_ended_session_leaves_nothing(self, meta: Meta) -> None:
        client = Meta(meta.store, meta.format, clock_ns=meta.clock_ns)
        await client.new_session("short", heartbeat_s=0)
        ino = await self.file(client, b"f", 7)
        client.opened(ino)
        await client.flock(ino, 1, "R")
        await client.unlink(ROOT, b"f", skip_trash=True)
        await client.end_session()
        assert [s["MountPoint"] for s in await meta.sessions()] == ["suite"]
        assert [await self.count(meta, kind) for kind in (k.SUSTAINED, k.FLOCKS)] == [0, 0]
        assert await meta.store.read(k.node(ino)) == [None]
        await meta.clean_deleted_files()

    async def test_read_only_clients_register_nothing(self, meta: Meta) -> None:
        reader = Meta(meta.store, meta.format, clock_ns=meta.clock_ns, read_only=True)
        await reader.new_session("reader", heartbeat_s=0)
        assert reader.sid == 0
        await reader.refresh()
        await reader.end_session()
        assert len(await meta.sessions()) == 1

    async def test_settings_are_adopted_and_a_strange_volume_is_refused(self, meta: Meta, neighbour: Meta) -> None:
        await meta.store.commit([], [(PUT, k.setting(), meta.format.changed(trash_days=9).to_json())])
        await neighbour.refresh()
        assert neighbour.trash_days == 9
        other = msgspec.structs.replace(meta.format, uuid="00000000-1111-2222-3333-444444444444")
        await meta.store.commit([], [(PUT, k.setting(), other.to_json())])
        with pytest.raises(VolumeError, match="another volume"):
            await neighbour.refresh()
        await meta.store.commit([], [(PUT, k.setting(), meta.format.to_json())])
