# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over HTTP: functions for the S3 application, and an application for a port of their own.

On the S3 port only `/minio/...` is reserved (a bucket may be called `health` or `metrics`), so the short paths are
served there only if no bucket can be meant; on the admin port they always are.
Source: spec s3 §2.1 (paths, 200 with an empty body, 503 when the volume can't be reached).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from gateways.http.messages import Application, Request, Response
from gateways.http.metrics import Metrics

#: True if the volume can be reached. May take its time: it is cut off after READY_TIMEOUT_S.
Ready = Callable[[], Awaitable[bool]]
READY_TIMEOUT_S = 5.0

LIVE_PATHS = frozenset(("/minio/health/live",))
READY_PATHS = frozenset(("/minio/health/ready", "/minio/health/cluster", "/minio/health/cluster/read"))
METRICS_PATHS = frozenset(("/minio/prometheus/metrics", "/minio/v2/metrics/cluster", "/minio/v2/metrics/node"))


async def health(path: str, ready: Ready) -> Response | None:
    """Answer a probe, or None if the path is none. Live: the process answers. Ready: so does its volume."""
    if path in LIVE_PATHS:
        return Response(200)
    if path not in READY_PATHS and path != "/health":
        return None
    try:
        # A task of its own: the caller may have no task to time out.
        good = await asyncio.wait_for(asyncio.ensure_future(ready()), READY_TIMEOUT_S)
    except Exception:
        good = False
    return Response(200 if good else 503)


def metrics(source: Metrics, extra: Iterable[CollectorRegistry] = ()) -> Response:
    """All workers' counters as Prometheus text."""
    return Response(200, [("Content-Type", CONTENT_TYPE_LATEST)], source.render(extra))


class AdminApplication(Application):
    """`/health`, `/metrics` and MinIO's names for them, without authentication: bind it to a private address."""

    def __init__(self, source: Metrics, ready: Ready, extra: Iterable[CollectorRegistry] = ()) -> None:
        self._source = source
        self._ready = ready
        self._extra = list(extra)

    async def __call__(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, [("Allow", "GET, HEAD")])
        path = request.raw_path
        if path == "/metrics" or path in METRICS_PATHS:
            return metrics(self._source, self._extra)
        return await health(path, self._ready) or Response(404)
