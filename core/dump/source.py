# SPDX-License-Identifier: Apache-2.0
"""Where a dump reads nodes from: pages of directories, and the rest of what belongs to the inodes of a page.

`StoreSource` asks the record store: one round trip for a page, one for the extended attributes, one for chunks, link
targets and ACL rules of all its inodes, the last two at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from core.meta import keys as k
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, FILE, SYMLINK, Attr
from core.meta.store import DirEntry, RecordStore

Inode = tuple[int, Attr]

_ALL_CHUNKS: Final = 1 << 31
_NO_XATTRS: Final[dict[bytes, bytes]] = {}


class Detail(NamedTuple):
    """What belongs to an inode besides its attributes. target: None if a link has none."""

    xattrs: dict[bytes, bytes]
    chunks: dict[int, bytes]
    target: bytes | None


_PLAIN: Final = Detail(_NO_XATTRS, {}, None)


class Source(Protocol):
    async def nodes(self, inodes: Sequence[int]) -> list[Attr | None]: ...

    async def page(self, parent: int, after: bytes, limit: int) -> list[DirEntry]:
        """As `RecordStore.list_entries` with attributes."""

    async def details(self, inodes: Sequence[Inode]) -> list[Detail]: ...

    async def acls(self, ids: Sequence[int]) -> list[bytes | None]: ...


class StoreSource:
    def __init__(self, store: RecordStore) -> None:
        self._store = store
        self._all = store.caps.enumerate_chunks
        self.remote = store.name not in ("sqlite", "memory")

    async def nodes(self, inodes: Sequence[int]) -> list[Attr | None]:
        return await self._store.read(*map(k.node, inodes))

    async def page(self, parent: int, after: bytes, limit: int) -> list[DirEntry]:
        return await self._store.list_entries(parent, after, limit, attrs=True)

    async def details(self, inodes: Sequence[Inode]) -> list[Detail]:
        keys: list[k.Key] = []
        for ino, attr in inodes:
            if attr.type == FILE:
                if self._all:
                    keys.append(k.chunks(ino, _ALL_CHUNKS))
                elif attr.length > 0:
                    # Asked for one by one on such engines; what an earlier shrink left behind isn't looked for.
                    keys.append(k.chunks(ino, (attr.length + CHUNK_SIZE - 1) >> CHUNK_BITS))
            elif attr.type == SYMLINK:
                keys.append(k.symlink(ino))
        xattrs, values = await asyncio.gather(
            self._store.read(*(k.xattrs(ino) for ino, _ in inodes)), self._store.read(*keys)
        )
        content: dict[int, Any] = {key[1]: value for key, value in zip(keys, values, strict=True) if value is not None}
        return [_detail(attr, own, content.get(ino)) for (ino, attr), own in zip(inodes, xattrs, strict=True)]

    async def acls(self, ids: Sequence[int]) -> list[bytes | None]:
        return await self._store.read(*map(k.acl, ids))


def _detail(attr: Attr, xattrs: dict[bytes, bytes], content: Any) -> Detail:
    if attr.type == FILE and content:
        return Detail(xattrs, content, None)
    if attr.type == SYMLINK:
        return Detail(xattrs, {}, content)
    return Detail(xattrs, {}, None) if xattrs else _PLAIN
