# SPDX-License-Identifier: Apache-2.0
"""Several clients on one TiKV: races that TiKV itself doesn't see, prefixes, the change log, long ranges, regions."""

from __future__ import annotations

import asyncio
import itertools
import struct
import time
from collections.abc import AsyncIterator, Iterator

import pytest

pytest.importorskip("tikv_client", reason="pip install tikv-client==0.0.4")

from core.errors import Conflict, FsError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import DIRECTORY, FILE, Attr, Entry, NodePatch
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, LOG, PATCH, PUT
from core.meta.stores.tikv import TiKVStore
from core.meta.stores.tikv.driver import LOG_LINES, TiKVDriver
from core.meta.stores.tikv.url import parse_url
from tests.conformance.volume.invariants import check_invariants
from tests.servers.tikv import TiKVServer, inside

_numbers = itertools.count()
DIR = Attr(DIRECTORY, 0o755, 0, 0, 1, 1, 1, 2, 4096, parent=1)
PLAIN = Attr(FILE, 0o644, 0, 0, 1, 1, 1, 1, 0, parent=1)


@pytest.fixture(scope="module")
def server() -> Iterator[TiKVServer]:
    with TiKVServer() as server:
        assert isinstance(server, TiKVServer)
        yield server


@pytest.fixture
async def pair(server: TiKVServer) -> AsyncIterator[tuple[TiKVStore, TiKVStore]]:
    url = server.url(f"p{next(_numbers)}")
    stores = TiKVStore.from_url(url), TiKVStore.from_url(url)
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()


async def metas(*stores: TiKVStore) -> list[Meta]:
    fmt = new_format("sharing", bucket="/nowhere/").changed(trash_days=0)
    await init_format(stores[0], fmt, time.time_ns())
    made = [Meta(store, fmt) for store in stores]
    for meta in made:
        await meta.new_session("sharing", heartbeat_s=0)
    return made


async def test_a_directory_that_is_removed_takes_no_new_file(pair: tuple[TiKVStore, TiKVStore]) -> None:
    """TiKV sees conflicts of writers only: the create locks its directory, the removal deletes it (pitfall 40)."""
    one, two = await metas(*pair)
    outcomes = set()
    for number in range(60):
        name = b"d%d" % number
        ino, _ = await one.mkdir(1, name)
        await two.lookup(1, name)
        made, removed = await asyncio.gather(
            two.create(ino, b"f"), one.rmdir(1, name), return_exceptions=True
        )  # fmt: skip
        outcomes.add((isinstance(made, FsError), isinstance(removed, FsError)))
        assert isinstance(made, FsError) != isinstance(removed, FsError), (made, removed)
    await check_invariants(one)
    print("create, rmdir failed:", outcomes)


async def test_a_check_alone_is_kept_against_another_writer(server: TiKVServer) -> None:
    """What a transaction only read (present, absent, or in a range) makes its commit fail if others wrote it since."""
    driver, rival = (TiKVDriver(parse_url(server.url("guards"))) for _ in range(2))
    await driver.open()
    await rival.open()
    head = driver.url.prefix

    async def write(changes: dict[bytes, bytes | None]) -> None:
        assert await (await rival.begin([], [], {}, {})).commit(changes) is None

    from core.meta.stores.kv.driver import Range

    ino = b"A" + struct.pack("<Q", 7)
    await write({head + b"present": b"1", head + ino + b"Xa": b"1", head + ino + b"I": b"attr"})
    xattrs = Range(head + ino + b"X", head + ino + b"Y")
    for number, (keys, ranges, change) in enumerate((
        ([head + b"present"], [], {head + b"present": b"2"}),
        ([head + b"present"], [], {head + b"present": None}),
        ([head + b"absent"], [], {head + b"absent": b"1"}),
        ([], [xattrs], {head + ino + b"Xa": b"2"}),
        ([], [xattrs], {head + ino + b"Xa": None}),
        # A new member: whoever adds one writes the inode, too.
        ([], [xattrs], {head + ino + b"Xb": b"1", head + ino + b"I": b"attr"}),
    )):  # fmt: skip
        tx = await driver.begin(keys, ranges, {}, {})
        await write(change)
        target = head + b"target%d" % number
        again = await tx.commit({target: b"x"})
        assert again is not None and again.fresh, number
        for key in keys:
            assert again.values[key] == change[key]
        assert (await rival.get([target])).values == [None]
        assert await again.commit({target: b"x"}) is None
        assert (await rival.get([target])).values == [b"x"]
    await driver.close()
    await rival.close()


async def test_relative_changes_of_many_clients_never_conflict(pair: tuple[TiKVStore, TiKVStore]) -> None:
    one, two = pair
    await one.commit([], [(PUT, k.node(1), DIR), (PUT, k.node(9), PLAIN)])
    jobs = []
    for number in range(40):
        store = pair[number % 2]
        jobs.append(store.commit([], [(ADD, k.counter("usedSpace"), 4096), (PATCH, k.node(1), NodePatch(nlink=1))]))
        jobs.append(store.commit([], [(APPEND, k.chunk(9, 0), bytes(24))]))
        jobs.append(store.allocate("nextInode", 10))
    answers = await asyncio.gather(*jobs)
    assert len(set(answers[2::3])) == 40
    space, node, chunk = await two.read(k.counter("usedSpace"), k.node(1), k.chunk(9, 0))
    assert (space, node.nlink, len(chunk)) == (40 * 4096, 42, 40 * 24)


