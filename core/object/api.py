# SPDX-License-Identifier: Apache-2.0
"""The object-store contract: flat keys, whole immutable objects.

Five required methods and a declaration of what else a store can do. Decorators (`prefix`, `sharded`, `encrypted`,
`retried` …) are stores around a store. Keys are ASCII without a leading slash.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

Buffer = bytes | bytearray | memoryview


class ObjectInfo(NamedTuple):
    key: str
    size: int  # bytes as stored (after compression and encryption)
    mtime: float  # seconds since the epoch


class Features(NamedTuple):
    """What a store offers beyond the required methods."""

    ranges: bool = True  # get(start, length) fetches only that part
    local_path: bool = False  # `local_path(key)` names a file that holds exactly the object's bytes
    copy: bool = False
    multipart: bool = False
    times: bool = True  # `mtime` tells when the object was stored; False: some other time, such as now


class ObjectStore(ABC):
    """Objects under keys. Coroutines raise `ObjectNotFound` or another `ObjectError`.

    A `put` that returned is as durable as the store makes it, and atomic: readers see the old or the new object.
    Cancelling a call may leave the object written, on a server even later than what is called afterwards: a key is
    never put again with other bytes.
    """

    name: str = "?"
    features: Features = Features()

    @abstractmethod
    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        """Create or replace. A sequence of buffers is written one after another as one object."""

    @abstractmethod
    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        """Bytes [start, start+length) clipped to the object's end; all of it by default."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Remove; a missing object is success."""

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo: ...

    @abstractmethod
    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        """Objects whose key starts with prefix and is > after, in byte order of the keys."""

    async def create(self) -> None:  # noqa: B027 - optional
        """Make the bucket or folder if it doesn't exist."""

    async def close(self) -> None:  # noqa: B027 - optional
        """Release connections and threads."""

    def local_path(self, key: str) -> str | None:
        """Path of a local file that is the object, or None; lets a gateway send it without copying."""
        return None
