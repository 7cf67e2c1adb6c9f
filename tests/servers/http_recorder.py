# SPDX-License-Identifier: Apache-2.0
"""Between a client and an HTTP server: passes every byte on and writes down which requests went by.

Bytes are forwarded as they come, httptools only looks at them, so that what is recorded is what was sent (framing,
`Expect`, pipelining included). With `tls` the far side is an HTTPS server: a client that leaves checks out over TLS
can make them through here. Runs in a thread with a loop of its own; use as a context manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from dataclasses import dataclass, field

import httptools

_PIECE = 1 << 18
KEPT = 16 << 10


@dataclass
class Exchange:
    """One request and the status of its answer (0: none came). Header names are lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body_bytes: int = 0
    body: bytes = b""  # what fits in `KEPT`: documents rather than files
    status: int = 0
    answer: dict[str, str] = field(default_factory=dict)


class _Up:
    """Requests of one connection, in the order in which they are answered."""

    def __init__(self, found: list[Exchange], waiting: list[Exchange]) -> None:
        self._found, self._waiting = found, waiting
        self._target = b""
        self._headers: dict[str, str] = {}
        self._parser = httptools.HttpRequestParser(self)

    def on_message_begin(self) -> None:
        self._target, self._headers = b"", {}

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode()
        self._exchange = Exchange(method, self._target.decode("latin-1"), self._headers)
        self._found.append(self._exchange)
        self._waiting.append(self._exchange)

    def on_body(self, body: bytes) -> None:
        self._exchange.body_bytes += len(body)
        if self._exchange.body_bytes <= KEPT:
            self._exchange.body += body

    def feed_data(self, data: bytes) -> None:
        self._parser.feed_data(data)


class _Down:
    def __init__(self, waiting: list[Exchange]) -> None:
        self._waiting = waiting
        self._headers: dict[str, str] = {}
        self._bodyless = False
        self._parser = httptools.HttpResponseParser(self)

    def on_message_begin(self) -> None:
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._waiting:
            exchange = self._waiting.pop(0)
            exchange.status, exchange.answer = status, self._headers
            self._bodyless = exchange.method == "HEAD"

    def feed_data(self, data: bytes) -> None:
        self._parser.feed_data(data)
        if self._bodyless:
            # The parser can't know that the announced length doesn't follow; the next bytes are the next answer.
            self._bodyless = False
            self._parser = httptools.HttpResponseParser(self)


class HttpRecorder:
    """`url` is where clients go; `exchanges` what they said so far."""

    def __init__(self, target: int, *, tls: bool = False) -> None:
        self._target = target
        self._ssl: ssl.SSLContext | None = None
        if tls:
            self._ssl = ssl.create_default_context()
            self._ssl.check_hostname, self._ssl.verify_mode = False, ssl.CERT_NONE
        self.exchanges: list[Exchange] = []
        self.port = 0
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="http recorder")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> HttpRecorder:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._loop
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            tasks.add(task)
            try:
                await self._serve(reader, writer)
            except asyncio.CancelledError:
                pass  # the recorder ends; asyncio's streams would report a cancelled connection as an error
            finally:
                tasks.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=_PIECE)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(
                "127.0.0.1", self._target, ssl=self._ssl, limit=_PIECE
            )
        except OSError:
            writer.transport.abort()
            return
        waiting: list[Exchange] = []
        up = _Up(self.exchanges, waiting)
        down = _Down(waiting)
        one = asyncio.create_task(_pump(reader, far_writer, up))
        other = asyncio.create_task(_pump(far_reader, writer, down))
        try:
            # The server's end is the end of both; a client that only closed its half still gets the answer.
            await other
        finally:
            one.cancel()
            other.cancel()
            await asyncio.gather(one, other, return_exceptions=True)
            for each in (writer, far_writer):
                with contextlib.suppress(OSError, RuntimeError):
                    each.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, parser: _Up | _Down) -> None:
    looking = True
    with contextlib.suppress(OSError):
        while data := await source.read(_PIECE):
            if looking:
                try:
                    parser.feed_data(data)
                except httptools.HttpParserError:
                    looking = False  # hostile or odd bytes still have to reach the other side
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
        elif isinstance(parser, _Up):
            sink.close()  # TLS has no half-closed state
