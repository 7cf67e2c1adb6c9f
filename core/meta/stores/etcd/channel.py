# SPDX-License-Identifier: Apache-2.0
"""One HTTP/2 connection to one server, on asyncio: unary gRPC calls, any number at a time. Rules are in `http2`.

A call ends with bytes, `RpcError` (the server's word) or `Lost` (no word).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, cast

from core.meta.stores.etcd import http2

#: A server that can be reached takes the connection within milliseconds.
CONNECT_TIMEOUT_S: Final = 3.0
#: A system call per ping would be a third of what a call costs.
_ACK_DELAY_S: Final = 0.005


class RpcError(Exception):
    """The server's refusal: gRPC status and text. processed: False if it says that it did nothing."""

    def __init__(self, status: int, details: str, processed: bool = True) -> None:
        super().__init__(details)
        self.status = status
        self.details = details
        self.processed = processed


class Lost(Exception):
    """No answer. sent: the request was on its way, so it may have been carried out."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.sent = sent


class Channel(asyncio.Protocol):
    """Made by `connect`. usable: new calls may begin."""

    def __init__(self, authority: str, scheme: str) -> None:
        self._codec = http2.Http2Client()
        self._fixed = ((b":method", b"POST"), (b":scheme", scheme.encode()), (b":authority", authority.encode()))
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport | None = None
        self._blocks: dict[tuple[str, str, float], bytes] = {}
        self._writable = asyncio.Event()
        self._retired = False
        self._later: asyncio.TimerHandle | None = None

    @classmethod
    async def connect(cls, host: str, port: int, tls: ssl.SSLContext | None, server_name: str) -> Channel:
        """Lost(sent=False) says why not."""
        loop = asyncio.get_running_loop()
        shown = f"[{host}]" if ":" in host else host
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, channel = await loop.create_connection(
                    lambda: cls(f"{server_name or shown}:{port}", "https" if tls else "http"),
                    host,
                    port,
                    ssl=tls,
                    server_hostname=(server_name or host) if tls else None,
                )
        except TimeoutError:
            raise Lost(f"no connection within {CONNECT_TIMEOUT_S:.0f} s", sent=False) from None
        except ssl.SSLCertVerificationError as e:
            raise Lost(f"its certificate isn't trusted: {e.verify_message}", sent=False) from e
        except ssl.SSLError as e:
            raise Lost(f"TLS handshake failed: {e.reason or e}", sent=False) from e
        except OSError as e:
            raise Lost(f"{e.strerror or e}", sent=False) from e
        return channel

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._retired and self._codec.usable

    async def call(self, path: str, message: bytes, *, timeout_s: float, token: str = "") -> bytes:
        """One call. Cancelling it leaves open whether the server carries it out."""
        if not self._writable.is_set():
            await self._writable.wait()
        if not self.usable:
            raise Lost("the connection was closed", sent=False)
        stream = self._codec.call(self._header_block(path, token, timeout_s), message)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[stream] = future
        self._flush()
        # The server's own deadline comes first. A timer by hand: `asyncio.timeout` takes three times as long.
        late = asyncio.get_running_loop().call_later(timeout_s + 1, self._give_up, future, timeout_s)
        try:
            return await future
        finally:
            late.cancel()
            if self._waiting.pop(stream, None) is not None and not future.done():
                self._codec.cancel(stream)
                self._flush()
            self._close_if_idle()

    def _give_up(self, future: asyncio.Future[bytes], timeout_s: float) -> None:
        """Whoever doesn't answer in time may never do so again: the next call gets a new connection."""
        self._retired = True
        if not future.done():
            future.set_exception(Lost(f"no answer within {timeout_s:.0f} s", sent=True))

    def _header_block(self, path: str, token: str, timeout_s: float) -> bytes:
        block = self._blocks.get((path, token, timeout_s))
        if block is None:
            headers = [
                *self._fixed,
                (b":path", path.encode()),
                (b"content-type", b"application/grpc"),
                (b"te", b"trailers"),
            ]
            headers.append((b"grpc-timeout", b"%dm" % int(timeout_s * 1000)))
            if token:
                headers.append((b"token", token.encode()))
            if len(self._blocks) > 32:  # tokens change
                self._blocks.clear()
            block = self._blocks[path, token, timeout_s] = http2.header_block(headers)
        return block

    def _flush(self) -> None:
        if self._codec.to_send and self._transport is not None:
            data, self._codec.to_send, self._codec.more_to_send = b"".join(self._codec.to_send), [], False
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._fail("the connection was closed")

    def _close_if_idle(self) -> None:
        if not self.usable and not self._waiting and self._transport is not None:
            self._transport.close()

    def _fail(self, reason: str) -> None:
        self._transport = None
        self._writable.set()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(Lost(reason, sent=True))

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is of no class of asyncio
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._writable.set()
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._codec.receive(data)
        except http2.ProtocolError as e:
            if self._transport is not None:
                self._transport.abort()
            self._fail(f"no HTTP/2: {e}")
            return
        for stream, status, text, body, processed in answers:
            future = self._waiting.pop(stream, None)
            if future is None or future.done():
                continue
            if status == http2.OK:
                future.set_result(body)
            else:
                future.set_exception(RpcError(status, text, processed))
        # Answers to pings and the like (Go's servers ping after every request) travel with the next call, or soon.
        if self._codec.to_send and self._later is None:
            self._later = asyncio.get_running_loop().call_later(_ACK_DELAY_S, self._flush_late)
        if self._codec.more_to_send:
            self._flush()
        self._close_if_idle()

    def _flush_late(self) -> None:
        self._later = None
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost ({exc or 'closed by the server'})")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()
