# SPDX-License-Identifier: Apache-2.0
"""One PostgreSQL database, many users: other clients of the volume, other volumes, other programs, old catalogues."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from core.errors import Conflict, FsError, MetaError, VolumeError
from core.meta import keys as k
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.meta.records import DIRECTORY, FILE, ROOT, Attr, DirStat, Entry, NodePatch
from core.meta.store import ADD, APPEND, DELETE, EXACT, IDENTITY, LOG, PATCH, PUT, RecordStore, Write
from core.meta.stores.postgres import PostgresStore
from tests.servers.postgres import USER, PostgresServer

DIR = Attr(DIRECTORY, 0o755, 0, 0, 0, 0, 0, 2, 4096, 0, 1)
PLAIN = Attr(FILE, 0o644, 0, 0, 0, 0, 0, 1, 0, 0, 1)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(fsync=False) as server:
        assert isinstance(server, PostgresServer)
        server.create("shared")
        yield server


@asynccontextmanager
async def opened(url: str, *, wipe: bool = True) -> AsyncIterator[PostgresStore]:
    store = PostgresStore.from_url(url)
    await store.open()
    if wipe:
        await store.wipe()
        await store.prepare()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: PostgresServer) -> AsyncIterator[PostgresStore]:
    async with opened(server.url("shared")) as store:
        yield store


@pytest.fixture
async def peer(server: PostgresServer, store: RecordStore) -> AsyncIterator[PostgresStore]:
    async with opened(server.socket_url("shared"), wipe=False) as peer:
        yield peer


@pytest.fixture
async def other(server: PostgresServer) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A client that works as the original does: SELECT … FOR UPDATE, then changes."""
    place = f"host={server.folder} port={server.port} user={USER} dbname=shared"
    async with await psycopg.AsyncConnection.connect(place) as connection:
        yield connection


async def one(store: RecordStore, key: k.Key) -> object:
    return (await store.read(key))[0]


# -- races ----------------------------------------------------------------------------------------------------------


async def test_rmdir_and_create_never_both_win(store: PostgresStore, peer: PostgresStore) -> None:
    for turn in range(30):
        d, name = 100 + turn, b"%d" % turn
        await store.commit([], [(PUT, k.node(d), DIR), (PUT, k.entry(1, name), Entry(DIRECTORY, d))])

        async def create(d: int = d, turn: int = turn) -> None:
            await store.commit(
                [(IDENTITY, k.node(d), DIR), (EXACT, k.entry(d, b"f"), None)],
                [
                    (PUT, k.entry(d, b"f"), Entry(FILE, 1000 + turn)),
                    (PUT, k.node(1000 + turn), PLAIN),
                    (PATCH, k.node(d), NodePatch(0, 5, 5)),
                ],
            )

        async def remove(d: int = d, name: bytes = name) -> None:
            await peer.commit(
                [
                    (EXACT, k.entry(1, name), Entry(DIRECTORY, d)),
                    (EXACT, k.occupied(d), False),
                    (EXACT, k.node(d), DIR),
                ],
                [(DELETE, k.entry(1, name), None), (DELETE, k.node(d), None)],
            )

        results = await asyncio.gather(create(), remove(), return_exceptions=True)
        lost = [r for r in results if isinstance(r, Conflict)]
        assert len(lost) == 1, results
        directory, child = await store.read(k.node(d), k.entry(d, b"f"))
        assert (directory is None) == (child is None)


async def test_a_create_waits_for_the_original_clients_rmdir(
    store: PostgresStore, other: psycopg.AsyncConnection[tuple[object, ...]]
) -> None:
    await store.commit([], [(PUT, k.node(7), DIR)])
    await other.execute("SELECT * FROM jfs_node WHERE inode = 7 FOR UPDATE")
    await other.execute("DELETE FROM jfs_node WHERE inode = 7")
    create = asyncio.ensure_future(
        store.commit(
            [(IDENTITY, k.node(7), DIR)],
            [(PUT, k.entry(7, b"f"), Entry(FILE, 8)), (PATCH, k.node(7), NodePatch(0, 1, 1))],
        )
    )
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    async with opened_connection(other) as watcher:
        while (await (await watcher.execute(waiting)).fetchone()) == (0,):
            await asyncio.sleep(0)
    await other.commit()
    with pytest.raises(Conflict):
        await create
    assert await one(store, k.entry(7, b"f")) is None


