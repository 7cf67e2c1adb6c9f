# SPDX-License-Identifier: Apache-2.0
"""Gateway processes: one in place, or a parent that keeps N workers alive on one listening socket.

The parent binds, forks and watches; it never runs a loop, opens a volume or starts a thread, so a fork from it is
clean at any time and a new worker costs milliseconds. Workers share nothing but the socket (`http_accept.py`) and the
counters (`metrics.py`): a worker that is killed takes only its own connections along, and what waits to be accepted
stays for the others. Workers notice the parent's death by a pipe and stop too.
Source: spec s3 §18 (one process per core behind one port), design §7.

Exit status of `serve`: 0 after SIGTERM or SIGINT, 1 if a worker can't start. A second signal cuts requests off.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from core.errors import ConfigError, SluiceError
from gateways.s3.access_log import AccessLog
from gateways.s3.http import Application
from gateways.s3.http_accept import Shares
from gateways.s3.http_tls import ReloadingContext
from gateways.s3.metrics import Metrics, WorkerMetrics
from gateways.s3.server import Limits, Server, bind
from gateways.s3.server_aiohttp import AiohttpServer

log = logging.getLogger("sluice.s3.workers")

#: A worker that lived longer than this failed by accident and is replaced at once; others wait longer each time.
_STABLE_S = 10.0
_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Worker(NamedTuple):
    """What `build_app` learns about the process it runs in."""

    number: int  # from 0
    workers: int
    metrics: WorkerMetrics
    all_metrics: Metrics  # for rendering /metrics


#: Signals closer together than this are one.
_SAME_WISH_S = 0.5

#: Opens what the application needs on the worker's loop, yields it, and closes everything afterwards.
BuildApp = Callable[[Worker], AbstractAsyncContextManager[Application]]


class Options(NamedTuple):
    """How to serve. http: "own" or "aiohttp". admin: host and port for `build_admin` (first worker), or None."""

    http: str = "own"
    limits: Limits = Limits()
    tls_certificate: str | None = None
    tls_key: str | None = None
    access_log: str | None = None
    access_log_json: bool = False
    grace_s: float = 30
    reuse_port: bool = False  # lets a second gateway listen on the same address, for upgrades without a gap
    admin: tuple[str, int] | None = None
    server_name: str = "SluiceFS"


def serve(
    build_app: BuildApp,
    host: str,
    port: int,
    workers: int = 1,
    options: Options = Options(),  # noqa: B008 - immutable
    *,
    build_admin: Callable[[Worker, Application], Application] | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    on_ready gets the port once every worker accepts. Raises ConfigError for an address, TLS file or log that can't
    be used. Must be called from the main thread, without a running loop, before anything has started threads.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")
    if options.http not in ("own", "aiohttp"):
        raise ConfigError(f"--http {options.http}: choose own or aiohttp")
    if options.tls_certificate:
        ReloadingContext(options.tls_certificate, options.tls_key or options.tls_certificate)  # fail before forking
    if options.access_log:
        AccessLog(options.access_log).close()
    sock = bind(host, port, reuse_port=options.reuse_port)
    admin = bind(*options.admin) if options.admin and build_admin else None
    job = _Job(build_app, build_admin, options, sock, admin, Metrics(workers), workers)
    try:
        if workers == 1:
            return job.run(0, None, -1, lambda: on_ready(sock.getsockname()[1]) if on_ready else None)
        sock.listen(options.limits.backlog)
        return _Parent(job, on_ready).run()
    finally:
        sock.close()
        if admin is not None:
            admin.close()


class _Job(NamedTuple):
    """Everything a worker needs, made before the fork."""

    build_app: BuildApp
    build_admin: Callable[[Worker, Application], Application] | None
    options: Options
    sock: socket.socket
    admin_sock: socket.socket | None
    metrics: Metrics
    workers: int

    def run(self, index: int, shares: Shares | None, parent_fd: int, ready: Callable[[], object]) -> int:
        try:
            _run(self._serve(index, shares, parent_fd, ready))
        except (SluiceError, OSError) as error:
            log.error("the gateway can't start: %s", error)
            return 1
        return 0

    async def _serve(self, index: int, shares: Shares | None, parent_fd: int, ready: Callable[[], object]) -> None:
        options = self.options
        worker = Worker(index, self.workers, self.metrics.worker(index), self.metrics)
        stop = _stop_signals(parent_fd)
        access = AccessLog(options.access_log, json_lines=options.access_log_json) if options.access_log else None
        tls = None
        if options.tls_certificate:
            tls = ReloadingContext(options.tls_certificate, options.tls_key or options.tls_certificate)
        observer = access.observe if access else None
        async with contextlib.AsyncExitStack() as stack:
            if access:
                stack.callback(access.close)
            application = await stack.enter_async_context(self.build_app(worker))
            server: Server | AiohttpServer
            if options.http == "aiohttp":
                server = AiohttpServer(
                    application, limits=options.limits, tls=tls, observer=observer, server_name=options.server_name
                )
                await server.start(sock=self.sock)
            else:
                server = Server(
                    application, limits=options.limits, tls=tls, observer=observer, server_name=options.server_name
                )
                if access:
                    server.on_tick.append(access.flush)
                own = server
                server.on_tick.append(lambda: worker.metrics.set_connections(own.connections))
                await server.start(sock=self.sock, shares=shares, worker=index)
            admin = None
            if self.admin_sock is not None and self.build_admin is not None and index == 0:
                admin = Server(self.build_admin(worker, application), server_name=options.server_name)
                await admin.start(sock=self.admin_sock.dup())
            # What start-up made stays; without this each full collection would walk it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            ready()
            await stop.wait()
            await server.stop(options.grace_s)
            if admin is not None:
                await admin.stop(0)


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not on Windows, optional elsewhere
        asyncio.run(main)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)


def _stop_signals(parent_fd: int) -> asyncio.Event:
    """Set by SIGTERM, SIGINT or the parent's end; without a parent, a second signal ends the process."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    asked = 0.0

    def on_signal() -> None:
        nonlocal asked
        # timeout(1) signals its child and then the whole group: one wish, said twice.
        if stop.is_set() and loop.time() - asked < _SAME_WISH_S:
            return
        if not stop.is_set():
            asked = loop.time()
        # systemd signals every process of a service, and then the parent says it again: only the parent knows
        # whether it was asked twice.
        if stop.is_set() and parent_fd < 0:
            log.warning("second signal: running requests are cut off")
            os._exit(0)
        stop.set()

    def on_parent_gone() -> None:
        loop.remove_reader(parent_fd)
        log.warning("the parent process is gone; this worker stops too")
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    if parent_fd < 0:
        loop.add_signal_handler(signal.SIGINT, on_signal)
    else:
        # Ctrl-C reaches the whole group; the parent decides and sends SIGTERM.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_reader(parent_fd, on_parent_gone)
    return stop


