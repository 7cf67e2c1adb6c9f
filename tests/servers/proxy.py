# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between a client and a server: far away, on a narrow link, or cut at a chosen byte.

`CuttingProxy` lives in the loop of a test and counts bytes: after `arm(up=n)` it forwards n more bytes to the server
and then resets both sides; `down=n` does the same to the answers. `DelayingProxy` and `LinkProxy` are processes of
their own (`python -m tests.servers.proxy LISTEN TARGET DELAY_MS [LATENCY_MS MIB_PER_S]`), so that they take no time
from the loop that is measured; threads, because the timers of an event loop have a resolution of a whole millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from tests.servers.process import Server


class CuttingProxy:
    """`async with CuttingProxy(port) as proxy: connect to proxy.port`. `up` and `down` count bytes so far."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.counted = {"up": 0, "down": 0}
        self._left: dict[str, int | None] = {"up": None, "down": None}
        self.cuts = 0

    async def __aenter__(self) -> CuttingProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def arm(self, *, up: int | None = None, down: int | None = None) -> None:
        """Cut after so many more bytes; the byte counts start again at 0."""
        self._left = {"up": up, "down": down}
        self.counted = {"up": 0, "down": 0}

    def cut(self) -> None:
        """Reset every connection now, and disarm."""
        self._left = {"up": None, "down": None}
        if self._writers:
            self.cuts += 1
        for writer in self._writers:
            # A reset, not an orderly end: what is on its way is lost, as in a crash.
            with contextlib.suppress(OSError):
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        for direction, source, sink in (("up", reader, far_writer), ("down", far_reader, writer)):
            task = asyncio.create_task(self._pump(direction, source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pump(self, direction: str, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                left = self._left[direction]
                if left is not None and left < len(data):
                    sink.write(data[:left])
                    with contextlib.suppress(OSError):
                        await sink.drain()
                    self.counted[direction] += left
                    self.cut()
                    return
                if left is not None:
                    self._left[direction] = left - len(data)
                self.counted[direction] += len(data)
                sink.write(data)
                await sink.drain()
        with contextlib.suppress(OSError):
            sink.close()
        self._writers.discard(sink)


class DelayingProxy(Server):
    """Every byte to the server arrives `delay_ms` later: one network round trip more."""

    def __init__(self, target: int, delay_ms: float) -> None:
        def command(port: int, folder: Path) -> list[str]:
            return [sys.executable, "-m", "tests.servers.proxy", str(port), str(target), str(delay_ms)]

        super().__init__(command, name="delaying proxy")


class LinkProxy(Server):
    """A link to a request-and-answer server: `latency_ms` per round trip, `mib_per_s` each way over all connections.

    An answer begins `latency_ms` after the server began it, and a new connection costs one more; then bytes pass at
    the link's rate (0 is no limit). So a request costs latency + size / rate, as it does far away, and no byte has to
    be held back for that. The bytes go from socket to socket inside the kernel (splice(2)).
    """

    def __init__(self, target: int, latency_ms: float, mib_per_s: float = 0) -> None:
        def command(port: int, folder: Path) -> list[str]:
            numbers = (port, target, 0, latency_ms, mib_per_s)
            return [sys.executable, "-m", "tests.servers.proxy", *map(str, numbers)]

        super().__init__(command, name="link proxy")


#: What a link that was idle may catch up, so that a sleep that lasted too long costs no rate.
_BURST_S = 0.005
_PIECE = 256 << 10
_PIPE = 1 << 20


class _Bandwidth:
    """One direction of a link: a token bucket, first come, first served."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, n: int) -> None:
        """Wait until n bytes have passed."""
        if not self._rate:
            return
        with self._lock:
            now = time.perf_counter()
            self._free_at = max(self._free_at, now - _BURST_S) + n / self._rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


class _Turn:
    """Whose turn it is on a connection: the first bytes after the other side's are late."""

    def __init__(self) -> None:
        self.asked = True


def _pass_on(
    source: socket.socket, sink: socket.socket, band: _Bandwidth, turn: _Turn, latency_s: float, *, answers: bool
) -> None:
    pipe_out, pipe_in = os.pipe()
    try:
        fcntl.fcntl(pipe_in, fcntl.F_SETPIPE_SZ, _PIPE)
        if not answers:
            time.sleep(latency_s)  # of the connection's own round trip
        while n := os.splice(source.fileno(), pipe_in, _PIECE):
            if not answers:
                turn.asked = True
            elif turn.asked:
                turn.asked = False
                time.sleep(latency_s)
            band.take(n)
            while n:
                n -= os.splice(pipe_out, sink.fileno(), n)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # One side is gone, perhaps with a reset: the other one hears of it in the same way.
        for sock in (source, sink):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(pipe_out)
        os.close(pipe_in)


def _serve_link(listen: int, target: int, latency_s: float, bytes_per_s: float) -> None:
    sys.setswitchinterval(0.0001)
    up, down = _Bandwidth(bytes_per_s), _Bandwidth(bytes_per_s)
    with socket.create_server(("127.0.0.1", listen), backlog=256) as server:
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", target))
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            turn = _Turn()
            for source, sink, band, answers in ((near, far, up, False), (far, near, down, True)):
                threading.Thread(
                    target=_pass_on,
                    args=(source, sink, band, turn, latency_s),
                    kwargs={"answers": answers},
                    daemon=True,
                ).start()


def _forward(source: socket.socket, sink: socket.socket, delay_s: float) -> None:
    pending: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def send() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = pending.get()
                wait = due - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)

    threading.Thread(target=send, daemon=True).start()
    try:
        while data := source.recv(1 << 16):
            pending.put((time.perf_counter() + delay_s, data))
    except OSError:
        pass
    pending.put((0.0, b""))


def _serve(listen: int, target: int, delay_s: float) -> None:
    sys.setswitchinterval(0.0001)
    with socket.create_server(("127.0.0.1", listen), backlog=256) as server:
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", target))
            except OSError:
                near.close()
                continue
            for sock in (near, far):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_forward, args=(near, far, delay_s), daemon=True).start()
            threading.Thread(target=_forward, args=(far, near, 0.0), daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) > 4:
        _serve_link(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[4]) / 1000, float(sys.argv[5]) * (1 << 20))
    else:
        _serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000)
