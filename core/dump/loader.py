# SPDX-License-Identifier: Apache-2.0
"""Second pass of a load: everything in the scratch tables into an empty database, in large commits, the setting last.

Until then the setting is a placeholder that no client opens: its metadata version lies far above any. So a load that
was cut short is no volume, is recognised, and may be begun again (`--restart`), which empties the database first.
Source: spec metadata-semantics §15.2, §15.3; metadata-format §7.3 (versions).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from core.dump.reading import Reading
from core.errors import ConfigError, Conflict, MetaError, VolumeError
from core.meta import keys as k
from core.meta.format import META_VERSION, Format
from core.meta.records import DIRECTORY, ROOT, TRASH, Attr, DirStat, Entry, Quota, decode_attr
from core.meta.store import ADD, EXACT, PUT, PUT_NEW, RecordStore, Write

#: Records in one commit. More gain nothing anywhere, and on TiKV the cost of a transaction grows faster than its size:
#: 8 000 files took 4 s in commits of 500 and 15 s in commits of 4 000.
_BATCH: Final = 500
#: Bytes of names, values and records in one commit; servers limit the size of a request.
_BATCH_BYTES: Final = 2 << 20
_LOADING: Final = "Loading"
_REFUSED_VERSION: Final = 1000

_HOW_TO_EMPTY: Final = {
    "sqlite": "name another file, or remove this one",
    "redis": "choose another database number, or empty this one with `redis-cli -n NUMBER FLUSHDB`",
    "postgres": "choose another database or table_prefix, or drop the tables jfs_*",
    "mysql": "choose another database or table_prefix, or drop the tables jfs_*",
    "etcd": "choose another prefix, or remove its keys with `etcdctl del --prefix`",
    "tikv": "choose another prefix, or remove its keys",
}


class Loaded(NamedTuple):
    inodes: int
    records: int
    fmt: Format


async def require_empty(store: RecordStore, shown_url: str, *, restart: bool = False) -> None:
    """VolumeError if there is anything; with `restart`, what an interrupted load left is removed."""
    (raw,) = await store.read(k.setting())
    if raw is not None:
        begun = _begun(raw)
        if begun is None:
            raise VolumeError(f"{shown_url} holds a volume already; a dump goes into an empty database: {_way(store)}")
        if not restart:
            raise VolumeError(
                f"{shown_url} holds what a load left that was begun at {begun} and didn't come to its end; if it isn't"
                " running any more, `sluice load --restart` empties the database and begins again"
            )
        await store.wipe()
        return
    for kind in (k.NODE, k.ENTRY, k.CHUNK, k.XATTR, k.SLICEREF, k.DELFILE, k.SESSION):
        async for _ in store.scan(kind):
            raise VolumeError(f"{shown_url} isn't empty, though it has no setting of a volume; {_way(store)}")


def _begun(raw: bytes) -> str | None:
    """When a load began, if that is what the setting tells."""
    try:
        document = json.loads(raw)
    except ValueError:
        return None
    return str(document[_LOADING]) if isinstance(document, dict) and _LOADING in document else None


def _way(store: RecordStore) -> str:
    return _HOW_TO_EMPTY.get(store.name, "choose another one, or empty this one")


async def load(
    store: RecordStore,
    reading: Reading,
    *,
    fmt: Format | None = None,
    threads: int = 10,
    progress: Callable[[int], None] | None = None,
) -> Loaded:
    """Write all records. The store has been prepared and is empty (`require_empty`). `fmt`: another setting than the
    file's. `threads`: commits on their way at the same time."""
    made = fmt or reading.fmt
    if made is None or reading.problems.error_count:
        raise ConfigError("a file with errors can't be loaded")
    begun = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    holder = json.dumps({"Name": "", "UUID": "", "MetaVersion": _REFUSED_VERSION, _LOADING: begun}).encode()
    assert _REFUSED_VERSION > META_VERSION
    await _mark(store, None, [(PUT, k.setting(), holder)])
    writer = _Writer(store, threads, progress)
    try:
        async for write, size in _writes(reading, made):
            writer.add(write, size)
            if writer.full:
                await writer.flush()
        await writer.finish()
    finally:
        await writer.close()
    last: list[Write] = [(PUT, k.counter(name), value) async for name, value in reading.scratch.read("counter")]
    await _mark(store, holder, [*last, (PUT, k.setting(), made.to_json())])
    return Loaded(reading.used_inodes, writer.records + len(last) + 1, made)


async def _mark(store: RecordStore, expected: bytes | None, writes: list[Write]) -> None:
    """Write the setting, or what stands for it, if nobody else has meanwhile."""
    try:
        await store.commit([(EXACT, k.setting(), expected)], writes)
    except Conflict:
        raise VolumeError(
            "somebody else has formatted this database, or loads into it, at the same time; what is there now is"
            " unusable: see that nobody uses it, empty it, and begin again"
        ) from None


