# SPDX-License-Identifier: Apache-2.0
"""Server processes: one in place, or N under a parent (`supervisor.py`), for one door or several over one volume.

Workers share nothing but the listening sockets (`accept.py`) and the counters (`metrics.py`): a worker that is killed
takes only its own connections along, and what waits to be accepted stays for the others.
Source: spec s3 §18 (one process per core behind one port), spec webdav §19, design §7.

Exit status: 0 after SIGTERM or SIGINT, 1 if a worker can't start. A second signal cuts requests off.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from core.errors import ConfigError, SluiceError
from gateways.http.accept import Shares
from gateways.http.access_log import AccessLog
from gateways.http.aiohttp_server import AiohttpServer
from gateways.http.messages import Application
from gateways.http.metrics import Metrics, WorkerMetrics
from gateways.http.server import Limits, Server, bind
from gateways.http.supervisor import SAME_WISH_S, Supervisor
from gateways.http.tls import ReloadingContext

log = logging.getLogger("sluice.http.workers")


class Worker(NamedTuple):
    """What `build_app` learns about the process it runs in, and about its door."""

    number: int  # from 0
    workers: int
    metrics: WorkerMetrics
    all_metrics: Metrics  # for rendering /metrics


class Options(NamedTuple):
    """How to serve one door. http: "own" or "aiohttp". admin: host and port for `build_admin` (first worker)."""

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
    door: str = "s3"  # in the names of metrics


class Listener(NamedTuple):
    """Where one door is open. Two may not share an access log file."""

    host: str
    port: int
    options: Options = Options()


#: Opens what the application needs on the worker's loop, yields it, and closes everything afterwards.
BuildApp = Callable[[Worker], AbstractAsyncContextManager[Application]]
#: The same for several doors: gets one `Worker` and yields one application per listener, in their order.
BuildApps = Callable[[Sequence[Worker]], AbstractAsyncContextManager[Sequence[Application]]]
BuildAdmin = Callable[[Worker, Application], Application]


def serve(
    build_app: BuildApp,
    host: str,
    port: int,
    workers: int = 1,
    options: Options = Options(),  # noqa: B008 - immutable
    *,
    build_admin: BuildAdmin | None = None,
    on_ready: Callable[[int], None] | None = None,
) -> int:
    """One door: see `serve_all`. on_ready gets its port."""

    @asynccontextmanager
    async def build(each: Sequence[Worker]) -> AsyncIterator[Sequence[Application]]:
        async with build_app(each[0]) as application:
            yield [application]

    def ready(ports: list[int]) -> None:
        if on_ready is not None:
            on_ready(ports[0])

    return serve_all(build, [Listener(host, port, options)], workers, build_admin=build_admin, on_ready=ready)


def serve_all(
    build_apps: BuildApps,
    listeners: Sequence[Listener],
    workers: int = 1,
    *,
    build_admin: BuildAdmin | None = None,
    on_ready: Callable[[list[int]], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    on_ready gets the ports once every worker accepts. Raises ConfigError for an address, TLS file or log that can't
    be used. Must be called from the main thread, without a running loop, before anything has started threads.
    """
    if workers < 1:
        raise ConfigError(f"--workers {workers}: at least one is needed")
    with contextlib.ExitStack() as stack:
        doors = [_Door(listener, workers, stack) for listener in listeners]
        admin = None
        where = listeners[0].options.admin
        if where is not None and build_admin is not None:
            admin = bind(*where)
            stack.callback(admin.close)
        job = _Job(build_apps, build_admin, doors, admin, workers)
        _allow_open_files(sum(door.options.limits.max_connections for door in doors))

        def ready() -> None:
            if on_ready is not None:
                on_ready([door.sock.getsockname()[1] for door in doors])

        if workers == 1:
            return job.run(0, -1, ready)
        for door in doors:
            door.share(workers)
        return Supervisor(workers, job.run, gone=job.gone, stopping=job.close, all_ready=ready).run()


#: Beside connections: blocks that are being sent, databases, logs.
_OTHER_FILES = 1000


