# SPDX-License-Identifier: Apache-2.0
"""What the tests of the HTTP server share: a server on a loop of its own thread, and a raw blocking client.

Tests talk through plain sockets, so that every byte on the wire is the test's own. Both event loops are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import uvloop

from core.object.api import Buffer
from gateways.http.messages import Application, IncompleteBody, Request, Response, SlowBody
from gateways.http.server import Limits, Server

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
Handler = Callable[[Request], Awaitable[Response]]


class Paths(Application):
    """Handlers by path; `seen` collects what tests ask about."""

    def __init__(self, **handlers: Handler) -> None:
        self.handlers: dict[str, Handler] = {"echo": echo, "ignore": ignore, "hello": hello, "slow": slow, **handlers}
        self.seen: list[Any] = []

    async def __call__(self, request: Request) -> Response:
        handler = self.handlers.get(request.raw_path.split("/")[1])
        if handler is None:
            return Response(404, [], b"no handler")
        return await handler(request)


async def read_all(request: Request) -> bytes:
    parts: list[Buffer] = []
    while part := await request.body.read():
        assert len(part) <= 1 << 20
        parts.append(bytes(part))
    return b"".join(parts)


async def echo(request: Request) -> Response:
    """Answers length and digest of the body, or the error that reading it gave."""
    try:
        data = await read_all(request)
    except (IncompleteBody, SlowBody) as error:
        return Response(400, [], type(error).__name__.encode())
    return Response(200, [], f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode())


async def ignore(request: Request) -> Response:
    """Answers without reading the body, as after a failed authentication."""
    return Response(403, [], b"denied")


async def hello(request: Request) -> Response:
    return Response(200, [("X-Target", request.target)], b"hello")


async def slow(request: Request) -> Response:
    """Suspends once, so that the connection's task answers."""
    await asyncio.sleep(0)
    return Response(200, [], b"slow")


def digest(data: bytes) -> bytes:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}".encode()


class Running:
    """A server on its own thread."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.port = server.port

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def connect(self, context: ssl.SSLContext | None = None) -> Client:
        return Client(self.port, context)


@contextlib.contextmanager
def running(
    app: Application | None = None, *, loop: str = "uvloop", limits: Limits | None = None, **options: Any
) -> Iterator[Running]:
    started = threading.Event()
    box: list[Any] = []

    async def main() -> None:
        server = Server(app or Paths(), limits=limits, **options)
        await server.start()
        over = asyncio.Event()
        box.extend((Running(server, asyncio.get_running_loop()), over))
        started.set()
        await over.wait()
        await server.stop(0)

    def thread() -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            try:
                runner.run(main())
            except BaseException as error:
                box.append(error)
                started.set()
                raise

    worker = threading.Thread(target=thread)
    worker.start()
    started.wait(30)
    assert isinstance(box[0], Running), box
    run: Running = box[0]
    try:
        yield run
    finally:
        run.loop.call_soon_threadsafe(box[1].set)
        worker.join(30)
        assert not worker.is_alive()


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A blocking connection."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock: socket.socket = context.wrap_socket(raw) if context else raw
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test"]
        if body or method == "PUT":
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def answer(self, *, head_only: bool = False) -> Answer:
        line = self.file.readline()
        assert line, "the connection ended without an answer"
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            # RFC 9110 §11.6.1: one challenge per line is usual.
            assert name.lower() not in headers or name.lower() == "www-authenticate", f"{name} came twice"
            headers[name.lower()] = value.strip()
        body = b""
        if head_only or status in (100, 204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                assert self.file.read(2) == b"\r\n"
            assert self.file.readline() == b"\r\n"
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
            assert len(body) == int(headers["content-length"]), "the answer was cut off"
        else:
            body = self.file.read()
        return Answer(status, headers, body)

    def at_end(self) -> bool:
        """The server closed its side (waits for it)."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True
