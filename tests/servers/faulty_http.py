# SPDX-License-Identifier: Apache-2.0
"""An HTTP proxy that does to requests and answers what bad networks and servers do; for object stores under load.

`async with FaultyHttp(port, {"503": 0.02, "flip": 0.01}, seed=1) as proxy: …` lives in the loop of the test. Each kind
has a chance; `struck` counts what was done; `faults.clear()` makes the way good again. Kinds:

    500 503       an error answer of the S3 kind, nothing was passed on
    late          the request was passed on and done; the answer is an error all the same
    reset         the connection is reset, before or after the request was passed on
    cut           it is reset in the middle of the answer's body
    hang          no answer, ever
    short         an answer that is complete and half as long (GET)
    flip          one bit of the body is another one, the length is right (GET of whole objects)
    flip-range    the same for a range request, which carries no checksum at all
    etag          another ETag (GET, PUT)
    slow          the answer takes `slow_s` longer
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from typing import NamedTuple

_ERROR = (
    b"<?xml version='1.0'?><Error><Code>%s</Code><Message>injected by the test</Message>"
    b"<RequestId>0</RequestId></Error>"
)
_CODES = {"500": b"InternalError", "503": b"SlowDown", "late": b"InternalError"}


class Message(NamedTuple):
    first: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def find(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def packed(self) -> bytes:
        return b"\r\n".join([self.first, *(b": ".join(h) for h in self.headers)]) + b"\r\n\r\n" + self.body

    def with_body(self, body: bytes) -> Message:
        kept = [h for h in self.headers if h[0].lower() not in (b"content-length", b"transfer-encoding")]
        return Message(self.first, [*kept, (b"Content-Length", b"%d" % len(body))], body)


class FaultyHttp:
    """`port` is where clients connect; `faults`: kind → chance per request."""

    def __init__(self, target: int, faults: dict[str, float], *, seed: int, slow_s: float = 1.0) -> None:
        self.target = target
        self.faults = faults
        self.slow_s = slow_s
        self.struck: Counter[str] = Counter()
        self.requests = 0
        self.port = 0
        self._rng = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultyHttp:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 24)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        try:
            far = await asyncio.open_connection("127.0.0.1", self.target, limit=1 << 24)
            while (request := await _receive(reader, b"")) is not None:
                await self._exchange(request, writer, far)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for w in (writer, far[1] if far else None):
                if w is not None:
                    with contextlib.suppress(OSError):
                        w.transport.abort()

    async def _exchange(
        self, request: Message, writer: asyncio.StreamWriter, far: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> None:
        self.requests += 1
        method = request.first.split(b" ", 1)[0]
        kind = self._choose(method, request.find(b"range") is not None)
        if kind in ("500", "503"):
            await _send(writer, _error(kind))
            return
        if kind == "hang":
            await asyncio.get_running_loop().create_future()
        if kind == "reset" and self._rng.random() < 0.5:
            _reset(writer)
            raise ConnectionResetError
        far[1].write(request.packed())
        await far[1].drain()
        answer = await _receive(far[0], method)
        if answer is None:
            raise ConnectionResetError
        if kind == "reset":
            _reset(writer)
            raise ConnectionResetError
        if kind == "slow":
            await asyncio.sleep(self.slow_s)
        await self._answer(kind, answer, writer)

    async def _answer(self, kind: str, answer: Message, writer: asyncio.StreamWriter) -> None:
        body = answer.body
        match kind:
            case "late":
                answer = _error(kind)
            case "cut" if body:
                packed = answer.packed()
                writer.write(packed[: len(packed) - len(body) + len(body) // 2])
                await writer.drain()
                _reset(writer)
                raise ConnectionResetError
            case "short" if body and answer.first.split(b" ")[1].startswith(b"2"):
                answer = answer.with_body(body[: len(body) // 2])
            case "flip" | "flip-range" if body and answer.first.split(b" ")[1].startswith(b"2"):
                changed = bytearray(body)
                changed[self._rng.randrange(len(changed))] ^= 1 << self._rng.randrange(8)
                answer = answer.with_body(bytes(changed))
            case "etag":
                headers = [(k, b'"0123456789abcdef0123456789abcdef"' if k.lower() == b"etag" else v)
                           for k, v in answer.headers]  # fmt: skip
                answer = Message(answer.first, headers, body)
        await _send(writer, answer)

    def _choose(self, method: bytes, ranged: bool) -> str:
        at = self._rng.random()
        for kind, chance in self.faults.items():
            at -= chance
            if at < 0:
                if kind in ("short", "cut", "flip", "flip-range") and method != b"GET":
                    return ""
                if kind in ("flip", "flip-range") and ranged != (kind == "flip-range"):
                    return ""
                if kind == "etag" and method not in (b"GET", b"PUT"):
                    return ""
                self.struck[kind] += 1
                return kind
        return ""


async def _receive(reader: asyncio.StreamReader, method: bytes) -> Message | None:
    """One message; None at the end of the connection. method: of the request that this answers, if it is an answer."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].split(b"\r\n")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name, value.strip()))
    message = Message(first, headers, b"")
    if method == b"HEAD" or (method and first.split(b" ")[1] in (b"204", b"304")):
        return message
    if (message.find(b"transfer-encoding") or b"").lower() == b"chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return message.with_body(body)
    length = int(message.find(b"content-length") or 0)
    return message._replace(body=await reader.readexactly(length)) if length else message


def _error(kind: str) -> Message:
    body = _ERROR % _CODES[kind]
    status = b"503 Slow Down" if kind == "503" else b"500 Internal Server Error"
    return Message(b"HTTP/1.1 " + status, [(b"Content-Length", b"%d" % len(body))], body)


async def _send(writer: asyncio.StreamWriter, message: Message) -> None:
    writer.write(message.packed())
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
