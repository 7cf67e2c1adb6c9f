# SPDX-License-Identifier: Apache-2.0
"""The objects of living files: are they there, have they a size that they can have, can they be read?

Existence and size come from one listing; what it doesn't show is asked for once more. Reading (`BlockProof`) decodes
every block and compares it with what a scrub has kept. What is wrong with a block is told per file, with the ranges of
the file that need it: bytes that later writes hide, or that no file names, are nobody's loss.
Memory: the ledger, LIMIT findings, and the blocks under way.
Source: spec metadata-semantics §14.2; data-path §1.1, §3, §11.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from core.check.findings import Finding
from core.chunk.naming import BlockId, block_key, iter_blocks, parse_block_key
from core.errors import ObjectError, ObjectNotFound
from core.ledger import Ledger, Row
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import CHUNK_BITS, decode_slices
from core.meta.slices import flatten
from core.object.api import ObjectStore
from core.scrub.proof import BlockProof, object_sizes
from core.scrub.sums import KnownSums

SCHEMA: Final = """
CREATE TABLE object (id INT, idx INT, length INT, bytes INT, PRIMARY KEY (id, idx, length)) WITHOUT ROWID;
CREATE TABLE bad (id INT, idx INT, length INT, kind TEXT, cause TEXT, PRIMARY KEY (id, idx, length)) WITHOUT ROWID;
"""
_NEEDED: Final = "SELECT id, size FROM use WHERE ino > 0"
_LENGTHS: Final = "SELECT DISTINCT length FROM object"
#: Objects of slices in use that are shorter or longer than objects of their length can be.
_MISFITS: Final = """
SELECT o.id, o.idx, o.length, o.bytes FROM object o WHERE o.length = ? AND (o.bytes < ? OR o.bytes > ?)
AND EXISTS (SELECT 1 FROM use u WHERE u.id = o.id AND u.ino > 0) LIMIT ?
"""
_ADD_BAD: Final = "INSERT OR IGNORE INTO bad VALUES (?, ?, ?, ?, ?)"


@dataclass
class ObjectCheck:
    """What is to be proven of objects. proof: read every block, too. threads: blocks read or asked for at once.

    only: blocks that a first look found bad; a second one reads no others.
    """

    objects: ObjectStore
    proof: BlockProof | None = None
    threads: int = 8
    only: set[BlockId] | None = field(default=None)


async def object_findings(
    check: ObjectCheck, ledger: Ledger, meta: Meta, progress: Callable[[str, int], None], limit: int
) -> list[Finding]:
    """One finding for each file and bad block, at most `limit`. The ledger has the slices in use already."""
    looking = _Looking(check, ledger, meta, progress, limit)
    await looking.listed()
    await looking.missing()
    looking.misfits()
    if check.proof is not None:
        await looking.read(check.proof)
    bad = {(i, index, n) for i, index, n in ledger.execute("SELECT id, idx, length FROM bad")}
    check.only = bad if check.only is None else check.only
    return await looking.by_file() if bad else []


class _Looking:
    def __init__(
        self, check: ObjectCheck, ledger: Ledger, meta: Meta, progress: Callable[[str, int], None], limit: int
    ) -> None:  # fmt: skip
        self.check = check
        self.ledger = ledger
        self.meta = meta
        self.progress = progress
        self.limit = limit

    async def listed(self) -> None:
        async def rows() -> AsyncIterator[Row]:
            count = 0
            async for info in self.check.objects.list("chunks/"):
                block = parse_block_key(info.key)
                if block is not None:
                    count += 1
                    if count % 2000 == 1:
                        self.progress("objects", count)
                    yield *block, info.size

        await self.ledger.fill("INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?)", rows())

    async def blocks(self) -> AsyncIterator[BlockId]:
        """Every block of every slice that a living file uses."""
        size = self.meta.format.block_size
        async for slice_id, length in self.ledger.rows(_NEEDED):
            for block in iter_blocks(slice_id, length, size):
                yield block

    def add(self, block: BlockId, kind: str, cause: str) -> None:
        self.ledger.add(_ADD_BAD, [(*block, kind, cause)])

    def is_bad(self, block: BlockId) -> bool:
        found = self.ledger.one("SELECT 1 FROM bad WHERE id = ? AND idx = ? AND length = ?", *block)
        return found is not None

    async def missing(self) -> None:
        hashed = self.meta.format.hash_prefix
        limit = asyncio.Semaphore(max(self.check.threads, 1))
        left = self.limit

        async def ask(block: BlockId) -> None:
            async with limit:
                try:
                    await self.check.objects.head(block_key(*block, hashed))
                except ObjectNotFound:
                    self.add(block, "object", "missing")
                except ObjectError as e:
                    self.add(block, "object", str(e))

        waiting: set[asyncio.Task[None]] = set()
        async for block in self.blocks():
            if self.ledger.one("SELECT 1 FROM object WHERE id = ? AND idx = ? AND length = ?", *block):
                continue
            waiting.add(asyncio.ensure_future(ask(block)))
            left -= 1
            if left <= 0:
                break
            if len(waiting) >= 4 * self.check.threads:
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if waiting:
            await asyncio.gather(*waiting)

    def misfits(self) -> None:
        for (n,) in self.ledger.execute(_LENGTHS):
            least, most = object_sizes(self.meta.format, self.check.objects, n)
            for *block, size in self.ledger.execute(_MISFITS, n, least, most, self.limit):
                wanted = f"{least}" if least == most else f"at least {least}" if size < least else f"at most {most}"
                self.add((block[0], block[1], block[2]), "object-size", f"{size} bytes instead of {wanted}")

    async def read(self, proof: BlockProof) -> None:
        sums = KnownSums(self.check.objects, self.meta.format.hash_prefix)
        waiting: set[asyncio.Task[None]] = set()
        count = faults = 0

        async def prove(block: BlockId) -> None:
            nonlocal faults
            fault = await proof.fault(block, await sums.of(block))
            if fault is not None:
                faults += 1
                self.add(block, "object-data", fault)

        async for block in self.blocks():
            if (self.check.only is not None and block not in self.check.only) or self.is_bad(block):
                continue
            count += 1
            if count % 100 == 1:
                self.progress("blocks read", count)
            if len(waiting) >= 2 * self.check.threads:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                if faults >= self.limit:
                    break
            waiting.add(asyncio.ensure_future(prove(block)))
        if waiting:
            await asyncio.gather(*waiting)

    async def by_file(self) -> list[Finding]:
        """Which files need the bad blocks, and which ranges of them."""
        fmt = self.meta.format
        bad: dict[int, dict[int, tuple[int, str, str]]] = defaultdict(dict)
        for slice_id, index, n, kind, cause in self.ledger.execute("SELECT * FROM bad"):
            bad[slice_id][index] = (n, kind, cause)
        found: dict[tuple[int, str], Finding] = {}
        async for key, raw in self.meta.store.scan(k.CHUNK):
            try:
                records = decode_slices(raw)
            except ValueError:
                continue  # told as such
            if not any(s.id in bad for s in records):
                continue
            ino, start = key[1], key[2] << CHUNK_BITS
            if self.ledger.one("SELECT 1 FROM deleted WHERE ino = ?", ino):
                continue
            # Also what is hidden: nobody reads it, but it is the file's as long as it isn't compacted.
            for s in records:
                for index, (n, kind, cause) in bad.get(s.id, {}).items():
                    name = block_key(s.id, index, n, fmt.hash_prefix)
                    if len(found) < self.limit:
                        found.setdefault((ino, name), Finding(kind, (ino, name), cause, f"{n} bytes"))
            for piece in flatten(records):
                for index, (n, _, _) in bad.get(piece.id, {}).items():
                    low = max(piece.off, index * fmt.block_size)
                    high = min(piece.off + piece.length, index * fmt.block_size + n)
                    one = found.get((ino, block_key(piece.id, index, n, fmt.hash_prefix)))
                    if high > low and one is not None:
                        at = start + piece.pos + low - piece.off
                        found[one.key[0], one.key[1]] = one._replace(ranges=(*one.ranges, (at, high - low)))
        return list(found.values())
