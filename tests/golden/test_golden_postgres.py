# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL volumes written by JuiceFS 1.4.1 are read exactly as it wrote them, and ours look like theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.meta.stores.postgres import PostgresStore
from core.volume import open_volume
from tests.golden.engine_postgres import dump_schema, load, start
from tests.golden.reader import differences
from tests.golden.volumes import GoldenVolume, names, unpack
from tests.servers.postgres import PostgresServer


async def read_all(name: str, folder: Path, *, large: bool) -> None:
    home = unpack(name, folder)
    info = json.loads((home / "volume.json").read_text())
    with start(home, info) as meta_url:
        there = GoldenVolume(name, home, info, meta_url)
        volume = await open_volume(meta_url, read_only=True, session=False, bucket=there.bucket, cache_dir="memory")
        try:
            assert await differences(volume, there.manifest(), large=large) == []
            trash = list(there.manifest("trash.jsonl"))
            assert await differences(volume, trash, trash=True, large=large) == []
        finally:
            await volume.close()


@pytest.mark.parametrize("name", names("postgres"))
async def test_every_file_is_read_as_juicefs_wrote_it(name: str, tmp_path: Path) -> None:
    await read_all(name, tmp_path, large=False)


@pytest.mark.heavy
async def test_gigabytes_of_holes_are_read_to_the_end(tmp_path: Path) -> None:
    await read_all("postgres-zstd", tmp_path, large=True)


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
