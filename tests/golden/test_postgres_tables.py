# SPDX-License-Identifier: Apache-2.0
"""Tables that we make in PostgreSQL are those of JuiceFS 1.4.1; opening one of an older version completes it."""

from __future__ import annotations

from pathlib import Path

from core.meta.stores.postgres import PostgresStore
from tests.golden.engine_postgres import dump_schema, load
from tests.golden.volumes import unpack
from tests.servers.postgres import PostgresServer


async def test_a_new_volume_has_the_catalogue_of_the_original(tmp_path: Path) -> None:
    home = unpack("postgres-zstd", tmp_path)
    with PostgresServer(fsync=False) as server:
        assert isinstance(server, PostgresServer)
        server.create("theirs")
        load(server, "theirs", home / "meta.sql")
        store = PostgresStore.from_url(server.create("ours"))
        await store.open()
        await store.prepare()
        await store.close()
        theirs = dump_schema(server, "theirs")
        assert dump_schema(server, "ours") == theirs
        # Opening completes what older versions lack, and changes nothing else.
        server.psql(
            "DROP TABLE jfs_change_log, jfs_detached_node; ALTER TABLE jfs_node DROP COLUMN tier_id;"
            'DROP INDEX "UQE_jfs_flock_flock"',
            "theirs",
        )
        store = PostgresStore.from_url(server.url("theirs"))
        await store.open()
        await store.close()
        assert dump_schema(server, "theirs") == theirs
