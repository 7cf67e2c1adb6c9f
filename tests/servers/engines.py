# SPDX-License-Identifier: Apache-2.0
"""Every metadata engine by name, for tests and benches that run on all of them: real servers, fresh volumes.

    with engine("postgres") as database:
        url = database.fresh_url()

`durable=True` starts the server with the settings under which an acknowledged commit survives a crash of the machine;
otherwise with those that make tests fast. A missing server is a printed skip, or a failure with CI=true.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from tests.servers.process import Server

#: Engines that several processes may open at once.
SHARED: Final = ("sqlite", "redis", "postgres", "mariadb", "etcd", "tikv")
ENGINES: Final = SHARED
ALL: Final = ("memory", *SHARED)


class Engine:
    """A running database. `fresh_url` names an empty place in it, through another port if a proxy is in between."""

    def __init__(
        self, name: str, make_url: Callable[[int, int], str], server: Server | None = None, settings: str = ""
    ) -> None:
        self.name = name
        self.server = server
        self.settings = settings
        self.proxied = server is not None  # may a proxy stand in between
        self._make_url = make_url
        self._numbers = itertools.count(1)

    @property
    def port(self) -> int:
        """Where clients connect; 0 if there is no network in between."""
        return self.server.port if self.server else 0

    def fresh_url(self, port: int = 0) -> str:
        return self._make_url(next(self._numbers), port or self.port)


DurableEngine = Engine


@contextmanager
def _sqlite(durable: bool) -> Iterator[Engine]:
    folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
    mode = "FULL" if durable else "OFF"
    try:
        yield Engine(
            "sqlite", lambda n, _: f"sqlite3://{folder}/{n}.db?synchronous={mode}", None, f"synchronous={mode}"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _memory(durable: bool) -> Iterator[Engine]:
    yield Engine("memory", lambda n, _: "memkv://", None, "nothing survives")


@contextmanager
def _redis(durable: bool) -> Iterator[Engine]:
    from tests.servers.redis import RedisServer

    keep = ["--appendonly", "yes", "--appendfsync", "always"] if durable else []
    with RedisServer("--databases", "256", *keep, password="") as server:
        yield Engine("redis", lambda n, port: f"redis://127.0.0.1:{port}/{n}", server, " ".join(keep) or "no disk")


@contextmanager
def _postgres(durable: bool) -> Iterator[Engine]:
    from tests.servers.postgres import PostgresServer

    with PostgresServer(fsync=durable) as server:
        assert isinstance(server, PostgresServer)
        server.create("volumes")
        settings = "fsync on, synchronous_commit on" if durable else "fsync off"

        def url(number: int, port: int) -> str:
            return server.url("volumes", f"?table_prefix=v{number}").replace(f":{server.port}/", f":{port}/")

        yield Engine("postgres", url, server, settings)


@contextmanager
def _mariadb(durable: bool) -> Iterator[Engine]:
    from tests.servers.mariadb import MariaDBServer

    with MariaDBServer(durable=durable) as server:
        assert isinstance(server, MariaDBServer)
        settings = "innodb_flush_log_at_trx_commit=1" if durable else "innodb_flush_log_at_trx_commit=0"
        yield Engine("mariadb", lambda n, port: server.url().replace(f":{server.port})", f":{port})"), server, settings)


@contextmanager
def _etcd(durable: bool) -> Iterator[Engine]:
    from tests.servers.etcd import EtcdServer

    server = EtcdServer()
    if durable:
        server._env = {}
    with server:
        settings = "fsync on" if durable else "--unsafe-no-fsync"
        yield Engine("etcd", lambda n, port: f"etcd://127.0.0.1:{port}/v{n}", server, settings)


@contextmanager
def _tikv(durable: bool) -> Iterator[Engine]:
    from tests.servers.tikv import TiKVServer

    with TiKVServer() as server:
        made = Engine("tikv", lambda n, _: f"tikv://127.0.0.1:{server.port}/v{n}", server, "test server, in memory")
        made.proxied = False  # its clients talk to the addresses that the placement driver names
        yield made


_START: Final[dict[str, Callable[[bool], AbstractContextManager[Engine]]]] = {
    "sqlite": _sqlite, "memory": _memory, "redis": _redis, "postgres": _postgres, "mariadb": _mariadb, "etcd": _etcd,
    "tikv": _tikv,
}  # fmt: skip


def engine(name: str, *, durable: bool = False) -> AbstractContextManager[Engine]:
    return _START[name](durable)


def durable_engine(name: str) -> AbstractContextManager[Engine]:
    return engine(name, durable=True)
