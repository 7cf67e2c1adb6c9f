# SPDX-License-Identifier: Apache-2.0
"""Sizes of files that grow under the eyes of another process of the same mount.

The kernel takes the new size of a file over when the writer wakes up with our answer to its write, some time after we
have sent that. A stat of another process, answered by us with the new size in between, shows bytes that the next read
doesn't reach. So a stat waits a moment for a sign that the writer got on, which is its next request for the file; what
that one adds isn't told. A size below the one that the kernel knows would be as wrong; it can't happen, because the
kernel drops the size in an answer that a write has overtaken.
Source: how Linux orders these (filesystems/fuse documentation, attribute versions); seen on 6.18.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

#: The writer of an answered write has surely run by then, unless the machine is overloaded.
PATIENCE_S: Final = 0.010
_MANY: Final = 10_000


class Growing(NamedTuple):
    """A write that made a file longer: whose, when it came, the length before it."""

    pid: int
    since_s: float
    base: int


class Growth:
    """By inode, the last write that made it longer."""

    def __init__(self) -> None:
        self._last: dict[int, Growing] = {}
        self._waiting: dict[int, asyncio.Event] = {}  # inode -> set when its last write changes

    def grows(self, ino: int, pid: int, length: int) -> None:
        if len(self._last) >= _MANY:
            self._last.clear()
        self._last[ino] = Growing(pid, time.monotonic(), length)
        if self._waiting:
            self._wake(ino)

    def settled(self, ino: int, pid: int) -> None:
        """Another request of this process for the file."""
        if self._last and (last := self._last.get(ino)) is not None and last.pid == pid:
            del self._last[ino]
            self._wake(ino)

    def last(self, ino: int, pid: int) -> Growing | None:
        """The last write of somebody else."""
        last = self._last.get(ino) if self._last else None
        return None if last is None or last.pid == pid else last

    async def taken_over(self, ino: int, last: Growing) -> None:
        """Until its writer has got on, or must have."""
        left = last.since_s + PATIENCE_S - time.monotonic()
        if left > 0:
            try:
                async with asyncio.timeout(left):
                    await self._waiting.setdefault(ino, asyncio.Event()).wait()
            except TimeoutError:
                self._waiting.pop(ino, None)

    def _wake(self, ino: int) -> None:
        waiting = self._waiting.pop(ino, None)
        if waiting is not None:
            waiting.set()
