# SPDX-License-Identifier: Apache-2.0
"""SQLite files as other clients leave them: the exact catalogue, older volumes, foreign databases, odd rows.

`CATALOGUE` was taken from a volume formatted by the original client, version 1.4.1. Facts: format §5.1–5.4, §12.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from core.errors import ConfigError, MetaError, VolumeError
from core.meta import keys as k
from core.meta.records import FILE, Attr, Entry, Slice, encode_slice
from core.meta.store import ADD, APPEND, PATCH, PUT, NodePatch
from core.meta.stores.sqlite import SQLiteStore

from .helpers import RULE, attr, child, directory, one, put

CATALOGUE = """\
CREATE TABLE `jfs_setting` (`name` TEXT PRIMARY KEY NOT NULL, `value` TEXT NOT NULL)
CREATE TABLE `jfs_counter` (`name` TEXT PRIMARY KEY NOT NULL, `value` INTEGER NOT NULL)
CREATE TABLE `jfs_edge` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `parent` INTEGER NOT NULL, `name` BLOB NOT NULL, `inode` INTEGER NOT NULL, `type` INTEGER NOT NULL)
CREATE TABLE `jfs_node` (`inode` INTEGER PRIMARY KEY NOT NULL, `type` INTEGER NOT NULL, `flags` INTEGER NOT NULL, `mode` INTEGER NOT NULL, `uid` INTEGER NOT NULL, `gid` INTEGER NOT NULL, `atime` INTEGER NOT NULL, `mtime` INTEGER NOT NULL, `ctime` INTEGER NOT NULL, `atimensec` INTEGER DEFAULT 0 NOT NULL, `mtimensec` INTEGER DEFAULT 0 NOT NULL, `ctimensec` INTEGER DEFAULT 0 NOT NULL, `nlink` INTEGER NOT NULL, `length` INTEGER NOT NULL, `rdev` INTEGER NULL, `parent` INTEGER NULL, `access_acl_id` INTEGER NULL, `default_acl_id` INTEGER NULL, `tier_id` INTEGER NULL)
CREATE TABLE `jfs_symlink` (`inode` INTEGER PRIMARY KEY NOT NULL, `target` BLOB NOT NULL)
CREATE TABLE `jfs_xattr` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `name` TEXT NOT NULL, `value` BLOB NOT NULL)
CREATE TABLE `jfs_chunk` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `indx` INTEGER NOT NULL, `slices` BLOB NOT NULL)
CREATE TABLE `jfs_chunk_ref` (`chunkid` INTEGER PRIMARY KEY NOT NULL, `size` INTEGER NOT NULL, `refs` INTEGER NOT NULL)
CREATE TABLE `jfs_delslices` (`chunkid` INTEGER PRIMARY KEY NOT NULL, `deleted` INTEGER NOT NULL, `slices` BLOB NOT NULL)
CREATE TABLE `jfs_session2` (`sid` INTEGER PRIMARY KEY NOT NULL, `expire` INTEGER NOT NULL, `info` BLOB NULL)
CREATE TABLE `jfs_sustained` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `sid` INTEGER NOT NULL, `inode` INTEGER NOT NULL)
CREATE TABLE `jfs_delfile` (`inode` INTEGER PRIMARY KEY NOT NULL, `length` INTEGER NOT NULL, `expire` INTEGER NOT NULL)
CREATE TABLE `jfs_flock` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, `owner` INTEGER NOT NULL, `ltype` INTEGER NOT NULL)
CREATE TABLE `jfs_plock` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, `owner` INTEGER NOT NULL, `records` BLOB NOT NULL)
CREATE TABLE `jfs_dir_quota` (`inode` INTEGER PRIMARY KEY NOT NULL, `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL)
CREATE TABLE `jfs_user_group_quota` (`qtype` INTEGER NOT NULL, `qkey` INTEGER NOT NULL, `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL, PRIMARY KEY ( `qtype`,`qkey` ))
CREATE TABLE `jfs_dir_stats` (`inode` INTEGER PRIMARY KEY NOT NULL, `data_length` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL)
CREATE TABLE `jfs_detached_node` (`inode` INTEGER PRIMARY KEY NOT NULL, `added` INTEGER NOT NULL)
CREATE TABLE `jfs_acl` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `owner` INTEGER NULL, `group` INTEGER NULL, `mask` INTEGER NULL, `other` INTEGER NULL, `named_users` BLOB NULL, `named_groups` BLOB NULL)
CREATE TABLE `jfs_delegation_token` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `token` BLOB NULL)
CREATE TABLE `jfs_change_log` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `entry` TEXT NOT NULL)
CREATE UNIQUE INDEX `UQE_jfs_edge_edge` ON `jfs_edge` (`parent`,`name`)
CREATE INDEX `IDX_jfs_edge_inode` ON `jfs_edge` (`inode`)
CREATE UNIQUE INDEX `UQE_jfs_xattr_name` ON `jfs_xattr` (`inode`,`name`)
CREATE UNIQUE INDEX `UQE_jfs_chunk_chunk` ON `jfs_chunk` (`inode`,`indx`)
CREATE INDEX `IDX_jfs_chunk_ref_refs` ON `jfs_chunk_ref` (`refs`)
CREATE UNIQUE INDEX `UQE_jfs_sustained_sustained` ON `jfs_sustained` (`sid`,`inode`)
CREATE UNIQUE INDEX `UQE_jfs_flock_flock` ON `jfs_flock` (`inode`,`sid`,`owner`)
CREATE UNIQUE INDEX `UQE_jfs_plock_plock` ON `jfs_plock` (`inode`,`sid`,`owner`)
"""  # noqa: E501

SLICES = encode_slice(Slice(0, 1, 10, 0, 10)) + encode_slice(Slice(5, 2, 10, 0, 10))


def catalogue(path: Path) -> list[str]:
    """Texts in order of creation, tables first; `sqlite_sequence` and automatic indexes left out."""
    with sqlite3.connect(path) as conn:
        rows = conn.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'").fetchall()
    conn.close()
    return [sql for (sql,) in rows]


def volume(path: Path, text: str = CATALOGUE) -> sqlite3.Connection:
    """A volume as the original client makes it, and a connection to write rows as it does."""
    conn = sqlite3.connect(path, isolation_level=None)
    for statement in text.splitlines():
        conn.execute(statement)
    return conn


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta.db"


async def opened(path: Path, **options: str) -> SQLiteStore:
    store = SQLiteStore(str(path), **options)  # type: ignore[arg-type]
    await store.open()
    return store


# -- catalogue ---------------------------------------------------------------------------------------------------


async def test_a_new_volume_has_the_catalogue_of_the_original(path: Path) -> None:
    store = await opened(path)
    assert not path.exists()  # open creates nothing
    assert await store.read(k.setting(), k.counter("nextInode")) == [None, 2]
    with pytest.raises(MetaError, match="format it first"):
        await put(store, [(k.setting(), b"{}")])
    await store.prepare()
    await store.commit([], store.initial_counters())
    await store.close()
    assert catalogue(path) == CATALOGUE.splitlines()
    with sqlite3.connect(path) as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        counters = dict(conn.execute("SELECT name, value FROM jfs_counter").fetchall())
    conn.close()
    assert counters == {
        "nextInode": 2, "nextChunk": 1, "nextSession": 0, "usedSpace": 0, "totalInodes": 0, "nextCleanupSlices": 0
    }  # fmt: skip


async def test_opening_a_complete_volume_alters_nothing(path: Path) -> None:
    volume(path).close()
    store = await opened(path)
    await store.prepare()
    await store.close()
    assert catalogue(path) == CATALOGUE.splitlines()


async def test_volumes_with_prefixes_share_a_file(path: Path) -> None:
    one_store, other = SQLiteStore(str(path)), SQLiteStore.from_url(f"sqlite3://{path}?table_prefix=two")
    for store in (one_store, other):
        await store.open()
        await store.prepare()
    await put(one_store, [(k.symlink(5), b"one")])
    await put(other, [(k.symlink(5), b"two")])
    assert [await one(one_store, k.symlink(5)), await one(other, k.symlink(5))] == [b"one", b"two"]
    assert await other.allocate("aclMaxId", 5) == await one_store.allocate("aclMaxId", 1) == 1
    await other.wipe()
    assert await one(one_store, k.symlink(5)) == b"one"
    for store in (one_store, other):
        await store.close()
    assert "UQE_jfs_two_edge_edge" in "".join(catalogue(path))


async def test_an_older_volume_gets_what_it_lacks_and_keeps_what_we_do_not_know(path: Path) -> None:
    old = [line for line in CATALOGUE.splitlines() if "user_group_quota" not in line and "jfs_acl" not in line]
    text = "\n".join(old)
    for column in ("access_acl_id", "default_acl_id", "tier_id"):
        text = text.replace(f", `{column}` INTEGER NULL", "")
    for column in ("atimensec", "mtimensec", "ctimensec"):
        text = text.replace(f"`{column}` INTEGER DEFAULT 0 NOT NULL, ", "")
    conn = volume(path, text)
    conn.execute("ALTER TABLE jfs_node ADD COLUMN colour TEXT DEFAULT 'blue'")
    conn.execute("INSERT INTO jfs_node VALUES (5,1,0,420,1,2,10,11,12,1,0,NULL,NULL,'red')")
    conn.close()
    store = await opened(path)
    seen = Attr(FILE, 0o644, 1, 2, 10_000, 11_000, 12_000, 1, 0)
    assert await one(store, k.node(5)) == seen
    await store.commit(
        [(1, k.node(5), seen)], [(PUT, k.node(5), attr(tier=2, access_acl=3)), (PATCH, k.node(5), NodePatch(1))]
    )
    await put(store, [(k.acl(1), RULE), (k.quota(1, 7), (1, 2, 3, 4))])
    assert await one(store, k.node(5)) == attr(tier=2, access_acl=3, nlink=2)
    await store.close()
    with sqlite3.connect(path) as conn:
        assert conn.execute("SELECT colour FROM jfs_node").fetchall() == [("red",)]
    conn.close()


async def test_a_damaged_volume_is_refused(path: Path) -> None:
    volume(path, "\n".join(line for line in CATALOGUE.splitlines() if "jfs_node" not in line)).close()
    with pytest.raises(VolumeError, match="lacks the tables jfs_node; restore"):
        await opened(path)
    path.unlink()
    volume(path, CATALOGUE.replace("`nlink` INTEGER NOT NULL, ", "")).close()
    with pytest.raises(VolumeError, match="lacks the column nlink"):
        await opened(path)


async def test_what_is_no_volume_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as conn:
        conn.execute("CREATE TABLE customers (id INTEGER)")
    conn.close()
    before = path.read_bytes()
    with pytest.raises(VolumeError, match=r"belongs to another program.*customers"):
        await opened(path)
    assert path.read_bytes() == before
    path.write_bytes(b"#!/bin/sh\n" + bytes(5000))
    with pytest.raises(VolumeError, match="is no SQLite database"):
        await opened(path)
    with pytest.raises(VolumeError, match="does not exist"):
        await opened(path.parent / "none" / "meta.db")
    path.unlink()
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA encoding = 'UTF-16'")
    for statement in CATALOGUE.splitlines():
        conn.execute(statement)
    conn.close()
    with pytest.raises(VolumeError, match=r"UTF-16.*needs UTF-8"):
        await opened(path)


async def test_an_empty_file_becomes_a_volume_only_when_prepared(path: Path) -> None:
    path.touch()
    store = await opened(path)
    assert await one(store, k.setting()) is None
    assert path.stat().st_size == 0
    await store.prepare()
    await put(store, [(k.setting(), b"{}")])
    await store.close()
    store = await opened(path)
    assert await one(store, k.setting()) == b"{}"
    await store.close()


# -- rows of other clients ---------------------------------------------------------------------------------------


async def test_rows_of_the_original_client_are_understood(path: Path) -> None:
    conn = volume(path)
    conn.execute("INSERT INTO jfs_setting VALUES ('format', '{\"Name\":\"é\"}')")
    conn.execute("INSERT INTO jfs_counter VALUES ('nextInode',1026),('nextSession',3),('nextTrash',2)")
    conn.execute("INSERT INTO jfs_chunk (inode,indx,slices) VALUES (5,0,?)", (SLICES[:24],))
    conn.execute("UPDATE jfs_chunk SET slices = slices || ?", (SLICES[24:],))
    assert conn.execute("SELECT typeof(slices), length(slices) FROM jfs_chunk").fetchone()[0] == "text"
    conn.execute("INSERT INTO jfs_xattr (inode,name,value) VALUES (5,'user.é',?)", (b"\0\xff",))
    conn.execute("INSERT INTO jfs_flock (inode,sid,owner,ltype) VALUES (5,3,-2,82)")
    conn.execute("INSERT INTO jfs_acl (owner,`group`,mask,other) VALUES (6,4,NULL,0)")
    conn.execute("INSERT INTO jfs_session2 VALUES (3, 99, NULL)")
    conn.execute(
        "INSERT INTO jfs_node VALUES"
        " (5,1,0,420,1,2,-1,1700000001000000,1700000000123456,-1,5,789,1,0,NULL,NULL,NULL,NULL,NULL)"
    )
    store = await opened(path)
    found = await store.read(
        k.setting(), k.counter("nextInode"), k.counter("nextSession"), k.counter("nextTrash"), k.chunk(5, 0),
        k.xattrs(5), k.flocks(5), k.acl(1), k.session(3), k.sessioninfo(3),
    )  # fmt: skip
    assert found == [
        '{"Name":"é"}'.encode(), 1026, 4, 3, SLICES, {"user.é".encode(): b"\0\xff"}, {(3, 2**64 - 2): "R"},
        bytes.fromhex("0006 0004 ffff 0000 00000000 00000000"), 99, None,
    ]  # fmt: skip
    a = await one(store, k.node(5))
    # Test vectors of format §12, and truncation toward zero before 1970.
    assert (a.atime_ns, a.mtime_ns, a.ctime_ns) == (-1001, 1_700_000_001_000_000_005, 1_700_000_000_123_456_789)
    assert (a.rdev, a.parent, a.access_acl, a.default_acl, a.tier) == (0, 0, 0, 0, 0)
    await store.commit([(0, k.chunk(5, 0), SLICES)], [(APPEND, k.chunk(5, 0), SLICES)])
    assert conn.execute("SELECT typeof(slices), length(slices), slices FROM jfs_chunk").fetchone() == (
        "blob", 96, SLICES * 2,
    )  # fmt: skip
    assert await store.allocate("nextSession", 1) == 4
    assert await store.allocate("nextTrash", 1) == 3
    assert await store.allocate("nextInode", 1024) == 1026
    counters = dict(conn.execute("SELECT name, value FROM jfs_counter").fetchall())
    assert counters == {"nextInode": 2050, "nextSession": 4, "nextTrash": 3}
    await store.close()
    conn.close()


async def test_rows_are_written_as_the_original_reads_them(path: Path) -> None:
    conn = volume(path)
    store = await opened(path)
    await put(
        store,
        [
            (k.setting(), '{"Name":"é"}'.encode()), (k.entry(1, b"n\xff"), Entry(FILE, 5)),
            (k.xattr(5, b"user.a"), b"1"),
            (k.node(5), attr(atime_ns=-1, mtime_ns=1_700_000_001_000_000_005, ctime_ns=-1_000_999)),
            (k.symlink(6), b"t"), (k.acl(1), RULE), (k.flocks(5), {(3, 2**64 - 2): "W"}),
            (k.sliceref(7, 4096), 1), (k.sliceref(0, 0), 1), (k.delfile(5, 9), 77), (k.delslices(8, 78), bytes(12)),
        ],
    )  # fmt: skip
    await store.commit([], [(ADD, k.sliceref(0, 0), 1), (ADD, k.sliceref(99, 1), -1)])

    def rows(columns: str, table: str) -> list[tuple[object, ...]]:
        return conn.execute(f"SELECT {columns} FROM jfs_{table}").fetchall()

    assert rows("name, value, typeof(value)", "setting") == [("format", '{"Name":"é"}', "text")]
    assert rows("parent, name, typeof(name), inode, type", "edge") == [(1, b"n\xff", "blob", 5, 1)]
    assert rows("inode, name, typeof(name), value", "xattr") == [(5, "user.a", "text", b"1")]
    assert rows("atime, atimensec, mtime, mtimensec, ctime, ctimensec", "node") == [
        (0, -1, 1_700_000_001_000_000, 5, -1_000, -999)
    ]
    assert rows("inode, target, typeof(target)", "symlink") == [(6, b"t", "blob")]
    assert rows("id, owner, `group`, mask, other, named_users, named_groups", "acl") == [
        (1, 6, 4, 6, 0, bytes.fromhex("000003e90006"), b"")
    ]
    assert rows("inode, sid, owner, ltype", "flock") == [(5, 3, -2, 87)]
    assert rows("*", "chunk_ref") == [(7, 4096, 1)]  # id 0 means zeros, an unknown slice stays unknown
    assert rows("*", "delfile") == [(5, 9, 77)]
    assert rows("*", "delslices") == [(8, 78, bytes(12))]
    await store.close()
    conn.close()


async def test_acl_ids_come_from_the_sequence_that_the_original_uses(path: Path) -> None:
    conn = volume(path)
    store = await opened(path)
    mine = await store.allocate("aclMaxId", 1)
    conn.execute("INSERT INTO jfs_acl (owner) VALUES (7)")  # another client, in between
    await put(store, [(k.acl(mine), RULE)])
    theirs = [row[0] for row in conn.execute("SELECT id FROM jfs_acl WHERE owner = 7")]
    assert (mine, theirs, await store.allocate("aclMaxId", 1)) == (1, [2], 3)
    assert await one(store, k.counter("aclMaxId")) == 4
    assert conn.execute("SELECT count(*) FROM jfs_counter").fetchone() == (0,)
    await store.close()
    conn.close()


async def test_a_thousand_entries_are_one_range_scan(path: Path) -> None:
    conn = volume(path)
    store = await opened(path)
    await put(store, [r for i in range(50) for r in child(1, b"%d" % i, 10 + i, directory())])
    for text in (store._texts.page, store._texts.page_attrs, store._texts.step):
        values = (1, b"", 9)[: text.count("?")]
        plan = " / ".join(row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {text}", values))
        assert "USING INDEX UQE_jfs_edge_edge" in plan
        assert "TEMP B-TREE" not in plan and "SCAN" not in plan
    plan = " / ".join(row[3] for row in conn.execute(f"EXPLAIN QUERY PLAN {store._texts.scan_refs}", (0, 0, 0, 9)))
    assert "INDEX IDX_jfs_chunk_ref_refs" in plan and "TEMP B-TREE" not in plan
    await store.close()
    conn.close()


# -- addresses ---------------------------------------------------------------------------------------------------


def test_addresses_are_understood() -> None:
    store = SQLiteStore.from_url(
        "sqlite3:///a/b c.db?cache=shared&_journal=WAL&_timeout=70&synchronous=normal&table_prefix=x"
    )
    assert (store.path, store._busy_timeout_ms, store._synchronous, store._prefix) == (
        "/a/b c.db", 70, "NORMAL", "jfs_x_",
    )  # fmt: skip
    assert SQLiteStore.from_url("sqlite3://my.db").path == "my.db"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://x", "no SQLite address"), ("sqlite3://", "names no file"), ("sqlite3://a?colour=red", "colour"),
        ("sqlite3://a?_timeout=soon", "milliseconds"), ("sqlite3://a?synchronous=maybe", "FULL"),
        ("sqlite3://a?table_prefix=a;b", "letters, digits"),
    ],
)  # fmt: skip
def test_wrong_addresses_are_explained(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SQLiteStore.from_url(url)


async def test_file_names_may_hold_what_addresses_escape(tmp_path: Path) -> None:
    path = tmp_path / "a#b?c%20d é.db"
    store = await opened(path)
    await store.prepare()
    await put(store, [(k.symlink(1), b"x")])
    await store.close()
    assert path.exists()


async def test_attributes_of_many_inodes_come_as_of_one(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "many.db"))
    await store.open()
    await store.prepare()
    inodes = list(range(2, 1302))
    await store.commit(
        [], [(PUT, k.xattr(ino, b"n%d" % i), b"%d" % ino) for ino in inodes[::2] for i in range(ino % 3)]
    )
    asked = [*reversed(inodes), 5, 999_999]
    with store.round_trips() as n:
        many = await store.read(*(k.xattrs(ino) for ino in asked))
    assert n.count == 1
    assert many == [(await store.read(k.xattrs(ino)))[0] for ino in asked]
    await store.close()
