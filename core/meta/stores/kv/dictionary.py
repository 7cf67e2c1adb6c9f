# SPDX-License-Identifier: Apache-2.0
"""A key-value database in a sorted dictionary: proves the layer without a server, and shows what a driver must do.

One process, nothing durable. `hinting` makes it take hints as read, as etcd does; without, it reads like TiKV.
Several drivers may share one `Data`, as clients of one server do.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from core.meta.store import Capabilities
from core.meta.stores.kv.driver import KVDriver, Limits, Pair, Range, Reading, Transaction
from core.meta.stores.kv.keys import KeyCodec
from core.meta.stores.kv.store import KVStore


class Data:
    """The database: keys in order. A reading's `at` is a copy of everything, which is what a snapshot is here."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.order: list[bytes] = []
        self.versions = 0  # of change-log lines

    def pairs(self, where: Range) -> list[Pair]:
        first = bisect.bisect_left(self.order, where.start)
        last = bisect.bisect_left(self.order, where.end)
        if where.limit:
            last = min(last, first + where.limit)
        return [(key, b"" if where.keys_only else self.values[key]) for key in self.order[first:last]]

    def put(self, key: bytes, value: bytes | None) -> None:
        if value is not None:
            if key not in self.values:
                bisect.insort(self.order, key)
            self.values[key] = value
        elif self.values.pop(key, None) is not None:
            del self.order[bisect.bisect_left(self.order, key)]

    def wipe(self, start: bytes, end: bytes) -> None:
        for key, _ in self.pairs(Range(start, end)):
            self.put(key, None)

    def copy(self) -> Data:
        other = Data()
        other.values, other.order = dict(self.values), list(self.order)
        return other


class DictionaryTransaction(Transaction):
    def __init__(
        self, driver: DictionaryDriver, values: dict[bytes, bytes | None], ranges: dict[Range, list[Pair]], fresh: bool
    ) -> None:
        self._driver = driver
        self.values, self.ranges, self.fresh = values, ranges, fresh

    def _present(self) -> tuple[dict[bytes, bytes | None], dict[Range, list[Pair]]]:
        data = self._driver.data
        return {key: data.values.get(key) for key in self.values}, {where: data.pairs(where) for where in self.ranges}

    async def refresh(self, more: Sequence[bytes] = ()) -> None:
        self._driver.trips += 1
        self.values.update(dict.fromkeys(more))
        self.values, self.ranges = self._present()
        self.fresh = True

    async def commit(
        self, writes: Mapping[bytes, bytes | None], wipes: Sequence[tuple[bytes, bytes]] = ()
    ) -> Transaction | None:
        self._driver.trips += 1
        values, ranges = self._present()
        if values != self.values or ranges != self.ranges:
            return DictionaryTransaction(self._driver, values, ranges, True)
        for start, end in wipes:
            self._driver.data.wipe(start, end)
        for key, value in writes.items():
            self._driver.data.put(key, value)
        return None

    async def abandon(self) -> None:
        if self._driver.commit_reads:  # this one was a trip without a commit
            self._driver.commit_reads -= 1

    def log_version(self, number: int) -> int:
        self._driver.data.versions += 1
        return self._driver.data.versions


class DictionaryDriver(KVDriver):
    name = "dictionary"

    def __init__(self, data: Data | None = None, *, hinting: bool = True) -> None:
        super().__init__()
        self.data = data or Data()
        self._hinting = hinting
        self.commit_reads = 0  # trips at the beginning of transactions, which a driver that takes hints saves
        self.limits = Limits(depends=100, writes=2000, page=100, log_lines=5, blind_wipe=hinting)

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def get(self, keys: Sequence[bytes], ranges: Sequence[Range] = (), at: Any = None) -> Reading:
        self.trips += 1
        data = at or self.data.copy()
        return Reading([data.values.get(key) for key in keys], [data.pairs(where) for where in ranges], data)

    async def begin(
        self,
        keys: Sequence[bytes],
        ranges: Sequence[Range],
        hints: Mapping[bytes, bytes | None],
        range_hints: Mapping[Range, list[Pair]],
    ) -> Transaction:
        if self._hinting and all(key in hints for key in keys) and all(where in range_hints for where in ranges):
            tx = DictionaryTransaction(
                self, {key: hints[key] for key in keys}, {where: range_hints[where] for where in ranges}, False
            )
        else:
            tx = DictionaryTransaction(self, dict.fromkeys(keys), {where: [] for where in ranges}, False)
            if keys or ranges:
                await tx.refresh()
                self.commit_reads += not self._hinting
        return tx

    async def clear(self, start: bytes, end: bytes) -> None:
        self.trips += 1
        self.data.wipe(start, end)


class DictionaryStore(KVStore):
    """A record store over a dictionary; its change log has shards, as TiKV's has."""

    name = "dictionary"
    caps = Capabilities(empty_xattr=False)

    def __init__(self, data: Data | None = None, *, hinting: bool = True) -> None:
        super().__init__(DictionaryDriver(data, hinting=hinting), KeyCodec(b"/jfs\xfd", 64))
