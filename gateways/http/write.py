# SPDX-License-Identifier: Apache-2.0
"""Responses to bytes: heads, small answers in one write, long bodies with back-pressure, files by sendfile.

The socket belongs to a `Sink` (the connection); this file never touches a request.
A body that can't be delivered as announced (iterator too short or long, file shrunken) raises `BrokenAnswer`;
the connection is then aborted, because a truncated object must never look complete.
Source: RFC 9112 sections 6 and 7, RFC 9110 sections 8.6, 15.3.5 and 15.4.5; spec s3 §2.4, §18 and §19.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Protocol

from core.chunk.api import FileRange
from core.object.api import Buffer
from gateways.http.messages import Response

#: Up to here head and body leave in one write as one buffer; beyond, copying costs more than a second iovec.
JOIN_BYTES = 64 * 1024
#: An answer whose end isn't known yet leaves as it is made, beyond this: somebody waits for its first part.
CHUNKED_JOIN_BYTES = 4 * 1024
#: File ranges from here on go by sendfile in a thread; a thread hop costs about what copying 256 KiB costs.
SENDFILE_BYTES = 256 * 1024
#: Largest piece that is read at once where sendfile can't be used.
READ_BYTES = 1024 * 1024
#: How long the sendfile thread waits for a full socket before it gives the thread back to the pool.
POLL_MS = 50

_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
#: Statuses that never carry a body nor its length (RFC 9110 §8.6; 304 could carry a length, S3 sends none).
_BODYLESS = frozenset((204, 304))


class BrokenAnswer(Exception):
    """The head is out and the body can't follow as announced."""


class Sink(Protocol):
    """Where bytes go."""

    secure: bool

    def write(self, data: Buffer) -> None:
        """Queue without copying; may send at once."""

    async def drained(self) -> None:
        """Everything written is in the kernel. Raises ConnectionError if the peer is gone or doesn't read."""

    def socket_fd(self) -> int: ...

    async def writable(self, fd: int) -> None:
        """The socket takes bytes again. Raises ConnectionError like `drained`."""


class Plan:
    """A response made ready: its head, and how the body follows."""

    __slots__ = ("chunked", "head", "length", "parts")

    def __init__(
        self, head: bytes, parts: list[Buffer | FileRange] | AsyncIterator[Buffer | FileRange] | None,
        length: int | None, chunked: bool,
    ) -> None:  # fmt: skip
        self.head = head  # with the whole body already appended if parts is None
        self.parts = parts
        self.length = length
        self.chunked = chunked


def plan(response: Response, *, no_body: bool, http11: bool, close: bool, common: str) -> Plan:
    """Make the head. common: header lines of every response (Date, Server). ValueError: headers that can't be sent."""
    status = response.status
    body = response.body
    length = response.length
    chunked = False
    parts: list[Buffer | FileRange] | AsyncIterator[Buffer | FileRange] | None = None
    small: Buffer = b""

    if type(body) is bytes:
        small = body
        if length is None or not no_body:
            length = len(body)
    elif isinstance(body, list):
        total = sum([part.length if type(part) is FileRange else len(part) for part in body])
        if length is None or not no_body:
            length = total
        parts = body
    else:
        assert not isinstance(body, bytes)
        parts = body
        chunked = length is None and http11
        close = close or (length is None and not http11)

    if status in _BODYLESS:
        framing = ""
        no_body = True
    elif chunked:
        framing = "Transfer-Encoding: chunked\r\n"
    elif length is not None:
        framing = f"Content-Length: {length}\r\n"
    else:
        framing = ""
    if close:
        framing += "Connection: close\r\n"
    elif not http11:
        framing += "Connection: keep-alive\r\n"

    headers = response.headers
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines:
        raise ValueError("a response header holds CR, LF or NUL")
    line = _STATUS.get(status) or f"HTTP/1.1 {status} Status\r\n"
    head = f"{line}{common}{lines}{framing}\r\n".encode("latin-1")

    if no_body:
        return Plan(head, None, 0, False)
    if parts is None:
        if len(small) <= JOIN_BYTES:
            return Plan(head + small, None, length, False)
        return Plan(head, [small], length, False)
    if isinstance(parts, list) and length is not None and length <= JOIN_BYTES:
        joined: list[Buffer] = []
        for part in parts:
            if type(part) is FileRange:
                return Plan(head, parts, length, False)
            joined.append(part)  # type: ignore[arg-type]
        return Plan(b"".join([head, *joined]), None, length, False)
    return Plan(head, parts, length, chunked)


