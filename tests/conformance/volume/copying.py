# SPDX-License-Identifier: Apache-2.0
"""Volume suite: copies, clones, compactions, overwrites and removals by two clients at once, with real objects.

The promise: a slice that some file refers to is never deleted, whatever happens at the same time; and in the end
nothing is left over. Source: spec metadata-semantics §6.6, §6.7, §7, §8, §13.2.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from core.errors import FsError
from core.meta.meta import Meta
from core.meta.ranges import FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE
from core.meta.records import ROOT
from core.object.memory import MemStore
from tests.conformance.volume.base import VolumeBase
from tests.conformance.volume.datapath import Client, delayed, require_nothing_lost

KIB = 1 << 10
_FILES = 5


class _Model:
    """One file as it should be. Who changes or copies its content holds the lock; compactions don't."""

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.content = bytearray()
        self.lock = asyncio.Lock()

    def put(self, at: int, data: bytes) -> None:
        self.content.extend(bytes(max(0, at + len(data) - len(self.content))))
        self.content[at : at + len(data)] = data

    def resize(self, length: int) -> None:
        del self.content[length:]
        self.content.extend(bytes(length - len(self.content)))


class Copying(VolumeBase):
    @pytest.fixture
    async def pair(self, meta: Meta) -> AsyncIterator[list[Client]]:
        first = Client(meta, MemStore())
        second = Client.beside(first, meta.clock_ns)
        yield [first, second]
        for client in (first, second):
            await client.idle()
            await client.close()

    @pytest.mark.parametrize("trash_days", [0, 1])
    async def test_files_that_share_slices_stay_whole(
        self, pair: list[Client], rng: random.Random, trash_days: int
    ) -> None:
        """Changes of one file come one after another, everything else at the same time; contents equal a model."""
        meta = pair[0].meta
        for client in pair:
            client.meta.use_format(meta.format.changed(trash_days=trash_days))
        files = [_Model((await meta.create(ROOT, b"f%d" % i))[0]) for i in range(_FILES)]
        names = iter(range(1_000_000))
        done: dict[str, int] = {}

        async def act(client: Client) -> None:
            what = rng.choice(["write", "write", "copy", "copy", "truncate", "punch", "clone", "compact", "read"])
            a, b = rng.sample(files, 2)
            if what == "compact":
                await client.meta.compact_chunk(a.ino, 0)
            elif what == "clone":
                name = b"c%d" % next(names)
                async with a.lock:
                    made = await client.meta.clone(a.ino, ROOT, name)
                    content = bytes(a.content)
                await client.meta.compact_chunk(made.ino, 0)
                assert await rng.choice(pair).read(made.ino) == content
                await rng.choice(pair).meta.unlink(ROOT, name)
            elif what == "copy":
                first, second = sorted((a, b), key=lambda f: f.ino)
                async with first.lock, second.lock:
                    start, at = rng.randrange(100 * KIB), rng.randrange(100 * KIB)
                    n = await client.meta.copy_file_range(a.ino, start, b.ino, at, rng.randrange(1, 100 * KIB))
                    if n:
                        b.put(at, bytes(a.content[start : start + n]))
            else:
                async with a.lock:
                    await self._change(client, a, what, rng)
            done[what] = done.get(what, 0) + 1

        async def worker(client: Client) -> None:
            for _ in range(45):
                await act(client)

        await asyncio.gather(*(worker(client) for client in pair for _ in range(3)))
        for client in pair:
            await client.idle()
        for f in files:
            for client in pair:
                assert await client.read(f.ino) == bytes(f.content)
        assert len(done) == 7, done
        await self._end(pair)

    @staticmethod
    async def _change(client: Client, f: _Model, what: str, rng: random.Random) -> None:
        at, length = rng.randrange(100 * KIB), rng.randrange(1, 80 * KIB)
        if what == "write":
            data = rng.randbytes(length)
            await client.write(f.ino, at, data)
            f.put(at, data)
        elif what == "truncate":
            at = rng.choice((0, at, at))
            await client.meta.truncate(f.ino, at)
            f.resize(at)
        elif what == "punch":
            await client.meta.fallocate(f.ino, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, at, length)
            end = min(at + length, len(f.content))
            f.content[at:end] = bytes(max(0, end - at))
        else:
            assert await client.read(f.ino) == bytes(f.content)

    async def test_copies_of_files_in_motion_are_of_one_moment(self, pair: list[Client], rng: random.Random) -> None:
        """Sources are overwritten, compacted and removed without any order. Each version of a file is one byte all
        over, so that a copy with two kinds of bytes is one of no moment."""
        meta = pair[0].meta
        for client in pair:
            client.meta.use_format(meta.format.changed(trash_days=0))
        length = 20 * KIB
        stop = False

        async def overwrite(client: Client, name: bytes) -> None:
            version = 0
            while not stop:
                try:
                    ino, _ = await client.meta.create(ROOT, name)
                    for _ in range(rng.randrange(1, 12)):
                        version += 1
                        await client.write(ino, 0, bytes([version % 255 + 1]) * length)
                    if rng.random() < 0.3:
                        await rng.choice(pair).meta.unlink(ROOT, name)
                except FsError as e:
                    assert e.errno == 2, e  # the other client has removed it
                await asyncio.sleep(0)

        async def compact(client: Client, name: bytes) -> None:
            while not stop:
                found = await client.meta.store.resolve(ROOT, [name])
                if found.steps:
                    await client.meta.compact_chunk(found.steps[0].entry.ino, 0)
                await asyncio.sleep(0)

        async def copy(client: Client, name: bytes, target: bytes) -> None:
            made = 0
            while made < 10:
                found = await client.meta.store.resolve(ROOT, [name])
                if not found.steps:
                    await asyncio.sleep(0)
                    continue
                try:
                    if rng.random() < 0.5:
                        ino = (await client.meta.clone(found.steps[0].entry.ino, ROOT, target)).ino
                        number = (await client.meta.getattr(ino)).length
                    else:
                        ino, _ = await client.meta.create(ROOT, target)
                        number = await client.meta.copy_file_range(found.steps[0].entry.ino, 0, ino, 0, length)
                except FsError as e:
                    assert e.errno == 2, e
                else:
                    content = await rng.choice(pair).read(ino)
                    assert len(set(content)) <= 1 and len(content) == number, set(content)
                    made += number > 0
                if (await client.meta.store.resolve(ROOT, [target])).steps:
                    await client.meta.unlink(ROOT, target)
                await asyncio.sleep(0)

        background = [asyncio.ensure_future(overwrite(pair[i], b"s%d" % i)) for i in range(2)]
        background += [asyncio.ensure_future(compact(pair[1 - i], b"s%d" % i)) for i in range(2)]
        try:
            await asyncio.gather(
                *(copy(client, b"s%d" % (n % 2), b"t%d%d" % (n, i)) for i, client in enumerate(pair) for n in range(2))
            )
        finally:
            stop = True
            await asyncio.gather(*background)
        await self._end(pair)

    async def _end(self, pair: list[Client]) -> None:
        """What is in use is there. When the jobs have run, nothing else is."""
        meta, objects = pair[0].meta, pair[0].objects
        for client in pair:
            await client.idle()
        await require_nothing_lost(meta, objects, leaks=True)
        await meta.clean_deleted_files(-3600)
        await meta.clean_delayed_slices(-3600)
        assert await delayed(meta) == set()
        await meta.clean_trash(-2)
        for client in pair:
            await client.idle()
        await meta.clean_deleted_files(-3600)
        await meta.clean_unused_slices()
        await require_nothing_lost(meta, objects)
