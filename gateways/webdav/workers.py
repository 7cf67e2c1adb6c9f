# SPDX-License-Identifier: Apache-2.0
"""Server processes: one in place, or a parent that keeps N workers alive, each with a SO_REUSEPORT socket of its own.

The parent never runs a loop or opens a volume, so forking from it is clean at any time. Workers agree through the
volume (locks) and a key made before the fork (Digest). They notice the parent's end by a pipe.
Source: spec webdav §19; design §7.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

from core.errors import ConfigError, SluiceError
from gateways.webdav.server import Application, Limits, Server, bind
from gateways.webdav.tls import ReloadingContext

log = logging.getLogger("sluice.webdav.workers")

#: A worker that lived longer failed by accident and is replaced at once; others wait longer each time.
_STABLE_S: Final = 10.0
_BACKOFF_S: Final = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Opens what the application needs on the worker's loop, yields it, closes everything afterwards. Gets its number.
BuildApp = Callable[[int], AbstractAsyncContextManager[Application]]


class Options(NamedTuple):
    limits: Limits = Limits()
    certificate: str | None = None
    key: str | None = None
    grace_s: float = 30


def serve(
    build_app: BuildApp, host: str, port: int, workers: int, options: Options, *, on_ready: Callable[[int], None]
) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Call from the main thread, before any loop or thread exists."""
    if workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")
    if options.certificate:
        ReloadingContext(options.certificate, options.key or options.certificate)  # fail before forking
    # A socket that never listens keeps the port for all workers, and tells which one was free.
    keeper = bind(host, port, reuse_port=workers > 1)
    port = keeper.getsockname()[1]
    try:
        if workers == 1:
            return _run(build_app, 0, keeper, options, -1, lambda: on_ready(port))
        return _Parent(build_app, host, port, workers, options, on_ready).run()
    finally:
        keeper.close()


def _run(
    build_app: BuildApp, number: int, sock: socket.socket, options: Options, parent_fd: int, ready: Callable[[], Any]
) -> int:
    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def parent_gone() -> None:
            loop.remove_reader(parent_fd)
            stop.set()

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stop.set)
        if parent_fd >= 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent says when
            loop.add_reader(parent_fd, parent_gone)
        tls = ReloadingContext(options.certificate, options.key or options.certificate) if options.certificate else None
        async with build_app(number) as application:
            server = Server(application, limits=options.limits, tls=tls)
            await server.start(sock=sock)
            ready()
            await stop.wait()
            await server.stop(options.grace_s)

    try:
        _on_loop(main())
    except (SluiceError, OSError) as error:
        log.error("the WebDAV server can't start: %s", error)
        return 1
    return 0


def _on_loop(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not on every platform
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)


class _Child:
    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.started = 0.0
        self.failures = 0
        self.restart_at: float | None = 0.0
        self.ready_fd = -1
        self.ready = False


class _Parent:
    """Forks, waits, restarts, forwards signals."""

    def __init__(
        self, build_app: BuildApp, host: str, port: int, workers: int, options: Options,
        on_ready: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._build_app = build_app
        self._where = (host, port)
        self._options = options
        self._on_ready: Callable[[int], None] | None = on_ready
        self._children = [_Child(number) for number in range(workers)]
        self._alive_read, self._alive_write = os.pipe()
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        wake, wake_write = socket.socketpair()
        wake.setblocking(False)
        wake_write.setblocking(False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        try:
            self._loop(wake)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            for each in (wake, wake_write):
                each.close()
            os.close(self._alive_read)
            os.close(self._alive_write)
        return self._status

    def _loop(self, wake: socket.socket) -> None:
        while True:
            now = time.monotonic()
            for child in self._children:
                if not self._stopping and child.restart_at is not None and child.restart_at <= now:
                    self._start(child)
            if self._stopping and not any(child.pid for child in self._children):
                return
            due = [child.restart_at for child in self._children if child.restart_at is not None]
            timeout = None if self._stopping or not due else max(0.0, min(due) - now)
            waiting = {child.ready_fd: child for child in self._children if child.ready_fd >= 0}
            readable, _, _ = select.select([wake.fileno(), *waiting], [], [], timeout)
            for each in readable:
                if each == wake.fileno():
                    with contextlib.suppress(BlockingIOError):
                        signals = wake.recv(4096)
                        if signal.SIGTERM in signals or signal.SIGINT in signals:
                            self._stop("asked to end")
                else:
                    self._take_ready(waiting[each])
            self._reap()

    def _start(self, child: _Child) -> None:
        ready_read, ready_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._become(child.number, ready_write)
        os.close(ready_write)
        child.pid, child.started, child.restart_at, child.ready_fd = pid, time.monotonic(), None, ready_read

    def _become(self, number: int, ready_fd: int) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for each in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(each, signal.SIG_DFL)
            os.close(self._alive_write)
            sock = bind(*self._where, reuse_port=True)
            status = _run(
                self._build_app, number, sock, self._options, self._alive_read, lambda: os.write(ready_fd, b"r")
            )
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
                logging.shutdown()
            os._exit(status)  # never return into the parent's stack

    def _take_ready(self, child: _Child) -> None:
        came = os.read(child.ready_fd, 1)
        os.close(child.ready_fd)
        child.ready_fd = -1
        child.ready = child.ready or bool(came)
        if self._on_ready is not None and all(each.ready for each in self._children):
            self._on_ready(self._where[1])
            self._on_ready = None

    def _reap(self) -> None:
        for child in self._children:
            if not child.pid:
                continue
            try:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = child.pid, 0
            if pid:
                self._ended(child, os.waitstatus_to_exitcode(status))

    def _ended(self, child: _Child, code: int) -> None:
        pid, child.pid = child.pid, 0
        if child.ready_fd >= 0:
            self._take_ready(child)
        if self._stopping:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if not child.ready:
            log.error("worker %d (pid %d) %s before it was ready; the server stops", child.number, pid, how)
            self._status = 1
            self._stop("a failed start")
            return
        child.failures = child.failures + 1 if time.monotonic() - child.started < _STABLE_S else 0
        delay = _BACKOFF_S[min(child.failures, len(_BACKOFF_S) - 1)]
        child.restart_at = time.monotonic() + delay
        log.error("worker %d (pid %d) %s; another one starts in %.1f s", child.number, pid, how, delay)

    def _stop(self, why: str) -> None:
        again, self._stopping = self._stopping, True
        log.info("%s: stopping %d workers", why, len(self._children))
        for child in self._children:
            child.restart_at = None
            if child.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.pid, signal.SIGKILL if again else signal.SIGTERM)
