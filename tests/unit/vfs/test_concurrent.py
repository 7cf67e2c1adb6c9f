# SPDX-License-Identifier: Apache-2.0
"""Many tasks on the same files, slow and failing uploads: what is acknowledged is there, what is there was written.

Random, with the printed seed (SLUICE_TEST_SEED repeats a run).
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from core.errors import FsError, ObjectError
from core.meta.records import ROOT
from core.meta.stores.memory import MemoryStore
from core.vfs.handles import Handle
from tests.conformance.volume.base import Ticking
from tests.conftest import seed_value
from tests.unit.chunk.doubles import BLOCK, FaultyStore
from tests.unit.vfs.volume import Client, make_client, new_volume

REGION = 8 * BLOCK


class Unsteady(FaultyStore):
    """Uploads end in any order; some fail."""

    def __init__(self, chance: random.Random, failing: float = 0.0) -> None:
        super().__init__()
        self.chance = chance
        self.failing = failing

    async def put(self, key: str, data: Any) -> None:
        for _ in range(self.chance.randrange(30)):
            await asyncio.sleep(0)
        if self.chance.random() < self.failing:
            raise ObjectError("the disk is on fire")
        await super().put(key, data)


async def two_clients(objects: FaultyStore, **options: Any) -> tuple[Client, Client]:
    store, clock = await new_volume(MemoryStore()), Ticking()
    a = await make_client(store, objects, clock_ns=clock, **options)
    return a, await make_client(store, objects, clock_ns=clock)


async def end(a: Client, b: Client) -> None:
    await b.vfs.close()
    await b.idle()
    await a.close(check=True)
    await b.close()


@pytest.mark.parametrize("number", range(4))
async def test_tasks_that_write_parts_of_the_same_files(number: int) -> None:
    chance = random.Random(seed_value() + number)
    a, b = await two_clients(Unsteady(chance), memory_budget=chance.choice([1 << 20, 4 << 20]))
    files = [(await a.vfs.create(ROOT, b"f%d" % n), bytearray(5 * REGION)) for n in range(4)]
    ends = [0] * len(files)

    async def work(n: int, part: int) -> None:
        handle, data = files[n]
        for _ in range(chance.randrange(5, 30)):
            size = chance.choice([1, 100, 4096, 20_000, BLOCK, 2 * BLOCK + 1])
            at = part * REGION + chance.randrange(REGION - size)
            new = chance.randbytes(size)
            await handle.write(at, new)
            data[at : at + size] = new
            ends[n] = max(ends[n], at + size)
            match chance.randrange(20):
                case 0 | 1:
                    await handle.flush()
                case 2 | 3:
                    assert bytes(await handle.read(at, size)) == new
                case 4:
                    await a.clock.advance(1.5)
                case _:
                    await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*(work(n, part) for n in range(4) for part in range(5))), 25)
    for n, (handle, data) in enumerate(files):
        await handle.flush()
        async with await b.vfs.open(handle.ino) as other:
            assert bytes(await other.read(0, 1 << 30)) == bytes(data[: ends[n]])
    await end(a, b)


@pytest.mark.parametrize("number", range(15))
async def test_after_a_failure_a_growing_file_is_a_prefix_of_what_was_written(number: int) -> None:
    """Also what a flush acknowledged is there, however it ends."""
    chance = random.Random(seed_value() + number)
    objects = Unsteady(chance, 0.1)
    a, b = await two_clients(objects, retries=0)
    handle = await a.vfs.create(ROOT, b"log")
    data, acknowledged = await _append_until_it_fails(a, handle, chance)
    await handle.release()
    objects.failing = 0
    async with await b.vfs.open(handle.ino) as other:
        found = bytes(await other.read(0, 1 << 30))
    assert data.startswith(found)
    assert len(found) >= acknowledged
    await end(a, b)


async def _append_until_it_fails(client: Client, handle: Handle, chance: random.Random) -> tuple[bytes, int]:
    data, acknowledged = b"", 0
    try:
        for _ in range(200):
            new = chance.randbytes(chance.choice([1, 100, 5000, BLOCK, 3 * BLOCK]))
            data += new
            await handle.write(len(data) - len(new), new)
            if chance.random() < 0.3:
                await client.clock.advance(1.5)
            if chance.random() < 0.1:
                await handle.flush()
                acknowledged = len(data)
        await handle.flush()
        acknowledged = len(data)
    except FsError as e:
        assert "disk is on fire" in str(e)
    return data, acknowledged
