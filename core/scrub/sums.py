# SPDX-License-Identifier: Apache-2.0
"""Checksums of blocks, kept since they were first read back: one small object per folder of blocks.

`sluice/sums/<folder>` holds for the blocks of `chunks/<folder>/` the CRC-32C of their plain bytes (what is stored may
be encrypted anew with another key by a client that uploads a staged block twice). A folder has a thousand slices at
most (hashed: a few thousand), so an object is some 10 to 300 KiB. Ids are never used twice: a line of a block that is
gone is superfluous, never wrong. Two clients that write at once lose lines, which are made anew.
Source: spec data-path §1.1 (folders), §1.2 (what lies beside the blocks).
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections import OrderedDict
from contextlib import aclosing
from typing import Final

from core.chunk.naming import BlockId, block_key
from core.errors import ObjectNotFound
from core.object.api import ObjectStore
from core.object.checksum import crc32c

log = logging.getLogger("sluice.scrub")

PREFIX: Final = "sluice/sums/"
# magic | CRC-32C of the rest (u32); then zlib of lines: id | index | length | CRC-32C of the plain block; big endian
_MAGIC: Final = b"SLSM1"
_HEAD: Final = struct.Struct(">I")
_LINE: Final = struct.Struct(">QHII")
_MOST_FOLDERS: Final = 64

Sums = dict[BlockId, int]


def folder_of(key: str) -> str:
    """`0/17` of `chunks/0/17/17000_0_5`."""
    return key.removeprefix("chunks/").rpartition("/")[0]


async def read_sums(objects: ObjectStore, folder: str) -> Sums:
    """What is kept of a folder; nothing if it is new or its object is damaged."""
    try:
        raw = bytes(await objects.get(PREFIX + folder))
    except ObjectNotFound:
        return {}
    try:
        body = raw[len(_MAGIC) + _HEAD.size :]
        if not raw.startswith(_MAGIC) or _HEAD.unpack_from(raw, len(_MAGIC))[0] != crc32c([memoryview(body)]):
            raise ValueError("it is no list of checksums, or damaged")
        return {(i, index, n): crc for i, index, n, crc in _LINE.iter_unpack(zlib.decompress(body))}
    except (ValueError, struct.error, zlib.error) as e:
        log.warning("%s%s: %s; the checksums of this folder are made anew", PREFIX, folder, e)
        return {}


async def write_sums(objects: ObjectStore, folder: str, sums: Sums) -> None:
    if not sums:
        await objects.delete(PREFIX + folder)
        return
    body = zlib.compress(b"".join([_LINE.pack(*block, crc) for block, crc in sorted(sums.items())]), 1)
    await objects.put(PREFIX + folder, _MAGIC + _HEAD.pack(crc32c([memoryview(body)])) + body)


async def drop_gone(objects: ObjectStore) -> None:
    """Remove the checksums of folders that hold no block any more."""
    async for info in objects.list(PREFIX):
        async with aclosing(aiter(objects.list(f"chunks/{info.key.removeprefix(PREFIX)}/"))) as listing:  # type: ignore[type-var]
            if await anext(listing, None) is None:
                await objects.delete(info.key)


class KnownSums:
    """Checksums of any block, for who reads blocks in another order than by folder; remembers the last folders."""

    def __init__(self, objects: ObjectStore, hash_prefix: bool) -> None:
        self._objects = objects
        self._hash_prefix = hash_prefix
        self._folders: OrderedDict[str, Sums] = OrderedDict()

    async def of(self, block: BlockId) -> int | None:
        folder = folder_of(block_key(*block, self._hash_prefix))
        sums = self._folders.get(folder)
        if sums is None:
            sums = self._folders[folder] = await read_sums(self._objects, folder)
            if len(self._folders) > _MOST_FOLDERS:
                self._folders.popitem(last=False)
        else:
            self._folders.move_to_end(folder)
        return sums.get(block)
