# SPDX-License-Identifier: Apache-2.0
"""Connections to a database server, kept and renewed: at most so many, each used by one call at a time.

A kept connection that turns out to be dead is replaced at once and the call done again, so calls must be repeatable
(whole objects are). Knows no database: `connect` makes a connection, `Lost` says that one is of no use any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    def drop(self) -> None:
        """Forget it at once; never blocks, never fails."""

    async def quit(self) -> None:
        """Say goodbye, for a moment at most."""


C = TypeVar("C", bound=Closable)
T = TypeVar("T")


class Lost(Exception):
    """The connection broke; `__cause__` says how. The call may have been carried out."""


class Pool(Generic[C]):
    """`Pool(connect, most=8)`. Belongs to the event loop that uses it; a new loop gets new connections."""

    def __init__(self, connect: Callable[[], Awaitable[C]], most: int, *, keep_s: float = 120.0) -> None:
        self._connect = connect
        self._most = most
        self._keep_s = keep_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reset()

    def _reset(self) -> None:
        self._idle: list[tuple[C, float]] = []
        self._room = asyncio.Semaphore(self._most)

    async def run(self, work: Callable[[C], Awaitable[T]]) -> T:
        """`work(connection)`, again if a kept connection is `Lost`. Other errors leave the connection in use."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop = loop
            self._reset()
        async with self._room:
            while True:
                connection, kept = self._take(loop), True
                if connection is None:
                    connection, kept = await self._connect(), False
                try:
                    result = await work(connection)
                except Lost:
                    connection.drop()
                    if not kept:
                        raise
                    self._forget()  # the server went away: the others are dead, too
                except asyncio.CancelledError:
                    connection.drop()  # an answer is still on its way
                    raise
                except BaseException:
                    self._idle.append((connection, loop.time()))
                    raise
                else:
                    self._idle.append((connection, loop.time()))
                    return result

    def _take(self, loop: asyncio.AbstractEventLoop) -> C | None:
        while self._idle:
            connection, since = self._idle.pop()
            if loop.time() - since < self._keep_s:
                return connection
            connection.drop()
        return None

    def _forget(self) -> None:
        idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.drop()

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        if asyncio.get_running_loop() is self._loop:
            await asyncio.gather(*(connection.quit() for connection, _ in idle))