def _allow_open_files(connections: int) -> None:
    """As many descriptors as connections may come; 1024, what many systems begin with, would be the true limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft < wanted:
        log.warning(
            "only %d files may be open, %d connections need %d; raise the limit (ulimit -Hn, LimitNOFILE=)",
            soft, connections, wanted,
        )  # fmt: skip


class _Door:
    """One listener, made before the fork."""

    def __init__(self, listener: Listener, workers: int, stack: contextlib.ExitStack) -> None:
        self.options = options = listener.options
        if options.http not in ("own", "aiohttp"):
            raise ConfigError(f"--http {options.http}: choose own or aiohttp")
        self.context()  # fail before forking
        if options.access_log:
            AccessLog(options.access_log).close()
        self.sock: socket.socket = bind(listener.host, listener.port, reuse_port=options.reuse_port)
        stack.callback(self.sock.close)
        self.metrics = Metrics(workers, options.door)
        self.shares: Shares | None = None

    def share(self, workers: int) -> None:
        self.sock.listen(self.options.limits.backlog)
        self.shares = Shares(workers)

    def context(self) -> ReloadingContext | None:
        options = self.options
        if not options.tls_certificate:
            return None
        return ReloadingContext(options.tls_certificate, options.tls_key or options.tls_certificate)

    async def start(
        self, application: Application, worker: Worker, index: int, stack: AsyncExitStack
    ) -> Server | AiohttpServer:
        options = self.options
        access = AccessLog(options.access_log, json_lines=options.access_log_json) if options.access_log else None
        if access:
            stack.callback(access.close)
        observer = access.observe if access else None
        if options.http == "aiohttp":
            other = AiohttpServer(
                application, limits=options.limits, tls=self.context(), observer=observer,
                server_name=options.server_name,
            )  # fmt: skip
            await other.start(sock=self.sock)
            return other
        server = Server(
            application, limits=options.limits, tls=self.context(), observer=observer, server_name=options.server_name
        )
        if access:
            server.on_tick.append(access.flush)
        server.on_tick.append(lambda: worker.metrics.set_connections(server.connections))
        await server.start(sock=self.sock, shares=self.shares, worker=index)
        return server


class _Job(NamedTuple):
    """Everything a worker needs, made before the fork."""

    build_apps: BuildApps
    build_admin: BuildAdmin | None
    doors: list[_Door]
    admin_sock: socket.socket | None
    workers: int

    def gone(self, index: int) -> None:
        for door in self.doors:
            if door.shares is not None:
                door.shares.gone(index)
            door.metrics.gone(index)

    def close(self) -> None:
        for door in self.doors:
            door.sock.close()

    def run(self, index: int, parent_fd: int, ready: Callable[[], object]) -> int:
        try:
            _run(self._serve(index, parent_fd, ready))
        except (SluiceError, OSError) as error:
            log.error("the server can't start: %s", error)
            return 1
        return 0

    async def _serve(self, index: int, parent_fd: int, ready: Callable[[], object]) -> None:
        doors = self.doors
        each = [Worker(index, self.workers, door.metrics.worker(index), door.metrics) for door in doors]
        stop = _stop_signals(parent_fd)
        async with AsyncExitStack() as stack:
            applications = await stack.enter_async_context(self.build_apps(each))
            servers = [
                await door.start(application, worker, index, stack)
                for door, application, worker in zip(doors, applications, each, strict=True)
            ]
            admin = None
            if self.admin_sock is not None and self.build_admin is not None and index == 0:
                admin = Server(self.build_admin(each[0], applications[0]), server_name=doors[0].options.server_name)
                await admin.start(sock=self.admin_sock.dup())
            # What start-up made stays; without this each full collection would walk it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 20, 50)
            ready()
            await stop.wait()
            stops = [server.stop(door.options.grace_s) for server, door in zip(servers, doors, strict=True)]
            await asyncio.gather(*stops)
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
        if stop.is_set() and loop.time() - asked < SAME_WISH_S:
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
