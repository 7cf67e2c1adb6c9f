# SPDX-License-Identifier: Apache-2.0
"""A real MinIO over a temporary folder. Built once with Go by tests/tools/install-heavy.sh; for heavy tests only."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

from tests.servers.process import Server, free_port, require, wait_for

ACCESS_KEY = "sluice-test"
SECRET_KEY = "sluice-test-secret"
HINT = "tests/tools/install-heavy.sh builds it (needs Go)"


class MinIO(Server):
    """`endpoint` is its address; buckets are made by requests."""

    def __init__(self) -> None:
        program = require("minio", HINT)
        console = free_port()

        def command(port: int, folder: Path) -> list[str]:
            (folder / "data").mkdir(exist_ok=True)
            return [
                program, "server", "--quiet", "--address", f"127.0.0.1:{port}", "--console-address",
                f"127.0.0.1:{console}", str(folder / "data"),
            ]  # fmt: skip

        env = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_UPDATE": "off"}
        super().__init__(command, env=env, name="minio")

    def start(self) -> None:
        super().start()
        wait_for(self._ready, what="MinIO answering")

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/minio/health/cluster", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"
