# SPDX-License-Identifier: Apache-2.0
"""A dump while others work: no snapshot, but always a tree that loads (spec metadata-semantics §15.1)."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from core.check import check
from core.dump.json_writer import dump_json
from core.errors import FsError
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import ROOT
from core.meta.store import RecordStore
from core.meta.stores.memory import MemoryStore
from core.volume import open_record_store
from tests.dump.support import Collect, backup_of, fill, json_of


async def fresh(store: RecordStore) -> Meta:
    fmt = new_format("busy", bucket="/x")
    await init_format(store, fmt, 1_790_000_000_000_000_000)
    return Meta(store, fmt)


async def test_a_directory_that_is_moved_ahead_of_the_walk_appears_once() -> None:
    store = MemoryStore()
    meta = await fresh(store)
    early, _ = await meta.mkdir(ROOT, b"a", 0o755)
    late, _ = await meta.mkdir(ROOT, b"z", 0o755)
    moved, _ = await meta.mkdir(early, b"moved", 0o755)
    await meta.mkdir(moved, b"inner", 0o755)
    done: list[bool] = []

    def tick(count: int) -> None:
        if count >= 3 and not done:
            done.append(True)
            asyncio.get_running_loop().create_task(move())

    async def move() -> None:
        await meta.rename(early, b"moved", late, b"again")

    sink = Collect()
    dumped = await dump_json(store, sink, fmt=meta.format, page=1, progress=tick)
    assert done and dumped.moved == 1
    document = json.loads(sink.data)["FSTree"]["entries"]
    assert list(document["a"]["entries"]) == ["moved"] and document["z"]["entries"] == {}
    await fill(MemoryStore(), sink.data)


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
@pytest.mark.parametrize("form", ["json", "binary"])
async def test_dumps_of_a_busy_volume_load(engine: str, form: str, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    store = open_record_store("memkv://" if engine == "memory" else f"sqlite3://{tmp_path}/busy.db?synchronous=OFF")
    await store.open()
    meta = await fresh(store)
    folders = [ROOT]
    stop = False

    async def work() -> None:
        while not stop:
            here, there = dice.choice(folders), dice.choice(folders)
            name, other = (f"n{dice.randrange(40)}".encode() for _ in range(2))
            try:
                kind = dice.randrange(7)
                if kind <= 1 and len(folders) < 100:  # a tree that grows faster than it is walked has no end
                    ino, _ = await meta.mkdir(here, name, 0o755)
                    folders.append(ino)
                elif kind <= 2:
                    await meta.create(here, name, 0o644)
                elif kind == 3:
                    await meta.unlink(here, name)
                elif kind == 4:
                    await meta.rmdir(here, name)
                elif kind == 5:
                    await meta.rename(here, name, there, other)
                else:
                    entry, _ = await meta.lookup(here, name)
                    await meta.link(entry, there, other)
            except (FsError, TypeError, ValueError):
                pass
            await asyncio.sleep(0)

    workers = [asyncio.create_task(work()) for _ in range(4)]
    for _ in range(8):
        await asyncio.sleep(0.02)
        data = await json_of(store, page=50) if form == "json" else await backup_of(store)
        target = MemoryStore()
        await fill(target, data)
        found = await check(Meta(target, meta.format), confirm=False)
        if form == "json":
            assert found == []
        await json_of(target)
    stop = True
    await asyncio.gather(*workers)
    assert len(folders) > 20
    await meta.close()
