# SPDX-License-Identifier: Apache-2.0
"""What is special about MySQL's record store: grouping, its columns' limits, strange and older databases, outages."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from core.errors import Conflict, MetaError, VolumeError
from core.meta import keys as k
from core.meta.records import FILE, ROOT, Entry, NodePatch, Slice, encode_slice
from core.meta.store import ADD, APPEND, EXACT, IDENTITY, PATCH, PUT, PUT_NEW, Check, Write
from core.meta.stores.mysql import MySQLStore
from core.meta.stores.mysql.connection import Connection
from tests.conformance.recordstore.helpers import attr, directory, one, put, write
from tests.servers.mariadb import PASSWORD, MariaDBServer
from tests.servers.redis import make_certificates


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    with MariaDBServer() as server:
        assert isinstance(server, MariaDBServer)
        yield server


async def opened(url: str, *, prepare: bool = True) -> MySQLStore:
    store = MySQLStore.from_url(url)
    await store.open()
    if prepare:
        await store.prepare()
    return store


@pytest.fixture
async def store(server: MariaDBServer) -> AsyncIterator[MySQLStore]:
    store = await opened(server.url())
    yield store
    await store.close()


def creating(name: bytes, ino: int) -> tuple[list[Check], list[Write]]:
    """What making a file is."""
    checks: list[Check] = [(IDENTITY, k.node(ROOT), directory()), (EXACT, k.entry(ROOT, name), None)]
    writes: list[Write] = [
        (PUT, k.entry(ROOT, name), Entry(FILE, ino)), (PUT, k.node(ino), attr()),
        (PATCH, k.node(ROOT), NodePatch(mtime_ns=ino * 1000)), (ADD, k.counter("usedSpace"), 4096),
    ]  # fmt: skip
    return checks, writes


# -- round trips and grouping -----------------------------------------------------------------------------------------


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything that is sent from here on."""
    sent: list[bytes] = []
    run = Connection.run

    async def counted(self: Connection, text: bytes, **options: Any) -> Any:
        sent.append(text)
        return await run(self, text, **options)

    monkeypatch.setattr(Connection, "run", counted)
    return sent


async def test_many_creates_are_one_packet_and_one_transaction(store: MySQLStore, packets: list[bytes]) -> None:
    await put(store, [(k.node(ROOT), directory())])
    before = store.transactions
    del packets[:]
    await asyncio.gather(*[store.commit(*creating(b"%d" % i, 100 + i)) for i in range(20)])
    assert (len(packets), store.transactions - before) == (1, 1)
    assert packets[0].startswith(b"START TRANSACTION;") and packets[0].endswith(b";COMMIT")
    assert len(await store.list_entries(ROOT)) == 20
    assert (await store.read(k.node(ROOT), k.counter("usedSpace"))) == [directory(mtime_ns=119_000), 20 * 4096]


async def test_only_the_guilty_gets_the_conflict_and_is_told_what_is_there(store: MySQLStore) -> None:
    await put(store, [(k.node(ROOT), directory()), (k.entry(ROOT, b"3"), Entry(FILE, 9)), (k.node(9), attr(mode=0))])
    done = await asyncio.gather(
        *[store.commit(*creating(b"%d" % i, 100 + i)) for i in range(8)],
        store.commit([(EXACT, k.node(9), attr(mode=1))], [(PUT, k.symlink(9), b"no")]),
        store.commit([], [(PATCH, k.node(77), NodePatch(1))]),
        return_exceptions=True,
    )
    failed = {i: e for i, e in enumerate(done) if isinstance(e, BaseException)}
    assert {i: (type(e), getattr(e, "key", None)) for i, e in failed.items()} == {
        3: (Conflict, k.entry(ROOT, b"3")), 8: (Conflict, k.node(9)), 9: (Conflict, k.node(77)),
    }  # fmt: skip
    assert failed[3].found == (Entry(FILE, 9), attr(mode=0))  # type: ignore[attr-defined]
    assert failed[8].found == (None, attr(mode=0))  # type: ignore[attr-defined]
    assert len(await store.list_entries(ROOT)) == 8
    assert await one(store, k.counter("usedSpace")) == 7 * 4096


