# SPDX-License-Identifier: Apache-2.0
"""An application behind aiohttp (`--http aiohttp`): a fallback and a cross-check of our own server.

Same rules where aiohttp lets us have them: lazy 100 Continue, bodies never decompressed, repeated length and
authorization headers refused, files read in pieces. No sendfile, no drain rule of its own. Several times slower.
Source: aiohttp documentation, "Low Level Server"; spec s3 §2.4.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from aiohttp import hdrs, web
from multidict import CIMultiDict

from core.chunk.api import FileRange
from core.object.api import Buffer
from gateways.http.head import MAX_HEAD_BYTES, SINGLE_HEADERS
from gateways.http.messages import Application, BadRequest, Body, IncompleteBody, Request, Response, SlowBody
from gateways.http.server import Limits, Observer, bind
from gateways.http.tls import ReloadingContext

_PIECE = 1024 * 1024


class AiohttpBody(Body):
    """A request body on aiohttp's stream."""

    def __init__(self, request: web.BaseRequest, timeout_s: float) -> None:
        chunked = "chunked" in request.headers.get(hdrs.TRANSFER_ENCODING, "").lower()
        self.length = None if chunked else request.content_length or 0
        self._request = request
        self._timeout_s = timeout_s
        self._expect = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"

    async def read(self) -> Buffer:
        if self._expect:
            self._expect = False
            if self._request.transport is not None and not self._request.content.total_bytes:
                self._request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._request.content.read(_PIECE)
        except TimeoutError as error:
            raise SlowBody(f"No byte of the body came for {self._timeout_s:g} s.") from error
        except (web.RequestPayloadError, ConnectionError, asyncio.IncompleteReadError) as error:
            raise IncompleteBody("The connection ended before the declared end of the body.") from error


class AiohttpServer:
    """`start` and `stop` like `server.Server`."""

    def __init__(
        self,
        application: Application,
        *,
        limits: Limits | None = None,
        tls: ReloadingContext | None = None,
        observer: Observer | None = None,
        server_name: str = "SluiceFS",
    ) -> None:
        self._application = application
        self._limits = limits or Limits()
        self._tls = tls
        self._observer = observer
        self._server_name = server_name
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> None:
        """Listen on host and port (0: any), or on a bound socket."""
        server = web.Server(
            self._handle,
            handler_cancellation=True,
            auto_decompress=False,  # a gzip object is stored as it came
            keepalive_timeout=self._limits.keepalive_timeout_s,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            access_log=None,
        )
        self._runner = web.ServerRunner(server)
        await self._runner.setup()
        sock = sock or bind(host, port)
        self.port = sock.getsockname()[1]
        context = self._tls.context if self._tls else None
        await web.SockSite(self._runner, sock, ssl_context=context, backlog=self._limits.backlog).start()

    async def stop(self, grace_s: float = 30) -> None:
        """Accept no more, wait for running requests."""
        if self._runner is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s + 1):
                    await self._runner.cleanup()

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        headers: dict[str, str] = {}
        for raw_name, raw_value in raw.raw_headers:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            if name not in headers:
                headers[name] = value
            elif name in SINGLE_HEADERS:
                refusal = self._application.refusal(BadRequest(f"The header {name} may come only once."))
                return await self._send(raw, refusal)
            else:
                headers[name] += f",{value}"
        request = Request(
            raw.method,
            raw.raw_path,
            headers,
            AiohttpBody(raw, self._limits.body_timeout_s),
            peer=(raw.remote or "").removeprefix("::ffff:"),
            secure=raw.secure,
        )
        started = time.monotonic()
        response = await self._application(request)
        answer = await self._send(raw, response)
        if self._observer is not None:
            self._observer(request, response, answer.body_length, time.monotonic() - started, True)
        return answer

    async def _send(self, raw: web.BaseRequest, response: Response) -> web.StreamResponse:
        headers: CIMultiDict[str] = CIMultiDict(response.headers)
        headers["Server"] = self._server_name
        body, length = response.body, response.length
        if isinstance(body, bytes):
            length = len(body) if raw.method != "HEAD" or length is None else length
        elif isinstance(body, list):
            total = sum(part.length if isinstance(part, FileRange) else len(part) for part in body)
            length = total if raw.method != "HEAD" or length is None else length
        no_body = raw.method == "HEAD" or response.status in (204, 304)
        answer = web.StreamResponse(status=response.status, headers=headers)
        if "Content-Type" not in headers:
            answer.headers["Content-Type"] = "application/octet-stream"  # aiohttp insists on one
        if length is not None and response.status not in (204, 304):
            answer.content_length = length
        elif length is None and not no_body and raw.version >= (1, 1):
            answer.enable_chunked_encoding()
        if response.close:
            answer.force_close()
        await answer.prepare(raw)
        if not no_body:
            await self._write_body(answer, response)
        await answer.write_eof()
        return answer

    async def _write_body(self, answer: web.StreamResponse, response: Response) -> None:
        body = response.body
        if isinstance(body, bytes):
            await answer.write(body)
        elif isinstance(body, list):
            for part in body:
                await self._write_part(answer, part)
        else:
            async for part in body:
                await self._write_part(answer, part)

    @staticmethod
    async def _write_part(answer: web.StreamResponse, part: Buffer | FileRange) -> None:
        if not isinstance(part, FileRange):
            # aiohttp may keep what the socket doesn't take; an iterator may reuse its buffer.
            await answer.write(bytes(part))
            return
        loop = asyncio.get_running_loop()
        with await loop.run_in_executor(None, open, part.path, "rb") as file:
            file.seek(part.offset)
            left = part.length
            while left:
                data = await loop.run_in_executor(None, file.read, min(left, _PIECE))
                if not data:
                    raise ConnectionAbortedError(f"a data file ended {left} bytes early")
                await answer.write(data)
                left -= len(data)
