# SPDX-License-Identifier: Apache-2.0
"""How old objects are, whatever their store says: its clock against ours, and a book of what earlier runs have seen.

The fence is measured with the store's own clock: an object put now tells what time it is there, so that a server whose
clock is slow can't make a new object look old.

Some stores (Redis, etcd, TiKV) can't tell when an object was stored (`Features.times`). There a run with `--delete`
writes down what nobody uses and since when that is known; a later run believes the book, because an object that was
seen an hour ago is at least an hour old. Slice ids are never used twice, so an old line can only be superfluous. The
book lies in the object store itself, under `sluice/` beside `chunks/`, where no other client looks, and serves runs
from any machine.
Source: spec data-path §1.2 (what lies beside the blocks), §15 (14, 32).
"""

from __future__ import annotations

import logging
import secrets
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any, Final

from core.errors import DataCorrupt, ObjectNotFound
from core.ledger import Ledger, Row
from core.object.api import ObjectStore

log = logging.getLogger("sluice.gc")

_PROBE: Final = "sluice/gc/clock-"
_BOOK: Final = "sluice/gc/seen/"
_MAGIC: Final = b"SLGC1"
# id | index | length | seconds since the epoch when it was first seen without a user; big endian
_LINE: Final = struct.Struct(">QHId")
#: Lines of one object of the book: 2 MiB before compression.
_LINES: Final = 100_000

SCHEMA: Final = """
CREATE TABLE seen (id INT, idx INT, length INT, since REAL, PRIMARY KEY (id, idx, length)) WITHOUT ROWID;
"""
_APPLY: Final = """
UPDATE object SET mtime = (SELECT MIN(s.since, object.mtime) FROM seen s
  WHERE s.id = object.id AND s.idx = object.idx AND s.length = object.length)
WHERE EXISTS (SELECT 1 FROM seen s WHERE s.id = object.id AND s.idx = object.idx AND s.length = object.length)
"""
#: What may be nobody's: no use and no count, or a count that is higher than the uses.
_DOUBTED: Final = """
SELECT o.id, o.idx, o.length, o.mtime FROM object o
WHERE NOT EXISTS (SELECT 1 FROM use u WHERE u.id = o.id)
OR EXISTS (SELECT 1 FROM ref r WHERE r.id = o.id AND r.n > (SELECT COALESCE(SUM(u.n), 0) FROM use u WHERE u.id = r.id))
ORDER BY o.id, o.idx, o.length
"""


async def store_clock_s(objects: ObjectStore, now_s: float) -> float:
    """What the store takes for now; `now_s` where it doesn't tell. Raises ObjectError if it can't be written to."""
    if not objects.features.times:
        return now_s
    async for info in objects.list(_PROBE):  # of runs that were killed, or of one that has its answer already
        if info.mtime < now_s - 3600:
            await objects.delete(info.key)
    probe = _PROBE + secrets.token_hex(8)  # a name of its own: another run may ask at the same time
    await objects.put(probe, b"%.3f" % now_s)
    try:
        info = await objects.head(probe)
    finally:
        await objects.delete(probe)
    if not info.mtime:
        return now_s
    if abs(info.mtime - now_s) > 60:
        log.warning(
            "%s: its clock is %+.0f s off ours; ages of objects are measured with its own",
            objects.name,
            info.mtime - now_s,
        )
    return info.mtime


async def read_book(objects: ObjectStore, ledger: Ledger) -> int:
    """Let the objects of the ledger be as old as the book says; returns how many lines it has."""

    async def lines() -> AsyncIterator[Row]:
        async for info in objects.list(_BOOK):
            try:
                for row in _decoded(info.key, bytes(await objects.get(info.key))):
                    yield row
            except (DataCorrupt, ObjectNotFound) as e:
                log.warning("%s; what it said is written down anew", e)

    count = await ledger.fill(
        "INSERT INTO seen VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET since = MIN(since, excluded.since)", lines()
    )
    ledger.execute(_APPLY)
    return count


async def write_book(objects: ObjectStore, ledger: Ledger) -> int:
    """Write down what nobody seems to use and since when; returns how many objects. Replaces the book."""
    old = {info.key async for info in objects.list(_BOOK)}
    total = number = 0
    page = bytearray()

    async def turn() -> None:
        nonlocal number
        key = f"{_BOOK}{number:06d}"
        await objects.put(key, _MAGIC + zlib.compress(page, 1))
        old.discard(key)
        page.clear()
        number += 1

    async for row in ledger.rows(_DOUBTED):
        page += _LINE.pack(*row)
        total += 1
        if len(page) >= _LINES * _LINE.size:
            await turn()
    if page:
        await turn()
    for key in old:
        await objects.delete(key)
    return total


def _decoded(key: str, raw: bytes) -> list[tuple[Any, ...]]:
    if not raw.startswith(_MAGIC):
        raise DataCorrupt(f"{key}: is no book of a clean-up")
    try:
        plain = zlib.decompress(raw[len(_MAGIC) :])
        return list(_LINE.iter_unpack(plain))
    except (zlib.error, struct.error) as e:
        raise DataCorrupt(f"{key}: can't be read: {e}") from e
