# SPDX-License-Identifier: Apache-2.0
"""Who calls, and what must hold when a change is committed."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Caller(NamedTuple):
    """Identity of a request. `check`: test permission bits here (a FUSE mount lets the kernel do it)."""

    uid: int = 0
    gids: tuple[int, ...] = (0,)
    pid: int = 0
    check: bool = True

    @property
    def gid(self) -> int:
        return self.gids[0] if self.gids else 0


ROOT_CALLER = Caller()


class Condition(msgspec.Struct, frozen=True):
    """What must hold at the very moment of a publish, rename or delete (verified in the same transaction).

    absent: the name must not exist. ino, mtime_ns, ctime_ns: the name must be this inode with these times.
    """

    absent: bool = False
    ino: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
