# SPDX-License-Identifier: Apache-2.0
"""What an opened internal file is to the doors: a stream that answers reads whatever the length of its attributes says.

A door opens them for direct IO: nothing of them may be cached, and their length is 0.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod

from core.errors import FsError
from core.meta.caller import Caller
from core.object.api import Buffer


class InternalHandle(ABC):
    """One open internal file. Event loop only."""

    ino: int

    @abstractmethod
    async def read(self, offset: int, size: int) -> Buffer:
        """At most `size` bytes; none is the end (of what is there now). May wait for about a second; may be
        cancelled, which loses nothing."""

    async def write(self, offset: int, data: Buffer, caller: Caller | None = None) -> int:
        """caller: who writes, if that isn't who opened."""
        raise FsError(errno.EACCES, f"inode {self.ino}: this file of the mount can only be read")

    async def flush(self) -> None:  # noqa: B027 - optional
        """A descriptor was closed."""

    async def release(self) -> None:  # noqa: B027 - optional
        """The last descriptor was closed."""
