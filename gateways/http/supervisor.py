# SPDX-License-Identifier: Apache-2.0
"""A parent process that keeps N workers alive: forks, waits, restarts, forwards signals.

It never runs a loop, opens a volume or starts a thread, so a fork from it is clean at any time and a new worker costs
milliseconds. What a worker does is the caller's (`workers.py`). Workers notice the parent's end by a pipe.
Source: spec s3 §18 (one process per core behind one port), design §7.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

log = logging.getLogger("sluice.http.supervisor")

#: A worker that lived longer than this failed by accident and is replaced at once; others wait longer each time.
_STABLE_S = 10.0
_BACKOFF_S = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
#: Signals closer together than this are one.
SAME_WISH_S = 0.5


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


class Supervisor:
    """`run` returns the exit status once every worker has ended.

    work(index, parent_fd, ready): what a worker is, in the forked process; returns its exit status. It stops when
    `parent_fd` becomes readable or SIGTERM comes, and calls `ready` once. gone(index): a worker ended, clean up what
    it had in shared memory. stopping: no new connections, called once. all_ready: every worker is there.
    """

    def __init__(
        self, workers: int, work: Callable[[int, int, Callable[[], object]], int], *, gone: Callable[[int], None],
        stopping: Callable[[], None], all_ready: Callable[[], None],
    ) -> None:  # fmt: skip
        self._work = work
        self._gone = gone
        self._stopping_hook = stopping
        self._all_ready: Callable[[], None] | None = all_ready
        self._children = [_Child(index) for index in range(workers)]
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
            status = self._work(index, self._alive_read, lambda: os.write(ready_fd, b"r"))
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
            if self._all_ready is not None and all(each.ready for each in self._children):
                self._all_ready()
                self._all_ready = None

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
        self._gone(child.index)
        if child.ready_fd >= 0:
            self._take_ready(child)
        if self._stopping:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if not child.ready:
            log.error("worker %d (pid %d) %s before it was ready; the server stops", child.index, pid, how)
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
        if again and time.monotonic() - self._asked < SAME_WISH_S:
            return
        if again:
            log.warning("second signal (%s): running requests are cut off", why)
        else:
            log.info("%s: stopping %d workers", why, len(self._children))
            # Else new connections would be accepted by nobody and hang until the last worker has ended.
            self._stopping_hook()
            self._all_ready = None
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
