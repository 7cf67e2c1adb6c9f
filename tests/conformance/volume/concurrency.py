# SPDX-License-Identifier: Apache-2.0
"""Volume suite: two clients of one volume at once. Source: spec metadata-semantics §1.6, §16 (40)."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import ROOT
from core.meta.store import Tx
from tests.conformance.volume.base import VolumeBase


async def outcome(call: object) -> int:
    """0, or the errno of the refusal."""
    try:
        await call  # type: ignore[misc]
    except FsError as e:
        return e.errno or -1
    return 0


class Concurrency(VolumeBase):
    @pytest.fixture
    async def rival(self, meta: Meta) -> AsyncIterator[Meta]:
        """Another client, with memories of its own."""
        yield Meta(meta.store, meta.format, clock_ns=meta.clock_ns)

    async def test_one_of_many_creators_of_a_name_wins(self, meta: Meta, rival: Meta) -> None:
        calls = [client.mkdir(ROOT, b"name") for _ in range(8) for client in (meta, rival)]
        results = await asyncio.gather(*(outcome(call) for call in calls))
        assert sorted(results) == [0] + [errno.EEXIST] * 15

    async def test_who_hears_that_a_name_exists_finds_it(self, meta: Meta, rival: Meta) -> None:
        """A refusal never tells of what is not committed yet (found by rclone: MKCOL 405, then PUT 409)."""

        async def make_and_look(client: Meta, name: bytes) -> int:
            made = await outcome(client.mkdir(ROOT, name))
            found = await client.resolve(ROOT, [name])  # from the store; look-ups may remember
            assert len(found.steps) == 1
            return made

        for at in range(20):
            results = await asyncio.gather(*(make_and_look(client, b"d%d" % at) for client in (meta, rival) * 2))
            assert sorted(results) == [0] + [errno.EEXIST] * 3

    async def test_nothing_is_created_in_a_directory_that_goes(self, meta: Meta, rival: Meta) -> None:
        for at in range(6):
            d, _ = await meta.mkdir(ROOT, b"d%d" % at)
            made, gone = await asyncio.gather(
                outcome(meta.create(d, b"f")), outcome(rival.rmdir(ROOT, b"d%d" % at, skip_trash=True))
            )
            assert (made, gone) in ((0, errno.ENOTEMPTY), (errno.ENOENT, 0)), "an orphan, or nobody has won"

    async def test_a_name_moves_once(self, meta: Meta, rival: Meta) -> None:
        await meta.create(ROOT, b"from")
        results = await asyncio.gather(
            *(outcome(client.rename(ROOT, b"from", ROOT, b"to%d" % at)) for at, client in enumerate([meta, rival] * 4))
        )
        assert sorted(results) == [0] + [errno.ENOENT] * 7
        assert len(await meta.readdir(ROOT)) == 1

    async def test_links_and_removals_agree_in_the_end(self, meta: Meta, rival: Meta) -> None:
        await self.set_trash(meta, 0)
        await self.set_trash(rival, 0)
        ino, _ = await meta.create(ROOT, b"a")
        results = await asyncio.gather(
            *(outcome(rival.link(ino, ROOT, b"l%d" % at)) for at in range(6)), outcome(meta.unlink(ROOT, b"a"))
        )
        assert set(results) <= {0, errno.ENOENT}
        names = await meta.readdir(ROOT)
        assert len(names) == results[:6].count(0)
        if names:
            assert (await meta.getattr(ino)).nlink == len(names)

    async def test_who_loses_again_and_again_gets_a_turn(self, meta: Meta) -> None:
        """One that reads and then thinks for a while, among others of its process that never pause."""
        inodes = [(await meta.create(ROOT, b"busy%d" % at))[0] for at in range(4)]
        stop = asyncio.Event()
        mode = 0

        async def busy(ino: int) -> None:
            nonlocal mode
            while not stop.is_set():
                mode = (mode + 1) % 0o777
                await meta.setattr(ino, {"mode": mode})

        async def slow(tx: Tx) -> None:
            await tx.read(*(k.node(ino) for ino in inodes))
            await meta.store.read(k.symlink(99))
            tx.put(k.xattr(inodes[0], b"user.won"), b"1")

        tasks = [asyncio.create_task(busy(ino)) for ino in inodes]
        try:
            await meta.store.transact(slow)
        finally:
            stop.set()
            await asyncio.gather(*tasks)
        assert await meta.getxattr(inodes[0], b"user.won") == b"1"
