# SPDX-License-Identifier: Apache-2.0
"""The binary backup: every record of a volume, kind by kind, as it is stored.

Records stream from the store's scans into segments of at most 10 000 records or 4 MiB; the only thing that grows is the
list of segments for the footer. A backup is no snapshot: what changes between two scans comes out as an entry without
an inode or an inode without an entry, which a load tells and leaves out or keeps (`verify`).
Source: spec metadata-semantics §15.3.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from core.dump import backup_format as bf
from core.dump.files import Sink
from core.dump.json_writer import setting
from core.meta import keys as k
from core.meta.format import Format
from core.meta.records import encode_attr
from core.meta.store import RecordStore

_RECORDS: Final = 10_000
_BYTES: Final = 4 << 20
#: Counters of a backup; the last two are the last one used here, and "next" in the store.
_COUNTERS: Final = ("usedSpace", "totalInodes", "nextInode", "nextChunk", "nextSession", "nextTrash")
_LAST_USED: Final = frozenset(("nextSession", "nextTrash"))


#: Adds a record to a batch; the bytes it takes, 0 if it needs none.
Add = Callable[[Any, k.Key, Any], int]


class BackedUp(NamedTuple):
    records: dict[str, int]  # by the footer's names of kinds
    size: int
    foreign_names: int  # extended attributes whose name is no UTF-8: JuiceFS can't read a segment that has one


class BackupWriter:
    def __init__(
        self, store: RecordStore, sink: Sink, fmt: Format, *, keep_secrets: bool = False,
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
        await self._segment("format", bf.Format(data=self._setting()).SerializeToString(), 1)
        await self._counters()
        for name, kind, add in (
            ("node", k.NODE, _node), ("edge", k.ENTRY, _edge), ("chunk", k.CHUNK, _chunk),
            ("symlink", k.SYMLINK, _symlink), ("xattr", k.XATTR, self._xattr), ("parent", k.PARENT, _parent),
            ("delFile", k.DELFILE, _delfile), ("sliceRef", k.SLICEREF, _reference), ("acl", k.ACL, _acl),
            ("stat", k.DIRSTAT, _stat), ("quota", k.QUOTA, _quota),
        ):  # fmt: skip
            await self._kind(name, kind, add)
        await self._sustained()
        await self._footer()
        return BackedUp(self._counts, self._at, self._foreign_names)

    def _setting(self) -> bytes:
        """As stored, without secrets: the data key goes too, unlike in a JSON dump."""
        document = setting(self._fmt, keep_secrets=self._keep_secrets, binary=True)
        return Format.parse(json.dumps(document)).to_json()

    # -- framing --------------------------------------------------------------------------------------------------

    async def _segment(self, name: str, payload: bytes, records: int) -> None:
        self._offsets.setdefault(name, []).append(self._at)
        self._counts[name] = self._counts.get(name, 0) + records
        self._total += records
        self._at += bf.HEAD.size + len(payload)
        await self._sink.write(bf.HEAD.pack(bf.TYPE_OF[name], len(payload)) + payload)
        if self._progress is not None:
            self._progress(self._total)

    async def _footer(self) -> None:
        footer = bf.Footer(magic=bf.MAGIC, version=bf.VERSION)
        for name, offsets in self._offsets.items():
            info = footer.infos.add(key=name.encode())
            info.value.offset.extend(offsets)
            info.value.num = self._counts[name]
        raw = footer.SerializeToString()
        data = bf.MARK.pack(bf.MAGIC) + raw + bf.FOOTER_LENGTH.pack(len(raw))
        self._at += len(data)
        await self._sink.write(data)

    async def _kind(self, name: str, kind: str, add: Add) -> None:
        batch, count, size = bf.Batch(), 0, 0
        async for key, value in self._store.scan(kind):
            weight = add(batch, key, value)
            if not weight:
                continue
            count += 1
            size += weight
            if count >= _RECORDS or size >= _BYTES:
                await self._segment(name, batch.SerializeToString(), count)
                batch, count, size = bf.Batch(), 0, 0
                await asyncio.sleep(0)
        if count or name not in self._counts:
            await self._segment(name, batch.SerializeToString(), count)

    async def _counters(self) -> None:
        batch = bf.Batch()
        values = await self._store.read(*map(k.counter, _COUNTERS))
        for name, value in zip(_COUNTERS, values, strict=True):
            batch.counters.add(key=name.encode(), value=value - (name in _LAST_USED))
        await self._segment("counter", batch.SerializeToString(), len(values))

    async def _sustained(self) -> None:
        held: dict[int, list[int]] = {}
        async for key, _ in self._store.scan(k.SUSTAINED):
            held.setdefault(key[1], []).append(key[2])
        batch = bf.Batch()
        for sid, inodes in sorted(held.items()):
            batch.sustained.add(sid=sid, inodes=sorted(inodes))
        await self._segment("sustained", batch.SerializeToString(), len(held))

    def _xattr(self, batch: Any, key: k.Key, value: bytes) -> int:
        try:
            key[2].decode()
        except UnicodeDecodeError:
            self._foreign_names += 1
        batch.xattrs.add(inode=key[1], name=key[2], value=value)
        return 40 + len(value)


def _node(batch: Any, key: k.Key, value: Any) -> int:
    batch.nodes.add(inode=key[1], data=encode_attr(value))
    return 90


def _edge(batch: Any, key: k.Key, value: Any) -> int:
    batch.edges.add(parent=key[1], inode=value[1], name=key[2], type=value[0])
    return 20 + len(key[2])


def _chunk(batch: Any, key: k.Key, value: bytes) -> int:
    batch.chunks.add(inode=key[1], index=key[2], slices=value)
    return 20 + len(value)


def _symlink(batch: Any, key: k.Key, value: bytes) -> int:
    batch.symlinks.add(inode=key[1], target=value)
    return 20 + len(value)


def _parent(batch: Any, key: k.Key, value: int) -> int:
    batch.parents.add(inode=key[1], parent=key[2], cnt=value)
    return 20


def _delfile(batch: Any, key: k.Key, value: int) -> int:
    batch.delfiles.add(inode=key[1], length=key[2], expire=value)
    return 20


def _reference(batch: Any, key: k.Key, value: int) -> int:
    """A slice that is used once needs no record."""
    if value == 1:
        return 0
    batch.sliceRefs.add(id=key[1], size=key[2], refs=value)
    return 20


def _acl(batch: Any, key: k.Key, value: bytes) -> int:
    batch.acls.add(id=key[1], data=value)
    return 20 + len(value)


def _stat(batch: Any, key: k.Key, value: Any) -> int:
    batch.dirstats.add(inode=key[1], dataLength=value[0], usedSpace=value[1], usedInodes=value[2])
    return 30


def _quota(batch: Any, key: k.Key, value: Any) -> int:
    lists = (batch.quotas, batch.userQuotas, batch.groupQuotas)
    lists[key[1]].add(
        key=key[2], maxSpace=value[0], maxInodes=value[1], usedSpace=value[2], usedInodes=value[3], type=key[1]
    )
    return 40
