# SPDX-License-Identifier: Apache-2.0
"""Our own HTTP/1.1 server: accepts, limits, clock, shutdown. One per process, on asyncio or uvloop.

`connection.py` is a connection, `head.py` and `chunked.py` its sans-IO parsers, `body.py` what handlers read from,
`write.py` how answers leave. `aiohttp_server.py` serves the same application by aiohttp.
Source: spec s3 §2.4, §18 and §19; spec webdav §2.4, §20; RFC 9112.

What the application may rely on: its first step runs inside the socket callback, with the connection's task as the
current task. The server adds Date, Server, Content-Length, Transfer-Encoding and Connection; a response must not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from email.utils import formatdate
from typing import NamedTuple

from core.errors import ConfigError
from gateways.http.accept import FairListener, Shares
from gateways.http.connection import Connection
from gateways.http.messages import Application, BadRequest, Request, Response
from gateways.http.tls import ReloadingContext

log = logging.getLogger("sluice.http.server")

#: How long connections stay readable after accepting ended. A client sees a connection that closes under its request
#: as an error; a moment is enough for what is on its way on a local network.
_LAST_CALL_S = 0.1

#: After each answer: request, response, body bytes sent, seconds since the head was complete, and whether it went out
#: completely. status 499: the client left before there was an answer.
Observer = Callable[[Request, Response, int, float, bool], None]


class Limits(NamedTuple):
    """What a client may cost. Times in seconds."""

    max_connections: int = 10_000
    max_connections_per_peer: int = 0  # 0: no limit; proxies and NAT hide many clients behind one address
    header_timeout_s: float = 10  # from the first byte of a head (or the connection) to its last
    body_timeout_s: float = 60  # without a byte of a body that the handler waits for
    send_timeout_s: float = 60  # without progress of an answer
    keepalive_timeout_s: float = 75  # between requests; longer than the 60 s of common load balancers
    linger_s: float = 2  # for the peer to read the last answer
    backlog: int = 1024


class Server:
    """Serves one application on one listening socket.

    `start` returns when connections are accepted, `stop` when they are gone. observer: see `Observer`.
    """

    def __init__(
        self,
        application: Application,
        *,
        limits: Limits | None = None,
        tls: ReloadingContext | None = None,
        observer: Observer | None = None,
        server_name: str = "SluiceFS",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.application = application
        self.limits = limits or Limits()
        self.observer = observer
        self.loop: asyncio.AbstractEventLoop = None  # type: ignore[assignment]
        self.closing = False
        self.port = 0
        self.common_headers = ""  # Date and Server, made once per second
        self.on_tick: list[Callable[[], None]] = []  # called about once per second: flush logs, look after files
        self._tls = tls
        self._server_name = server_name
        self._clock = clock
        self._connections: set[Connection] = set()
        self._peers: Counter[str] = Counter()
        self._gone = asyncio.Event()  # a connection ended
        self._listener: asyncio.Server | None = None
        self._fair: FairListener | None = None
        self._adoptions: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0

    async def start(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        sock: socket.socket | None = None,
        shares: Shares | None = None,
        worker: int = 0,
    ) -> None:
        """Listen on host and port (0: any free one, see `port`), or on a bound socket.

        shares: the socket listens already and is shared with other workers; this one is number `worker`.
        """
        self.loop = asyncio.get_running_loop()
        self._tick()
        if sock is None:
            sock = bind(host, port)
        self.port = sock.getsockname()[1]
        if shares is not None:
            self._fair = FairListener(sock, shares, worker, self._take)
            return
        context = self._tls.context if self._tls else None
        self._listener = await self.loop.create_server(
            lambda: Connection(self),
            sock=sock,
            backlog=self.limits.backlog,
            ssl=context,
            ssl_handshake_timeout=self.limits.header_timeout_s if context else None,
            ssl_shutdown_timeout=self.limits.linger_s if context else None,
        )

    def _take(self, sock: socket.socket) -> None:
        task = self.loop.create_task(self._adopt(sock))
        self._adoptions.add(task)
        task.add_done_callback(self._adoptions.discard)

    async def _adopt(self, sock: socket.socket) -> None:
        context = self._tls.context if self._tls else None
        try:
            await self.loop.connect_accepted_socket(
                lambda: Connection(self),
                sock,
                ssl=context,
                ssl_handshake_timeout=self.limits.header_timeout_s if context else None,
                ssl_shutdown_timeout=self.limits.linger_s if context else None,
            )
        except OSError as error:  # a failed handshake, or the peer left
            log.debug("connection ended before its first request: %s", error)
            sock.close()
            self._count()

    def _count(self) -> None:
        if self._fair is not None:
            self._fair.update(len(self._connections))

    async def stop(self, grace_s: float = 30) -> None:
        """Accept no more, let running requests finish for `grace_s`, then cut them off."""
        self.closing = True
        if self._listener is not None:
            self._listener.close()
        if self._fair is not None:
            self._fair.close()
        if grace_s > 0:
            # Requests that are in the socket buffers already were sent to a server that was up: let them be read.
            await asyncio.sleep(min(_LAST_CALL_S, grace_s))
        for connection in list(self._connections):
            connection.stop()
        deadline = self.loop.time() + grace_s
        while self._connections and self.loop.time() < deadline:
            self._gone.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), deadline - self.loop.time())
        left = [connection for connection in self._connections if connection.busy]
        if left:
            log.warning("%d requests were still running after %g s and were cut off", len(left), grace_s)
        tasks = [connection.task for connection in self._connections if connection.task is not None]
        for connection in list(self._connections):
            connection.abort()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        if self._timer is not None:
            self._timer.cancel()
        for callback in self.on_tick:
            callback()

    @property
    def connections(self) -> int:
        return len(self._connections)

    # ---- for connections

    def admit(self, connection: Connection) -> bool:
        """Register a connection. False: there are too many of all or of this peer."""
        self._connections.add(connection)
        peer = connection.peer
        self._peers[peer] += 1
        limit = self.limits.max_connections_per_peer
        return len(self._connections) <= self.limits.max_connections and not (limit and self._peers[peer] > limit)

    def forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._count()
        self._gone.set()
        self._peers[connection.peer] -= 1
        if self._peers[connection.peer] <= 0:
            del self._peers[connection.peer]

    def failure(self, request: Request, error: BaseException) -> Response:
        """The answer to a request that failed after its handler returned (the first read of a body), or in it."""
        known = isinstance(error, OSError)
        log.error("%s %s failed: %s", request.method, request.raw_path, error, exc_info=None if known else error)
        return self.application.failure(request, error)

    def refusal(self, error: BadRequest) -> Response:
        """The answer to bytes that never became a request."""
        return self.application.refusal(error)

    # ---- clock

    def _tick(self) -> None:
        self.common_headers = f"Date: {formatdate(self._clock(), usegmt=True)}\r\nServer: {self._server_name}\r\n"
        now = self.loop.time()
        self.sweep(now)
        self._ticks += 1
        if self._tls is not None and self._ticks % 10 == 0:
            self._tls.refresh()
        for callback in self.on_tick:
            try:
                callback()
            except Exception:
                log.exception("a periodic job failed")
        # Aim at the beginning of the next second, so that Date is never late by more than the loop is; but look at
        # short time-outs (tests, strict set-ups) more often.
        shortest = min(self.limits[2:7])
        pause = min(1.0 - self._clock() % 1.0, max(0.02, shortest / 4))
        self._timer = self.loop.call_later(max(pause, 0.01), self._tick)

    def sweep(self, now: float) -> None:
        """Enforce time-outs as of `now` (loop time). One pass per second is cheaper than a timer per request."""
        for connection in list(self._connections):
            if connection.deadline <= now:
                connection.check(now)


def bind(host: str, port: int, *, reuse_port: bool = False) -> socket.socket:
    """A bound socket that doesn't listen yet. Raises ConfigError naming the address."""
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