async def test_reads_of_many_tasks_leave_in_one_packet(store: MySQLStore, packets: list[bytes]) -> None:
    await put(store, [(k.node(i), attr(length=i)) for i in range(1, 40)])
    await put(store, [(k.node(ROOT), directory()), (k.entry(ROOT, b"a"), Entry(FILE, 5))])
    del packets[:]
    reads = [store.read(k.node(i)) for i in range(2, 40)]
    found, walk, page = await asyncio.gather(
        asyncio.gather(*reads), store.resolve(ROOT, [b"a"]), store.list_entries(ROOT)
    )
    assert len(packets) == 1
    assert [a.length for (a,) in found] == list(range(2, 40))
    assert (walk.steps[0].entry.ino, [e.name for e in page]) == (5, [b"a"])


async def test_two_clients_that_create_the_same_names(server: MariaDBServer) -> None:
    """Every name is won once; nobody waits for ever, nobody sees a deadlock."""
    url = server.url()
    stores = [await opened(url) for _ in range(2)]
    await put(stores[0], [(k.node(ROOT), directory())])

    async def create(at: int, name: int) -> bool:
        try:
            await stores[at].commit(*creating(b"%d" % name, 1000 * (at + 1) + name))
        except Conflict:
            return False
        return True

    won = await asyncio.gather(*[create(at, name) for name in range(100) for at in range(2)])
    pairs = list(zip(won[::2], won[1::2], strict=True))
    assert all(sum(pair) == 1 for pair in pairs)
    entries = {e.name: e.ino for e in await stores[0].list_entries(ROOT)}
    assert entries == {b"%d" % i: (1000 if first else 2000) + i for i, (first, _) in enumerate(pairs)}
    assert await one(stores[1], k.counter("usedSpace")) == 100 * 4096
    for store in stores:
        await store.close()


# -- limits of the columns --------------------------------------------------------------------------------------------


async def test_ids_beyond_31_bits_are_refused_by_name(store: MySQLStore) -> None:
    assert store.caps.max_id == 2**31 - 1
    await put(store, [(k.node(5), attr(uid=2**31 - 1))])
    with pytest.raises(MetaError, match="uid 4294967294") as caught:
        await put(store, [(k.node(6), attr(uid=4294967294))])
    assert caught.value.errno == errno.EOVERFLOW
    assert await store.read(k.node(5), k.node(6)) == [attr(uid=2**31 - 1), None]


async def test_wider_columns_hold_more(server: MariaDBServer) -> None:
    database = server.database()
    await (await opened(server.url(database))).close()
    server.sql(
        "ALTER TABLE jfs_node MODIFY uid BIGINT NOT NULL, MODIFY gid BIGINT NOT NULL, MODIFY rdev BIGINT NULL;"
        "ALTER TABLE jfs_chunk MODIFY slices LONGBLOB NOT NULL",
        database,
    )
    store = await opened(server.url(database))
    assert store.caps.max_id == 2**32 - 1
    await put(store, [(k.node(6), attr(uid=4294967294))])
    await write(store, (APPEND, k.chunk(6, 0), bytes(24 * 3000)))
    assert await store.read(k.node(6), k.chunk(6, 0)) == [attr(uid=4294967294), bytes(24 * 3000)]
    await store.close()


async def test_a_chunk_holds_2730_records_and_then_says_so(store: MySQLStore) -> None:
    full = b"".join(encode_slice(Slice(i, i + 1, 9, 0, 9)) for i in range(2730))
    await write(store, (APPEND, k.chunk(5, 0), full[:48000]))
    await write(store, (APPEND, k.chunk(5, 0), full[48000:]))
    done = await asyncio.gather(
        write(store, (APPEND, k.chunk(5, 0), bytes(24)), (PUT, k.symlink(8), b"no")),
        write(store, (PUT, k.symlink(9), b"yes")),
        return_exceptions=True,
    )
    assert isinstance(done[0], MetaError)
    assert (done[0].errno, "compact the file" in str(done[0])) == (errno.EFBIG, True)
    assert await store.read(k.chunk(5, 0), k.symlink(8), k.symlink(9)) == [full, None, b"yes"]


