# SPDX-License-Identifier: Apache-2.0
"""The binary backup: every record of a volume, kind by kind, as it is stored.

Records stream from the store's scans into segments of at most 10 000 records or 4 MiB; the only thing that grows is the
list of segments for the footer. Inodes come before entries and entries before what hangs on them, so what a live volume
loses between two scans is at worst an inode without an entry. Source: spec metadata-semantics §15.3.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

from core.dump import backup_format as bf
from core.dump.files import Sink
from core.dump.json_writer import setting
from core.meta import keys as k
from core.meta.format import Format
from core.meta.records import TRASH, encode_attr
from core.meta.store import RecordStore

_RECORDS: Final = 10_000
_BYTES: Final = 4 << 20
#: Counters of a backup; the last two are the last one used here, and "next" in the store.
_COUNTERS: Final = ("usedSpace", "totalInodes", "nextInode", "nextChunk", "nextSession", "nextTrash")
_LAST_USED: Final = frozenset(("nextSession", "nextTrash"))


class BackedUp(NamedTuple):
    records: dict[str, int]  # by the footer's names of kinds
    size: int
    foreign_names: int  # extended attributes whose name is no UTF-8: JuiceFS can't read a segment that has one


class BackupWriter:
    def __init__(
        self, store: RecordStore, sink: Sink, fmt: Format, *, keep_secrets: bool = False, skip_trash: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._sink = sink
        self._fmt = fmt
        self._keep_secrets = keep_secrets
        self._progress = progress
        self._at = 0
        self._offsets: dict[str, list[int]] = {}
        self._counts: dict[str, int] = {}
        self._total = 0
        self._foreign_names = 0

    async def write(self) -> BackedUp:
        document = setting(self._fmt, keep_secrets=self._keep_secrets, binary=True)
        stored = json.dumps(document, ensure_ascii=False, indent=0, separators=(",", ": ")).encode()
        await self._segment("format", bf.Format(data=stored).SerializeToString(), 1)
        await self._counters()
        for name, records in (
            ("node", self._nodes()), ("edge", self._edges()), ("chunk", self._chunks()), ("symlink", self._symlinks()),
            ("xattr", self._xattrs()), ("parent", self._parents()), ("sustained", self._sustained()),
            ("delFile", self._delfiles()), ("sliceRef", self._references()), ("acl", self._acls()),
            ("stat", self._stats()), ("quota", self._quotas()),
        ):  # fmt: skip
            await self._kind(name, records)
        await self._footer()
        return BackedUp(self._counts, self._at, self._foreign_names)

    # -- framing --------------------------------------------------------------------------------------------------

    async def _out(self, data: bytes) -> None:
        self._at += len(data)
        await self._sink.write(data)

    async def _segment(self, name: str, payload: bytes, records: int) -> None:
        self._offsets.setdefault(name, []).append(self._at)
        self._counts[name] = self._counts.get(name, 0) + records
        self._total += records
        await self._out(bf.HEAD.pack(bf.TYPE_OF[name], len(payload)) + payload)
        if self._progress is not None:
            self._progress(self._total)

    async def _footer(self) -> None:
        footer = bf.Footer(magic=bf.MAGIC, version=bf.VERSION)
        for name, offsets in self._offsets.items():
            info = footer.infos.add(key=name.encode())
            info.value.offset.extend(offsets)
            info.value.num = self._counts[name]
        raw = footer.SerializeToString()
        await self._out(bf.MARK.pack(bf.MAGIC) + raw + bf.FOOTER_LENGTH.pack(len(raw)))

    async def _kind(self, name: str, records: AsyncIterator[tuple[Any, int]]) -> None:
        """`records` yields (function that adds a record to a batch, bytes it takes)."""
        batch, count, size = bf.Batch(), 0, 0
        async for add, weight in records:
            add(batch)
            count += 1
            size += weight
            if count >= _RECORDS or size >= _BYTES:
                await self._segment(name, batch.SerializeToString(), count)
                batch, count, size = bf.Batch(), 0, 0
                await asyncio.sleep(0)
        if count or name not in self._counts:
            await self._segment(name, batch.SerializeToString(), count)

    # -- records --------------------------------------------------------------------------------------------------

    async def _counters(self) -> None:
        batch = bf.Batch()
        values = await self._store.read(*map(k.counter, _COUNTERS))
        for name, value in zip(_COUNTERS, values, strict=True):
            batch.counters.add(key=name.encode(), value=value - (name in _LAST_USED))
        await self._segment("counter", batch.SerializeToString(), len(values))