async def test_one_name_is_created_once_by_racing_clients(pair: tuple[TiKVStore, TiKVStore]) -> None:
    await pair[0].commit([], [(PUT, k.node(1), DIR)])

    async def create(number: int) -> bool:
        checks = [(IDENTITY, k.node(1), DIR), (EXACT, k.entry(1, b"name"), None)]
        try:
            await pair[number % 2].commit(checks, [(PUT, k.entry(1, b"name"), Entry(FILE, 100 + number))])
        except Conflict as lost:
            assert lost.key == k.entry(1, b"name")
            return False
        return True

    assert sum(await asyncio.gather(*map(create, range(20)))) == 1


async def test_volumes_of_one_cluster_never_see_each_other(server: TiKVServer) -> None:
    """Also where one prefix begins the other, and the volume without a prefix."""
    stores = [TiKVStore.from_url(server.url(prefix)) for prefix in ("iso", "iso2", "is", "iso/x", "")]
    for at, store in enumerate(stores):
        await store.open()
        await store.commit([], [(PUT, k.setting(), b"%d" % at), (PUT, k.entry(1, b"n"), Entry(FILE, at + 2))])
    await stores[0].wipe()
    for at, store in enumerate(stores):
        setting, entry = await store.read(k.setting(), k.entry(1, b"n"))
        assert (setting, entry) == ((b"%d" % at, Entry(FILE, at + 2)) if at else (None, None))
        assert len([key async for key, _ in store.scan(k.ENTRY)]) == (1 if at else 0)
        await store.close()


async def test_lines_of_the_change_log_lie_in_shards_by_their_timestamp(server: TiKVServer) -> None:
    store = TiKVStore.from_url(server.url("logged"))
    await store.open()
    started = time.time()
    await asyncio.gather(*(
        store.commit([], [(PUT, k.setting(), b"%d" % n), (LOG, (k.CHANGELOG,), b"line %d" % n)]) for n in range(100)
    ))  # fmt: skip
    found = [(key[1], line) async for key, line in store.scan(k.CHANGELOG)]
    assert sorted(line for _, line in found) == sorted(b"line %d" % n for n in range(100))
    versions = [version for version, _ in found]
    assert versions == sorted(set(versions))
    for version in versions:
        assert started - 2 < (version >> 18) / 1000 < time.time() + 2
        shard = (version ^ version >> 18) % 64
        raw = store.codec.prefix + b"XLOG" + bytes((shard,)) + struct.pack(">Q", version)
        assert (await store.driver.get([raw])).values != [None]
    # A later commit has a later version, as readers that remember where they were rely on.
    await store.commit([], [(LOG, (k.CHANGELOG,), b"last")])
    after = [line async for _, line in store.scan(k.CHANGELOG, versions[-1])]
    assert after == [b"last"]
    assert await store.trim_log(versions[49]) == 50
    assert len([1 async for _ in store.scan(k.CHANGELOG)]) == 51
    await store.close()


def test_versions_of_one_transaction_are_unique_among_all_transactions() -> None:
    from core.meta.stores.tikv.driver import _Attempt

    now = int(time.time() * 1000) << 18
    stamps = [now + logical for logical in (1, 2, 3, 4095)] + [now + (1 << 18) + 1]
    seen = set(stamps)  # what others use as it is
    for stamp in stamps:
        attempt = _Attempt(None, None, {}, {}, stamp, 0)  # type: ignore[arg-type]
        for number in range(LOG_LINES):
            version = attempt.log_version(number)
            assert version >> 18 == stamp >> 18 and version not in seen
            seen.add(version)


async def test_ranges_longer_than_a_page_and_large_values(server: TiKVServer) -> None:
    store = TiKVStore.from_url(server.url("long"))
    await store.open()
    # One inode of 4,200 chunks, some as large as a chunk list gets; read as one value, deleted in one commit.
    big = bytes(24 * 2500)
    chunks = {index: big if index % 50 == 0 else bytes(24) for index in range(4200)}
    for start in range(0, 4200, 1050):
        await store.commit([], [(PUT, k.chunk(5, n), chunks[n]) for n in range(start, start + 1050)])
    assert (await store.read(k.chunks(5, 4200)))[0] == chunks
    assert len(await store.read(*(k.chunk(5, n) for n in range(4200)))) == 4200
    await store.commit([], [(PUT, k.xattr(6, b"large"), bytes(65536)), (PUT, k.setting(), bytes(1 << 20))])
    assert (await store.read(k.xattr(6, b"large"), k.setting())) == [bytes(65536), bytes(1 << 20)]
    await store.commit([], [(DELETE, k.chunk(5, n), None) for n in range(4200)])
    assert (await store.read(k.chunks(5, 4200)))[0] == {}
    await store.close()


async def test_a_volume_over_many_regions() -> None:
    """Borders within directories and kinds: walks, listings, scans and commits cross them."""
    with TiKVServer(split=inside("reg")) as server:
        store = TiKVStore.from_url(server.url("reg"))
        await store.open()
        (meta,) = await metas(store)
        inos = [(await meta.mkdir(1, b"dir%d" % n))[0] for n in range(3)]
        await asyncio.gather(*(meta.create(inos[n % 3], b"file%04d" % n) for n in range(600)))
        assert [len(await store.list_entries(ino, attrs=True)) for ino in inos] == [200, 200, 200]
        assert len([1 async for _ in store.scan(k.ENTRY)]) == 603
        await check_invariants(meta)
        await meta.close()


async def test_old_versions_are_collected_when_asked(server: TiKVServer) -> None:
    """The library's call that clients of a cluster without TiDB make every few hours."""
    store = TiKVStore.from_url(server.url("gc"))
    await store.open()
    for value in (b"1", b"2", b"3"):
        await store.commit([], [(PUT, k.setting(), value)])
    connection = store.driver._connection
    await connection.collect_garbage(await connection.timestamp())
    assert await store.read(k.setting()) == [b"3"]
    await store.close()
