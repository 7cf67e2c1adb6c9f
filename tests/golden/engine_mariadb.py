# SPDX-License-Identifier: Apache-2.0
"""Golden volumes of MariaDB: a server with exactly the tables and rows that JuiceFS left behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.mariadb import MariaDBServer


@contextmanager
def start(home: Path, info: dict[str, Any]) -> Iterator[str]:
    """A MariaDB with the volume; yields its metadata URL."""
    with MariaDBServer() as server:
        assert isinstance(server, MariaDBServer)
        database = server.database()
        server.sql((home / info["meta"]["file"]).read_bytes(), database)
        yield server.url(database)
