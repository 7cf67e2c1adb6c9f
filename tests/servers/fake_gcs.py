# SPDX-License-Identifier: Apache-2.0
"""fake-gcs-server: Google Cloud Storage's JSON and XML interfaces in memory; it checks no credentials.

Built once by `go install github.com/fsouza/fake-gcs-server@v1.56.1` with GOBIN=<cache>/bin.
"""

from __future__ import annotations

from tests.servers.process import CACHE, Server, require

HINT = f"GOBIN={CACHE}/bin go install github.com/fsouza/fake-gcs-server@v1.56.1"


def fake_gcs() -> Server:
    """A server to start; `endpoint(server)` is its address, for STORAGE_EMULATOR_HOST."""
    program = require("fake-gcs-server", HINT)
    return Server(
        lambda port, _: [
            program, "-host", "127.0.0.1", "-port", str(port), "-scheme", "http", "-backend", "memory",
            "-public-host", f"127.0.0.1:{port}", "-log-level", "error",
        ],
        name="fake-gcs-server",
    )  # fmt: skip


def endpoint(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"
