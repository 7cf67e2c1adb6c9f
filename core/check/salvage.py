# SPDX-License-Identifier: Apache-2.0
"""What can be done about objects that are gone or damaged: bytes back from a cache, else files out of the way.

A disk cache holds plain blocks, each with its checksums, and what was staged and never uploaded lies beside them; such
a copy is encoded again and put in the place of the object. A copy without checksums proves nothing and is left alone,
unless a kept checksum (`core/scrub/sums.py`) says that it is the block.
What has no copy stays lost. On explicit request the files are moved to /lost+found, where they can be looked at, or
cut off before the first lost byte; nothing does so by itself.
Source: spec data-path §5.1 (layout), §5.2 (checksums), §6 (staging); metadata-semantics §14.2.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Final, Literal

from core.check.findings import OBJECTS, Finding
from core.chunk import cachefile
from core.chunk.encoding import codec_for
from core.chunk.naming import BlockId, parse_block_key
from core.errors import DataCorrupt, FsError, SluiceError
from core.meta.base import Exists, show
from core.meta.records import ROOT
from core.object.api import Buffer
from core.object.checksum import crc32c
from core.scrub.sums import KnownSums
from core.volume import Volume

log = logging.getLogger("sluice.check")

#: Where a cache folder keeps blocks: cached, and staged for upload.
_ROOMS: Final = ("raw", "rawstaging")

What = Literal["move", "truncate"]


async def told_copies(volume: Volume, found: Sequence[Finding], folders: Sequence[str]) -> list[Finding]:
    """The findings, with the place of a proven copy where cache folders have one: staged and not yet uploaded, for one.
    Changes nothing."""
    known = KnownSums(volume.objects, volume.format.hash_prefix)
    told = []
    for finding in found:
        if finding.kind in OBJECTS:
            key: str = finding.key[1]
            block = parse_block_key(key)
            assert block is not None
            copy = await asyncio.to_thread(_copy, folders, volume.format.uuid, key, block, await known.of(block))
            if copy is not None:
                how = "is staged and not uploaded yet, in" if f"/{_ROOMS[1]}/" in copy[0] else "has a copy in"
                finding = finding._replace(stored=f"{finding.stored}; it {how} {copy[0]}")
        told.append(finding)
    return told


async def salvage(volume: Volume, found: Sequence[Finding], folders: Sequence[str]) -> list[Finding]:
    """Put objects back whose bytes lie in cache folders (without the volume's UUID): the findings that are no more.

    Raises ObjectError if the object store refuses.
    """
    codec = codec_for(volume.format.compression)
    known = KnownSums(volume.objects, volume.format.hash_prefix)
    done: dict[str, bool] = {}
    for finding in found:
        if finding.kind not in OBJECTS or finding.key[1] in done:
            continue
        key: str = finding.key[1]
        block = parse_block_key(key)
        assert block is not None
        copy = await asyncio.to_thread(_copy, folders, volume.format.uuid, key, block, await known.of(block))
        done[key] = copy is not None
        if copy is not None:
            await volume.objects.put(key, await asyncio.to_thread(codec.encode, copy[1]))
            log.warning("%s: put back from a cache", key)
    return [finding for finding in found if finding.kind in OBJECTS and done[finding.key[1]]]


async def put_aside(volume: Volume, found: Sequence[Finding], what: What) -> list[Finding]:
    """Move files with lost bytes to /lost+found, or cut them before the first one; the findings that are settled.

    A file in the trash, or one that hides what is lost, stays as it is.
    """
    first: dict[int, int] = {}
    for finding in found:
        if finding.kind in OBJECTS and finding.ranges:
            at = min(offset for offset, _ in finding.ranges)
            first[finding.key[0]] = min(at, first.get(finding.key[0], at))
    settled: set[int] = set()
    for ino, offset in first.items():
        try:
            if what == "truncate":
                await volume.meta.truncate(ino, offset)
                settled.add(ino)
                log.warning("inode %d: cut to %d bytes, the next ones are lost", ino, offset)
            elif await _move(volume, ino):
                settled.add(ino)
        except (SluiceError, FsError) as e:
            log.error("inode %d can't be put aside: %s", ino, e)
    return [finding for finding in found if finding.kind in OBJECTS and finding.key[0] in settled]


async def _move(volume: Volume, ino: int) -> bool:
    meta = volume.meta
    try:
        folder, _ = await meta.mkdir(ROOT, b"lost+found", 0o700)
    except Exists as e:
        folder = e.ino
    moved = False
    for path in await meta.paths(ino):
        if path.startswith((b"/.trash/", b"/lost+found/")):
            continue
        name = b"%d-%s" % (ino, path.rpartition(b"/")[2])
        await volume.fs.rename(path, b"/lost+found/" + name[:255])
        log.warning("%s: moved to /lost+found (inode %d) because bytes of it are lost", show(path), folder)
        moved = True
    return moved


def _copy(folders: Sequence[str], uuid: str, key: str, block: BlockId, crc: int | None) -> tuple[str, Buffer] | None:
    """A copy of a block that proves to be one, and where it lies."""
    n = block[2]
    for folder in folders:
        for room in _ROOMS:
            path = os.path.join(folder, uuid, room, key)
            try:
                summed = cachefile.has_checksums(os.stat(path).st_size, n)
                data = cachefile.read(path, n, 0, n, "full")
            except FileNotFoundError:
                continue
            except (OSError, DataCorrupt) as e:
                log.warning("%s: no help: %s", path, e)
                continue
            if crc is not None and crc32c([memoryview(data)]) != crc:
                log.warning("%s: no help: its checksum isn't the one that was kept", path)
            elif summed or crc is not None:
                return path, data
            else:
                log.warning("%s: may be the block, but has no checksum that proves it; it is not used", path)
    return None
