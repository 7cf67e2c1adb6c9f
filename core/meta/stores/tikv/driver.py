# SPDX-License-Identifier: Apache-2.0
"""TiKV as a key-value database for volumes: reads at a timestamp, optimistic transactions, two-phase commit.

What things cost, in messages that follow one another (PD hands out timestamps, the stores hold the data):

    read      timestamp (PD), read
    commit    timestamp (PD), read, prewrite, timestamp (PD), commit

The read inside a commit can't be saved: TiKV compares timestamps, not values, so a transaction has to see with its own
start timestamp what it decides upon. Nor can prewrite and commit be one: the client library for Python has neither
one-phase nor asynchronous commit. `trips` counts a read as one, and a commit as one for what it reads (of these,
`commit_reads` led to a commit) and one for what it writes; `messages` counts every message above. What makes this
bearable is the grouping in the layer above: many tasks' commits are one transaction.

TiKV sees only conflicts between writers. So everything that a transaction depends on and doesn't write is locked, keys
that don't exist, too: its commit then fails if another transaction wrote one of them since its start, and a writer that
comes later fails on it. What a range holds is locked key by key; what newly appears in a range can't be locked, so the
inode of that range is locked instead. That is enough, because whoever adds to a directory, to the attributes or to the
chunks of an inode checks or writes that inode: a create locks its directory's inode, which a removal of the directory
deletes (format §6.5, semantics pitfall 40).

Source: format §6; semantics §1.6; measurements with tikv-client 0.0.4 (see `connection`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from core.meta.stores.batching import Batcher
from core.meta.stores.kv.driver import KVDriver, Limits, Pair, Range, Reading, TooLarge, Transaction
from core.meta.stores.tikv import failures
from core.meta.stores.tikv.connection import Connection, RawTransaction, get_from, scan_from, within
from core.meta.stores.tikv.failures import Unreachable
from core.meta.stores.tikv.library import Client, Source
from core.meta.stores.tikv.url import TiKVURL

log = logging.getLogger(__name__)

Question = tuple[Sequence[bytes], Sequence[Range]]

#: Batches of reads under way. A lone reader never waits; with two, a new batch starts while another is being answered.
READS_IN_FLIGHT: Final = 2
#: Lines of the change log in one transaction; see `_Attempt.log_version`.
LOG_LINES: Final = 32
#: Low bits of a timestamp count within a millisecond; PD starts at 0 and gets nowhere near half of them.
_LOGICAL_BITS: Final = 18
_UPPER_HALF: Final = 1 << (_LOGICAL_BITS - 1)
_WIPE_PAGE: Final = 1000

#: In a key of the A space, behind the prefix: "A", eight bytes of inode, the letter of the kind.
_INODE_HEAD: Final = 9


class TiKVDriver(KVDriver):
    """logs: set before a transaction that will ask for `log_version`; it then gets a timestamp of its own for that."""

    name = "tikv"
    pauses = True  # a pause inside a transaction would make the next race longer
    # A value may have 8 MiB minus a little on a default cluster; prewrites are cut into small messages by the library.
    limits = Limits(bytes=64 << 20, page=1000, log_lines=LOG_LINES)

    def __init__(self, url: TiKVURL) -> None:
        super().__init__()
        self.url = url
        self.logs = False
        self.messages = 0
        self.commit_reads = 0
        self._connection = Connection(url)
        # A call into the library costs more than a key. The moment is asked for after the last question has come.
        self._reads: Batcher[Question, Reading] = Batcher(self._read_now, in_flight=READS_IN_FLIGHT)
        self._collector: asyncio.Task[None] | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        try:
            await self._connection.open()
            await self._connection.call(self._prove)
        except Unreachable as e:
            await self._connection.close(0)
            raise failures.unreachable(self.url.where, self.url.endpoints, e) from e
        if self.url.gc_interval_s:
            self._collector = asyncio.create_task(self._collect_garbage(self.url.gc_interval_s))

    async def _prove(self, client: Client) -> None:
        """PD answers, and a store that has our keys."""
        await get_from(await self._connection.snapshot(client), [self.url.prefix + b"setting"])

    async def close(self) -> None:
        if self._collector is not None:
            self._collector.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._collector
            self._collector = None
        await self._connection.close()

    async def _collect_garbage(self, interval_s: float) -> None:
        """TiKV keeps every old version until somebody says which are past use; without TiDB that is its clients.

        Several clients may do so, the cluster takes the latest. JuiceFS clients do the same (format §6.1).
        """
        while True:
            await asyncio.sleep(interval_s * random.uniform(0.9, 1.1))  # noqa: S311
            try:
                now = await self._connection.timestamp()
                await self._connection.collect_garbage(now - (int(interval_s * 1000) << _LOGICAL_BITS))
            except Unreachable as e:
                log.warning("%s: garbage collection failed, next try in %d s: %s", self.url.where, interval_s, e)

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get(self, keys: Sequence[bytes], ranges: Sequence[Range] = (), at: Any = None) -> Reading:
        self.trips += 1
        if at is None:
            return await self._reads.submit((keys, ranges))
        self.messages += 1
        return (await self._read_at(at, [(keys, ranges)]))[0]

    async def _read_at(self, at: int | None, questions: Sequence[Question]) -> list[Reading]:
        """Several questions at one moment, the present one or `at`."""
        keys = list(dict.fromkeys(key for asked, _ in questions for key in asked))
        ranges = list(dict.fromkeys(where for _, asked in questions for where in asked))

        async def work(client: Client) -> list[Reading]:
            moment = await within(client.current_timestamp()) if at is None else at
            values, lists = await read_from(client.snapshot(moment), keys, ranges)
            found = dict(zip(ranges, lists, strict=True))
            return [
                Reading([values.get(key) for key in asked], [found[where] for where in places], moment)
                for asked, places in questions
            ]

        try:
            return await self._connection.call(work)
        except Unreachable as e:
            raise failures.unreachable(self.url.where, self.url.endpoints, e) from e

    async def _read_now(self, questions: Sequence[Question]) -> list[Reading]:
        self.messages += 2
        return await self._read_at(None, questions)

    # -- writing -----------------------------------------------------------------------------------------------------

    async def begin(
        self,
        keys: Sequence[bytes],
        ranges: Sequence[Range],
        hints: Mapping[bytes, bytes | None],
        range_hints: Mapping[Range, list[Pair]],
    ) -> Transaction:
        return await self._attempt(keys, ranges, 0)

    async def _attempt(self, keys: Sequence[bytes], ranges: Sequence[Range], number: int) -> _Attempt:
        """The number-th try (from 0) of one transaction, with what is there now."""
        reads = 1 if keys or ranges else 0
        self.trips += reads
        self.messages += 1 + reads

        async def work(client: Client) -> _Attempt:
            # Both timestamps travel in one message.
            stamping = asyncio.ensure_future(within(client.current_timestamp())) if self.logs else None
            raw = await RawTransaction.begin(client)
            try:
                values, lists = await read_from(raw.source, keys, ranges)
                stamp = 0 if stamping is None else await stamping
            except BaseException:
                if stamping is not None:
                    stamping.cancel()
                await raw.abandon()
                raise
            found = {key: values.get(key) for key in keys}
            return _Attempt(self, raw, found, dict(zip(ranges, lists, strict=True)), stamp, number)

        try:
            return await self._connection.call(work)
        except Unreachable as e:
            raise failures.unreachable(self.url.where, self.url.endpoints, e) from e

    async def clear(self, start: bytes, end: bytes) -> None:
        number = 0
        while True:
            found = [key for key, _ in await self.scan(start, end, _WIPE_PAGE, keys_only=True)]
            if not found:
                return
            attempt = await self._attempt((), (), number)
            number = 0 if await attempt.commit(dict.fromkeys(found)) is None else number + 1


class _Attempt(Transaction):
    fresh = True

    def __init__(
        self,
        driver: TiKVDriver,
        raw: RawTransaction,
        values: dict[bytes, bytes | None],
        ranges: dict[Range, list[Pair]],
        stamp: int,
        number: int,
    ) -> None:
        self.values = values
        self.ranges = ranges
        self._driver = driver
        self._raw = raw
        self._stamp = stamp
        self._number = number

    def log_version(self, number: int) -> int:
        """Unique in the cluster, and close to the start timestamp that other clients use as version (format §9).

        One timestamp per transaction must do for all its lines. Every line takes a place in the upper half of its
        millisecond, where PD hands out nothing, at 32 places per timestamp: 4096 transactions in one millisecond.
        """
        logical = self._stamp & (2 * _UPPER_HALF - 1)
        if not self._stamp or number >= LOG_LINES:
            raise ValueError(f"no timestamp for line {number} of the change log")
        if logical >= _UPPER_HALF // LOG_LINES:  # never seen: four million timestamps a second
            return self._stamp if number == 0 else self._stamp + (number << _LOGICAL_BITS)
        return self._stamp - logical + _UPPER_HALF + logical * LOG_LINES + number

    async def commit(
        self, writes: Mapping[bytes, bytes | None], wipes: Sequence[tuple[bytes, bytes]] = ()
    ) -> Transaction | None:
        raw, driver = self._raw, self._driver
        try:
            gone = [key for start, end in wipes for key, _ in await scan_from(raw.source, Range(start, end, 0, True))]
        except BaseException as e:
            await raw.abandon()
            if not isinstance(e, Exception):
                raise
            raise failures.unreachable(driver.url.where, driver.url.endpoints, e) from e
        written = set(gone)
        for key in gone:
            raw.delete(key)
        for key, value in writes.items():
            # An empty value reads as missing (format §6.3), and TiKV's other clients refuse to write one.
            if value:
                raw.put(key, value)
            elif key in self.values and self.values[key] is None:
                continue  # nothing there to delete; the lock below sees to it that this stays so
            else:
                raw.delete(key)
            written.add(key)
        raw.lock(key for key in dict.fromkeys(self._guards()) if key not in written)
        driver.trips += 1
        driver.commit_reads += 1 if self.values or self.ranges else 0
        driver.messages += 3
        try:
            await raw.commit()
        except Exception as e:
            if failures.is_worth_another_try(e):
                log.debug("%s: not committed, will be tried again: %s", driver.url.where, failures.plain(e))
                return await self._next()
            if failures.is_too_large(e):
                raise TooLarge(failures.plain(e)) from e
            raise failures.uncertain(driver.url.where, driver.url.endpoints, e) from e
        return None

    def _guards(self) -> Iterator[bytes]:
        """Keys that nobody may change before our commit."""
        yield from self.values
        node = len(self._driver.url.prefix) + _INODE_HEAD
        for asked, found in self.ranges.items():
            yield from (key for key, _ in found)
            if asked.start[len(self._driver.url.prefix) :].startswith(b"A"):
                yield asked.start[:node] + b"I"

    async def _next(self) -> _Attempt:
        # Random pauses that grow with the tries, as all clients have them (semantics §1.6).
        number = self._number + 1
        await asyncio.sleep(random.randrange(number**2) / 1000)  # noqa: S311
        return await self._driver._attempt(list(self.values), list(self.ranges), number)

    async def abandon(self) -> None:
        await self._raw.abandon()


async def read_from(
    source: Source, keys: Sequence[bytes], ranges: Sequence[Range]
) -> tuple[dict[bytes, bytes], list[list[Pair]]]:
    """Keys and ranges at once, from a snapshot or a transaction."""
    if not ranges:
        return (await get_from(source, keys) if keys else {}), []
    if not keys and len(ranges) == 1:
        return {}, [await scan_from(source, ranges[0])]
    values, *lists = await asyncio.gather(get_from(source, keys), *(scan_from(source, asked) for asked in ranges))
    return values, lists  # type: ignore[return-value]
