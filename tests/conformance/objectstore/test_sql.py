# SPDX-License-Identifier: Apache-2.0
"""The SQL stores keep the contract of object stores on SQLite, PostgreSQL and MariaDB, in the tables agreed upon.

Source: core/object/sql; spec data-path §4.5.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.object.api import ObjectStore
from core.object.open import normalise_bucket, open_store
from core.object.retried import RetriedStore
from core.object.sql.sqlite import SQLiteStore
from tests.conformance.objectstore.suite import MIB, ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, sluice, survives, volume_works
from tests.servers import mariadb, postgres
from tests.servers.redis import make_certificates

WRONG = f"wrong:{MARK}"


@pytest.fixture(scope="module")
def pg() -> Iterator[postgres.PostgresServer]:
    with postgres.PostgresServer(fsync=False) as server:
        yield server


@pytest.fixture(scope="module")
def maria() -> Iterator[mariadb.MariaDBServer]:
    with mariadb.MariaDBServer() as server:
        yield server


def pg_bucket(pg: postgres.PostgresServer, database: str, query: str = "") -> str:
    pg.create(database)
    return f"127.0.0.1:{pg.port}/{database}{query}"


def maria_bucket(maria: mariadb.MariaDBServer) -> str:
    return f"(127.0.0.1:{maria.port})/{maria.database()}"


class TestSQLite(ObjectStoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[ObjectStore]:
        store = open_store("sqlite3", f"{tmp_path}/new/blobs.db", volume="vol")
        await store.create()
        yield store
        await store.close()

    async def test_two_clients_share_a_file(self, tmp_path: Path) -> None:
        one, other = SQLiteStore(f"{tmp_path}/b"), SQLiteStore(f"{tmp_path}/b")
        await one.create()

        async def write(store: ObjectStore, name: str) -> None:
            for i in range(20):
                await store.put(f"{name}{i}", os.urandom(50_000))

        await asyncio.gather(write(one, "a"), write(other, "b"))
        assert len([info async for info in one.list()]) == 40
        await one.close()
        await other.close()

    async def test_table_is_the_agreed_one(self, tmp_path: Path) -> None:
        store = SQLiteStore(f"{tmp_path}/b")
        await store.create()
        await store.put("v/k", b"data")
        await store.close()
        db = sqlite3.connect(f"{tmp_path}/b")
        columns = [(*row[1:4], row[5]) for row in db.execute("PRAGMA table_info(jfs_blob)")]
        assert columns == [
            ("id", "INTEGER", 1, 1),
            ("key", "BLOB", 1, 0),
            ("size", "INTEGER", 1, 0),
            ("modified", "DATETIME", 1, 0),
            ("data", "BLOB", 0, 0),
        ]
        assert [row[1:3] for row in db.execute("PRAGMA index_list(jfs_blob)")] == [("UQE_jfs_blob_blob", 1)]
        row = db.execute("SELECT typeof(key), key, size, typeof(modified), data FROM jfs_blob").fetchone()
        assert row == ("blob", b"v/k", 4, "text", b"data")
        seconds = db.execute("SELECT strftime('%s','now') - strftime('%s', modified) FROM jfs_blob").fetchone()[0]
        assert 0 <= seconds < 5  # UTC
        db.close()

    async def test_rows_of_another_client_are_read(self, tmp_path: Path) -> None:
        """As its library writes them: other page size, no write-ahead log, a time with zone, data NULL if empty."""
        db = sqlite3.connect(f"{tmp_path}/b")
        db.execute(
            "CREATE TABLE `jfs_blob` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `key` BLOB NOT NULL, "
            "`size` INTEGER NOT NULL, `modified` DATETIME NOT NULL, `data` BLOB NULL)"
        )
        db.execute("CREATE UNIQUE INDEX `UQE_jfs_blob_blob` ON `jfs_blob` (`key`)")
        rows = [(b"a", 3, "2024-05-06 07:08:09", b"abc"), (b"b", 0, "2024-05-06T07:08:09Z", None), (b"c", 1, "?", b"x")]
        db.executemany("INSERT INTO jfs_blob (key, size, modified, data) VALUES (?,?,?,?)", rows)
        db.commit()
        db.close()
        store = SQLiteStore(f"{tmp_path}/b")
        found = [tuple(info) async for info in store.list()]
        assert found == [("a", 3, 1714979289.0), ("b", 0, 1714979289.0), ("c", 1, 0.0)]
        assert bytes(await store.get("b")) == b"" == bytes(await store.get("b", 0, 5))
        assert bytes(await store.get("a", 1, 1)) == b"b"
        await store.create()  # leaves what is there
        await store.put("d", b"mine")
        assert len([info async for info in store.list()]) == 4
        await store.close()

    async def test_a_mistyped_path_is_no_empty_store(self, tmp_path: Path) -> None:
        store = SQLiteStore(f"{tmp_path}/nothing.db")
        with pytest.raises(ObjectError, match="format the volume first") as caught:
            await store.get("k")
        assert not isinstance(caught.value, ObjectNotFound)
        assert "format the volume first" in await refused(store)
        assert not (tmp_path / "nothing.db").exists()

    async def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "b").write_bytes(b"x" * 5000)
        assert "no SQLite database" in await refused(SQLiteStore(f"{tmp_path}/b"))

    async def test_one_bad_put_does_not_spoil_those_beside_it(self, tmp_path: Path) -> None:
        store = SQLiteStore(f"{tmp_path}/b")
        await store.create()
        db = sqlite3.connect(f"{tmp_path}/b")
        db.execute(
            "CREATE TRIGGER no BEFORE INSERT ON jfs_blob WHEN NEW.size = 13 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
        db.commit()
        db.close()
        results = await asyncio.gather(
            *(store.put(f"k{i}", b"x" * (13 if i == 5 else 20)) for i in range(20)), return_exceptions=True
        )
        assert [isinstance(result, ObjectError) for result in results] == [i == 5 for i in range(20)]
        assert len([info async for info in store.list()]) == 19
        await store.close()

    async def test_shards_are_files_of_their_own(self, tmp_path: Path) -> None:
        bucket = normalise_bucket("sqlite3", f"{tmp_path}/blobs%d.db")
        store = open_store("sqlite3", bucket, volume="v", shards=3)
        await store.create()
        for i in range(40):
            await store.put(f"k{i:02}", b"x")
        assert [info.key async for info in store.list()] == [f"k{i:02}" for i in range(40)]
        await store.close()
        counts = [
            sqlite3.connect(f"{tmp_path}/blobs{i}.db").execute("SELECT count(*) FROM jfs_blob").fetchone()[0]
            for i in range(3)
        ]
        assert sum(counts) == 40 and min(counts) > 0

    def test_bucket_becomes_an_absolute_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert normalise_bucket("sqlite3", "blobs.db") == f"{tmp_path}/blobs.db"
        for bad in ("", str(tmp_path)):
            with pytest.raises(ConfigError, match=r"database file"):
                normalise_bucket("sqlite3", bad)

    def test_a_volume_lives_in_it(self, tmp_path: Path) -> None:
        volume_works(tmp_path, "sqlite3", f"{tmp_path}/blobs.db")


class TestPostgres(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, pg: postgres.PostgresServer, request: pytest.FixtureRequest) -> AsyncIterator[ObjectStore]:
        if not hasattr(pg, "blobs"):
            pg.blobs = pg_bucket(pg, "blobs")  # type: ignore[attr-defined]
        else:
            pg.psql("DROP TABLE IF EXISTS jfs_blob", "blobs")
        store = open_store(
            "postgres", pg.blobs, volume="vol", access_key=postgres.USER, secret_key=postgres.PASSWORD
        )  # fmt: skip
        await store.create()
        yield store
        await store.close()

    async def test_table_is_the_agreed_one(self, pg: postgres.PostgresServer, store: ObjectStore) -> None:
        await store.put("k", b"data")
        columns = pg.psql(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns WHERE table_name = 'jfs_blob'"
            " ORDER BY ordinal_position",
            "blobs",
        ).splitlines()
        assert columns == [
            "id|bigint|NO", "key|bytea|NO", "size|bigint|NO", "modified|timestamp without time zone|NO",
            "data|bytea|YES",
        ]  # fmt: skip
        assert "UNIQUE" in pg.psql("SELECT indexdef FROM pg_indexes WHERE indexname = 'UQE_jfs_blob_blob'", "blobs")

    async def test_a_schema_of_its_own(self, pg: postgres.PostgresServer) -> None:
        bucket = pg_bucket(pg, "schemas", "?search_path=mine")
        pg.psql("CREATE SCHEMA mine", "schemas")
        store = open_store("postgres", bucket, volume="v", access_key=postgres.USER, secret_key=postgres.PASSWORD)
        await store.create()
        await store.put("k", b"v")
        await store.close()
        assert pg.psql("SELECT count(*) FROM mine.jfs_blob", "schemas") == "1"

    async def test_refusals_say_what_to_do(self, pg: postgres.PostgresServer) -> None:
        here = f"127.0.0.1:{pg.port}"
        text = await refused(open_store("postgres", f"{here}/postgres", volume="v", access_key=postgres.USER,
                                        secret_key=WRONG), WRONG)  # fmt: skip
        assert "--secret-key" in text
        good = {"access_key": postgres.USER, "secret_key": postgres.PASSWORD}
        text = await refused(open_store("postgres", f"{here}/nowhere", volume="v", **good), postgres.PASSWORD)  # type: ignore[arg-type]
        assert "CREATE DATABASE" in text
        text = await refused(open_store("postgres", f"{here}/postgres?sslmode=require", volume="v", **good))  # type: ignore[arg-type]
        assert "sslmode" in text
        for bad in ("", "host:5432", f"u:{MARK}@host/db", f"mysql://{MARK}"):
            with pytest.raises(ConfigError) as caught:
                normalise_bucket("postgres", bad)
            assert MARK not in str(caught.value)

    async def test_tls(self) -> None:
        with postgres.PostgresServer(fsync=False, tls=True) as server:
            who = {"access_key": postgres.USER, "secret_key": postgres.PASSWORD}
            ca = f"sslmode=verify-ca&sslrootcert={server.folder}/ca.pem"
            store = open_store("postgres", pg_bucket(server, "secure", f"?{ca}"), volume="v", **who)  # type: ignore[arg-type]
            await store.create()
            await store.put("k", b"v")
            await store.close()
            strict = f"127.0.0.1:{server.port}/secure?sslmode=verify-ca&sslrootcert=/dev/null"
            text = await refused(open_store("postgres", strict, volume="v", **who), postgres.PASSWORD)  # type: ignore[arg-type]
            assert "sslrootcert" in text

    async def test_server_may_be_killed_in_the_middle(self) -> None:
        with postgres.PostgresServer() as server:
            bucket = pg_bucket(server, "blobs")
            store = open_store("postgres", bucket, volume="v", access_key=postgres.USER, secret_key=postgres.PASSWORD)
            await store.create()
            await survives(store, server.kill, server.start)
            await store.close()

    def test_a_volume_lives_in_it(self, pg: postgres.PostgresServer, tmp_path: Path) -> None:
        volume_works(tmp_path, "postgres", pg_bucket(pg, "volume"), postgres.USER, postgres.PASSWORD)


class TestMariaDB(ObjectStoreSuite):
    remote = True
    largest = 8 * MIB  # the server's max_allowed_packet is 16 MiB

    @pytest.fixture
    async def store(self, maria: mariadb.MariaDBServer) -> AsyncIterator[ObjectStore]:
        store = open_store(
            "mysql", maria_bucket(maria), volume="vol", access_key=mariadb.USER, secret_key=mariadb.PASSWORD
        )
        await store.create()
        yield store
        await store.close()

    async def test_bytes_that_mean_something_in_a_literal(self, store: ObjectStore) -> None:
        for data in (bytes(range(256)) * 40, b"\\'" * 9999, b"'", b"\\", b"\\\\'--\0\x1a\n%s%d;", b"\xe2\x28\xa1\xff'"):
            await store.put("k", data)
            assert bytes(await store.get("k")) == data

    async def test_an_object_that_needs_more_than_one_statement(self, store: ObjectStore) -> None:
        data = b"'" * (9 * MIB)  # 18 MiB as a literal
        await store.put("quotes", data)
        assert bytes(await store.get("quotes")) == data
        await store.put("quotes", b"short")
        assert bytes(await store.get("quotes")) == b"short"

    async def test_what_does_not_fit_is_refused_with_a_reason(
        self, store: ObjectStore, maria: mariadb.MariaDBServer, tmp_path: Path
    ) -> None:
        with pytest.raises(ObjectError, match=r"MEDIUMBLOB.*--block-size") as caught:
            await store.put("k", bytes(1 << 24))
        assert not caught.value.retryable
        with pytest.raises(ObjectError, match="255") as caught:
            await store.put("k" * 300, b"")
        assert not caught.value.retryable

    def test_a_block_size_that_does_not_fit_is_refused_at_format(
        self, maria: mariadb.MariaDBServer, tmp_path: Path
    ) -> None:
        text = sluice(
            "format", f"sqlite3://{tmp_path}/m", "vol", "--storage", "mysql", "--bucket", maria_bucket(maria),
            "--access-key", mariadb.USER, "--block-size", "16M", env={"SECRET_KEY": mariadb.PASSWORD}, code=1,
        )  # fmt: skip
        assert "--block-size 8192K or less" in text

    async def test_table_is_the_agreed_one(self, maria: mariadb.MariaDBServer) -> None:
        bucket = maria_bucket(maria)
        store = open_store("mysql", bucket, volume="v", access_key=mariadb.USER, secret_key=mariadb.PASSWORD)
        await store.create()
        await store.close()
        database = bucket.rpartition("/")[2]
        columns = [
            line.split("\t")[:4] for line in maria.sql("SHOW COLUMNS FROM jfs_blob", database).splitlines()
        ]  # fmt: skip
        assert columns == [
            ["id", "bigint(20)", "NO", "PRI"],
            ["key", "varbinary(255)", "NO", "UNI"],
            ["size", "bigint(20)", "NO", ""],
            ["modified", "datetime", "NO", ""],
            ["data", "mediumblob", "YES", ""],
        ]

    async def test_refusals_say_what_to_do(self, maria: mariadb.MariaDBServer) -> None:
        here = f"(127.0.0.1:{maria.port})"
        store = open_store("mysql", f"{here}/mysql", volume="v", access_key=mariadb.USER, secret_key=WRONG)
        assert "--secret-key" in await refused(store, WRONG)
        store = open_store("mysql", f"{here}/no", volume="v", access_key=mariadb.USER, secret_key=mariadb.PASSWORD)
        assert "CREATE DATABASE" in await refused(store, mariadb.PASSWORD)
        for bad in ("", "(host:3306)", f"u:{MARK}@(host)/db", f"postgres://{MARK}"):
            with pytest.raises(ConfigError) as caught:
                normalise_bucket("mysql", bad)
            assert MARK not in str(caught.value)

    async def test_tls(self) -> None:
        with TemporaryDirectory() as folder:
            ca, key, _ = make_certificates(Path(folder))
            for path in (ca, key):
                path.chmod(0o644)
            Path(folder).chmod(0o755)
            with mariadb.MariaDBServer(f"--ssl-cert={ca}", f"--ssl-key={key}", f"--ssl-ca={ca}") as server:
                bucket = maria_bucket(server).replace("127.0.0.1", "localhost")
                who = {"access_key": mariadb.USER, "secret_key": mariadb.PASSWORD}
                store = open_store("mysql", f"{bucket}?tls-ca-cert-file={ca}", volume="v", **who)  # type: ignore[arg-type]
                await store.create()
                await store.put("k", b"v" * 3_000_000)
                assert len(await store.get("k")) == 3_000_000
                await store.close()
                text = await refused(open_store("mysql", f"{bucket}?tls=true", volume="v", **who), mariadb.PASSWORD)  # type: ignore[arg-type]
                assert "tls-ca-cert-file" in text

    async def test_server_may_be_killed_in_the_middle(self) -> None:
        with mariadb.MariaDBServer(durable=True) as server:
            store = open_store(
                "mysql", maria_bucket(server), volume="v", access_key=mariadb.USER, secret_key=mariadb.PASSWORD
            )
            await store.create()
            await survives(store, server.kill, server.start)
            await store.close()

    def test_a_volume_lives_in_it(self, maria: mariadb.MariaDBServer, tmp_path: Path) -> None:
        volume_works(tmp_path, "mysql", maria_bucket(maria), mariadb.USER, mariadb.PASSWORD)


async def test_a_server_that_is_not_there_is_worth_another_try() -> None:
    from tests.servers.process import free_port

    port = free_port()
    for storage, bucket in (("postgres", f"127.0.0.1:{port}/db"), ("mysql", f"(127.0.0.1:{port})/db")):
        store = RetriedStore(open_store(storage, bucket, volume="v", access_key="u", secret_key=MARK), attempts=1)
        with pytest.raises(ObjectError) as caught:
            await store.get("k")
        assert caught.value.retryable
        assert str(port) in str(caught.value)
        assert MARK not in str(caught.value)
        await store.close()
