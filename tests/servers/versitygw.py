# SPDX-License-Identifier: Apache-2.0
"""versitygw over a temporary folder: a real S3 server that checks signatures. Buckets are sub-folders.

Built once by `go install github.com/versity/versitygw/cmd/versitygw@v1.8.0` with GOBIN=<cache>/bin.
"""

from __future__ import annotations

from pathlib import Path

from tests.servers.process import CACHE, Server, require

ACCESS_KEY = "sluice-test"
SECRET_KEY = "sluice-test-secret"
REGION = "us-east-1"
HINT = f"GOBIN={CACHE}/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0"


def versitygw(*options: str) -> Server:
    """A server to start; `endpoint(server)` is its address."""
    program = require("versitygw", HINT)

    def command(port: int, folder: Path) -> list[str]:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        return [program, "--port", f"127.0.0.1:{port}", "--quiet", *options, "posix", str(data)]

    env = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    return Server(command, env=env, name="versitygw")


def endpoint(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"
