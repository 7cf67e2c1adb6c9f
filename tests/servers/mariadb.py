# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests of MySQL's record store. `MariaDBServer`: TCP with a password, and a Unix socket; fast
settings unless `durable`. `MySQLServer`: Oracle's, where there is one.

Debian: mariadb-server (10.11). Every volume under test gets a database of its own (`url(name)` creates it). Debian has
no MySQL; one from elsewhere is found as `mysqld` on PATH or in the cache (`CACHE/bin`), perhaps a script around it.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import CACHE, Server, missing, require

USER = "sluice"
PASSWORD = "p:w/@?% s"
PASSWORD_IN_URL = "p%3Aw%2F%40%3F%25%20s"
HINT = "apt-get install mariadb-server"

#: Small, so that starting takes a second and a dozen of them fit on a machine.
SMALL = [
    "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-log-buffer-size=2M",
    "--character-set-server=utf8mb4", "--skip-name-resolve", "--performance-schema=OFF", "--max-connections=200",
]  # fmt: skip
#: A commit doesn't wait for the disk; a crash of the machine, not of the server, may lose the last second.
FAST = ["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0", "--innodb-flush-method=nosync"]
DURABLE = ["--innodb-flush-log-at-trx-commit=1"]
INSTALL = [
    "--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=0",
]  # fmt: skip


class MariaDBServer(Server):
    """`url()` is the metadata URL of a new, empty database, `unix_url()` the same over the socket; `sql` runs text."""

    def __init__(self, *options: str, durable: bool = False, password: str = PASSWORD) -> None:
        program = require("mariadbd", HINT)
        install = require("mariadb-install-db", HINT)
        self.password = password
        self._numbers = itertools.count(1)
        # Started as root it wants to be told as whom to run; the folder is the starter's own.
        self._account = [f"--user={getpass.getuser()}"] if os.geteuid() == 0 else []
        command_options = [*SMALL, *(DURABLE if durable else FAST), *options]

        def command(port: int, folder: Path) -> Sequence[str]:
            data = folder / "data"
            if not data.exists():
                shutil.copytree(_fresh_data(program, install), data)
            return [
                program, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
                f"--socket={folder}/s", f"--pid-file={folder}/pid", *self._account, *command_options,
            ]  # fmt: skip

        super().__init__(command, name="mariadbd")

    def start(self) -> None:
        super().start()
        self.sql(
            f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{self.password}';"
            f"GRANT ALL ON *.* TO {USER}@'%'"
        )  # fmt: skip

    @property
    def _user(self) -> str:
        return f"{USER}:{PASSWORD_IN_URL if self.password == PASSWORD else self.password}@"

    def database(self) -> str:
        """A new, empty database; its name."""
        name = f"v{next(self._numbers)}"
        self.sql(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str | None = None, options: str = "") -> str:
        """TCP address of a database, by default a new one. options: what follows `?`."""
        return (
            f"mysql://{self._user}(127.0.0.1:{self.port})/{database or self.database()}{'?' * bool(options)}{options}"
        )

    def unix_url(self, database: str | None = None, options: str = "") -> str:
        return f"mysql://{self._user}unix({self.folder}/s)/{database or self.database()}{'?' * bool(options)}{options}"

    def sql(self, text: str | bytes, database: str = "") -> str:
        """Rows of a statement as the client prints them, tab-separated, without a header."""
        command = [require("mariadb", HINT), "--no-defaults", "-uroot", f"-S{self.folder}/s", "-N", "-B", database]
        done = subprocess.run(
            [part for part in command if part], input=text if isinstance(text, bytes) else text.encode(),
            check=True, capture_output=True,
        )  # fmt: skip
        return done.stdout.decode(errors="backslashreplace").strip()


def _fresh_data(program: str, install: str) -> Path:
    """A data folder as the installer leaves it, made once for each version of the server."""
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    folder = CACHE / "mariadb"
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"data-{hashlib.sha256(repr((version, INSTALL, os.geteuid())).encode()).hexdigest()[:12]}"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not data.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                fresh = Path(scratch, "data")
                done = subprocess.run(
                    [install, "--no-defaults", *INSTALL, f"--datadir={fresh}", f"--user={getpass.getuser()}"],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                )  # fmt: skip
                if done.returncode:
                    raise RuntimeError(f"mariadb-install-db ended with {done.returncode}:\n{done.stdout}")
                fresh.rename(data)
    return data


def _oracle() -> str:
    """The path of a `mysqld` that is no MariaDB under an old name."""
    for folder in (str(CACHE / "bin"), os.environ.get("PATH")):
        program = shutil.which("mysqld", path=folder)
        if program and "MariaDB" not in subprocess.run([program, "--version"], capture_output=True, text=True).stdout:
            return program
    missing("MySQL's mysqld", f"install MySQL 8 or newer, or put a script that runs it at {CACHE}/bin/mysqld")
    raise AssertionError


class MySQLServer(Server):
    """One database, `suite`, at `url()`."""

    def __init__(self) -> None:
        program = _oracle()
        account = [f"--user={getpass.getuser()}"] if os.geteuid() == 0 else []

        def command(port: int, folder: Path) -> Sequence[str]:
            data, users = folder / "data", folder / "users.sql"
            common = [program, "--no-defaults", f"--datadir={data}", "--secure-file-priv=NULL", *account]
            if not data.exists():
                data.mkdir()
                subprocess.run([*common, "--initialize-insecure"], check=True, capture_output=True)
            users.write_text(
                f"CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{PASSWORD}';\n"
                f"GRANT ALL ON *.* TO {USER}@'%';\nCREATE DATABASE IF NOT EXISTS suite;\n"
            )
            return [
                *common, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder}/s", "--mysqlx=OFF",
                f"--init-file={users}", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin",
                "--innodb-buffer-pool-size=32M", "--performance-schema=OFF",
            ]  # fmt: skip

        super().__init__(command, name="mysqld")

    def url(self) -> str:
        return f"mysql://{USER}:{PASSWORD_IN_URL}@(127.0.0.1:{self.port})/suite"
