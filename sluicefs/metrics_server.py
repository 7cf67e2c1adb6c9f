# SPDX-License-Identifier: Apache-2.0
"""`--metrics HOST:PORT`: Prometheus text over HTTP, for whoever has no HTTP server of its own (a mount).

One request per connection, GET only. Source: cli §11.1 (labels; the default port may be taken, then any is).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest

from core.config import Address

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MOST_HEAD = 16 << 10
_PATIENCE_S = 10.0


class _Labelled:
    """A collector whose samples all get constant labels."""

    def __init__(self, inner: Any, labels: Mapping[str, str]) -> None:
        self._inner = inner
        self._labels = dict(labels)

    def collect(self) -> Iterator[Metric]:
        for metric in self._inner.collect():
            metric.samples = [s._replace(labels={**self._labels, **s.labels}) for s in metric.samples]
            yield metric


async def serve_metrics(
    address: Address, collector: Any, labels: Mapping[str, str], *, fall_back: bool
) -> asyncio.Server:  # fmt: skip
    """fall_back: any free port if this one is taken."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Labelled(collector, labels))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_reply(head, registry))
            await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    try:
        return await asyncio.start_server(answer, address.host or None, address.port, limit=_MOST_HEAD)
    except OSError as e:
        if e.errno != errno.EADDRINUSE or not fall_back:
            raise
        return await asyncio.start_server(answer, address.host or None, 0, limit=_MOST_HEAD)


def _reply(head: bytes, registry: CollectorRegistry) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        status, body = "405 Method Not Allowed", b"GET /metrics\n"
    elif path != b"/metrics":
        status, body = "404 Not Found", b"there is /metrics only\n"
    else:
        status, body = "200 OK", generate_latest(registry)
    start = f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return start.encode() + (b"" if method == b"HEAD" else body)
