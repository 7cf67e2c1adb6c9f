# SPDX-License-Identifier: Apache-2.0
"""The application behind aiohttp's low-level server: bodies as streams, lazy 100 Continue, limits on slow clients.

Source: aiohttp documentation, "Low Level Server"; spec webdav §2.4, §20.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from multidict import CIMultiDict

from core.chunk.api import FileRange
from core.errors import ConfigError
from core.object.api import Buffer
from gateways.webdav.errors import REASONS
from gateways.webdav.http import Body, IncompleteBody, Request, Response, SlowBody
from gateways.webdav.tls import ReloadingContext

log = logging.getLogger("sluice.webdav.server")

#: Request line and each header (spec §20).
MAX_HEAD: Final = 16 << 10
_PIECE: Final = 1 << 20
#: Repeats of these are never what a client means; joining them would hide an attack.
_SINGLE: Final = frozenset({"host", "content-length", "authorization", "transfer-encoding", "destination", "depth"})

Application = Callable[[Request], Awaitable[Response]]


class Limits(NamedTuple):
    """What a client may cost. Times in seconds."""

    max_connections: int = 10_000
    header_timeout_s: float = 10
    body_timeout_s: float = 60
    send_timeout_s: float = 60
    keepalive_timeout_s: float = 75
    backlog: int = 1024


class _StreamBody(Body):
    def __init__(self, request: web.BaseRequest, timeout_s: float) -> None:
        chunked = "chunked" in request.headers.get(hdrs.TRANSFER_ENCODING, "").lower()
        self.length = None if chunked else request.content_length or 0
        self._request = request
        self._timeout_s = timeout_s
        self._expect = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        self._left = self.length

    async def read(self) -> Buffer:
        content = self._request.content
        if content is EMPTY_PAYLOAD:
            return b""
        if self._expect:
            # Only now: names, locks and conditions were judged before a byte was asked for.
            self._expect = False
            if self._request.transport is not None and not content.total_bytes:
                self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self._timeout_s):
                data = await content.readany()
        except TimeoutError as error:
            raise SlowBody(f"no byte of the body came for {self._timeout_s:g} s") from error
        except (web.RequestPayloadError, ConnectionError, asyncio.IncompleteReadError) as error:
            raise IncompleteBody("the connection ended before the end of the body") from error
        except Exception as error:  # aiohttp sets errors of its own on the stream when framing breaks
            raise IncompleteBody("the body's framing is broken") from error
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left > 0:
                raise IncompleteBody("the connection ended before the end of the body")
        return data


class _NoBody(Body):
    length = 0

    async def read(self) -> Buffer:
        return b""


_NO_BODY: Final = _NoBody()


class Server:
    """One listening socket. `start` returns when connections are accepted, `stop` when they are gone."""

    def __init__(
        self, application: Application, *, limits: Limits | None = None, tls: ReloadingContext | None = None,
        server_name: str = "SluiceFS",
    ) -> None:  # fmt: skip
        self._application = application
        self._limits = limits or Limits()
        self._tls = tls
        self._server_name = server_name
        self._server: web.Server | None = None
        self._runner: web.ServerRunner | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._waiting: dict[Any, float] = {}  # connection -> since when it owes us a whole head
        self.port = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> None:
        self._server = web.Server(
            self._handle,
            handler_cancellation=False,  # a change that is under way finishes; a body that breaks raises
            auto_decompress=False,
            keepalive_timeout=self._limits.keepalive_timeout_s,
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            read_bufsize=1 << 20,
            access_log=None,
            lingering_time=5,
        )
        self._runner = web.ServerRunner(self._server)
        await self._runner.setup()
        sock = sock or bind(host, port)
        self.port = sock.getsockname()[1]
        context = self._tls.context if self._tls else None
        await web.SockSite(self._runner, sock, ssl_context=context, backlog=self._limits.backlog).start()
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self, grace_s: float = 30) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._runner is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + 1):
                    await self._runner.cleanup()

    async def _sweep(self) -> None:
        """Once per second: connections that never complete a head are closed, and certificates are looked after."""
        loop = asyncio.get_running_loop()
        ticks = 0
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            ticks += 1
            if self._tls is not None and ticks % 10 == 0:
                self._tls.refresh()
            assert self._server is not None
            open_now = self._server.connections
            waiting: dict[Any, float] = {}
            for number, connection in enumerate(open_now):
                if getattr(connection, "_current_request", None) is not None:
                    continue
                # A kept connection is aiohttp's to end; one that has sent part of a head, or nothing yet, is ours.
                fresh = not getattr(connection, "_request_count", 0)
                tail = bool(getattr(connection, "_tail_of_head", False)) or fresh
                if tail:
                    waiting[connection] = self._waiting.get(connection, now)
                    if now - waiting[connection] > self._limits.header_timeout_s:
                        connection.force_close()
                if number >= self._limits.max_connections:
                    connection.force_close()
            self._waiting = waiting

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        protocol = raw.protocol
        protocol._request_count = getattr(protocol, "_request_count", 0) + 1
        headers: dict[str, str] = {}
        for raw_name, raw_value in raw.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name not in headers:
                headers[name] = value
            elif name in _SINGLE:
                return await self._send(raw, Response(400, body=b"A header came twice.\n", close=True))
            else:
                headers[name] += f", {value}"
        if "transfer-encoding" in headers and "content-length" in headers:
            return await self._send(raw, Response(400, body=b"Two lengths of one body.\n", close=True))
        message: RawRequestMessage = raw._message
        body: Body = _NO_BODY if raw.content is EMPTY_PAYLOAD else _StreamBody(raw, self._limits.body_timeout_s)
        request = Request(
            raw.method, message.path, headers, body, peer=(raw.remote or "").removeprefix("::ffff:"),
            secure=raw.secure,
        )  # fmt: skip
        response = await self._application(request)
        if isinstance(body, _StreamBody) and body._expect and response.status >= 400:
            response.close = True  # the client was never told to send; what comes next is not its body
        return await self._send(raw, response)

    async def _send(self, raw: web.BaseRequest, response: Response) -> web.StreamResponse:
        headers: CIMultiDict[str] = CIMultiDict(response.headers)
        headers["Server"] = self._server_name
        body, length = response.body, response.length
        head = raw.method == "HEAD"
        bodyless = head or response.status in (204, 304)
        if isinstance(body, bytes | list) and not (head and length is not None):
            parts: list[Any] = [body] if isinstance(body, bytes) else body
            length = sum(part.length if isinstance(part, FileRange) else len(part) for part in parts)
            if response.status == 200 and head and not length:
                length = None
            if not any(isinstance(part, FileRange) for part in parts) and not head:
                # Everything is here: one write for head and body.
                whole = parts[0] if len(parts) == 1 else b"".join(parts)
                if whole and "Content-Type" not in headers:
                    headers["Content-Type"] = "text/plain; charset=utf-8"
                answer: web.StreamResponse = web.Response(
                    status=response.status, reason=REASONS.get(response.status), headers=headers,
                    body=None if bodyless else bytes(whole),
                )  # fmt: skip
                if response.close:
                    answer.force_close()
                await answer.prepare(raw)
                await answer.write_eof()
                return answer
        answer = web.StreamResponse(
            status=response.status, reason=REASONS.get(response.status), headers=headers
        )  # fmt: skip
        if length is not None and response.status not in (204, 304):
            answer.content_length = length
        elif length is None and not bodyless and raw.version >= (1, 1):
            answer.enable_chunked_encoding()
        if response.close:
            answer.force_close()
        await answer.prepare(raw)
        if not bodyless:
            try:
                if isinstance(body, bytes | list):
                    for part in [body] if isinstance(body, bytes) else body:
                        await self._write(answer, part)
                else:
                    async for part in body:
                        await self._write(answer, part)
            except ConnectionError:
                raise
            except Exception as error:
                # The status is out already; a connection that ends early is the only way to say it.
                log.error("%s %s broke off: %s", raw.method, raw.path[:500], error)
                if raw.transport is not None:
                    raw.transport.abort()
                raise ConnectionAbortedError("the answer broke off") from error
        await answer.write_eof()
        return answer

    async def _write(self, answer: web.StreamResponse, part: Buffer | FileRange) -> None:
        async with asyncio.timeout(self._limits.send_timeout_s):
            if not isinstance(part, FileRange):
                await answer.write(part if isinstance(part, bytes) else bytes(part))
                return
        loop = asyncio.get_running_loop()
        with await loop.run_in_executor(None, open, part.path, "rb") as file:
            file.seek(part.offset)
            left = part.length
            while left:
                data = await loop.run_in_executor(None, file.read, min(left, _PIECE))
                if not data:
                    raise ConnectionAbortedError(f"a data file ended {left} bytes early")
                async with asyncio.timeout(self._limits.send_timeout_s):
                    await answer.write(data)
                left -= len(data)


def bind(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound socket that doesn't listen yet. ConfigError names the address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{host}:{port}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"can't listen on {host}:{port}: {error.strerror}; choose another address or stop what uses it"
        ) from error
    sock.setblocking(False)
    return sock
