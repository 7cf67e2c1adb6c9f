# SPDX-License-Identifier: Apache-2.0
"""What the requests of the kernel cost in round trips to the metadata server, and what saving one must not change."""

from __future__ import annotations

import itertools
import os
import stat
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from core.meta.format import new_format
from core.vfs.posix.config import PosixConfig
from core.vfs.posix.posix import Posix
from core.vfs.vfs import VFS
from core.volume import Volume, format_volume, open_volume
from gateways.fuse.api import Call
from gateways.fuse.handlers import PosixOperations, Ttl
from tests.gateways.fuse.mounts import shared_engine

FILE = stat.S_IFREG | 0o644
# fuse_attr_out and fuse_entry_out: where the kernel finds how long to believe the attributes, and mtime
_ATTR_TTL, _ATTR_MTIME = struct.Struct("=QI"), struct.Struct("=48xq8x4xI")


class Client:
    """One mount without a kernel: requests go to the handlers, as the channel gives them."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.vfs = VFS(volume.meta, volume.slices)
        self.operations = PosixOperations(Posix(self.vfs, PosixConfig()), Ttl())
        self._unique = itertools.count(2, 2)

    async def ask(self, name: str, nodeid: int, *args: Any) -> bytes:
        answer: Any = getattr(self.operations, name)(Call(next(self._unique), nodeid, 0, 0, 1, False), *args)
        reply = await answer if hasattr(answer, "__await__") else answer
        return b"".join(reply) if isinstance(reply, tuple) else bytes(reply)

    async def costs(self, name: str, nodeid: int, *args: Any) -> tuple[bytes, int]:
        with self.volume.meta.store.round_trips() as trips:
            reply = await self.ask(name, nodeid, *args)
        return reply, trips.count

    async def folder(self, name: bytes) -> int:
        return number(await self.ask("mkdir", 1, name, 0o755, 0))

    async def create(self, folder: int, name: bytes) -> tuple[int, int]:
        reply = await self.ask("create", folder, name, os.O_RDWR | os.O_CREAT, FILE, 0, 0)
        return number(reply), number(reply[128:])

    async def missing(self, folder: int, name: bytes) -> int:
        with self.volume.meta.store.round_trips() as trips, pytest.raises(OSError, match="no such name"):
            await self.ask("lookup", folder, name)
        return trips.count


def number(reply: bytes) -> int:
    return int.from_bytes(reply[:8], "little")


def mtime_ns(attr_out: bytes) -> int:
    seconds, ns = _ATTR_MTIME.unpack_from(attr_out)
    return int(seconds * 10**9 + ns)


@pytest.fixture
async def url(tmp_path: Path) -> str:
    meta_url = shared_engine("redis").fresh_url()
    await format_volume(meta_url, new_format("costs", bucket=f"{tmp_path}/objects/"))
    return meta_url


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    volume = await open_volume(url, jobs=False)
    yield Client(volume)
    await volume.close()


async def test_making_a_file_of_4_kib_takes_three_trips(client: Client) -> None:
    folder = await client.folder(b"d")
    ino, fh = await client.create(folder, b"first")  # ids are allocated by thousands, before the first one
    await client.ask("write", ino, fh, 0, memoryview(b"first"), 0, 0, os.O_RDWR)
    await client.ask("flush", ino, fh, 0)
    assert await client.missing(folder, b"f") == 1
    _, trips = await client.costs("getattr", folder, None)
    assert trips == 0  # the kernel asks because we changed the folder
    reply, trips = await client.costs("create", folder, b"f", os.O_RDWR | os.O_CREAT, FILE, 0, 0)
    assert trips == 1
    ino, fh = number(reply), number(reply[128:])
    _, trips = await client.costs("write", ino, fh, 0, memoryview(bytes(4096)), 0, 0, os.O_RDWR)
    assert trips == 0
    assert (await client.costs("flush", ino, fh, 0))[1] == 1
    assert (await client.costs("release", ino, fh, os.O_RDWR, 0, 0))[1] == 0


async def test_reading_a_small_file_takes_two_trips(client: Client) -> None:
    folder = await client.folder(b"d")
    ino, fh = await client.create(folder, b"f")
    await client.ask("write", ino, fh, 0, memoryview(b"x" * 4096), 0, 0, os.O_RDWR)
    await client.ask("flush", ino, fh, 0)
    await client.ask("release", ino, fh, os.O_RDWR, 0, 0)
    assert (await client.costs("lookup", folder, b"f"))[1] == 1
    reply, trips = await client.costs("open", ino, os.O_RDONLY, 0)
    assert trips == 1
    data, trips = await client.costs("read", ino, number(reply), 0, 4096, 0, 0, 0)
    assert (data, trips) == (b"x" * 4096, 0)


@pytest.mark.parametrize("change", ["unlink", "rename", "mkdir"])
async def test_changes_of_a_folder_take_one_trip_each(client: Client, change: str) -> None:
    folder = await client.folder(b"d")
    for name in (b"first", b"second", b"third"):
        ino, fh = await client.create(folder, name)
        await client.ask("release", ino, fh, os.O_RDWR, 0, 0)
    costs = []
    for name in (b"first", b"second", b"third"):
        await client.ask("lookup", folder, name)
        await client.missing(folder, b"new" + name)
        await client.ask("getattr", folder, None)
        new = b"new" + name
        args = {"unlink": (name,), "rename": (name, folder, new, 0), "mkdir": (new, 0o755, 0)}[change]
        costs.append((await client.costs(change, folder, *args))[1])
    assert costs[2] == 1, costs  # the first unlink makes the trash's folder of this hour, say


async def test_a_folder_that_we_changed_shows_our_change_and_is_believed_no_longer_than_before(client: Client) -> None:
    folder = await client.folder(b"d")
    await client.missing(folder, b"f")
    before = mtime_ns(await client.ask("getattr", folder, None))
    await client.missing(folder, b"f")
    at = client.volume.meta.clock_ns()
    await client.volume.meta.setattr(folder, {"mtime_ns": 5 * 10**9})  # old enough for its time to be renewed
    await client.missing(folder, b"f")
    await client.create(folder, b"f")
    reply, trips = await client.costs("getattr", folder, None)
    assert trips == 0 and mtime_ns(reply) >= at > before
    seconds, ns = _ATTR_TTL.unpack_from(reply)
    assert 0 < seconds + ns / 1e9 <= 1
    real, trips = await client.costs("getattr", folder, None)  # nothing changed since: somebody wants to know
    assert trips == 1 and mtime_ns(real) == mtime_ns(reply)


async def test_others_changes_of_a_folder_are_seen_when_we_did_not_change_it(client: Client, url: str) -> None:
    folder = await client.folder(b"d")
    await client.missing(folder, b"f")
    await client.create(folder, b"f")
    await client.ask("getattr", folder, None)
    other = await open_volume(url, jobs=False)
    await other.meta.setattr(folder, {"mode": 0o700})
    await other.close()
    reply = await client.ask("getattr", folder, None)
    assert struct.unpack_from("=I", reply, 16 + 60)[0] == stat.S_IFDIR | 0o700


async def test_removing_names_that_the_kernel_knows_asks_for_the_folder_once(client: Client) -> None:
    folder = await client.folder(b"d")
    costs = []
    for name in (b"first", b"second", b"third", b"fourth"):
        ino, fh = await client.create(folder, name)
        await client.ask("release", ino, fh, os.O_RDWR, 0, 0)
    for name in (b"first", b"second", b"third", b"fourth"):
        costs.append((await client.costs("getattr", folder, None))[1])
        await client.ask("unlink", folder, name)
    assert costs == [1, 0, 0, 0]
