# SPDX-License-Identifier: Apache-2.0
"""A mount without a kernel: `Posix` over a real engine, on memory and on SQLite."""

from __future__ import annotations

import errno
import stat
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import Any

import pytest

from core.errors import FsError
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.records import CHARDEV, FILE, Attr
from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore
from core.meta.stores.sqlite import SQLiteStore
from core.vfs.posix.config import PosixConfig
from core.vfs.posix.directories import Listed
from core.vfs.posix.nodes import Node
from core.vfs.posix.posix import Posix
from tests.conformance.volume.base import Ticking
from tests.unit.chunk.doubles import FaultyStore
from tests.unit.vfs.volume import Client, make_client, new_volume

ROOT = 1
USER = Caller(1000, (1000,))
#: As the kernel's requests come: it has checked permissions already.
KERNEL = Caller(1000, (1000,), 0, False)


class Mount:
    """One mount of a volume, and shorthands."""

    def __init__(self, client: Client, posix: Posix) -> None:
        self.client = client
        self.posix = posix
        self.checked = True  # counters, links and statistics are counted at the end

    async def mkdir(self, name: bytes, parent: int = ROOT, mode: int = 0o755, caller: Caller = ROOT_CALLER) -> int:
        return (await self.posix.mkdir(parent, name, mode, 0, caller)).ino

    async def touch(self, name: bytes, parent: int = ROOT, mode: int = 0o644, caller: Caller = ROOT_CALLER) -> int:
        return (await self.posix.mknod(parent, name, stat.S_IFREG | mode, 0, 0, caller)).ino

    async def attr(self, ino: int) -> Attr:
        return (await self.posix.getattr(ino)).attr

    async def find(self, name: bytes, parent: int = ROOT, caller: Caller = ROOT_CALLER) -> Node:
        return await self.posix.lookup(parent, name, caller)

    async def list(self, ino: int = ROOT, *, plus: bool = False, fh: int = 0, offset: int = 0) -> list[Listed]:
        """All entries from a position on, with a handle of their own if none is given."""
        own = fh or await self.posix.opendir(ino, 0, ROOT_CALLER)
        found: list[Listed] = []
        while some := list(await self.posix.readdir(own, ino, offset, plus)):
            found += some
            offset = found[-1].next_offset
        if not fh:
            self.posix.releasedir(own)
        return found

    async def names(self, ino: int = ROOT) -> list[bytes]:
        return own_names(await self.list(ino))


def own_names(entries: Iterable[Listed]) -> list[bytes]:
    """Without what every directory has."""
    return [e.name for e in entries if e.name not in (b".", b"..", b".trash")]


async def refused(code: int, call: Awaitable[Any]) -> FsError:
    with pytest.raises(FsError) as e:
        await call
    assert e.value.errno == code, f"{errno.errorcode[e.value.errno or 0]}: {e.value}"
    return e.value


class PosixSuite:
    """Fixtures: `mount` is one mount of a fresh volume; `more(…)` makes others of the same volume."""

    trash_days = 0

    @pytest.fixture(params=["memory", "sqlite"])
    async def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RecordStore]:
        store: RecordStore
        if request.param == "memory":
            store = MemoryStore()
        else:
            store = SQLiteStore(str(tmp_path / "meta.db"), synchronous="OFF")
            await store.open()
            await store.prepare()
        yield await new_volume(store, trash_days=self.trash_days)
        await store.close()

    @pytest.fixture
    async def more(self, store: RecordStore) -> AsyncIterator[Any]:
        mounts: list[Mount] = []
        objects, clock = FaultyStore(), Ticking()

        async def make(internal: Any = None, **config: Any) -> Mount:
            client = await make_client(store, objects, clock_ns=clock, trash_days=self.trash_days)
            mounts.append(Mount(client, Posix(client.vfs, PosixConfig(**config), internal=internal)))
            return mounts[-1]

        yield make
        for at, mount in enumerate(reversed(mounts)):
            for fh in list(mount.posix.directories):
                mount.posix.releasedir(fh)
            await mount.client.close(check=at == len(mounts) - 1 and mount.checked)

    @pytest.fixture
    async def mount(self, more: Any) -> Mount:
        made: Mount = await more()
        return made


__all__ = ["CHARDEV", "FILE", "KERNEL", "ROOT", "USER", "Mount", "PosixSuite", "own_names", "refused"]
