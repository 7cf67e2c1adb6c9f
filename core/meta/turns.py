# SPDX-License-Identifier: Apache-2.0
"""A turn for whoever loses again and again: for its next tries, nobody else of this process commits.

A transaction that verifies many records (a quota's recount, say), or one that everybody changes, is spoilt by one of
the commits that are always under way in a busy process. Pauses don't help it, because the others never pause. Other
processes are not held up: between them, luck and pauses decide.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

#: Lost races after which a transaction asks for a turn.
PATIENCE: Final = 4
#: Longest time that others wait for it; it may itself wait for one of them.
PATIENCE_OF_OTHERS_S: Final = 1.0


class Turns:
    """Of one store. `entered` and `left` around every commit; `take` and `give_back` around a turn."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._free = asyncio.Event()
        self._under_way = 0
        self._quiet = asyncio.Event()

    @property
    def taken(self) -> bool:
        """Has another task the turn? Then `wait` before committing."""
        return self._owner is not None and self._owner is not asyncio.current_task()

    async def wait(self) -> None:
        """Let the owner of the turn go first, for a while."""
        try:
            async with asyncio.timeout(PATIENCE_OF_OTHERS_S):
                while self.taken:
                    await self._free.wait()
        except TimeoutError:
            pass

    def entered(self) -> None:
        self._under_way += 1

    def left(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._quiet.set()

    async def take(self) -> bool:
        """Wait for the turn, and for the commits that are under way. False: the task has it already."""
        if self._owner is asyncio.current_task():
            return False
        await self._lock.acquire()
        self._owner = asyncio.current_task()
        self._free.clear()
        try:
            async with asyncio.timeout(PATIENCE_OF_OTHERS_S):
                while self._under_way:
                    self._quiet.clear()
                    await self._quiet.wait()
        except TimeoutError:
            pass
        except BaseException:
            self.give_back()
            raise
        return True

    def give_back(self) -> None:
        self._owner = None
        self._free.set()
        self._lock.release()