class _Writer:
    """Collects writes and commits them in batches, some at the same time."""

    def __init__(self, store: RecordStore, threads: int, progress: Callable[[int], None] | None) -> None:
        self._store = store
        self._most = min(_BATCH, store.caps.max_writes or _BATCH)
        self._threads = max(1, threads)
        self._progress = progress
        self._batch: list[Write] = []
        self._bytes = 0
        self._running: set[asyncio.Task[int]] = set()
        self.records = 0

    @property
    def full(self) -> bool:
        return len(self._batch) >= self._most or self._bytes >= _BATCH_BYTES

    def add(self, write: Write, size: int) -> None:
        self._batch.append(write)
        self._bytes += size

    async def flush(self) -> None:
        while len(self._running) >= self._threads:
            await self._settle(asyncio.FIRST_COMPLETED)
        batch, self._batch, self._bytes = self._batch, [], 0
        if batch:
            self._running.add(asyncio.create_task(self._commit(batch)))
            await asyncio.sleep(0)

    async def _commit(self, batch: list[Write]) -> int:
        await self._store.commit([], batch)
        return len(batch)

    async def _settle(self, until: str) -> None:
        if not self._running:
            return
        done, self._running = await asyncio.wait(self._running, return_when=until)
        for task in done:
            try:
                self.records += task.result()
            except MetaError as e:
                raise MetaError(
                    f"the load stopped: {e}; the database holds a part of it: `sluice load --restart` begins again",
                    errno=e.errno or 5,
                ) from e
        if self._progress is not None:
            self._progress(self.records)

    async def finish(self) -> None:
        await self.flush()
        await self._settle(asyncio.ALL_COMPLETED)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


Sized = tuple[Write, int]


async def _writes(reading: Reading, fmt: Format) -> AsyncIterator[Sized]:
    """All records, table by table."""
    scratch = reading.scratch
    for table, make in _TABLES:
        async for row in scratch.read(table):
            yield make(row)
    for write in _rest(reading, fmt):
        yield write, 100
    # A file that was open when it was removed: nobody has it open now. An expired session makes the first client that
    # comes along release it.
    for (sid,) in scratch.ledger.execute("SELECT DISTINCT sid FROM sustained"):
        yield (PUT, k.session(sid), 1), 20


def _rest(reading: Reading, fmt: Format) -> Iterator[Write]:
    if fmt.trash_days > 0 and not reading.scratch.one("SELECT 1 FROM node WHERE ino = ?", TRASH):
        now = time.time_ns()
        yield PUT, k.node(TRASH), Attr(DIRECTORY, 0o555, 0, 0, now, now, now, 2, 4096, 0, ROOT)


def _node(row: Any) -> Sized:
    ino, kind, links, raw = row
    attr = decode_attr(raw)
    if links > 1 and kind != DIRECTORY:
        attr = msgspec.structs.replace(attr, nlink=links, parent=0)
    return (PUT, k.node(ino), attr), 100


def _size(*parts: bytes) -> int:
    return 40 + sum(map(len, parts))


_TABLES: Final[tuple[tuple[str, Callable[[Any], Sized]], ...]] = (
    ("node", _node),
    ("entry", lambda r: ((PUT, (k.ENTRY, r[0], r[1]), Entry(r[2], r[3])), 40 + len(r[1]))),
    ("chunk", lambda r: ((PUT, (k.CHUNK, r[0], r[1]), r[2]), 40 + len(r[2]))),
    # One reference needs no record on some engines, which PUT_NEW knows (metadata-format §3.4).
    ("ref", lambda r: ((PUT_NEW if r[2] == 1 else PUT, (k.SLICEREF, r[0], r[1]), r[2]), 40)),
    ("symlink", lambda r: ((PUT, k.symlink(r[0]), r[1]), _size(r[1]))),
    ("xattr", lambda r: ((PUT, k.xattr(r[0], r[1]), r[2]), _size(r[1], r[2]))),
    ("acl", lambda r: ((PUT, k.acl(r[0]), r[1]), _size(r[1]))),
    ("link", lambda r: ((ADD, k.parent(r[0], r[1]), r[2]), 40)),
    ("dirstat", lambda r: ((PUT, k.dirstat(r[0]), DirStat(*r[1:])), 60)),
    ("quota", lambda r: ((PUT, k.quota(r[0], r[1]), Quota(*r[2:])), 60)),
    ("delfile", lambda r: ((PUT, k.delfile(r[0], r[1]), r[2]), 40)),
    ("sustained", lambda r: ((PUT, k.sustained(r[0], r[1]), True), 40)),
)
