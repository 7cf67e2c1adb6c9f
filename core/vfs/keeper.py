# SPDX-License-Identifier: Apache-2.0
"""What outlives this process: a place (shared memory of another process, say) for open handles and unrecorded bytes.

A door whose clients must not notice that the process died gives the VFS a keeper. Everything here is called on the
path of single requests, so it must be quick: it copies memory and never waits. `NoKeeper` is the default.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class KeptHandle(NamedTuple):
    """fh: the number that the client knows. flags: those of open(2). directory: a listing."""

    fh: int
    ino: int
    flags: int
    directory: bool


class KeptWrite(NamedTuple):
    """Bytes that were acknowledged and aren't known to be recorded; in the order in which they were taken."""

    ino: int
    offset: int
    data: memoryview
    request: int


class Keeper(Protocol):
    def opened(self, ino: int, flags: int, directory: bool) -> int:
        """A number for a new handle, never 0, unused by any open one. OSError(EMFILE) if there are too many."""

    def closed(self, fh: int) -> None: ...

    def handles(self) -> Iterator[KeptHandle]:
        """Those that an earlier process opened."""

    def wrote(self, ino: int, offset: int, data: memoryview, request: int) -> int:
        """Keep a copy of bytes that are about to be acknowledged. Returns a token, or 0 if there is no room: the
        caller has what is oldest recorded first, and tries again. request: id of the request that brought them."""

    def recorded(self, token: int) -> None:
        """These bytes are durable elsewhere now, or their writer was told that they are lost."""

    def writes(self) -> Iterator[KeptWrite]:
        """Those that an earlier process took."""

    def has_write(self, request: int) -> bool:
        """Did an earlier process take the bytes of this request?"""


class NoKeeper:
    """Nothing outlives the process."""

    def __init__(self) -> None:
        self._last = 0

    def opened(self, ino: int, flags: int, directory: bool) -> int:
        self._last += 1
        return self._last

    def closed(self, fh: int) -> None:
        return None

    def handles(self) -> Iterator[KeptHandle]:
        return iter(())

    def wrote(self, ino: int, offset: int, data: memoryview, request: int) -> int:
        return -1

    def recorded(self, token: int) -> None:
        return None

    def writes(self) -> Iterator[KeptWrite]:
        return iter(())

    def has_write(self, request: int) -> bool:
        return False