@asynccontextmanager
async def opened_connection(
    like: psycopg.AsyncConnection[tuple[object, ...]],
) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    async with await psycopg.AsyncConnection.connect(like.info.dsn, autocommit=True) as connection:
        yield connection


async def test_a_chunk_compacted_meanwhile_is_not_copied(store: PostgresStore, peer: PostgresStore) -> None:
    old, new = bytes(24) * 5, b"\x01" * 24
    await store.commit([], [(PUT, k.chunk(5, 0), old), (PUT, k.node(5), PLAIN), (PUT, k.node(6), PLAIN)])

    async def copy() -> None:
        await store.commit([(EXACT, k.chunk(5, 0), old)], [(APPEND, k.chunk(6, 0), old)])

    async def compact() -> None:
        await peer.commit([(EXACT, k.chunk(5, 0), old)], [(PUT, k.chunk(5, 0), new)])

    copied, _ = await asyncio.gather(copy(), compact(), return_exceptions=True)
    source, target = await store.read(k.chunk(5, 0), k.chunk(6, 0))
    assert source == new
    assert target == (None if isinstance(copied, Conflict) else old)


async def test_one_bad_member_of_a_group_is_the_only_one_to_lose(store: PostgresStore) -> None:
    """A failed check, a unique index, a number that is too large, of 43 commits: 3 fail."""
    await store.commit([], [(PUT, k.node(1), DIR), (PUT, k.entry(1, b"taken"), Entry(FILE, 9))])

    def create(name: bytes, ino: int) -> list[Write]:
        return [
            (PUT, k.entry(1, name), Entry(FILE, ino)),
            (PUT, k.node(ino), PLAIN),
            (PATCH, k.node(1), NodePatch(1)),
        ]

    good = [store.commit([(EXACT, k.entry(1, b"%d" % i), None)], create(b"%d" % i, 100 + i)) for i in range(40)]
    bad = [
        store.commit([(EXACT, k.node(1), PLAIN)], create(b"x", 7)),
        store.commit([(EXACT, k.entry(1, b"taken"), None)], create(b"taken", 8)),
        store.commit([], [*create(b"big", 10), (ADD, k.counter("usedSpace"), 1 << 64)]),
    ]
    results = await asyncio.gather(*good[:20], *bad, *good[20:], return_exceptions=True)
    failed = [r for r in results if isinstance(r, BaseException)]
    assert [type(f) for f in failed] == [Conflict, Conflict, MetaError]
    assert isinstance(failed[0], Conflict) and failed[0].found == (None, DIR)
    assert isinstance(failed[1], Conflict) and failed[1].key == k.entry(1, b"taken")
    assert failed[1].found == (Entry(FILE, 9), None)
    node = await one(store, k.node(1))
    assert isinstance(node, Attr) and node.nlink == 42
    assert await store.read(k.node(7), k.node(8), k.node(10)) == [None, None, None]
    assert len(await store.list_entries(1)) == 41


# -- limits ---------------------------------------------------------------------------------------------------------


async def test_owners_beyond_the_columns_are_refused_by_name(store: PostgresStore) -> None:
    assert store.caps.max_id == 2**31 - 1
    for field in ("uid", "gid"):
        record = Attr(**{**{f: getattr(PLAIN, f) for f in PLAIN.__struct_fields__}, field: 4294967294})
        with pytest.raises(MetaError, match=f"{field} 4294967294.*2147483647") as caught:
            await store.commit([], [(PUT, k.node(5), record)])
        assert caught.value.errno == errno.EOVERFLOW
    assert await one(store, k.node(5)) is None


async def test_a_volume_whose_owner_widened_the_columns_takes_all_ids(server: PostgresServer) -> None:
    url = server.create("wide")
    async with opened(url):
        pass
    server.psql("ALTER TABLE jfs_node ALTER uid TYPE bigint, ALTER gid TYPE bigint, ALTER rdev TYPE bigint", "wide")
    async with opened(url, wipe=False) as store:
        assert store.caps.max_id == 0xFFFFFFFF
        record = Attr(FILE, 0o644, 4294967294, 0xFFFFFFFF, 0, 0, 0, 1, 0, 0, 1)
        await store.commit([], [(PUT, k.node(5), record)])
        await store.commit([(EXACT, k.node(5), record), (IDENTITY, k.node(5), record)], [(PUT, k.symlink(5), b"x")])
        assert await one(store, k.node(5)) == record


