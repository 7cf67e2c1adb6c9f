# SPDX-License-Identifier: Apache-2.0
"""A turn for whoever loses again and again: for one try, nobody else of this process commits.

A transaction that verifies many records (a quota's recount, say) reads, decides and commits; on a network that takes
two round trips, and where others commit all the time, each of its tries is spoilt by one of them. Pauses don't help
it, because the others never pause. Other processes are not held up: between them, luck and pauses decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

#: Lost races after which a transaction asks for a turn.
PATIENCE: Final = 5
#: Longest time that others wait for it; it may itself wait for one of them.
PATIENCE_OF_OTHERS_S: Final = 2.0


class Turns:
    """`wait` before every commit; `take` and `give_back` around a turn. `idle`: waits until no commit is under way."""

    def __init__(self, idle: Callable[[], Awaitable[None]]) -> None:
        self._idle = idle
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._free = asyncio.Event()
        self._free.set()

    async def wait(self) -> None:
        """Let the owner of the turn go first."""
        if self._owner is None or self._owner is asyncio.current_task():
            return
        try:
            async with asyncio.timeout(PATIENCE_OF_OTHERS_S):
                while self._owner is not None and self._owner is not asyncio.current_task():
                    await self._free.wait()
        except TimeoutError:
            pass

    async def take(self) -> bool:
        """False: the caller is inside a turn of its own already."""
        if self._owner is not None and self._owner is asyncio.current_task():
            return False
        await self._lock.acquire()
        self._owner = asyncio.current_task()
        self._free.clear()
        try:
            await self._idle()
        except BaseException:
            self.give_back()
            raise
        return True

    def give_back(self) -> None:
        self._owner = None
        self._free.set()
        self._lock.release()
