# SPDX-License-Identifier: Apache-2.0
"""Slices of which little is left in use: the rest of them moves, so that the whole object can go.

A pack of many small files lives as long as one of them does, a large slice as long as somebody has copied a page of it.
Where less than a quarter is in use the used ranges are stored anew, packed together as small writes always are, and
each chunk record that named the old slice gets another one of the same content. That is a compaction of a single
record: readers see the same bytes, whoever looks at the old slice reads the chunk's records again, the old slice stays
for the trash days, and nothing is lost whatever is interrupted.
Source: metadata-semantics §7.2 (commit of a compaction), §6.7; design: packing.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

from core.chunk.api import Piece
from core.chunk.transfer import BlockMissing
from core.errors import FsError, MetaError, SluiceError
from core.failpoints import point
from core.gc.report import GcReport, Progress
from core.ledger import Ledger, Row
from core.meta import keys as k
from core.meta.data import parse_chunk
from core.meta.records import Slice, encode_slices
from core.meta.store import Tx
from core.volume import Volume

log = logging.getLogger("sluice.gc")

#: A slice is worth the work if less than a quarter is used, and more than this is wasted.
USED_SHARE: Final = 4
LEAST_WASTE: Final = 32 << 10
_DELAYED: Final = struct.Struct(">QI")

_SCHEMA: Final = "CREATE TABLE part (id INT, size INT, bytes INT, PRIMARY KEY (id, size)) WITHOUT ROWID;"
_ADD: Final = "INSERT INTO part VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes"
_SPARSE: Final = f"DELETE FROM part WHERE bytes * {USED_SHARE} > size OR size - bytes < {LEAST_WASTE}"  # noqa: S608


class _Changed(Exception):
    """The chunk isn't what was read: somebody writes to it, the next run looks again."""


async def rewrite_sparse(volume: Volume, report: GcReport, threads: int, progress: Progress) -> None:
    """Move what is left of mostly dead slices; failures of single chunks are collected in the report."""
    with Ledger(_SCHEMA) as ledger:
        await ledger.fill(_ADD, _parts(volume, progress))
        ledger.execute(_SPARSE)
        if not ledger.one("SELECT COUNT(*) FROM part"):
            return
        running: set[asyncio.Task[None]] = set()

        async def one(ino: int, index: int, raw: bytes, sparse: set[tuple[int, int]]) -> None:
            try:
                moved = await _rewrite(volume, ino, index, raw, sparse)
                report.rewritten.objects += moved > 0
                report.rewritten.bytes += moved
            except _Changed:
                pass
            except (SluiceError, FsError) as e:
                report.failures.append(f"inode {ino}, chunk {index}: {e}")

        async for key, raw in volume.meta.store.scan(k.CHUNK):
            named = {(s.id, s.size) for s in parse_chunk(key[1], key[2], raw) if s.id}
            sparse = {s for s in named if ledger.one("SELECT 1 FROM part WHERE id = ? AND size = ?", *s)}
            if not sparse:
                continue
            if len(running) >= threads:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running.add(asyncio.ensure_future(one(key[1], key[2], raw, sparse)))
        if running:
            await asyncio.wait(running)


async def _parts(volume: Volume, progress: Progress) -> AsyncIterator[Row]:
    number = 0
    async for key, raw in volume.meta.store.scan(k.CHUNK):
        number += 1
        if number % 1000 == 1:
            progress("chunks weighed", number)
        for s in parse_chunk(key[1], key[2], raw):
            if s.id:
                yield s.id, s.size, s.length


async def _rewrite(volume: Volume, ino: int, index: int, raw: bytes, sparse: set[tuple[int, int]]) -> int:
    """Bytes that one chunk uses elsewhere now."""
    meta, key = volume.meta, k.chunk(ino, index)
    records = parse_chunk(ino, index, raw)
    (attr,) = await meta.store.read(k.node(ino))
    if attr is None:
        return 0  # being deleted
    old = Counter((s.id, s.size) for s in records if (s.id, s.size) in sparse)
    pieces: dict[int, Piece] = {}
    done = False
    try:
        try:
            for at, s in enumerate(records):
                if (s.id, s.size) in sparse:
                    pieces[at] = await _stored_anew(volume, s, attr.tier)
        except BlockMissing:
            # The file was removed, or compacted by somebody else, since its records were read. Else it is damage.
            if (await meta.store.read(key))[0] != raw:
                raise _Changed from None
            raise
        fresh = [
            s._replace(id=pieces[at].id, size=pieces[at].size, off=pieces[at].off) if at in pieces else s
            for at, s in enumerate(records)
        ]
        await point("gc.piece-stored")
        delay_id = await meta.slice_ids.take() if meta.trash_days > 0 else 0

        async def body(tx: Tx) -> Tx:
            if tx.attempt and (await meta.store.read(key))[0] != raw:
                raise _Changed
            tx.expect(key, raw)
            tx.put(key, encode_slices(fresh))
            for piece in pieces.values():
                tx.put_new(k.sliceref(piece.id, piece.size), piece.refs)
            when = meta.clock_ns()
            if meta.trash_days > 0:
                waiting = b"".join([_DELAYED.pack(*one) * number for one, number in old.items()])
                tx.put(k.delslices(delay_id, when // 1_000_000_000), waiting)
            else:
                for one, number in old.items():
                    tx.add(k.sliceref(*one), -number)
            for at, piece in pieces.items():
                s = records[at]
                meta.log_change(tx, "COMPACTCHUNK", ino, index, at, 1, s.pos, piece.id, piece.size, now=when)
            return tx

        try:
            tx = await meta.store.transact(body)
        except MetaError as e:
            done = e.uncertain  # the pieces may be in use: gc finds those that aren't
            raise
        done = True
    finally:
        if not done:
            for piece in pieces.values():
                await volume.slices.forget(piece)
    await point("gc.piece-moved")
    meta.after_commit(tx)
    return sum(piece.length for piece in pieces.values())


async def _stored_anew(volume: Volume, s: Slice, tier: int) -> Piece:
    meta, slices = volume.meta, volume.slices
    # A line of the change log tells of whole slices, so it gets whole ones.
    if s.length <= slices.block_size // 4 and not meta.change_log:
        return await slices.pack(await slices.read(s.id, s.size, s.off, s.length))
    assert meta.merge_slices is not None
    made = await meta.merge_slices([s._replace(pos=0)], tier)
    if made is None:
        raise _Changed
    return Piece(made[0], made[1], 0, s.length)