async def test_names_of_attributes_that_differ_in_case_are_one(store: MySQLStore) -> None:
    """As JuiceFS has it there: the column's collation decides (format §13, 48)."""
    await put(store, [(k.xattr(5, b"user.a"), b"1")])
    assert await one(store, k.xattr(5, b"user.A")) == b"1"
    with pytest.raises(Conflict):
        await store.commit([(EXACT, k.xattr(5, b"user.A"), None)], [(PUT, k.xattr(5, b"user.A"), b"2")])
    await put(store, [(k.xattr(5, b"user.A"), b"3")])
    assert await one(store, k.xattrs(5)) == {b"user.a": b"3"}
    with pytest.raises(MetaError, match="UTF-8"):
        await put(store, [(k.xattr(5, b"user.\xff"), b"1")])


async def test_acl_ids_come_from_the_table_and_leave_no_row(store: MySQLStore, server: MariaDBServer) -> None:
    database = store._url.database
    assert [await store.allocate("aclMaxId", 1) for _ in range(2)] == [1, 2]
    server.sql("INSERT INTO jfs_acl (owner) VALUES (7)", database)  # as JuiceFS adds a rule
    assert await store.allocate("aclMaxId", 1) == 4
    assert server.sql("SELECT id FROM jfs_acl", database) == "3"
    await write(store, (PUT, k.counter("aclMaxId"), 100))
    assert await one(store, k.counter("aclMaxId")) == 100
    assert await store.allocate("aclMaxId", 1) == 100


async def test_a_commit_larger_than_a_packet_is_still_one_transaction(server: MariaDBServer) -> None:
    database = server.database()
    before = server.sql("SELECT @@global.max_allowed_packet")
    server.sql("SET GLOBAL max_allowed_packet=1048576")
    try:
        store = await opened(server.url(database))
        records: list[Write] = [(PUT, k.xattr(i, b"user.a"), bytes([i % 256]) * 60_000) for i in range(2, 102)]
        with pytest.raises(Conflict):
            await store.commit([(EXACT, k.symlink(1), b"no")], records)
        assert await one(store, k.xattrs(2)) == {}
        await store.commit([], records)
        assert await store.read(*[w[1] for w in records]) == [w[2] for w in records]
        await store.close()
    finally:
        server.sql(f"SET GLOBAL max_allowed_packet={before}")


# -- databases that aren't as we made them ----------------------------------------------------------------------------


async def test_an_empty_database_reads_as_an_empty_store_until_somebody_prepares_it(server: MariaDBServer) -> None:
    url = server.url()
    store = await opened(url, prepare=False)
    assert await store.read(k.setting(), k.node(1), k.counter("nextInode"), k.xattrs(1)) == [None, None, 2, {}]
    assert await store.resolve(1, [b"a"], xattrs=True) == (None, [], None, None)
    assert await store.list_entries(1) == [] == [r async for r in store.scan(k.NODE)]
    with pytest.raises(MetaError, match="no volume yet"):
        await put(store, [(k.symlink(1), b"x")])
    await (await opened(url)).close()
    await put(store, [(k.symlink(1), b"x")])
    assert await one(store, k.symlink(1)) == b"x"
    await store.close()


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("CREATE TABLE wp_posts (id INT)", "belongs to another program .*wp_posts"),
        ("CREATE TABLE jfs_node (id INT)", "lacks the tables jfs_setting"),
    ],
)
async def test_foreign_databases_are_refused(server: MariaDBServer, sql: str, says: str) -> None:
    database = server.database()
    server.sql(sql, database)
    with pytest.raises(VolumeError, match=says):
        await opened(server.url(database))
    assert len(server.sql("SHOW TABLES", database).split()) == 1


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("DROP TABLE jfs_edge", "lacks the tables jfs_edge"),
        ("ALTER TABLE jfs_node DROP COLUMN nlink", "jfs_node lacks the column nlink"),
        ("ALTER TABLE jfs_edge MODIFY name VARCHAR(255) NOT NULL", "column name of table jfs_edge is varchar"),
        ("ALTER TABLE jfs_node MODIFY length INT NOT NULL", "column length of table jfs_node is int"),
        ("ALTER TABLE jfs_chunk ENGINE=MyISAM", "engine MyISAM, which has no transactions"),
    ],
)
async def test_what_would_lose_data_is_refused(server: MariaDBServer, sql: str, says: str) -> None:
    database = server.database()
    await (await opened(server.url(database))).close()
    server.sql(sql, database)
    with pytest.raises(VolumeError, match=says):
        await opened(server.url(database), prepare=False)


