# SPDX-License-Identifier: Apache-2.0
"""Random commits against PostgreSQL and against dictionaries: same answers, same records, one by one and in groups."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from itertools import permutations
from typing import Any

import pytest

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DIRECTORY, FILE, Attr, DirStat, Entry, NodePatch, Quota
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, PATCH, PUT, PUT_NEW, Check, RecordStore, Write
from core.meta.stores.memory import MemoryStore
from core.meta.stores.postgres import PostgresStore
from tests.servers.postgres import PostgresServer

SEED = int(os.environ.get("SLUICE_TEST_SEED", "20251"))
INODES = range(1, 5)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        assert isinstance(server, PostgresServer)
        server.create("model")
        yield server


@pytest.fixture
async def store(server: PostgresServer) -> AsyncIterator[RecordStore]:
    store = PostgresStore.from_url(server.url("model"))
    await store.open()
    await store.prepare()
    await store.wipe()
    yield store
    await store.close()


def some_attr(rng: random.Random) -> Attr:
    kind = rng.choice((FILE, DIRECTORY))
    return Attr(kind, rng.randrange(4), 0, 0, rng.randrange(-5, 5), 7, -1, rng.randrange(1, 4), 0, 0, 1)


#: Every record that the test knows, and a value for it.
VALUES: dict[Key, Any] = {}
for _i in INODES:
    VALUES |= {
        k.node(_i): some_attr,
        k.entry(_i, b"a"): lambda rng: Entry(FILE, rng.choice(INODES)),
        k.entry(_i, b"\xff"): lambda rng: Entry(DIRECTORY, rng.choice(INODES)),
        k.symlink(_i): lambda rng: b"%d" % rng.randrange(3),
        k.xattr(_i, b"user.a"): lambda rng: b"%d" % rng.randrange(3),
        k.xattr(_i, b"user.b"): lambda rng: b"",
        k.chunk(_i, 0): lambda rng: bytes([rng.randrange(3)]) * 24,
        k.chunk(_i, 7): lambda rng: bytes([rng.randrange(3)]) * 24,
        k.dirstat(_i): lambda rng: DirStat(rng.randrange(3), 0, 0),
        k.quota(0, _i): lambda rng: Quota(-1, rng.randrange(3), 0, 0),
        k.quota(1, _i): lambda rng: Quota(0, 0, rng.randrange(3), 0),
        k.flocks(_i): lambda rng: {(s, 0): rng.choice("RW") for s in range(rng.randrange(3))},
        k.detached(_i): lambda rng: rng.randrange(3),
        k.sustained(_i, 1): lambda rng: True,
        k.counter("usedSpace"): lambda rng: rng.randrange(3),
        k.counter("nextInode"): lambda rng: rng.randrange(2, 5),
    }
DERIVED: list[Key] = [maker(i) for i in INODES for maker in (k.xattrs, k.occupied)] + [k.chunks(i, 9) for i in INODES]
EVERY = [*VALUES, *DERIVED]


def some_write(rng: random.Random) -> Write:
    key = rng.choice(list(VALUES))
    op = rng.choice((PUT, PUT, PUT_NEW, DELETE, ADD, APPEND, PATCH))
    ino = rng.choice(INODES)
    if op == ADD:
        deltas: list[tuple[Key, Any]] = [
            (k.counter("usedSpace"), rng.randrange(-3, 3)),
            (k.counter("nextInode"), 2),
            (k.dirstat(ino), DirStat(1, -2, 3)),
            (k.quota(0, ino), (1, -1)),
            (k.quota(1, ino), (5, 6)),
        ]
        return (ADD, *rng.choice(deltas))
    if op == APPEND:
        return (APPEND, k.chunk(ino, rng.choice((0, 7))), bytes([rng.randrange(3)]) * 24)
    if op == PATCH:
        return (PATCH, k.node(ino), NodePatch(rng.randrange(-1, 2), rng.choice((None, -7)), rng.choice((None, 1_001))))
    if op == DELETE and key[0] == k.XATTR and rng.random() < 0.5:
        return (DELETE, k.xattrs(key[1]), None)
    if (op == PUT_NEW and key[0] in (k.FLOCKS, k.COUNTER)) or (op == DELETE and key[0] == k.COUNTER):
        op = PUT
    return (op, key, None if op == DELETE else VALUES[key](rng))


def some_writes(rng: random.Random, most: int) -> list[Write]:
    """A patch and another write of one inode don't meet in one commit: the contract leaves open what counts first."""
    writes = [some_write(rng) for _ in range(rng.randrange(1, most))]
    whole = {key for op, key, _ in writes if op != PATCH}
    return [w for w in writes if w[0] != PATCH or w[1] not in whole]


async def some_checks(rng: random.Random, model: RecordStore) -> list[Check]:
    """Mostly true."""
    checks: list[Check] = []
    for key in rng.sample(EVERY, rng.randrange(4)):
        (value,) = await model.read(key)
        if rng.random() < 0.1 and key in VALUES:
            value = VALUES[key](rng)
        if key[0] == k.NODE and value is not None and rng.random() < 0.5:
            checks.append((IDENTITY, key, value))
        else:
            checks.append((EXACT, key, value))
    return checks


async def outcome(store: RecordStore, checks: list[Check], writes: list[Write]) -> Any:
    try:
        found = await store.commit(checks, writes)
        return sorted(set(found.freed)), sorted(set(found.no_dirstat))
    except Conflict:
        return Conflict


async def test_one_by_one(store: RecordStore) -> None:
    print("seed", SEED)
    rng, model = random.Random(SEED), MemoryStore()
    for step in range(1500):
        checks = await some_checks(rng, model)
        writes = some_writes(rng, 7)
        assert await outcome(store, checks, writes) == await outcome(model, checks, writes), (step, checks, writes)
        if step % 5 == 0:
            assert await store.read(*EVERY) == await model.read(*EVERY), (step, writes)


async def test_in_groups_that_some_order_explains(store: RecordStore) -> None:
    """Three commits at once: one of the six orders gives these answers and these records."""
    print("seed", SEED)
    rng, model = random.Random(SEED + 1), MemoryStore()
    for step in range(300):
        jobs = [(await some_checks(rng, model), some_writes(rng, 4)) for _ in range(3)]
        before = [(key, (await model.read(key))[0]) for key in VALUES]
        answers = await asyncio.gather(*[outcome(store, *job) for job in jobs])
        after = await store.read(*EVERY)
        for order in permutations(range(3)):
            model = MemoryStore()
            await model.commit([], [(PUT, key, value) for key, value in before if value is not None])
            told = [None] * 3
            for at in order:
                told[at] = await outcome(model, *jobs[at])
            if await model.read(*EVERY) == after and told == answers:
                break
        else:
            raise AssertionError(f"step {step}: no order explains {answers} of {jobs}")
