# SPDX-License-Identifier: Apache-2.0
"""Where the control file steps aside below the root.

Commands find `.control` from every directory of a mount, though no directory holds it, and a file that a user has under
that name there is the user's. To make one, its name has to be free first; but whoever looks can't tell us why, and a
kernel that is told of a file refuses to make another one. So the control file goes from a directory for a while when
somebody treats it there as an ordinary file: removes it, or opens it to cut it or to append. The next look doesn't find
it, and what is asked for happens to a new file.

No IO; the clock is an argument. Source: cli §10.1, metadata-semantics §12.1.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

#: How long a directory is without it after somebody wanted that.
ASIDE_S: Final = 60.0
#: Between looking a name up and what is done to it there are moments.
_LOOKED_S: Final = 1.0
_MOST: Final = 1024


class Aside:
    """Directories are the mount's inodes, callers thread ids."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gone: OrderedDict[int, float] = OrderedDict()  # directory -> until when
        self._looked: OrderedDict[int, tuple[int, float]] = (
            OrderedDict()
        )  # caller -> where it was found, and when; negative once it has gone from there

    def is_gone(self, parent: int) -> bool:
        return self._gone.get(parent, 0.0) > self._clock()

    def found(self, parent: int, pid: int) -> None:
        """Somebody was told of it in that directory. 0: in the root, where it stays."""
        doubted, _ = self._looked.pop(pid, (0, 0.0))
        if parent:
            _put(self._looked, pid, (parent, self._clock()))
        elif doubted < 0:
            self._gone.pop(-doubted, None)  # it was the root's that was meant

    def go(self, parent: int) -> None:
        _put(self._gone, parent, self._clock() + ASIDE_S)

    def taken_for_a_file(self, pid: int) -> bool:
        """This caller cuts it or appends. True: it found it in a directory where it is gone from now on; looking again
        tells more. False: it means the one in the root."""
        parent, at = self._looked.pop(pid, (0, 0.0))
        if parent <= 0 or self._clock() - at > _LOOKED_S:
            return False
        self.go(parent)
        _put(self._looked, pid, (-parent, at))
        return True


def _put(table: OrderedDict[int, T], key: int, value: T) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _MOST:
        table.popitem(last=False)