async def test_attribute_names_that_are_no_text_are_refused_and_never_found(store: PostgresStore) -> None:
    for name in (b"user.\xff", b"user.a\0b"):
        with pytest.raises(MetaError, match="UTF-8") as caught:
            await store.commit([], [(PUT, k.xattr(5, name), b"1")])
        assert caught.value.errno == errno.EINVAL
        assert await one(store, k.xattr(5, name)) is None
        await store.commit([(EXACT, k.xattr(5, name), None)], [(DELETE, k.xattr(5, name), None)])
        with pytest.raises(Conflict):
            await store.commit([(EXACT, k.xattr(5, name), b"1")], [(PUT, k.symlink(5), b"x")])


async def test_numbers_beyond_the_columns_are_not_there(store: PostgresStore) -> None:
    huge = 2**64 - 1
    asked = [k.node(huge), k.chunk(1, 2**31), k.xattrs(huge), k.occupied(huge), k.chunks(huge, 3), k.node(1)]
    assert await store.read(*asked) == [None, None, {}, False, {}, None]
    assert await store.list_entries(huge) == []
    assert (await store.resolve(huge, [b"a"])).base is None


async def test_two_attributes_of_one_commit_are_both_proven_to_be_new(store: PostgresStore) -> None:
    a, b = k.xattr(5, b"user.a"), k.xattr(5, b"user.b")
    await store.commit([], [(PUT, b, b"old")])
    with pytest.raises(Conflict):
        await store.commit([(EXACT, a, None), (EXACT, b, None)], [(PUT, a, b"1"), (PUT, b, b"2")])
    assert await store.read(a, b) == [None, b"old"]


# -- volumes side by side -------------------------------------------------------------------------------------------


async def test_volumes_share_a_database_by_prefix_and_by_schema(server: PostgresServer) -> None:
    server.create("many")
    server.psql('CREATE SCHEMA "Vol two"', "many")
    queries = ("", "?table_prefix=b", "?search_path=Vol%20two", "?search_path=Vol%20two&table_prefix=c")
    for number, query in enumerate(queries):
        async with opened(server.url("many", query)) as store:
            await store.commit([], [(PUT, k.symlink(1), b"%d" % number), (PUT, k.acl(5), bytes(16))])
            assert await store.allocate("aclMaxId", 1) == 6
    for number, query in enumerate(queries):
        async with opened(server.url("many", query), wipe=False) as store:
            assert await one(store, k.symlink(1)) == b"%d" % number
            if number == 1:
                await store.wipe()
    async with opened(server.url("many"), wipe=False) as store:
        assert await one(store, k.symlink(1)) == b"0"
    with pytest.raises(VolumeError, match=r"schema 'nowhere' does not exist.*CREATE SCHEMA"):
        await PostgresStore.from_url(server.url("many", "?search_path=nowhere")).open()


async def test_an_empty_database_reads_as_empty_until_somebody_formats_it(server: PostgresServer) -> None:
    url = server.create("empty")
    async with opened(url, wipe=False) as store:
        assert await store.read(k.setting(), k.counter("nextInode")) == [None, 2]
        assert [r async for r in store.scan(k.NODE)] == []
        with pytest.raises(MetaError, match="format it first"):
            await store.commit([], [(PUT, k.symlink(1), b"x")])
        async with opened(url) as creator:
            await creator.commit([], [(PUT, k.setting(), b"{}")])
        assert await one(store, k.setting()) == b"{}"


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("CREATE TABLE jfs_node (inode bigint)", "half a volume, or tables of another program"),
        ("ALTER TABLE jfs_node RENAME mode TO modus", "jfs_node lacks the column mode"),
        ("ALTER TABLE jfs_edge ALTER name TYPE text USING ''", r"jfs_edge\.name has the type text, expected bytea"),
        ("ALTER TABLE jfs_node DROP CONSTRAINT jfs_node_pkey", "jfs_node lost its primary key"),
        ("DROP TABLE jfs_counter; CREATE VIEW jfs_counter AS SELECT 1 AS name", "jfs_counter is no table but a view"),
        ("DROP TABLE jfs_counter", "jfs_counter are missing"),
    ],
)
async def test_a_database_that_is_no_volume_is_refused(server: PostgresServer, sql: str, says: str) -> None:
    name = f"foreign{abs(hash(sql))}"
    url = server.create(name)
    if not sql.startswith("CREATE"):
        async with opened(url):
            pass
    server.psql(sql, name)
    store = PostgresStore.from_url(url)
    with pytest.raises(VolumeError, match=says):
        await store.open()