async def test_older_volumes_are_completed_by_opening(server: MariaDBServer) -> None:
    database = server.database()
    await (await opened(server.url(database))).close()
    new = server.sql("SHOW CREATE TABLE jfs_chunk_ref", database)
    server.sql(
        "DROP TABLE jfs_detached_node, jfs_user_group_quota, jfs_change_log;"
        "ALTER TABLE jfs_node DROP COLUMN tier_id, DROP COLUMN atimensec, ADD COLUMN extra INT;"
        "ALTER TABLE jfs_chunk_ref DROP INDEX IDX_jfs_chunk_ref_refs;"
        "ALTER TABLE jfs_setting MODIFY value VARCHAR(4096) NOT NULL;"
        "ALTER TABLE jfs_edge RENAME INDEX UQE_jfs_edge_edge TO mine",
        database,
    )
    store = await opened(server.url(database), prepare=False)
    await put(store, [(k.node(5), attr(tier=2, atime_ns=1_001)), (k.detached(5), 7), (k.quota(1, 5), (1, 2, 3, 4))])
    assert (await one(store, k.node(5))) == attr(tier=2, atime_ns=1_001)
    assert server.sql("SHOW CREATE TABLE jfs_chunk_ref", database) == new
    assert "extra" in server.sql("DESCRIBE jfs_node", database)
    await put(store, [(k.node(ROOT), directory())])
    await store.commit(*creating(b"a", 6))  # locks entries by the index under its new name
    with pytest.raises(Conflict):
        await store.commit([(EXACT, k.entry(ROOT, b"a"), Entry(FILE, 7))], [(PUT, k.symlink(6), b"x")])
    await store.close()


async def test_several_volumes_share_a_database(server: MariaDBServer) -> None:
    database = server.database()
    stores = [await opened(server.url(database, option)) for option in ("", "table_prefix=a", "table_prefix=B")]
    for number, store in enumerate(stores):
        await put(store, [(k.symlink(1), b"%d" % number)])
        await write(store, (ADD, k.counter("usedSpace"), number))
    assert [await store.allocate("nextInode", 10) for store in stores] == [2, 2, 2]
    await stores[1].wipe()
    assert [await one(store, k.symlink(1)) for store in stores] == [b"0", None, b"2"]
    assert {"jfs_node", "jfs_a_node", "jfs_B_node"} < set(server.sql("SHOW TABLES", database).split())
    for store in stores:
        await store.close()


async def test_names_are_utf8_even_where_the_database_says_latin1(server: MariaDBServer) -> None:
    database = server.database()
    server.sql(f"ALTER DATABASE {database} CHARACTER SET latin1")
    store = await opened(server.url(database))
    name = "user.日本".encode()
    await put(store, [(k.xattr(5, name), b"1"), (k.setting(), '{"Name": "日本"}'.encode())])
    assert await store.read(k.xattrs(5), k.setting()) == [{name: b"1"}, '{"Name": "日本"}'.encode()]
    await store.commit([(EXACT, k.setting(), '{"Name": "日本"}'.encode())], [(PUT, k.symlink(1), b"x")])
    await store.close()


