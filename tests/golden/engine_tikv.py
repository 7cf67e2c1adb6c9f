# SPDX-License-Identifier: Apache-2.0
"""A golden TiKV volume: tikv-mini with every key of the archive's `meta.kv.jsonl` put back.

Loaded through the client library itself, not through our store, so that a mistake of the store can't hide itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.servers.tikv import TiKVServer

_BATCH = 500


@contextmanager
def start(home: Path, info: dict[str, Any]) -> Iterator[str]:
    """Metadata URL of the volume that is unpacked in `home`."""
    # The archive also has the test server's own keys (0xFF…), which are none of a client's.
    head = info["meta"]["prefix"].encode() + b"\xfd"
    with (home / info["meta"]["file"]).open() as lines:
        records = [(base64.b64decode(r["key"]), base64.b64decode(r["value"])) for r in map(json.loads, lines)]
    records = [(key, value) for key, value in records if key.startswith(head)]
    with TiKVServer() as server:
        assert isinstance(server, TiKVServer)
        # A loop of its own: the caller's may be running.
        failed: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(load(server.pd, records))
            except BaseException as e:
                failed.append(e)

        loader = threading.Thread(target=run)
        loader.start()
        loader.join()
        if failed:
            raise failed[0]
        yield server.url(info["meta"]["prefix"])


async def load(pd: str, records: list[tuple[bytes, bytes]]) -> None:
    from tikv_client.asynchronous import TransactionClient

    client = await TransactionClient.connect([pd])
    for at in range(0, len(records), _BATCH):
        transaction = await client.begin(pessimistic=False)
        await asyncio.gather(*(transaction.put(key, value) for key, value in records[at : at + _BATCH]))
        await transaction.commit()
