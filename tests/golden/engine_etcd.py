# SPDX-License-Identifier: Apache-2.0
"""Golden volumes of etcd: a server that holds exactly the keys and values JuiceFS left behind."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.etcd import EtcdServer

#: etcd takes 128 operations and 1.5 MiB per transaction; some values have 60 KB.
_OPERATIONS = 128
_BYTES = 1 << 20


def load(server: EtcdServer, path: Path) -> bytes:
    """Put every pair of a `meta.kv.jsonl`; returns the volume's prefix, up to and without its 0xFD."""
    puts: list[dict[str, Any]] = []
    size, prefix = 0, b""
    with path.open() as lines:
        for line in lines:
            pair = json.loads(line)
            length = len(pair["key"]) + len(pair["value"])
            if len(puts) == _OPERATIONS or (puts and size + length > _BYTES):
                server.call("kv/txn", {"success": puts})
                puts, size = [], 0
            puts.append({"request_put": {"key": pair["key"], "value": pair["value"]}})
            size += length
            prefix = prefix or base64.b64decode(pair["key"]).partition(b"\xfd")[0]
    server.call("kv/txn", {"success": puts})
    return prefix


@contextmanager
def start(home: Path, info: dict[str, Any]) -> Iterator[str]:
    """An etcd with the volume; yields its metadata URL."""
    with EtcdServer() as server:
        assert isinstance(server, EtcdServer)
        prefix = load(server, home / info["meta"]["file"])
        yield server.url(prefix.decode())