class _Child:
    """A worker as its parent sees it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid = 0
        self.started = 0.0
        self.failures = 0  # deaths in a row, each within _STABLE_S
        self.restart_at: float | None = 0.0
        self.ready_fd = -1
        self.ready = False


class _Parent:
    """Forks, waits, restarts, forwards signals."""

    def __init__(self, job: _Job, on_ready: Callable[[int], None] | None) -> None:
        self._job = job
        self._on_ready = on_ready
        self._shares = Shares(job.workers)
        self._children = [_Child(index) for index in range(job.workers)]
        self._selector = selectors.DefaultSelector()
        self._alive_read, self._alive_write = os.pipe()
        self._stopping = False
        self._asked = 0.0
        self._status = 0

    def run(self) -> int:
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        self._selector.register(wake_read, selectors.EVENT_READ)
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        # The handlers do nothing: the wake-up socket carries the signal numbers into the loop below.
        before = {number: signal.signal(number, lambda *_: None) for number in handled}
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        try:
            self._loop(wake_read)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake_read.close()
            wake_write.close()
            self._selector.close()
            os.close(self._alive_read)
            os.close(self._alive_write)
        return self._status

    def _loop(self, wake: socket.socket) -> None:
        while True:
            now = time.monotonic()
            for child in self._children:
                if child.restart_at is not None and child.restart_at <= now and not self._stopping:
                    self._start(child)
            running = [child for child in self._children if child.pid]
            if self._stopping and not running:
                return
            due = [child.restart_at for child in self._children if child.restart_at is not None]
            timeout = None if self._stopping or not due else max(0.0, min(due) - now)
            for key, _ in self._selector.select(timeout):
                if key.fileobj is wake:
                    with contextlib.suppress(BlockingIOError):
                        for number in wake.recv(4096):
                            if number in (signal.SIGTERM, signal.SIGINT):
                                self._stop(signal.Signals(number).name)
                else:
                    self._take_ready(key.data)
            self._reap()

    def _start(self, child: _Child) -> None:
        ready_read, ready_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            self._become_worker(child.index, ready_write)
        os.close(ready_write)
        child.pid = pid
        child.started = time.monotonic()
        child.restart_at = None
        child.ready_fd = ready_read
        self._selector.register(ready_read, selectors.EVENT_READ, child)

    def _become_worker(self, index: int, ready_fd: int) -> None:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            os.close(self._alive_write)
            for other in self._children:
                if other.ready_fd >= 0:
                    os.close(other.ready_fd)
            status = self._job.run(index, self._shares, self._alive_read, lambda: os.write(ready_fd, b"r"))
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
        self._selector.unregister(child.ready_fd)
        os.close(child.ready_fd)
        child.ready_fd = -1
        if came and not child.ready:
            child.ready = True
            if self._on_ready is not None and all(each.ready for each in self._children):
                self._on_ready(self._job.sock.getsockname()[1])
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
        self._shares.gone(child.index)
        self._job.metrics.gone(child.index)
        if child.ready_fd >= 0:
            self._take_ready(child)
        if self._stopping:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if not child.ready:
            log.error("worker %d (pid %d) %s before it was ready; the gateway stops", child.index, pid, how)
            self._status = 1
            self._stop("a failed start")
            return
        lived = time.monotonic() - child.started
        child.failures = child.failures + 1 if lived < _STABLE_S else 0
        delay = _BACKOFF_S[min(child.failures, len(_BACKOFF_S) - 1)]
        child.restart_at = time.monotonic() + delay
        log.error("worker %d (pid %d) %s; another one starts in %.1f s", child.index, pid, how, delay)

    def _stop(self, why: str) -> None:
        again = self._stopping
        if again and time.monotonic() - self._asked < _SAME_WISH_S:
            return
        if again:
            log.warning("second signal (%s): running requests are cut off", why)
        else:
            log.info("%s: stopping %d workers", why, self._job.workers)
            # Else new connections would be accepted by nobody and hang until the last worker has ended.
            self._job.sock.close()
            self._on_ready = None
            self._asked = time.monotonic()
        self._stopping = True
        for child in self._children:
            child.restart_at = None
            if child.pid:
                try:
                    os.kill(child.pid, signal.SIGKILL if again else signal.SIGTERM)
                except OSError as error:
                    if error.errno != errno.ESRCH:
                        raise
