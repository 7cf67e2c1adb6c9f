# SPDX-License-Identifier: Apache-2.0
"""Turns for groups of commits, and one of its own for a task that keeps losing races.

A transaction reads, decides and commits. While this process is busy there is always a group of other tasks' commits
between the reading and the commit, so somebody who depends on a record that all of them change (the usage in a quota's
record, say) would lose for ever: pauses don't help where it is never quiet. After a few losses its next reading waits
for the group under way, and no other group starts until it has committed. Other processes aren't held up.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

#: Losses after which a task gets a turn of its own.
LOSSES: Final = 3
#: How long others wait for a task that has read, if it never commits; a decision takes far less than a millisecond.
LONGEST_S: Final = 0.1


class Turns:
    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._losses: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._owner: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def group(self) -> AsyncIterator[None]:
        """The turn of a group."""
        async with self._lock:
            yield

    async def before_reading(self) -> None:
        """Waits, if the calling task has lost too often, until no group is under way; then its turn begins."""
        if not self._losses:
            return
        task = asyncio.current_task()
        if task is None or task is self._owner or self._losses.get(task, 0) < LOSSES:
            return
        await self._lock.acquire()
        self._owner = task
        self._timer = asyncio.get_running_loop().call_later(LONGEST_S, self._end, task)

    def take(self) -> bool:
        """Is it the calling task's own turn? It lasts until `end` then, however long the commit takes."""
        if self._owner is None or asyncio.current_task() is not self._owner:
            return False
        if self._timer is not None:
            self._timer.cancel()
        return True

    def end(self) -> None:
        self._end(self._owner)

    def _end(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None and task is self._owner:
            self._owner = None
            self._lock.release()

    def lost(self) -> None:
        if task := asyncio.current_task():
            self._losses[task] = self._losses.get(task, 0) + 1

    def won(self) -> None:
        if self._losses and (task := asyncio.current_task()):
            self._losses.pop(task, None)
