# SPDX-License-Identifier: Apache-2.0
"""Objects in a dictionary: for tests, demonstrations and throw-away volumes. Process-local, gone at exit.

Source: spec data-path §4.2, storage `mem`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from core.errors import ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, views


class MemStore(ObjectStore):
    """`MemStore()`. `objects` is open for tests that want to look, or to damage something."""

    features = Features(ranges=True)

    def __init__(self, name: str = "mem", *, clock: Callable[[], float] = time.time) -> None:
        self.name = f"mem://{name}"
        self.objects: dict[str, tuple[bytes, float]] = {}
        self._clock = clock

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        self.objects[key] = (b"".join(views(data)), self._clock())

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        data, _ = self._find(key)
        if start == 0 and length is None:
            return data
        begin, n = clip(len(data), start, length)
        return memoryview(data)[begin : begin + n]

    async def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    async def head(self, key: str) -> ObjectInfo:
        data, mtime = self._find(key)
        return ObjectInfo(key, len(data), mtime)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        keys = [key for key in self.objects if key > after and key.startswith(prefix)]
        for key in sorted(keys):  # ASCII: order of text is order of bytes
            found = self.objects.get(key)
            if found is not None:  # deleted while the caller worked on an earlier one
                yield ObjectInfo(key, len(found[0]), found[1])

    def _find(self, key: str) -> tuple[bytes, float]:
        try:
            return self.objects[key]
        except KeyError:
            raise ObjectNotFound(f"{self.name}: no object {key!r}") from None
