# SPDX-License-Identifier: Apache-2.0
"""A real valkey-server for tests. It speaks and keeps what Redis does, from another code base since 7.2.

Installed once by tests/tools/install_valkey.sh (Debian bookworm-backports: 8.0).
"""

from __future__ import annotations

from tests.servers.redis import RedisServer


class ValkeyServer(RedisServer):
    """As `RedisServer`."""

    server_program, cli_program, hint = "valkey-server", "valkey-cli", "tests/tools/install_valkey.sh"
