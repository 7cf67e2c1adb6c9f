# SPDX-License-Identifier: Apache-2.0
"""A golden volume's PostgreSQL dump, loaded into a server of its own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.postgres import USER, PostgresServer, program


@contextmanager
def start(home: Path, info: dict[str, Any]) -> Iterator[str]:
    """Yields the metadata URL. The dump is plain SQL of pg_dump."""
    with PostgresServer(fsync=False) as server:
        assert isinstance(server, PostgresServer)
        server.create("golden")
        load(server, "golden", home / info["meta"]["file"])
        yield server.url("golden")


def load(server: PostgresServer, database: str, dump: Path) -> None:
    folder = str(server.folder)
    command = [program("psql"), "-X", "-q", "-h", folder, "-p", str(server.port), "-U", USER, "-d", database]
    with dump.open("rb") as text:
        # Lines that a newer pg_dump writes for its own psql (`\restrict`) are none that this psql knows.
        sql = b"".join(line for line in text if not line.startswith((b"\\restrict", b"\\unrestrict")))
    done = subprocess.run([*command, "-v", "ON_ERROR_STOP=1"], input=sql, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{dump}: {done.stderr.decode(errors='replace')}")


def dump_schema(server: PostgresServer, database: str) -> str:
    """The catalogue as pg_dump writes it, without comments and owners."""
    pg_dump = shutil.which("pg_dump") or program("pg_dump")
    command = [pg_dump, "-h", str(server.folder), "-p", str(server.port), "-U", USER, "-s", "-O", "-x", database]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith(("--", "\\"))]
    return "\n".join(lines)
