# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL server for tests: a fresh cluster in a temporary folder, over TCP and a Unix socket.

Debian: postgresql (15). The server refuses to run as root, so root hands the folder to uid 65534 and starts it so.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

from tests.servers.process import Server, missing, require, wait_for
from tests.servers.redis import make_certificates

HINT = "apt-get install postgresql"
USER = "sluice"
PASSWORD = "p:w/@?% s"
PASSWORD_IN_URL = "p%3Aw%2F%40%3F%25%20s"
NOBODY = 65534


def program(name: str) -> str:
    """Path of a program of the newest version installed, else skip or fail."""
    on_path = shutil.which(name)
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(re.sub(r"\D", "", p.parent.name) or 0)
    )
    found = next((str(f / name) for f in reversed(folders) if (f / name).exists()), on_path)
    if not found:
        missing(name, HINT)
    assert found
    return found


def as_server(*command: str) -> list[str]:
    """The command, not as root."""
    if os.geteuid() != 0:
        return list(command)
    user = require("setpriv", "apt-get install util-linux")
    return [user, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]


class PostgresServer(Server):
    """`url()` is a metadata URL; `psql` runs SQL. fsync: as in production unless a suite wants speed.

    Every database is made by `create(name)`. Passwords are asked for over TCP only.
    """

    def __init__(self, *settings: str, fsync: bool = True, tls: bool = False) -> None:
        initdb, postgres = program("initdb"), program("postgres")
        self._program = postgres

        def command(port: int, folder: Path) -> list[str]:
            data = folder / "data"
            if not data.exists():
                self._init(initdb, folder, data)
                if tls:
                    for path in make_certificates(folder):
                        path.chmod(0o600)
                        if os.geteuid() == 0:
                            os.chown(path, NOBODY, NOBODY)
            options = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={folder}"]
            options += [f"fsync={'on' if fsync else 'off'}", "max_connections=60", *settings]
            if tls:
                options += ["ssl=on", f"ssl_cert_file={folder}/ca.pem", f"ssl_key_file={folder}/key.pem"]
            chosen = [part for option in options for part in ("-c", option)]
            return as_server(postgres, "-D", str(data), *chosen)

        super().__init__(command, name="postgres")

    def _init(self, initdb: str, folder: Path, data: Path) -> None:
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
            os.chown(password, NOBODY, NOBODY)
        subprocess.run(
            as_server(
                initdb, "-D", str(data), "-U", USER, f"--pwfile={password}", "--no-sync", "-E", "UTF8",
                "--locale=C.UTF-8", "--auth-local=trust", "--auth-host=scram-sha-256",
            ),
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip

    def start(self) -> None:
        super().start()
        wait_for(self._answers, what="postgres answering")

    def _answers(self) -> bool:
        command = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def stop(self) -> None:
        """Fast shutdown: sessions are ended."""
        if self.process:
            self.process.send_signal(signal.SIGINT)
        super().stop()

    def kill(self) -> None:
        """As if the power had gone: every process of the server at once."""
        if self.process:
            children = subprocess.run(
                ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
            ).stdout.split()
            super().kill()
            for child in children:
                try:
                    os.kill(int(child), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def psql(self, sql: str, database: str = "postgres") -> str:
        command = [program("psql"), "-h", str(self.folder), "-p", str(self.port), "-U", USER, "-d", database]
        done = subprocess.run(
            [*command, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], input=sql, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"psql: {done.stderr}")
        return done.stdout.strip()

    def create(self, database: str) -> str:
        """A new, empty database; returns its metadata URL."""
        self.psql(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def url(self, database: str, query: str = "") -> str:
        return f"postgres://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{self.port}/{database}{query}"

    def socket_url(self, database: str) -> str:
        return f"postgres:///{database}?host={self.folder}&port={self.port}&user={USER}"
