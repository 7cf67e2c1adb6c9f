# SPDX-License-Identifier: Apache-2.0
"""azurite: Azure's own emulator of Blob Storage, with real Shared Key and SAS checks.

Installed once by `npm install azurite@3.35.0` into the cache's npm folder. Source: Azurite's README (options, the
published account).
"""

from __future__ import annotations

from tests.servers.process import CACHE, Server, missing

ACCOUNT = "devstoreaccount1"
# Published with the emulator; no secret.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PROGRAM = CACHE / "npm" / "node_modules" / ".bin" / "azurite-blob"


def azurite() -> Server:
    """A server to start; `endpoint(server)` is the address of its account."""
    if not PROGRAM.exists():
        missing("azurite", f"npm install --prefix {CACHE}/npm azurite@3.35.0")
    return Server(
        lambda port, folder: [
            str(PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(folder), "--silent",
            "--skipApiVersionCheck", "--disableTelemetry",
        ],
        name="azurite",
    )  # fmt: skip


def endpoint(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/{ACCOUNT}"


def connection_string(server: Server, key: str = KEY) -> str:
    return f"AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint(server)}"