async def test_a_volume_with_latin1_tables_is_verified_by_its_text(server: MariaDBServer) -> None:
    """JuiceFS makes them where that is the default."""
    database = server.database()
    await (await opened(server.url(database))).close()
    server.sql("ALTER TABLE jfs_setting CONVERT TO CHARACTER SET latin1", database)
    store = await opened(server.url(database))
    await put(store, [(k.setting(), "é".encode())])
    await store.commit([(EXACT, k.setting(), "é".encode())], [(PUT, k.symlink(1), b"x")])
    with pytest.raises(Conflict):
        await store.commit([(EXACT, k.setting(), "É".encode())], [(PUT, k.symlink(1), b"y")])
    assert await store.read(k.setting(), k.symlink(1)) == ["é".encode(), b"x"]
    await store.close()


# -- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "says", "retryable"),
    [
        ("sluice:", "sluice:wrong", "wrong user or password", False),
        ("/none", "/nowhere", "database doesn't exist", False),
        (":PORT", ":1", "can't be reached", True),
    ],
)
async def test_refused_connections_say_why_and_keep_the_password(
    server: MariaDBServer, old: str, new: str, says: str, retryable: bool
) -> None:
    url = server.url("none").replace(old.replace("PORT", str(server.port)), new)
    with pytest.raises(MetaError, match=says) as caught:
        await opened(url)
    assert caught.value.retryable == retryable
    assert PASSWORD not in str(caught.value) and "p%3Aw" not in str(caught.value)


async def test_tls() -> None:
    files = ("--ssl-ca=../ca.pem", "--ssl-cert=../ca.pem", "--ssl-key=../key.pem")  # seen from the data folder
    server = MariaDBServer(*files, "--require-secure-transport=ON")
    make_certificates(server.folder)
    with server:
        database = server.database()
        ca = f"tls-ca-cert-file={server.folder}/ca.pem"
        for option in (ca, f"tls=true&{ca}", "tls=skip-verify", "tls=preferred"):
            store = await opened(server.url(database, option))
            (row,) = (await store._execute([b"SHOW STATUS LIKE 'Ssl_version'"], "asking"))[0].rows
            assert row[1].startswith(b"TLS"), option
            await store.close()
        for option in ("tls=true", "tls=false"):  # a stranger's certificate; no TLS at all
            with pytest.raises(MetaError):
                await opened(server.url(database, option))


async def test_tls_is_never_left_out_unless_it_may_be(server: MariaDBServer) -> None:
    with pytest.raises(MetaError):
        await opened(server.url(options="tls=skip-verify"))
    await (await opened(server.url(options="tls=preferred"))).close()


async def test_a_binary_log_of_statements_is_served_too() -> None:
    with MariaDBServer("--log-bin=log", "--binlog-format=STATEMENT", "--server-id=1") as server:
        assert isinstance(server, MariaDBServer)
        store = await opened(server.url())
        await put(store, [(k.node(ROOT), directory())])
        await asyncio.gather(*[store.commit(*creating(b"%d" % i, 100 + i)) for i in range(5)])
        assert [await store.allocate("nextInode", 5), await store.gate("lastCleanupFiles", 9, 1)] == [2, True]
        assert len(await store.list_entries(ROOT)) == 5
        await store.close()


# -- outages ----------------------------------------------------------------------------------------------------------


async def test_a_server_that_dies_and_comes_back() -> None:
    with MariaDBServer(durable=True) as server:
        assert isinstance(server, MariaDBServer)
        store = await opened(server.url())
        await put(store, [(k.symlink(1), b"kept")])
        server.kill()
        calls = [store.read(k.symlink(1)), write(store, (PUT, k.symlink(2), b"x")), store.allocate("nextInode", 1)]
        for call in calls:
            with pytest.raises(MetaError, match="can't be reached") as caught:
                await call
            assert (caught.value.retryable, caught.value.uncertain) == (True, False)
            assert PASSWORD not in str(caught.value)
        server.start()
        assert await store.read(k.symlink(1), k.symlink(2)) == [b"kept", None]
        await put(store, [(k.symlink(2), b"again")])
        server.kill()  # idle connections die unseen; the next call finds out and connects anew
        server.start()
        await put(store, [(k.symlink(3), b"x")])
        assert await store.read(k.symlink(2), k.symlink(3)) == [b"again", b"x"]
        await store.close()


