# SPDX-License-Identifier: Apache-2.0
"""MariaDB volumes written by JuiceFS 1.4.1 are read exactly as it wrote them, and their tables are like ours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.meta.stores.mysql import MySQLStore
from core.meta.stores.sql.tables import TABLES
from core.volume import open_volume
from tests.golden import volumes
from tests.golden.engine_mariadb import start
from tests.golden.reader import differences
from tests.golden.volumes import golden, names, unpack
from tests.servers.mariadb import MariaDBServer


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(volumes._ENGINES, "mysql", start)


async def read_all(name: str, folder: Path, *, large: bool) -> None:
    with golden(name, folder) as there:
        volume = await open_volume(
            there.meta_url, read_only=True, session=False, bucket=there.bucket, cache_dir="memory"
        )
        try:
            assert await differences(volume, there.manifest(), large=large) == []
            trash = list(there.manifest("trash.jsonl"))
            assert trash
            assert await differences(volume, trash, trash=True, large=large) == []
        finally:
            await volume.close()


@pytest.mark.parametrize("name", names("mariadb"))
async def test_every_file_is_read_as_juicefs_wrote_it(name: str, tmp_path: Path) -> None:
    await read_all(name, tmp_path, large=False)


@pytest.mark.heavy
async def test_gigabytes_of_holes_are_read_to_the_end(tmp_path: Path) -> None:
    await read_all("mariadb-none", tmp_path, large=True)


def catalogue(server: MariaDBServer, database: str) -> dict[str, str]:
    """Table → its CREATE TABLE, without the state of AUTO_INCREMENT."""
    found = {}
    for table in TABLES:
        row = server.sql(f"SHOW CREATE TABLE `jfs_{table}`", database)
        found[table] = re.sub(r" AUTO_INCREMENT=\d+", "", row.split("\t", 1)[1])
    return found


async def test_our_tables_are_those_of_juicefs_to_the_letter(tmp_path: Path) -> None:
    home = unpack("mariadb-none", tmp_path)
    with MariaDBServer() as server:
        assert isinstance(server, MariaDBServer)
        theirs, ours = server.database(), server.database()
        server.sql((home / "meta.sql").read_bytes(), theirs)
        before = catalogue(server, theirs)
        for database in (theirs, ours):
            store = MySQLStore.from_url(server.url(database))
            await store.open()
            await store.prepare()
            await store.close()
        assert catalogue(server, ours) == before
        assert catalogue(server, theirs) == before  # opening changes nothing
