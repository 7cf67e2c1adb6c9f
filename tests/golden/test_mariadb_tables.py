# SPDX-License-Identifier: Apache-2.0
"""Tables that we make in MariaDB are those of JuiceFS 1.4.1 to the letter."""

from __future__ import annotations

import re
from pathlib import Path

from core.meta.stores.mysql import MySQLStore
from core.meta.stores.sql.tables import TABLES
from tests.golden.volumes import unpack
from tests.servers.mariadb import MariaDBServer


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
