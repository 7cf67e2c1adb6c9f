# SPDX-License-Identifier: Apache-2.0
"""What calls of a mount cost in round trips, over a store that is far away: what was just seen is believed.

The kernel looks names up before it changes anything, so each change follows a lookup here, as it does there.
"""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator

import pytest

from core.meta.caller import ROOT_CALLER
from core.meta.stores.kv.dictionary import DictionaryStore
from core.vfs.posix.attributes import Change
from core.vfs.posix.config import PosixConfig
from core.vfs.posix.posix import Posix
from tests.unit.chunk.doubles import FaultyStore
from tests.unit.vfs.posix.names_mount import KERNEL, ROOT, Mount
from tests.unit.vfs.volume import make_client, new_volume


@pytest.fixture
async def mount() -> AsyncIterator[Mount]:
    store = await new_volume(DictionaryStore())
    client = await make_client(store, FaultyStore())
    yield Mount(client, Posix(client.vfs, PosixConfig(xattr=True, acl=True)))
    await client.close(check=True)


async def test_each_change_of_what_was_looked_up_is_one_trip(mount: Mount) -> None:
    posix, trips = mount.posix, mount.posix.meta.store.round_trips
    d = await mount.mkdir(b"d")
    for name in (b"f", b"g"):
        await mount.touch(name, d)
    file = (await mount.find(b"f", d)).ino
    await mount.find(b".", d)
    changes = {
        "chmod": lambda: posix.setattr(file, Change(mode=0o600), KERNEL),
        "chown": lambda: posix.setattr(file, Change(uid=5, gid=6), KERNEL),
        "utimes": lambda: posix.setattr(file, Change(atime_ns=1, mtime_ns="now"), KERNEL),
        "setxattr": lambda: posix.setxattr(file, b"user.a", b"1", 0, KERNEL),
        "link": lambda: posix.link(file, d, b"h", KERNEL),
        "rename": lambda: posix.rename(d, b"h", d, b"i", 0, KERNEL),
        "unlink": lambda: posix.unlink(d, b"i", KERNEL),
        "mkdir": lambda: posix.mkdir(d, b"e", 0o755, 0, KERNEL),
        "rmdir": lambda: posix.rmdir(d, b"e", ROOT_CALLER),
        "mknod": lambda: posix.mknod(d, b"n", stat.S_IFREG | 0o644, 0, 0, KERNEL),
        "symlink": lambda: posix.symlink(d, b"s", b"to", KERNEL),
    }
    spent = {}
    for what, change in changes.items():
        with trips() as n:
            await change()
        spent[what] = n.count
    assert spent == dict.fromkeys(changes, 1)


async def test_looking_is_one_trip(mount: Mount) -> None:
    posix, trips = mount.posix, mount.posix.meta.store.round_trips
    file = await mount.touch(b"f")
    link = (await posix.symlink(ROOT, b"s", b"to", KERNEL)).ino
    looks = {
        "lookup": lambda: posix.lookup(ROOT, b"f", KERNEL),
        "getattr": lambda: posix.getattr(file),
        "readlink": lambda: posix.readlink(link),
        "getxattr": lambda: posix.listxattr(file, KERNEL),
    }
    spent = {}
    for what, look in looks.items():
        with trips() as n:
            await look()
        spent[what] = n.count
    assert spent == dict.fromkeys(looks, 1)
