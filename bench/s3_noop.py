# SPDX-License-Identifier: Apache-2.0
"""The ceiling of our gateway: its server and worker processes around an application that does nothing.

`python -m bench.s3_noop PORT WORKERS [FILE]`: PUT swallows the body; GET answers as many bytes as the last number in
the key's first folder says (`/bench/1024-…/7`), from memory, or from FILE by sendfile if one is given.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from core.chunk.api import FileRange
from core.object.api import Buffer
from gateways.http.messages import Application, Request, Response
from gateways.http.workers import Options, Worker, serve

# As many headers as an S3 answer has.
_HEADERS = [
    ("Content-Type", "application/octet-stream"), ("Accept-Ranges", "bytes"), ("ETag", '"' + "0" * 32 + '"'),
    ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"), ("x-amz-request-id", "0" * 16), ("x-amz-id-2", "0" * 32),
]  # fmt: skip
_SIZE = re.compile(r"/(\d+)-")
_BLOCK = memoryview(bytes(4 << 20))


class NoopApplication(Application):
    def __init__(self, path: str | None) -> None:
        self._path = path

    async def __call__(self, request: Request) -> Response:
        read = request.body.read
        while await read():
            pass
        if request.method != "GET":
            return Response(200, _HEADERS)
        found = _SIZE.search(request.raw_path)
        size = int(found[1]) if found else 0
        if self._path is not None:
            return Response(200, _HEADERS, [FileRange(self._path, 0, size)])
        if size <= 65536:
            return Response(200, _HEADERS, bytes(_BLOCK[:size]))
        parts: list[Buffer | FileRange] = [_BLOCK] * (size // len(_BLOCK))
        if rest := size % len(_BLOCK):
            parts.append(_BLOCK[:rest])
        return Response(200, _HEADERS, parts)


@asynccontextmanager
async def build(worker: Worker) -> AsyncIterator[Application]:
    yield NoopApplication(sys.argv[3] if len(sys.argv) > 3 else None)
    await asyncio.sleep(0)


if __name__ == "__main__":
    sys.exit(serve(build, "127.0.0.1", int(sys.argv[1]), int(sys.argv[2]), Options()))
