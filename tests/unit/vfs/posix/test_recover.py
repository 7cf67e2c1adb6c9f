# SPDX-License-Identifier: Apache-2.0
"""A process takes over what another one left: handles, unlinked files, acknowledged bytes, locks.

The keeper is the real shared table of a mount; a process dies by being forgotten in the middle of its work.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from core import failpoints
from core.meta.caller import ROOT_CALLER
from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore
from core.vfs.posix.posix import Posix
from core.vfs.vfs import VFS
from gateways.fuse.holder.table import SharedTable, create as create_table
from tests.conformance.volume.base import Ticking
from tests.unit.chunk.doubles import FaultyStore, noise, settle
from tests.unit.vfs.posix.names_mount import ROOT, Mount, refused
from tests.unit.vfs.posix.test_files import RW, close, content, create, read, write
from tests.unit.vfs.volume import Client, make_client, new_volume

APPEND = os.O_RDWR | os.O_APPEND


class Line:
    """One mount that is served by one process after the other."""

    def __init__(self, store: RecordStore) -> None:
        self.store = store
        self.objects = FaultyStore()
        self.clock = Ticking()
        self.fd = create_table(log_bytes=8 << 20)
        self.sid = 0
        self.table: SharedTable
        self.dead: list[Client] = []

    async def process(self) -> Mount:
        """The next one."""
        client = await make_client(self.store, self.objects, clock_ns=self.clock)
        meta = client.meta
        self.table = SharedTable(self.fd)
        client.vfs = VFS(meta, client.slices, clock=client.clock, keeper=self.table)
        posix = Posix(client.vfs, keeper=self.table)
        if self.sid:
            unused, meta.sid = meta.sid, 0
            await meta.clean_session(unused)
            await meta.adopt_session(self.sid, "test", heartbeat_s=0)
            await posix.recover()
            self.table.replayed()
            await meta.finish_unlinked()
        self.sid = meta.sid
        self.mount = Mount(client, posix)
        return self.mount

    async def kill(self) -> None:
        """Nothing of it gets anywhere any more; what is at the object store stays."""
        client = self.mount.client
        self.dead.append(client)
        client.meta.read_only = True

        async def gone(*args: Any) -> Any:
            raise OSError(errno.EIO, "dead")

        client.meta.store = DeadStore()
        await settle()


class DeadStore(MemoryStore):
    async def read(self, *keys: Any) -> list[Any]:
        raise OSError(errno.EIO, "dead")

    async def commit(self, checks: Any, writes: Any) -> Any:
        raise OSError(errno.EIO, "dead")


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    found = Line(await new_volume())
    yield found
    await found.mount.client.close(check=True)
    assert not found.table.open_handles
    assert not found.table.unrecorded_bytes
    for client in found.dead:
        if client.vfs._ticker is not None:
            client.vfs._ticker.cancel()
        await client.slices.close()
    os.close(found.fd)


async def test_acknowledged_bytes_survive_and_handles_go_on(line: Line) -> None:
    first = await line.process()
    ino, fh = await create(first)
    await write(first, fh, ino, 0, noise(300_000, 1))
    await write(first, fh, ino, 100, b"over")
    await line.kill()
    second = await line.process()
    assert second.posix.handles == {}
    data = bytearray(noise(300_000, 1))
    data[100:104] = b"over"
    assert await read(second, fh, ino) == bytes(data)
    await write(second, fh, ino, 300_000, b"more")
    await close(second, fh, ino)
    assert await content(second, ino) == bytes(data) + b"more"


async def test_what_is_recorded_is_let_go(line: Line) -> None:
    mount = await line.process()
    ino, fh = await create(mount)
    for n in range(40):
        await write(mount, fh, ino, n * 1000, noise(1000, n))
    assert line.table.unrecorded_bytes >= 40_000
    await mount.posix.fsync(fh, ino)
    assert not line.table.unrecorded_bytes
    await close(mount, fh, ino)


async def test_more_than_there_is_room_for_is_recorded_on_the_way(line: Line) -> None:
    mount = await line.process()
    ino, fh = await create(mount)
    part = noise(1 << 20)
    for n in range(20):
        await write(mount, fh, ino, n << 20, part)
        assert line.table.unrecorded_bytes <= 8 << 20
    await close(mount, fh, ino)
    assert (await mount.attr(ino)).length == 20 << 20


async def test_unlinked_files_stay_while_they_are_open(line: Line) -> None:
    first = await line.process()
    ino, fh = await create(first, data=b"kept")
    await first.posix.unlink(ROOT, b"f", ROOT_CALLER)
    node, tmp = await first.posix.tmpfile(ROOT, RW, 0o600, 0)
    gone, other = await create(first, b"gone")
    await first.posix.unlink(ROOT, b"gone", ROOT_CALLER)
    await first.posix.flush(fh, ino, 1)
    line.table.closed(other)  # died between this and the removal
    await line.kill()
    second = await line.process()
    assert await read(second, fh, ino) == b"kept"
    await refused(errno.ENOENT, second.posix.getattr(gone))
    await second.posix.release(tmp, node.ino, 0, False)
    await refused(errno.ENOENT, second.posix.getattr(node.ino))
    await close(second, fh, ino)
    await refused(errno.ENOENT, second.posix.getattr(ino))


async def test_an_unused_handle_is_just_released(line: Line) -> None:
    first = await line.process()
    ino, fh = await create(first)
    await line.kill()
    second = await line.process()
    assert second.client.meta.open_files[ino] == 1
    await close(second, fh, ino)
    assert not second.client.meta.open_files


@pytest.fixture
def points() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.mark.parametrize("where", ["", "write.before-commit", "write.committed"])
async def test_appended_records_are_there_once(line: Line, where: str, points: None) -> None:
    """Killed before, within and right after the commit that puts them to the end of the file."""
    first = await line.process()
    ino, fh = await create(first, b"log", APPEND)
    await write(first, fh, ino, 0, b"early\n", APPEND)
    await first.posix.fsync(fh, ino)
    view = memoryview(b"record\n")
    assert first.posix.write_nowait(fh, ino, APPEND, 6, view, 41) == 7
    assert first.posix.write_nowait(fh, ino, APPEND, 13, view, 42) == 7
    if where:
        with pytest.raises(Stopped):
            await stop_at(first, where, fh, ino)
    await line.kill()
    second = await line.process()
    # The kernel doesn't know whether the last one was taken, and sends it again.
    assert second.posix.write_nowait(fh, ino, APPEND, 13, view, 42, True) is None
    assert await second.posix.write(fh, ino, APPEND, 13, view, 42, True) == 7
    assert await second.posix.write(fh, ino, APPEND, 20, memoryview(b"late\n"), 43, True) == 5
    await close(second, fh, ino)
    assert await content(second, ino) == b"early\nrecord\nrecord\nlate\n"


class Stopped(Exception):
    pass


async def stop_at(mount: Mount, where: str, fh: int, ino: int) -> None:
    """Flush, and leave everything as it is at that point: nothing that comes after it happens."""
    failpoints.arm(f"{where}=delay(1000)")
    flushing = asyncio.ensure_future(mount.posix.fsync(fh, ino))
    async with asyncio.timeout(10):
        while not failpoints.calls(where):
            await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    failpoints.arm("")
    raise Stopped


async def test_locks_go_on(line: Line) -> None:
    first = await line.process()
    ino, fh = await create(first)
    await first.posix.setlk(fh, ino, 7, 0, 99, 1, 5, wait=False)
    await line.kill()
    second = await line.process()
    other, _ = await second.posix.open(ino, RW)
    await refused(errno.EAGAIN, second.posix.setlk(other, ino, 8, 0, 0, 0, 5, wait=False))
    await second.posix.setlk(fh, ino, 7, 0, 99, 1, 5, wait=False)  # sent again
    await close(second, fh, ino, owner=7)
    await second.posix.setlk(other, ino, 8, 0, 0, 0, 5, wait=False)
    await close(second, other, ino, owner=8)
