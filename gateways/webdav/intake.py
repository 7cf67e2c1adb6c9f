# SPDX-License-Identifier: Apache-2.0
"""Request bodies into stored content that no name leads to yet, proven against the checksums that came with it.

A small body shares an object with others that are written at the same moment. A large one goes into the buffers of its
blocks directly; what has to be hashed is hashed there, in a thread, while the next bytes arrive.
Whatever goes wrong, nothing of a body remains. Source: spec webdav §8, §19; spec data-path (packing).
"""

from __future__ import annotations

import asyncio
from typing import Final

from core.vfs.filesystem import Content
from gateways.http.messages import Body, read_announced
from gateways.webdav.digests import Checks
from gateways.webdav.errors import DavError
from gateways.webdav.gate import Call

#: Up to this size a body is taken at once; the HTTP server has collected it already.
SMALL_BYTES: Final = 64 << 10
#: Hashed at once in a thread: a hop costs about what hashing 64 KiB costs.
_SEGMENT: Final = 1 << 20


async def receive(call: Call, body: Body, checks: Checks | None) -> Content:
    """Store a body. 400 if it is shorter than announced or isn't what its checksum says, 408 if it takes too long."""
    length = body.length
    if length is not None and length <= SMALL_BYTES:
        data = await read_announced(body, length)
        if len(data) != length:
            raise _too_short()
        if checks is not None:
            checks.update(data)
            checks.require()
        return await call.export.fs.content_of(data)
    return await _stream(call, body, checks)


async def _stream(call: Call, body: Body, checks: Checks | None) -> Content:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + call.config.max_body_s
    writer = call.export.fs.new_content(body.length)
    hashing: asyncio.Future[None] | None = None
    total = 0
    try:
        await writer.open()
        room: memoryview | None = None
        # Of the room: [0, start) is being hashed or needs it no more, [start, filled) has come since then.
        start = filled = 0
        while piece := await body.read():
            view = memoryview(piece)
            total += len(view)
            if loop.time() > deadline:
                raise DavError(408, "The body took too long; send it in parts.", close=True)
            while view:
                if room is None:
                    room = writer.buffer()
                n = min(len(room) - filled, len(view))
                room[filled : filled + n] = view[:n]
                view = view[n:]
                filled += n
                full = filled == len(room)
                if checks is not None and (full or filled - start >= _SEGMENT):
                    if hashing is not None:
                        await hashing
                    hashing = loop.run_in_executor(None, checks.update, room[start:filled])
                    start = filled
                if full:
                    # The block may be uploaded and reused once it has been advanced over: hash first.
                    if hashing is not None:
                        await hashing
                        hashing = None
                    room = None  # no view of it may be left when the writer gets the next one
                    await writer.advance(filled)
                    start = filled = 0
        if body.length is not None and total != body.length:
            raise _too_short()
        if hashing is not None:
            await hashing
            hashing = None
        if checks is not None:
            if room is not None and filled > start:
                checks.update(room[start:filled])
            checks.require()
        room = None
        if filled:
            await writer.advance(filled)
        return await writer.finish()
    except BaseException:
        if hashing is not None:  # the thread still reads the buffer that `abort` gives back
            await asyncio.wait([hashing])
        await writer.abort()
        raise


def _too_short() -> DavError:
    return DavError(400, "The body is shorter than announced.", close=True)
