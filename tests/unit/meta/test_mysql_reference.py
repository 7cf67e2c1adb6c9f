# SPDX-License-Identifier: Apache-2.0
"""Random commits on MariaDB and on plain dictionaries: the same conflicts, the same outcomes, the same records.

The fast way (one packet that stops itself) and the careful one behind it are both taken. Kinds where the stores differ
by design are left out: link counts per parent, and references that were never registered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import FILE, DirStat, Entry, NodePatch
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, PATCH, PUT, PUT_NEW, Check, RecordStore, Write
from core.meta.stores.memory import MemoryStore
from core.meta.stores.mysql import MySQLStore
from tests.conformance.recordstore.helpers import attr
from tests.conformance.recordstore.records import SINGLE
from tests.servers.mariadb import MariaDBServer

COMMITS = 400
#: Key → values that it may have.
RECORDS: dict[Key, tuple[Any, ...]] = {key: (value, other) for key, value, other in SINGLE}
RECORDS |= {k.entry(7, name): (Entry(FILE, 7), Entry(FILE, 8)) for name in (b"a", b"A", b"\xff")}
RECORDS |= {k.node(ino): (attr(mode=1), attr(mode=2, nlink=9)) for ino in (7, 8)}
LOCKS = (k.FLOCKS, k.PLOCKS)
DERIVED = [k.xattrs(7), k.chunks(7, 9), k.occupied(7), k.occupied(1), k.counter("usedSpace"), k.counter("nextSession")]


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    with MariaDBServer() as server:
        assert isinstance(server, MariaDBServer)
        yield server


async def commit(rng: random.Random, model: MemoryStore) -> tuple[list[Check], list[Write]]:
    """Checks that mostly hold, and a few writes."""
    checks: list[Check] = []
    for key in rng.sample([*RECORDS, *DERIVED], rng.randrange(4)):
        (now,) = await model.read(key)
        if key in RECORDS and key[0] not in LOCKS and rng.random() < 0.1:
            now = rng.choice([None, *RECORDS[key]])
        same = key[0] == k.NODE and now is not None and rng.random() < 0.5
        checks.append((IDENTITY if same else EXACT, key, now))
    writes: list[Write] = []
    for key in rng.sample(list(RECORDS), rng.randrange(1, 5)):
        op = rng.choice([PUT, PUT, PUT_NEW, DELETE])
        if op == PUT_NEW and key[0] in LOCKS:
            op = PUT
        writes.append((op, key, None if op == DELETE else rng.choice(RECORDS[key])))
    blind: list[Write] = [
        (PATCH, k.node(rng.choice([7, 8])), NodePatch(1, rng.choice([None, 7_001]), rng.choice([None, -1]))),
        (APPEND, k.chunk(7, 1), bytes(24)), (ADD, k.dirstat(rng.choice([7, 8])), DirStat(1, -2, 3)),
        (ADD, k.quota(0, 7), (4096, -1)), (ADD, k.counter("usedSpace"), -5), (ADD, k.counter("nextSession"), 1),
    ]  # fmt: skip
    touched = {write[1] for write in writes}
    writes += [write for write in blind if write[1] not in touched and rng.random() < 0.3]
    return checks, writes


async def outcome(store: RecordStore, checks: list[Check], writes: list[Write]) -> Any:
    try:
        return (await store.commit(checks, writes)).no_dirstat
    except Conflict:
        return Conflict


async def test_random_commits_do_the_same_as_dictionaries(server: MariaDBServer, rng: random.Random) -> None:
    store, model = MySQLStore.from_url(server.url()), MemoryStore()
    await store.open()
    await store.prepare()
    every, conflicts = [*RECORDS, k.chunk(7, 1), k.dirstat(8), *DERIVED], 0
    for number in range(COMMITS):
        checks, writes = await commit(rng, model)
        expected = await outcome(model, checks, writes)
        assert await outcome(store, checks, writes) == expected, (number, checks, writes)
        found, wanted = await store.read(*every), await model.read(*every)
        wrong = {key: (there, here) for key, there, here in zip(every, found, wanted, strict=True) if there != here}
        assert not wrong, (number, checks, writes)
        conflicts += expected is Conflict
    assert COMMITS // 20 < conflicts < COMMITS // 2
    await store.close()
