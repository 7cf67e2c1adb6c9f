# SPDX-License-Identifier: Apache-2.0
"""Accepting on a socket that several workers share, so that each gets its fair part of the connections.

Why not SO_REUSEPORT: the kernel then deals connections out by a hash of the addresses. With 2 clients and 2 workers one
worker idles half of the time; with 32 the split is often 20 to 12; and what waits in a killed worker's queue is lost.
On one shared queue a worker that has more connections than another leaves the next one to it for a moment.
If nobody takes it, the worker does: the wait is bounded, nothing depends on the others being alive.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import socket
from collections.abc import Callable

log = logging.getLogger("sluice.http.accept")

#: How long a busier worker steps aside: a few handlers' time, far below what a client notices at connect.
STEP_ASIDE_S = 0.002
#: The count of a worker that is not there.
_ABSENT = 2**62
#: Pause after running out of descriptors, instead of spinning on a socket that stays readable.
_EXHAUSTED_S = 0.1
#: Bound of what is taken from the queue at the end.
_LAST_ACCEPTS = 1024


class Shares:
    """Connections per worker in shared memory. Make it before forking."""

    def __init__(self, workers: int) -> None:
        self._memory = mmap.mmap(-1, workers * 8)
        self.counts = memoryview(self._memory).cast("Q")
        for worker in range(workers):
            self.counts[worker] = _ABSENT

    def gone(self, worker: int) -> None:
        self.counts[worker] = _ABSENT


class FairListener:
    """Calls `take` with each accepted connection of a listening socket."""

    def __init__(self, sock: socket.socket, shares: Shares, worker: int, take: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._counts = shares.counts
        self._worker = worker
        self._take = take
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._counts[worker] = 0
        self._loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        counts = self._counts
        mine = counts[self._worker]
        for other in counts:
            if other < mine:
                self._pause(STEP_ASIDE_S)
                return
        self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._sock)
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._timer = None
        self._loop.add_reader(self._sock, self._readable)
        self._accept()

    def _accept(self) -> bool:
        """One per loop turn: the next one is somebody else's turn perhaps. False: there was none."""
        try:
            connection, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
            log.error("can't accept connections: %s; raise the limit of open files (ulimit -n)", error)
            if self._timer is None:
                self._pause(_EXHAUSTED_S)
            return False
        connection.setblocking(False)
        self._counts[self._worker] += 1
        self._take(connection)
        return True

    def update(self, connections: int) -> None:
        """The worker has so many connections now."""
        if not self._closed:
            self._counts[self._worker] = connections

    def close(self) -> None:
        """Stop accepting, but take what waits: it connected to a gateway that was up. Others keep the socket."""
        for _ in range(_LAST_ACCEPTS):
            if not self._accept():
                break
        if self._timer is not None:
            self._timer.cancel()
        else:
            self._loop.remove_reader(self._sock)
        # This process's copy: once every worker and the parent have closed theirs, connecting is refused.
        self._sock.close()
        self._closed = True
        self._counts[self._worker] = _ABSENT
