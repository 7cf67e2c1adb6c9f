# SPDX-License-Identifier: Apache-2.0
"""A client that goes on as another one was: same session, same locks, same unlinked-open files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import ROOT
from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore
from core.meta.stores.sqlite import SQLiteStore
from tests.conformance.volume.base import NOW, Ticking


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
    store = MemoryStore() if request.param == "memory" else SQLiteStore(str(tmp_path / "meta.db"))
    await store.open()
    await init_format(store, new_format("adopted", bucket="/nowhere/", trash_days=0), NOW)
    yield store
    await store.close()


def client(store: RecordStore) -> Meta:
    meta = Meta(store, new_format("adopted", bucket="/nowhere/", trash_days=0), clock_ns=Ticking())
    meta.on_deleted = meta.delete_data_soon
    return meta


async def locked(meta: Meta, ino: int, owner: int) -> bool:
    try:
        await meta.flock(ino, owner, "W")
    except FsError:
        return True
    await meta.flock(ino, owner, "U")
    return False


@pytest.mark.parametrize("how", ["killed", "left"])
async def test_locks_and_open_files_go_on(store: RecordStore, how: str) -> None:
    old, other = client(store), client(store)
    await other.new_session("other", heartbeat_s=0)
    await old.new_session("mount", heartbeat_s=0)
    held, _ = await old.create(ROOT, b"held")
    gone, _ = await old.create(ROOT, b"gone")
    for ino in (held, gone):
        old.opened(ino)
    await old.flock(held, 7, "W")
    await old.setlk(held, 8, "W", 0, 99, 1)
    await old.unlink(ROOT, b"gone")
    sid = old.sid
    if how == "left":
        await old.leave_session()
        with pytest.raises(FsError):
            await old.mkdir(ROOT, b"too late")

    new = client(store)
    await new.adopt_session(sid, "mount", heartbeat_s=0, handles=[held, gone])
    assert (new.sid, len(await new.sessions())) == (sid, 2)
    for ino in (held, gone):
        new.opened(ino)
    await new.finish_unlinked()
    assert await locked(other, held, 1)
    assert (await new.getattr(gone)).nlink == 0  # still open: still there
    await new.flock(held, 7, "U")
    await new.setlk(held, 8, "U", 0, 99, 1)
    assert not await locked(other, held, 1)
    assert (await store.read(k.plocks(held)))[0] == {}
    await new.closed(gone)
    with pytest.raises(FsError):
        await new.getattr(gone)
    await new.end_session()
    assert [s["MountPoint"] for s in await other.sessions()] == ["other"]
    await other.end_session()


async def test_what_was_closed_while_nobody_served_is_deleted(store: RecordStore) -> None:
    old = client(store)
    await old.new_session("mount", heartbeat_s=0)
    ino, _ = await old.create(ROOT, b"f")
    old.opened(ino)
    await old.unlink(ROOT, b"f")
    new = client(store)
    await new.adopt_session(old.sid, "mount", heartbeat_s=0)
    await new.finish_unlinked()
    assert await store.read(k.node(ino), k.sustained(new.sid, ino)) == [None, None]
    await new.end_session()


async def test_ending_an_adopted_session_drops_its_locks(store: RecordStore) -> None:
    old = client(store)
    await old.new_session("mount", heartbeat_s=0)
    ino, _ = await old.create(ROOT, b"f")
    await old.flock(ino, 7, "W")
    new = client(store)
    await new.adopt_session(old.sid, "mount", heartbeat_s=0, handles=[ino])
    await new.end_session()
    assert await store.read(k.flocks(ino)) == [{}]


async def test_a_session_that_others_gave_up_is_registered_again(
    store: RecordStore, caplog: pytest.LogCaptureFixture
) -> None:
    old = client(store)
    await old.new_session("mount", heartbeat_s=0)
    sid = old.sid
    await old.end_session()
    new = client(store)
    await new.adopt_session(sid, "mount", heartbeat_s=0)
    assert "given up by other clients" in caplog.text
    assert [s["Sid"] for s in await new.sessions()] == [sid]
    await new.end_session()


async def test_heartbeats_of_who_left_stop(store: RecordStore) -> None:
    meta = client(store)
    await meta.new_session("mount", heartbeat_s=12)
    await meta.leave_session()
    assert meta._beat is None
    assert not [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