async def test_a_commit_that_loses_its_connection_is_uncertain_and_not_repeated(server: MariaDBServer) -> None:
    database = server.database()
    store = await opened(server.url(database))
    await put(store, [(k.node(5), attr())])
    blocker = await opened(server.url(database))
    async with blocker._pool.connection() as connection:
        await connection.run(b"START TRANSACTION; SELECT * FROM jfs_node WHERE inode=5 FOR UPDATE")
        commit = asyncio.ensure_future(
            write(store, (PATCH, k.node(5), NodePatch(1)), (APPEND, k.chunk(5, 0), bytes(24)))
        )
        waiting = "SELECT id FROM information_schema.processlist WHERE info LIKE '%FOR UPDATE%' AND db='{}' AND id<>{}"
        mine = server.sql("SELECT CONNECTION_ID()")
        query = waiting.format(database, mine) + " AND info NOT LIKE '%processlist%' AND command='Query'"
        while not (ids := server.sql(query).split()):
            await asyncio.sleep(0.01)
        server.sql(f"KILL {ids[0]}")
        with pytest.raises(MetaError) as caught:
            await commit
        assert (caught.value.uncertain, caught.value.retryable) == (True, True)
        await connection.run(b"ROLLBACK")
    assert await store.read(k.node(5), k.chunk(5, 0)) == [attr(), None]
    await write(store, (PATCH, k.node(5), NodePatch(1)))
    assert (await one(store, k.node(5))).nlink == 2
    await store.close()
    await blocker.close()


async def test_a_lock_that_nobody_gives_back_is_an_error_that_says_so(server: MariaDBServer) -> None:
    database = server.database()
    store = await opened(server.url(database, "lock_wait_timeout_s=1"))
    await put(store, [(k.node(5), attr())])
    blocker = await opened(server.url(database))
    async with blocker._pool.connection() as connection:
        await connection.run(b"START TRANSACTION; SELECT * FROM jfs_node WHERE inode=5 FOR UPDATE")
        with pytest.raises(MetaError, match="SHOW PROCESSLIST") as caught:
            await write(store, (PATCH, k.node(5), NodePatch(1)))
        assert (caught.value.retryable, caught.value.uncertain) == (True, False)
        await connection.run(b"ROLLBACK")
    await write(store, (PATCH, k.node(5), NodePatch(1)))
    await store.close()
    await blocker.close()


async def test_a_deadlock_is_run_again(server: MariaDBServer) -> None:
    """The other side locks against our order; InnoDB ends one of the two, and both happen."""
    database = server.database()
    store = await opened(server.url(database))
    await put(store, [(k.node(5), attr()), (k.node(6), attr())])
    other = await opened(server.url(database))
    for _ in range(3):
        async with other._pool.connection() as connection:
            # Many rows changed: InnoDB ends the transaction that has done less, which is ours.
            await connection.run(b"START TRANSACTION; UPDATE jfs_node SET gid=gid+1 WHERE inode=6")
            commit = asyncio.ensure_future(
                write(store, (PATCH, k.node(5), NodePatch(1)), (PATCH, k.node(6), NodePatch(1)))
            )
            await asyncio.sleep(0)
            try:
                await connection.run(b"UPDATE jfs_node SET gid=gid+1 WHERE inode=5;COMMIT")
            except Exception:
                await connection.rollback()
            await commit
    assert [a.nlink for a in await store.read(k.node(5), k.node(6))] == [4, 4]
    await store.close()
    await other.close()


async def test_put_new_counts_survive_a_group(store: MySQLStore) -> None:
    """References up and down by many members of one transaction; the last that lets go is told."""
    await write(store, (PUT_NEW, k.sliceref(7, 4096), 3))
    done = await asyncio.gather(*[write(store, (ADD, k.sliceref(7, 4096), -1)) for _ in range(3)])
    assert sorted(len(outcome.freed) for outcome in done) == [0, 0, 1]