async def test_a_database_that_can_not_keep_names_is_refused(server: PostgresServer) -> None:
    server.psql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(VolumeError, match=r"LATIN1.*UTF8"):
        await PostgresStore.from_url(server.url("latin")).open()


# -- the whole engine -----------------------------------------------------------------------------------------------


async def test_two_clients_race_for_every_name(store: PostgresStore, peer: PostgresStore) -> None:
    fmt = new_format("race", bucket="/nowhere/")
    await init_format(store, fmt, 1_800_000_000_000_000_000)
    metas = [Meta(s, fmt) for s in (store, peer)]
    for meta in metas:
        await meta.new_session("race", heartbeat_s=0)
    d, _ = await metas[0].mkdir(ROOT, b"d")
    won = 0

    async def worker(number: int) -> None:
        nonlocal won
        meta = metas[number % 2]
        for i in range(25):
            try:
                await meta.create(d, b"%d" % i, exclusive=True)
                won += 1
            except FsError as e:
                assert e.errno == errno.EEXIST

    await asyncio.gather(*[worker(n) for n in range(8)])
    assert won == 25
    stat = await one(store, k.dirstat(d))
    assert isinstance(stat, DirStat) and stat.inodes == 25
    for meta in metas:
        await meta.end_session()


# -- what the suites don't reach ------------------------------------------------------------------------------------


async def test_the_change_log_is_written_with_the_commit_read_in_order_and_trimmed(store: PostgresStore) -> None:
    async def commit(i: int) -> None:
        await store.commit([], [(PUT, k.symlink(i), b"x"), (LOG, (k.CHANGELOG,), b"%d|A" % i)])

    await asyncio.gather(*[commit(i) for i in range(50)])
    with pytest.raises(Conflict):
        await store.commit([(EXACT, k.symlink(1), None)], [(LOG, (k.CHANGELOG,), b"never")])
    lines = [(key[1], line) async for key, line in store.scan(k.CHANGELOG)]
    versions = [version for version, _ in lines]
    assert versions == sorted(set(versions)) and {line for _, line in lines} == {b"%d|A" % i for i in range(50)}
    assert [key[1] async for key, _ in store.scan(k.CHANGELOG, versions[29])] == versions[30:]
    assert await store.trim_log(versions[9]) == 10
    assert [key[1] async for key, _ in store.scan(k.CHANGELOG)] == versions[10:]
    two: list[Write] = [(LOG, (k.CHANGELOG,), b"first"), (LOG, (k.CHANGELOG,), b"second")]
    await store.commit([], two)
    assert [line async for _, line in store.scan(k.CHANGELOG, versions[-1])] == [b"first", b"second"]


async def test_link_counts_are_derived_from_entries(store: PostgresStore) -> None:
    linked = Attr(FILE, 0o644, 0, 0, 0, 0, 0, 3, 0, 0, 0)
    await store.commit(
        [],
        [
            *((PUT, k.node(ino), linked) for ino in (5, 6)),
            (PUT, k.node(7), PLAIN),
            *((PUT, k.entry(p, name), Entry(FILE, 5)) for p, name in ((1, b"a"), (1, b"b"), (2, b"a"))),
            (PUT, k.entry(1, b"c"), Entry(FILE, 7)),
        ],
    )
    assert {key: n async for key, n in store.scan(k.PARENT)} == {k.parent(5, 1): 2, k.parent(5, 2): 1}


async def test_many_tasks_share_few_statements(server: PostgresServer, store: PostgresStore) -> None:
    """64 creates and 64 reads at once: a handful of transactions, not 128."""
    await store.commit([], [(PUT, k.node(1), DIR)])

    async def create(i: int) -> None:
        await store.commit(
            [(IDENTITY, k.node(1), DIR), (EXACT, k.entry(1, b"%d" % i), None)],
            [(PUT, k.entry(1, b"%d" % i), Entry(FILE, 100 + i)), (PATCH, k.node(1), NodePatch(0, i, i))],
        )
        assert await store.read(k.entry(1, b"%d" % i)) == [Entry(FILE, 100 + i)]

    number = "SELECT pg_current_xact_id()::text"
    before = int(server.psql(number, "shared"))
    await asyncio.gather(*[create(i) for i in range(64)])
    assert int(server.psql(number, "shared")) - before <= 8
