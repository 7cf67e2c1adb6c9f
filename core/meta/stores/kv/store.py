# SPDX-License-Identifier: Apache-2.0
"""A record store over any key-value driver.

Reads are one round trip for any number of keys. Commits of many tasks leave together as one transaction: each is
decided in turn over what the ones before it write (`overlay`), a refused one is told alone, and relative changes are
computed again, not refused, when another client was faster. Walks and listings guess (`walking`, `guesses`).
Source: format §6; semantics §1.6, §6.7. Contract: `core/meta/store.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from heapq import merge
from typing import Any, Final

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.store import DELETE, PUT_NEW, Check, DirEntry, Outcome, RecordStore, Resolved, Write
from core.meta.stores.kv import values as v
from core.meta.stores.kv.changes import Allocate, Change, Commit, Gate, group_value
from core.meta.stores.kv.driver import KVDriver, Pair, Range, SnapshotGone
from core.meta.stores.kv.groups import Groups
from core.meta.stores.kv.guesses import Guesses
from core.meta.stores.kv.keys import KeyCodec
from core.meta.stores.kv.lane import Lane
from core.meta.stores.kv.walking import Walk

#: Sessions of clients before 1.0-beta3 hold the last heartbeat, and live so many seconds from there (format §6.3).
_LEGACY_SESSION_S: Final = 300


class KVStore(RecordStore):
    """driver: the database; codec: this volume's keys. Subclasses give `name`, `caps` and `from_url`."""

    name = "kv"

    def __init__(self, driver: KVDriver, codec: KeyCodec) -> None:
        self.driver = driver
        super().__init__()
        self.codec = codec
        self._guesses = Guesses()
        self._pages: dict[tuple[int, bytes, int], list[bytes]] = {}  # listing -> node keys of last time
        self._groups = Groups(driver, codec, self._guesses)
        self._one_group = asyncio.Lock()
        self._commits: Lane[Change, Any] = Lane(self._run_group, direct=driver.cancellable)

    @property
    def trips(self) -> int:
        return self.driver.trips

    @trips.setter
    def trips(self, count: int) -> None:
        self.driver.trips = count

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        await self.driver.open()

    async def close(self) -> None:
        await self._commits.drain()
        await self.driver.close()
        self.forget()

    def forget(self) -> None:
        """Drop all guesses: the next calls cost what they cost a client that has just started."""
        self._guesses.clear()
        self._pages.clear()

    def initial_counters(self) -> list[Write]:
        return [(PUT_NEW, k.counter("nextInode"), 2), (PUT_NEW, k.counter("nextChunk"), 1)]

    async def wipe(self) -> None:
        await self._commits.drain()
        self.forget()
        await self.driver.clear(*self.codec.everything)

    # -- reading -------------------------------------------------------------------------------------------------

    async def read(self, *keys: Key) -> list[Any]:
        codec = self.codec
        groups = {key: codec.group(key) for key in keys if codec.is_group(key)}
        singles = {key: codec.encode(key) for key in keys if key not in groups}
        if not keys:
            return []
        wanted, places = list(dict.fromkeys(singles.values())), list(dict.fromkeys(groups.values()))
        places = [place for place in places if place.start < place.end]  # chunks(ino, 0)
        values, ranges = await self._fetch(wanted, places)
        return [
            v.decode(key, values[singles[key]])
            if key in singles
            else group_value(codec, key, ranges.get(groups[key], []))
            for key in keys
        ]

    async def _fetch(
        self, keys: Sequence[bytes], ranges: Sequence[Range]
    ) -> tuple[dict[bytes, bytes | None], dict[Range, list[Pair]]]:
        if not keys and not ranges:
            return {}, {}
        found = await self.driver.get(keys, ranges)
        values = dict(zip(keys, found.values, strict=True))
        self._guesses.learn(values, found.when)
        return values, dict(zip(ranges, found.ranges, strict=True))

    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        return (await self._walk([Walk(self.codec, self._guesses, base, names, xattrs=xattrs, chunk=chunk)]))[0]

    async def resolve_many(self, *walks: tuple[int, Sequence[bytes]]) -> list[Resolved]:
        return await self._walk(
            [Walk(self.codec, self._guesses, base, names, xattrs=False, chunk=False) for base, names in walks]
        )

    async def _walk(self, walks: Sequence[Walk]) -> list[Resolved]:
        """All walks in step, at one moment of the database."""
        values: dict[bytes, bytes | None] = {}
        ranges: dict[Range, list[Pair]] = {}
        at: Any = None
        while waiting := [walk for walk in walks if walk.done is None]:
            keys: dict[bytes, None] = {}
            places: dict[Range, None] = {}
            for walk in waiting:
                more, where = walk.wanted(values, ranges)
                keys.update(dict.fromkeys(more))
                places.update(dict.fromkeys(where))
            try:
                found = await self.driver.get(list(keys), list(places), at)
            except SnapshotGone:  # begin again, at the present moment
                values, ranges, at = {}, {}, None
                continue
            at = found.at
            fresh = dict(zip(keys, found.values, strict=True))
            self._guesses.learn(fresh, found.when)
            values.update(fresh)
            ranges.update(zip(places, found.ranges, strict=True))
            for walk in waiting:
                walk.follow(values, ranges)
        return [walk.done for walk in walks if walk.done is not None]

    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        """Names cost one trip. Attributes cost a second one, unless the page holds what it held last time."""
        place = self.codec.entries(parent, after, limit)
        guessed = self._pages.get((parent, after, limit), []) if attrs else []
        found = await self.driver.get(guessed, (place,))
        pairs = found.ranges[0]
        names = [self.codec.name(raw) for raw, _ in pairs]
        entries = [v.decode(k.entry(parent, name), raw) for name, (_, raw) in zip(names, pairs, strict=True)]
        self._guesses.learn(dict(pairs), found.when)
        if not attrs:
            return [DirEntry(name, e.type, e.ino, None) for name, e in zip(names, entries, strict=True)]
        nodes = [self.codec.encode(k.node(e.ino)) for e in entries]
        values = dict(zip(guessed, found.values, strict=True))
        if missing := [key for key in dict.fromkeys(nodes) if key not in values]:
            try:
                more = await self.driver.get(missing, (), found.at)
            except SnapshotGone:
                more = await self.driver.get(missing)
            values.update(zip(missing, more.values, strict=True))
        self._remember_page((parent, after, limit), nodes)
        self._guesses.learn(values, found.when)
        return [
            DirEntry(name, e.type, e.ino, v.decode(k.node(e.ino), values[node]))
            for name, e, node in zip(names, entries, nodes, strict=True)
        ]

    def _remember_page(self, page: tuple[int, bytes, int], nodes: list[bytes]) -> None:
        self._pages.pop(page, None)
        self._pages[page] = nodes
        while len(self._pages) > 256:  # with pages of 1000: 256,000 keys, some 16 MB
            del self._pages[next(iter(self._pages))]

    async def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        if kind == k.CHANGELOG:
            async for line in self._scan_log(start):
                yield line
            return
        for first, end in self.codec.spaces(kind, start):
            async for raw, value in self._pages_of(first, end):
                key = self.codec.decode(kind, raw)
                if key is None:
                    continue
                # An xattr without bytes can't be read (format §6.3), but it is there, and belongs into a dump.
                record: Any = value if kind == k.XATTR else v.decode(key, value)
                if record is None or record == {}:
                    continue
                if kind == k.SLICEREF and start is not None and record > start:
                    continue
                if kind == k.PARENT and record <= 0:
                    continue
                if kind == k.SESSION and self.codec.is_legacy_session(raw):
                    record += _LEGACY_SESSION_S
                yield key, record

    async def _pages_of(self, start: bytes, end: bytes) -> AsyncIterator[Pair]:
        limit = self.driver.limits.page
        while True:
            page = await self.driver.scan(start, end, limit)
            for pair in page:
                yield pair
            if len(page) < limit:
                return
            start = page[-1][0] + b"\0"

    async def _scan_log(self, start: Any) -> AsyncIterator[tuple[Key, Any]]:
        """Lines of all shards in the order of their versions."""
        shards = []
        for first, end in self.codec.spaces(k.CHANGELOG, start):
            lines = []
            async for raw, value in self._pages_of(first, end):
                key = self.codec.decode(k.CHANGELOG, raw)
                if key is not None:
                    lines.append((key, value))
            shards.append(lines)
        for line in merge(*shards):
            yield line

    async def trim_log(self, upto: int) -> int:
        removed = 0
        for first, end in self.codec.spaces(k.CHANGELOG):
            old = []
            async for raw, _ in self._pages_of(first, end):
                key = self.codec.decode(k.CHANGELOG, raw)
                if key is not None and key[1] <= upto:
                    old.append(key)
            for at in range(0, len(old), 100):
                await self.commit([], [(DELETE, key, None) for key in old[at : at + 100]])
            removed += len(old)
        return removed

    # -- writing -------------------------------------------------------------------------------------------------

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        change = Commit(self.codec, checks, writes, blind_wipe=self.driver.limits.blind_wipe)
        try:
            outcome: Outcome = await self._commits.submit(change)
        except Conflict as lost:
            if lost.found is None and lost.key is not None and lost.key[0] == k.ENTRY:
                lost.found = await self._what_is_there(lost.key)
            raise lost from None
        return outcome

    async def _what_is_there(self, key: Key) -> tuple[Any, Any] | None:
        """Entry and attributes of a name that was not as expected, in one trip if the inode can be guessed."""
        found = await self.resolve(key[1], [key[2]])
        return (found.steps[0].entry, found.steps[0].attr) if found.steps else (None, None)

    async def allocate(self, name: str, count: int) -> int:
        first: int = await self._commits.submit(Allocate(self.codec, name, count))
        return first

    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        won: bool = await self._commits.submit(Gate(self.codec, name, now, min_age_s))
        return won

    # -- groups --------------------------------------------------------------------------------------------------

    async def _run_group(self, changes: Sequence[Change]) -> list[Any]:
        async with self._one_group:
            return await self._groups.run(changes)
