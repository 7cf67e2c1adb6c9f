# SPDX-License-Identifier: Apache-2.0
"""gzip for answers that are text of ours: multistatus documents and pages. Never contents of files, never ranges.

A listing shrinks to less than a tenth at the fastest level. Pieces of a streamed answer stay pieces, so the first byte
leaves as early as without. Source: spec webdav §17.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any, Final

from core.chunk.api import FileRange
from core.object.api import Buffer
from gateways.http.messages import Request, Response

_LEVEL: Final = 1
_GZIP: Final = 16 + zlib.MAX_WBITS
#: Below this the head of an answer is larger than what would be saved.
LEAST: Final = 1024
#: Work longer than a millisecond or so leaves the loop.
_IN_PLACE: Final = 32 << 10
_TYPES: Final = ("application/xml", "text/xml", "text/html")


def accepts_gzip(header: str) -> bool:
    """By an Accept-Encoding header (RFC 9110 §12.5.3)."""
    wanted: dict[str, bool] = {}
    for part in header.lower().split(","):
        name, _, rest = part.partition(";")
        weight = rest.replace(" ", "").removeprefix("q=")
        wanted[name.strip()] = not weight or weight.strip("0.") != ""
    return wanted.get("gzip", wanted.get("x-gzip", wanted.get("*", False)))


def compress(request: Request, response: Response) -> None:
    """Make the answer a compressed one, if it may be and the client takes it."""
    if response.status not in (200, 207) or request.method == "HEAD":
        return
    kind = next((value for name, value in response.headers if name.lower() == "content-type"), "")
    if not kind.startswith(_TYPES) or any(name.lower() in ("etag", "content-encoding") for name, _ in response.headers):
        return  # an ETag is of stored bytes: this is a file that somebody wrote
    body = response.body
    if isinstance(body, list) or (isinstance(body, bytes) and len(body) < LEAST):
        return
    response.headers.append(("Vary", "Accept-Encoding"))
    if not accepts_gzip(request.headers.get("accept-encoding", "")):
        return
    response.headers.append(("Content-Encoding", "gzip"))
    coder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    if isinstance(body, bytes):
        response.body = coder.compress(body) + coder.flush()
    else:
        response.body = _stream(coder, body)
        response.length = None


async def _stream(coder: Any, parts: AsyncIterator[Buffer | FileRange]) -> AsyncIterator[Buffer | FileRange]:
    loop = asyncio.get_running_loop()

    def work(part: Buffer) -> bytes:
        return bytes(coder.compress(part)) + bytes(coder.flush(zlib.Z_SYNC_FLUSH))

    async for part in parts:
        if isinstance(part, FileRange):
            raise TypeError("documents of ours have no file ranges")
        data = work(part) if len(part) <= _IN_PLACE else await loop.run_in_executor(None, work, part)
        if data:
            yield data
    yield coder.flush()
