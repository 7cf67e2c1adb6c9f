# SPDX-License-Identifier: Apache-2.0
"""Requests to one origin over kept connections: connect, TLS, proxies, reuse, a bound on their number.

Source: spec data-path §4.1 (time-outs, DNS cache, proxies from the environment); RFC 9110 §9.3.6 (CONNECT).
"""

from __future__ import annotations

import asyncio
import base64
import random
import socket
import ssl
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Mapping
from typing import Any

from core.errors import ConfigError
from core.object.buffers import Views
from core.object.http.codec import Response
from core.object.http.connection import Connection, ExchangeFailed

CONNECT_TIMEOUT_S = 10.0
TLS_TIMEOUT_S = 20.0
# Servers close idle connections after 5–60 s; younger ones are taken without a doubt, stale ones cost one retry.
KEEP_S = 30.0
DNS_KEEP_S = 60.0


class Client:
    """`Client("https", "host", 443)`. Belongs to the event loop that uses it; a new loop gets new connections.

    request: one exchange. A kept connection that turns out to be closed before any byte of an answer is replaced and
    the request sent again, so requests must be idempotent (whole-object PUT, GET, HEAD and DELETE are).
    Raises `ExchangeFailed`, `OSError` or `ssl.SSLError`.
    """

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        max_connections: int = 256,
        idle_timeout_s: float = 30.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.scheme, self.host, self.port = scheme, host, port
        self._tls = (tls or ssl.create_default_context()) if scheme == "https" else None
        self._max = max_connections
        self._timeout_s = idle_timeout_s
        self._proxy = find_proxy(scheme, host, port, environ)
        # Through a proxy, a plain request names the whole URL and carries the proxy's credentials.
        plain_proxy = self._proxy is not None and self._tls is None
        self._target_prefix = f"http://{self.authority}" if plain_proxy else ""
        self._proxy_line = self._proxy.authorization if self._proxy is not None and plain_proxy else ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    @property
    def authority(self) -> str:
        """Value of the Host field."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"

    def _reset(self) -> None:
        self._idle: deque[Connection] = deque()
        self._open = 0
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._addresses: list[tuple[Any, ...]] = []
        self._resolved_at = 0.0

    async def request(self, method: str, target: str, headers: str, parts: Views, size: int) -> Response:
        """headers: complete lines, each with CR LF, without the last empty one."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._reset()
        head = f"{method} {self._target_prefix}{target} HTTP/1.1\r\n{headers}{self._proxy_line}\r\n".encode("latin-1")
        while True:
            connection, kept = await self._acquire(loop)
            try:
                return await connection.exchange(method, head, parts, size)
            except ExchangeFailed as error:
                if not (kept and error.untouched):
                    raise
            finally:
                self._release(loop, connection)

    async def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._open -= len(self._idle)
        self._idle.clear()

    # ---- keeping connections

    async def _acquire(self, loop: asyncio.AbstractEventLoop) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others may grow old and be closed
            if connection.usable and loop.time() - connection.idle_since < KEEP_S:
                return connection, True
            connection.abort()
            self._open -= 1
        if self._open >= self._max:
            waiter: asyncio.Future[Connection | None] = loop.create_future()
            self._waiting.append(waiter)
            try:
                handed = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    handed = waiter.result()
                    if handed is not None:
                        self._release(loop, handed)
                    else:
                        self._free_slot()
                raise
            if handed is not None:
                return handed, True
        else:
            self._open += 1
        try:
            return await self._connect(loop), False
        except BaseException:
            self._free_slot()
            raise

    def _release(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        if not connection.usable:
            self._free_slot()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        while self._idle and loop.time() - self._idle[0].idle_since > KEEP_S:
            self._idle.popleft().abort()
            self._open -= 1

    def _free_slot(self) -> None:
        """One connection less; whoever waits for one may open it."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._open -= 1

    # ---- connecting

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        where = f"{self._proxy.host}:{self._proxy.port} (proxy)" if self._proxy else f"{self.host}:{self.port}"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                sock = await self._dial(loop)
        except TimeoutError:
            raise ExchangeFailed(f"no connection to {where} within {CONNECT_TIMEOUT_S:g} s") from None
        try:
            if self._proxy is not None and self._tls is not None:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await self._tunnel(loop, sock, self._proxy)
            _, connection = await loop.create_connection(
                lambda: Connection(loop, self._timeout_s),
                sock=sock,
                ssl=self._tls,
                server_hostname=self.host if self._tls else None,
                ssl_handshake_timeout=TLS_TIMEOUT_S if self._tls else None,
            )
        except BaseException:
            sock.close()
            raise
        return connection

    async def _dial(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        if not self._addresses or loop.time() - self._resolved_at > DNS_KEEP_S:
            host, port = (self._proxy.host, self._proxy.port) if self._proxy else (self.host, self.port)
            self._addresses = list(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            self._resolved_at = loop.time()
            random.shuffle(self._addresses)  # spreads load over the front ends behind one name
        last: OSError = OSError("no address")
        for family, kind, proto, _, address in list(self._addresses):
            sock = socket.socket(family, kind, proto)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                await loop.sock_connect(sock, address)
                return sock
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
        self._addresses = []
        raise last

    async def _tunnel(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, proxy: Proxy) -> None:
        name = f"{self.host}:{self.port}"
        ask = f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n{proxy.authorization}\r\n"
        await loop.sock_sendall(sock, ask.encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            # Byte-exact: what follows the head already belongs to TLS, but the server speaks only after us.
            more = await loop.sock_recv(sock, 4096)
            if not more or len(answer) > 16384:
                raise ExchangeFailed(f"the proxy {proxy.host}:{proxy.port} gave no answer to CONNECT {name}")
            answer += more
        status = answer[9:12].decode("latin-1")
        if not status.startswith("2"):
            advice = "; it wants a user and password in the proxy URL" if status == "407" else ""
            raise ExchangeFailed(f"the proxy {proxy.host}:{proxy.port} refused CONNECT {name} with {status}{advice}")


class Proxy:
    """Where a proxy listens, and the line that identifies us there (never shown)."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigError(
                f"the proxy of the environment (scheme {parts.scheme!r}) can't be used: only http:// proxies are "
                "supported; set NO_PROXY for the object store or another proxy"
            )
        self.host = parts.hostname
        self.port = parts.port or 80
        self.authorization = ""
        if parts.username:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self.authorization = f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def find_proxy(scheme: str, host: str, port: int, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """By http_proxy, https_proxy, all_proxy and no_proxy, as curl and Python read them."""
    if environ is None:
        proxies = urllib.request.getproxies_environment()
    else:
        names = {name.lower(): value for name, value in environ.items() if value}
        proxies = {name[:-6]: value for name, value in names.items() if name.endswith("_proxy")}
    url = proxies.get(scheme) or proxies.get("all")
    if not url or urllib.request.proxy_bypass_environment(f"{host}:{port}", proxies):  # type: ignore[attr-defined]
        return None
    return Proxy(url)
