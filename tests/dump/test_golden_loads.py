# SPDX-License-Identifier: Apache-2.0
"""Dumps and backups made by JuiceFS 1.4.1, of every engine, loaded into every engine: nothing is lost on the way.

A database that can't hold something (an id above 2^31, an empty extended attribute) refuses before it writes, names the
files, and takes the rest with `--lossy`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.check import Finding, check
from core.dump.reading import Reading
from core.meta.format import Format
from core.meta.meta import Meta, load_format
from core.meta.records import ROOT
from core.meta.store import RecordStore
from core.object.secrets import REMOVED
from tests.dump.compare import differences, without
from tests.dump.support import backup_of, fill, json_of, opened, read_in, records_of, reference
from tests.golden.volumes import names
from tests.servers.engines import ALL, Engine, engine

#: What is unlike the others; those differ in how blocks are packed or encrypted, which is no concern of a database.
TELLING = ("sqlite-doors", "redis-crashed")


def pairs() -> Iterator[object]:
    """Every volume into every engine; most go into engines other than their own in the heavy set."""
    for database in ALL:
        for name in names():
            heavy = database not in ("memory", name.partition("-")[0]) and name not in TELLING
            yield pytest.param(database, name, marks=[pytest.mark.heavy] if heavy else [])


every_pair = pytest.mark.parametrize(("target", "name"), list(pairs()), indirect=["target"])


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with engine(request.param) as database:
        yield database


async def lossy(store: RecordStore, data: bytes) -> bool:
    """Does this database need `--lossy` for this file? Then it must have said why, and nothing else may be wrong."""
    with Reading(store) as reading:
        await read_in(data, reading)
        for problem in reading.problems.errors:
            assert "can't hold" in problem.kind and "--lossy" in problem.detail
            assert problem.where, "a file that can't be held has to be named"
        return bool(reading.problems.error_count)


async def findings(store: RecordStore) -> list[Finding]:
    fmt = await load_format(store)
    assert fmt is not None
    meta = Meta(store, fmt)
    await meta.reload_usage()
    return await check(meta, confirm=False)


@every_pair
async def test_a_json_dump_of_any_engine_loads_into_any_engine(name: str, target: Engine, tmp_path: Path) -> None:
    data, _ = reference(name, tmp_path)
    async with opened(target.fresh_url()) as store:
        loses = await lossy(store, data)
        await fill(store, data, lossy=loses)
        found = await json_of(store)
        stated = json.loads(data)
        expected = without(data, store.caps) if loses else data
        # Files that were only kept open are lost (semantics §15.2), so the usage is theirs less.
        assert differences(found, expected, counters=not stated["Sustained"]) == []
        if not loses and not stated["Sustained"]:
            assert found == data
        assert await findings(store) == []


@every_pair
async def test_a_backup_of_any_engine_loads_into_any_engine(name: str, target: Engine, tmp_path: Path) -> None:
    text, data = reference(name, tmp_path)
    async with opened(target.fresh_url()) as store:
        loses = await lossy(store, data)
        await fill(store, data, lossy=loses)
        if not loses:
            assert await records_of(await backup_of(store)) == await records_of(data)
        document = json.loads(without(text, store.caps) if loses else text)
        if document["Setting"].get("EncryptKey"):
            document["Setting"]["EncryptKey"] = REMOVED
        assert differences(await json_of(store), json.dumps(document).encode()) == []
        # A backup faithfully keeps what is wrong in the originals: statistics of the root (one directory too many after
        # an exchange), and a quota that was set while a client was at work.
        assert {(f.kind, *f.key) for f in await findings(store)} <= {("dirstat", ROOT), ("quota", 2)}


async def test_open_files_of_a_backup_are_released_by_the_next_client(tmp_path: Path) -> None:
    _, data = reference("redis-crashed", tmp_path)
    async with opened("memkv://") as store:
        await fill(store, data)
        fmt = await load_format(store)
        assert isinstance(fmt, Format)
        meta = Meta(store, fmt)
        before = await store.read(("C", "totalInodes"))
        assert [s["Sid"] for s in await meta.sessions()] == [1]
        await meta.new_session("test")
        await meta.clean_stale_sessions()
        (after,) = await store.read(("C", "totalInodes"))
        assert after == before[0] - 1
        assert [key async for key, _ in store.scan("SS")] == []
        await meta.end_session()
