# SPDX-License-Identifier: Apache-2.0
"""moto's S3 server: another implementation of the protocol; it does not check signatures.

Comes with `pip install 'moto[server,s3]'`.
"""

from __future__ import annotations

import importlib.util
import sys

from tests.servers.process import Server, missing

ACCESS_KEY = "sluice-test"
SECRET_KEY = "sluice-test-secret"
REGION = "us-east-1"


def moto() -> Server:
    """A server to start; `endpoint(server)` is its address."""
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        missing("moto", "pip install 'moto[server,s3]'")
    return Server(
        lambda port, _: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], name="moto"
    )


def endpoint(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"
