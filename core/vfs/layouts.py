# SPDX-License-Identifier: Apache-2.0
"""How many blocks files really use, holes left out: what `st_blocks` says.

An inode's record only knows the length. Files that this process wrote without gaps are known; of others the slice
records have to be read, which is done for large ones only, in the same trip as their attributes. What was found is
remembered together with mtime and length, for a bounded number of files. Zeros that were written are data, zero
records (truncated, punched) are not: data-path §8.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Final

from core.errors import FsError
from core.meta import keys as k
from core.meta.data import chunk_count, parse_chunk
from core.meta.meta import Meta
from core.meta.records import CHUNK_BITS, CHUNK_SIZE, FILE, Attr, Slice
from core.meta.slices import flatten
from core.vfs.state import Version

#: Smaller files are taken to have no holes: nobody looks for them there, and looking costs a trip per file.
LEAST: Final = 1 << 20
#: Beyond this, 64 Ki chunks, an estimate has to do: the answer of a stat shouldn't bring megabytes.
MOST: Final = 1 << 42
_MAX_KNOWN: Final = 50_000
_AT_ONCE: Final = 64


class Layouts:
    """wanted: inodes whose blocks were asked for and aren't known."""

    def __init__(self, meta: Meta) -> None:
        self.wanted: OrderedDict[int, int] = OrderedDict()  # ino -> length
        self._meta = meta
        self._known: OrderedDict[int, tuple[Version, int]] = OrderedDict()

    def blocks(self, ino: int, attr: Attr) -> int:
        """As far as known. A large file about which more can be known becomes `wanted`."""
        whole = (attr.length + 511) >> 9
        if attr.type != FILE:
            return whole
        found = self._known.get(ino)
        if found is not None:
            if found[0] == (attr.mtime_ns, attr.length):
                return found[1]
            del self._known[ino]
        if LEAST <= attr.length < MOST:
            self.wanted[ino] = attr.length
            if len(self.wanted) > _MAX_KNOWN:
                self.wanted.popitem(last=False)
        return whole

    def find(self, ino: int, version: Version) -> int | None:
        found = self._known.get(ino)
        return found[1] if found is not None and found[0] == version else None

    def learn(self, ino: int, version: Version, blocks: int) -> None:
        self.wanted.pop(ino, None)
        self._known[ino] = (version, blocks)
        self._known.move_to_end(ino)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)

    async def look(self, ino: int, length: int) -> Attr:
        """Fresh attributes, and on the way what the file consists of, which should be about so long (1 trip). ENOENT.
        If it turns out to be longer, only the attributes are fresh."""
        store = self._meta.store
        self.wanted.pop(ino, None)
        attr, raws = await store.read(k.node(ino), k.chunks(ino, max(chunk_count(length), 1)))
        if attr is None:
            raise FsError(errno.ENOENT, f"inode {ino} does not exist")
        found: Attr = attr
        if store.recent is not None:
            store.recent.learn(k.node(ino), found)
        if found.type == FILE and found.length <= max(chunk_count(length), 1) << CHUNK_BITS:
            chunks = {index: parse_chunk(ino, index, raw) for index, raw in raws.items()}
            self.learn(ino, (found.mtime_ns, found.length), used_bytes(chunks, found.length) + 511 >> 9)
        return found


def used_bytes(chunks: Mapping[int, Iterable[Slice]], length: int) -> int:
    """Bytes of a file that aren't in holes."""
    used = 0
    for index, records in chunks.items():
        room = length - (index << CHUNK_BITS)
        used += sum(min(p.length, room - p.pos) for p in flatten(records) if p.id and p.pos < room)
    return used


async def seek(meta: Meta, ino: int, length: int, offset: int, *, data: bool) -> int:
    """Where the next byte of data (or the next hole) from an offset on begins; the end of the file is a hole. ENXIO.
    1 trip, or one per 64 chunks on databases that can't tell which exist."""
    if not 0 <= offset < length:
        raise FsError(errno.ENXIO, f"inode {ino}: offset {offset} is not inside its {length} bytes")
    at = offset
    async for index, records in _chunks(meta, ino, offset >> CHUNK_BITS, chunk_count(length)):
        base = index << CHUNK_BITS
        if not data and base > at:
            return at  # a chunk that doesn't exist
        for p in flatten(records):
            if base + p.pos + p.length <= at:
                continue
            at = max(at, base + p.pos)
            if at >= length:
                break
            if bool(p.id) == data:
                return at
            at = base + p.pos + p.length
        if not data and at < base + CHUNK_SIZE:
            return min(at, length)  # nothing is recorded behind the last piece
    if data:
        raise FsError(errno.ENXIO, f"inode {ino}: there is no data behind offset {offset}")
    return min(at, length)


async def _chunks(meta: Meta, ino: int, first: int, count: int) -> AsyncIterator[tuple[int, list[Slice]]]:
    """Existing chunks in order."""
    if meta.store.caps.enumerate_chunks:
        (raws,) = await meta.store.read(k.chunks(ino, count))
        for index in sorted(raws):
            if index >= first:
                yield index, parse_chunk(ino, index, raws[index])
        return
    for at in range(first, count, _AT_ONCE):
        indexes = range(at, min(at + _AT_ONCE, count))
        for index, records in zip(indexes, await meta.read_chunks(ino, indexes), strict=True):
            if records:
                yield index, records