async def send(sink: Sink, answer: Plan) -> int:
    """Send a planned answer that has parts; returns the body bytes sent.

    An iterator's buffer is in the kernel before the iterator is asked for the next one, so it may be reused.
    The head waits for the first part: small answers leave in one write, and an iterator that fails at once
    has sent nothing (its exception passes through as it is).
    """
    parts = answer.parts
    assert parts is not None
    held: list[Buffer] = [answer.head]
    most = CHUNKED_JOIN_BYTES if answer.chunked else JOIN_BYTES
    held_bytes = 0
    sent = 0
    try:
        async for part in _iterate(parts):
            size = part.length if type(part) is FileRange else len(part)
            if not size:
                continue
            if answer.length is not None and sent + size > answer.length:
                raise BrokenAnswer(f"the body is longer than the {answer.length} bytes announced")
            if answer.chunked:
                held.append(b"%x\r\n" % size)
            if type(part) is FileRange:
                held_bytes = await _send_file(sink, part, held, held_bytes)
            elif held_bytes + size <= most:
                held.append(part if isinstance(parts, list) else bytes(part))  # type: ignore[arg-type]
                held_bytes += size
            else:
                held = _flush(sink, held)
                held_bytes = 0
                sink.write(part)  # type: ignore[arg-type]
                await sink.drained()
            if answer.chunked:
                held.append(b"\r\n")
            sent += size
    except (BrokenAnswer, ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        if sent or held[:1] != [answer.head]:
            raise BrokenAnswer(f"the body failed after {sent} bytes: {error}") from error
        raise
    finally:
        close = getattr(parts, "aclose", None)
        if close is not None:
            await close()
    if answer.length is not None and sent != answer.length:
        raise BrokenAnswer(f"the body ended after {sent} of {answer.length} bytes")
    if answer.chunked:
        held.append(b"0\r\n\r\n")
    _flush(sink, held)
    await sink.drained()
    return sent


async def _iterate(
    parts: list[Buffer | FileRange] | AsyncIterator[Buffer | FileRange],
) -> AsyncIterator[Buffer | FileRange]:
    if isinstance(parts, list):
        for part in parts:
            yield part
    else:
        async for part in parts:
            yield part


def _flush(sink: Sink, held: list[Buffer]) -> list[Buffer]:
    if held:
        sink.write(held[0] if len(held) == 1 else b"".join(held))
    return []


async def _send_file(sink: Sink, part: FileRange, held: list[Buffer], held_bytes: int) -> int:
    """Send a range of a file after what is held; returns how many bytes are held now."""
    fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if part.length >= SENDFILE_BYTES and not sink.secure:
            _flush(sink, held)
            held.clear()
            await sink.drained()
            await _sendfile(sink, fd, part)
            return 0
        at, end = part.offset, part.offset + part.length
        while at < end:
            data = await _read(fd, at, min(end - at, READ_BYTES))
            if not data:
                raise BrokenAnswer(f"a data file ends at {at}, before the {end} bytes announced")
            at += len(data)
            held.append(data)
            held_bytes += len(data)
            if held_bytes > JOIN_BYTES:
                _flush(sink, held[:-1])
                sink.write(data)
                held.clear()
                held_bytes = 0
                await sink.drained()
        return held_bytes
    finally:
        os.close(fd)


async def _read(fd: int, offset: int, length: int) -> Buffer:
    """Bytes of a file: at once if they are in the page cache, else in a thread."""
    buffer = bytearray(length)
    try:
        got = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:  # EAGAIN: on disk only; EOPNOTSUPP: a file system that can't tell
        got = 0
    if not got:
        got = await asyncio.get_running_loop().run_in_executor(None, os.preadv, fd, [buffer], offset)
    return buffer if got == length else memoryview(buffer)[:got]


async def _sendfile(sink: Sink, fd: int, part: FileRange) -> None:
    """sendfile from a thread. The duplicate keeps the descriptor ours even if the transport closes its own."""
    loop = asyncio.get_running_loop()
    out = os.dup(sink.socket_fd())
    try:
        at, end = part.offset, part.offset + part.length
        while at < end:
            job = loop.run_in_executor(None, _sendfile_some, out, fd, at, end)
            try:
                reached = await asyncio.shield(job)
            except asyncio.CancelledError:
                # The thread still uses both descriptors; it returns soon, and nobody asks for its result any more.
                while not job.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait([job])
                job.exception()
                raise
            if reached < end:
                if reached < 0:
                    raise BrokenAnswer(f"a data file ends at {~reached}, before the {end} bytes announced")
                await sink.writable(out)
            at = reached
    finally:
        os.close(out)


def _sendfile_some(out: int, fd: int, at: int, end: int) -> int:
    """Send until done or until the socket stays full; returns the offset reached, or its complement at end of file."""
    poller: select.poll | None = None
    deadline = time.monotonic() + 1.0  # a fast reader shouldn't keep one of few threads for minutes either
    while at < end:
        try:
            sent = os.sendfile(out, fd, at, end - at)
        except BlockingIOError:
            if poller is None:
                poller = select.poll()
                poller.register(out, select.POLLOUT)
            if not poller.poll(POLL_MS):
                return at
            continue
        except InterruptedError:
            continue
        if sent == 0:
            return ~at
        at += sent
        if time.monotonic() > deadline:
            return at
    return at
