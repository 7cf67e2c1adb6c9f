# SPDX-License-Identifier: Apache-2.0
"""Redis as a record store: reads are one pipelined write, a commit is one script.

May rely on `connection` for everything that concerns the network, and on the pure modules beside it for the format.
`trips` counts what calls wait for: one per command batch or script. A repetition after an outage isn't counted.
Source: format §4 (layout, URL, prefix), §1.9 (ids and gates), §4.8 (what other clients watch).
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from hiredis import ReplyError

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import Attr, Entry, decode_attr, decode_entry
from core.meta.store import (
    NOTHING,
    Capabilities,
    Check,
    DirEntry,
    Outcome,
    RecordStore,
    Resolved,
    Step,
    Write,
)  # fmt: skip
from core.meta.stores.redis import mapping as m, scanning, scripts
from core.meta.stores.redis.connection import Command, Connection
from core.meta.stores.redis.listing import Listing, Listings
from core.meta.stores.redis.reading import MAX_INDEXES, Plan, damaged
from core.meta.stores.redis.url import parse_url
from core.meta.stores.redis.wire import pack_command
from core.meta.stores.redis.writing import Program

log = logging.getLogger(__name__)

#: A directory up to this size is fetched by one command (about 20 ms of the server); larger ones by HSCAN.
LIST_AT_ONCE: Final = 20_000
HSCAN_PAGE: Final = 5_000
LISTING_BYTES: Final = 64 << 20
#: Lines of the change log per page, and per command that removes some (it moves them out one by one).
LOG_LINES: Final = 5_000


class ServerChanged(MetaError):
    """A walk by cursor can't go on: another server answers now."""


class RedisStore(RecordStore):
    """A volume in one logical database of a Redis server, or under the prefix `{db}` of a cluster.

    url: any form of format §4.1. Raises ConfigError for one that makes no sense. prefix: for tests and clusters;
    None chooses by the kind of server.
    """

    name = "redis"
    caps = Capabilities(sorted_listing=False, enumerate_chunks=False)

    def __init__(
        self,
        url: str,
        *,
        prefix: str | None = None,
        env: Mapping[str, str] | None = None,
        listing_bytes: int = LISTING_BYTES,
    ) -> None:
        super().__init__()
        self._url = parse_url(url, env)
        self._connection = Connection(self._url, scripts.ALL)
        self._fixed_prefix = prefix
        self._prefix = prefix or ""
        self._listings = Listings(listing_bytes)
        self._proven = False  # this user may run every command that a commit may need

    # -- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def from_url(cls, url: str) -> RedisStore:
        return cls(url)

    async def open(self) -> None:
        await self._connection.open()
        if self._fixed_prefix is None:
            self._prefix = f"{{{self._url.db}}}" if self._connection.cluster else ""
        await self._forbid_eviction()

    async def close(self) -> None:
        await self._connection.close()
        self._listings.clear()

    async def _forbid_eviction(self) -> None:
        """A server that may throw keys away under memory pressure loses files: set the policy, or say so."""
        call = self._connection.call
        await call(pack_command(("CONFIG", "SET", "maxmemory-policy", "noeviction")), tolerate=True)
        info = await call(pack_command(("INFO", "memory")), tolerate=True)
        if isinstance(info, ReplyError):
            return
        policy = next((w[17:] for w in info.split() if w.startswith(b"maxmemory_policy:")), b"noeviction").decode()
        if policy != "noeviction":
            log.warning(
                "Redis at %s has maxmemory-policy %s and refuses to change it: files may vanish when its memory is"
                " full; set it to noeviction",
                self._url.where,
                policy,
            )

    async def wipe(self) -> None:
        self._listings.clear()
        if not self._prefix:
            self.trips += 1
            await self._connection.call(pack_command(("FLUSHDB",)))
            return
        async for names in scanning.names_like(self._steady(), self._prefix + "*"):
            await self._fetch([("UNLINK", *names)])

    # -- reading ------------------------------------------------------------------------------------------------

    async def _fetch(self, commands: Sequence[Command]) -> list[Any]:
        """Replies of several commands that need no snapshot."""
        self.trips += 1
        replies = await self._connection.call(b"".join(map(pack_command, commands)), len(commands))
        return replies if len(commands) > 1 else [replies]

    def _steady(self) -> scanning.Fetch:
        """`_fetch` for walks by cursor, which mean something to one server process only.

        After a failover or a restart, or while a cluster moves the slot, going on would leave records out without a
        word; gc, say, would take what it didn't see for garbage. So the walk fails.
        """
        server = ""

        async def fetch(commands: Sequence[Command]) -> list[Any]:
            nonlocal server
            # Keys that were moved already are missing in a SCAN; to ask for one that is missing is refused then.
            probe = [("EXISTS", self._prefix + "~")] if self._connection.cluster else []
            replies = await self._fetch([*commands, *probe])
            now = self._connection.server
            if server and now != server:
                raise ServerChanged(
                    f"Redis at {self._url.where}: another server answers now (a failover or a restart), so what was"
                    " being listed would be incomplete; run it again",
                    retryable=True,
                )
            server = now
            return replies[: len(commands)]

        return fetch

    async def read(self, *keys: Key) -> list[Any]:
        if len(keys) == 1 and keys[0][0] is k.NODE:
            # By far the most frequent read needs no plan.
            self.trips += 1
            raw = await self._connection.call(pack_command(("GET", f"{self._prefix}i{keys[0][1]}")))
            return [self._attr(keys[0], raw)]
        if not keys:
            return []
        for i, key in enumerate(keys):
            if key[0] == k.CHUNKS and key[2] > MAX_INDEXES:
                found = await self._chunk_indexes(key[1], key[2])
                keys = (*keys[:i], (k.CHUNKS, key[1], found), *keys[i + 1 :])
        plan = Plan(self._prefix, keys)
        if not plan.commands:  # chunks(ino, 0) and the like
            return plan.decode([])
        self.trips += 1
        return plan.decode(await self._connection.transaction(plan.commands))

    async def _chunk_indexes(self, ino: int, count: int) -> tuple[int, ...]:
        """Chunks of a huge file: ask for each index, or look at all keys, whichever is less. Costs several trips."""
        (keys_in_all,) = await self._fetch([("DBSIZE",)])
        head = f"{self._prefix}c{ino}_"
        found: set[int] = set()
        if count <= keys_in_all:
            for at in range(0, count, MAX_INDEXES):
                page = range(at, min(at + MAX_INDEXES, count))
                replies = await self._fetch([("EXISTS", f"{head}{i}") for i in page])
                found.update(i for i, exists in zip(page, replies, strict=True) if exists)
        else:
            async for names in scanning.names_like(self._steady(), head + "*"):
                found.update(int(name[len(head) :]) for name in names)
        return tuple(sorted(i for i in found if i < count))

    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        self.trips += 1
        flags = ("x" if xattrs else "") + ("c" if chunk else "")
        raw, flat, pairs, records = await self._connection.run(scripts.RESOLVE, (), (self._prefix, base, flags, *names))
        steps = []
        root = self._attr(k.node(base), raw)
        for i in range(0, len(flat), 2):
            entry = self._entry(k.entry(base, names[i // 2]), flat[i])
            steps.append(Step(entry, self._attr(k.node(entry.ino), flat[i + 1])))
        return Resolved(
            root,
            steps,
            None if pairs is None else dict(m.pairs(pairs)),
            None if records is None else b"".join(records),
        )

    @staticmethod
    def _attr(key: Key, raw: bytes | None) -> Attr | None:
        try:
            return None if raw is None else decode_attr(raw)
        except (ValueError, struct.error) as e:
            raise damaged(key, e) from e

    @staticmethod
    def _entry(key: Key, raw: bytes) -> Entry:
        if len(raw) != 9:
            raise damaged(key, ValueError(f"entry value of {len(raw)} bytes, expected 9"))
        return decode_entry(raw)

    def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        """As the contract says; a record may come twice if the server resizes a table meanwhile."""
        if kind == k.CHANGELOG:
            return self._scan_log(start or 0)
        return scanning.scan(self._steady(), self._prefix, kind, start)

    async def _scan_log(self, after: int) -> AsyncIterator[tuple[Key, bytes]]:
        keys = (self._prefix + m.LOG, self._prefix + m.LAST_LOG)
        while True:
            self.trips += 1
            first, lines = await self._connection.run(scripts.LOG_PAGE, keys, (after, LOG_LINES))
            for version, line in enumerate(lines, first):
                yield k.changelog(version), line
            after = first + len(lines) - 1
            if len(lines) < LOG_LINES:
                return

    # -- listing ------------------------------------------------------------------------------------------------

    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        listing = self._listings.find(parent)
        if listing is not None:
            names = listing.page(after, limit)
            entries = [self._entry(k.entry(parent, name), listing.values[name]) for name in names]
            commands: list[Command] = [("GET", f"{self._prefix}i{parent}"), ("HLEN", f"{self._prefix}d{parent}")]
            if attrs and entries:
                commands.append(self._mget(entries))
            self.trips += 1
            raw, count, *nodes = await self._connection.transaction(commands)
            if listing.still(raw, count):
                return self._page(names, entries, nodes[0] if nodes else None)
            self._listings.drop(parent)
        listing, known = await self._list(parent, limit if attrs else 0)
        names = listing.page(after, limit)
        entries = [self._entry(k.entry(parent, name), listing.values[name]) for name in names]
        if not attrs or not entries:
            return self._page(names, entries, None)
        if known is not None:
            return self._page(names, entries, [known[name] for name in names])
        return self._page(names, entries, (await self._fetch([self._mget(entries)]))[0])

    def _mget(self, entries: list[Entry]) -> Command:
        return ("MGET", *[f"{self._prefix}i{e.ino}" for e in entries])

    def _page(self, names: list[bytes], entries: list[Entry], nodes: list[bytes | None] | None) -> list[DirEntry]:
        if nodes is None:
            return [DirEntry(name, e.type, e.ino, None) for name, e in zip(names, entries, strict=True)]
        return [
            DirEntry(name, e.type, e.ino, self._attr(k.node(e.ino), raw))
            for name, e, raw in zip(names, entries, nodes, strict=True)
        ]

    async def _list(self, parent: int, with_attrs: int) -> tuple[Listing, dict[bytes, bytes | None] | None]:
        """The whole directory; attributes too, by name, if it has at most `with_attrs` entries."""
        keys = (f"{self._prefix}i{parent}", f"{self._prefix}d{parent}")
        self.trips += 1
        started = time.time()
        raw, count, server_s, flat, nodes = await self._connection.run(
            scripts.LISTING, keys, (self._prefix, LIST_AT_ONCE, with_attrs)
        )
        if flat is not None:
            values = dict(m.pairs(flat))
            steady = True
        else:
            while True:
                try:
                    values, steady = await self._list_large(keys, raw)
                    break
                except ServerChanged:
                    continue  # from the beginning; a server that can't be reached at all ends it
        listing = Listing(values, raw)
        # The earlier of two clocks: the server's and ours. Changes carry the time of whoever made them.
        if steady and count and listing.settled(min(started, float(server_s))):
            self._listings.keep(parent, listing)
        known = None if nodes is None else dict(zip(values, nodes, strict=True))
        return listing, known

    async def _list_large(self, keys: tuple[str, str], before: bytes | None) -> tuple[dict[bytes, bytes], bool]:
        """By HSCAN, so that the server answers others meanwhile. The flag: nothing changed on the way."""
        values: dict[bytes, bytes] = {}
        fetch = self._steady()
        cursor: bytes | int = 0
        while cursor != b"0":
            (cursor, flat), after, count = await fetch(
                [("HSCAN", keys[1], cursor, "COUNT", HSCAN_PAGE), ("GET", keys[0]), ("HLEN", keys[1])]
            )
            values.update(m.pairs(flat))
        return values, Listing({}, before).mtime == Listing({}, after).mtime and count == len(values)

    # -- writing ------------------------------------------------------------------------------------------------

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        program = Program.build(self._prefix, checks, writes)
        self.trips += 1
        try:
            prove = bool(writes) and not self._proven
            operands = program.operands(prove)
            reply = await self._connection.run(scripts.COMMIT, program.keys, operands, resend=not writes)
        finally:
            for ino in program.dirs:
                self._listings.drop(ino)
        if reply == 1:
            self._proven = self._proven or prove
            return NOTHING
        if isinstance(reply, int):
            key = program.key_of(-reply, checks, writes)
            raise Conflict(str(key), key)
        if isinstance(reply[0], int):
            key = program.key_of(-reply[0], checks, writes)
            entry = None if reply[1] is None else self._entry(key, reply[1])
            raise Conflict(str(key), key, (entry, self._attr(key, reply[2])))
        freed, bare = reply
        return Outcome([_slice_of(field) for field in freed], [int(ino) for ino in bare])

    async def allocate(self, name: str, count: int) -> int:
        key, missing, shift = m.counter(name)
        key = self._prefix + key
        commands: list[Command] = [("INCRBY", key, count)]
        if missing:
            commands.insert(0, ("SET", key, missing, "NX"))
        self.trips += 1
        # Sent again after a loss: at worst a batch of numbers is never used.
        last = (await self._connection.transaction(commands))[-1]
        return int(last) - count + shift

    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        self.trips += 1
        key = self._prefix + m.counter(name).key
        return bool(await self._connection.run(scripts.GATE, (key,), (now, min_age_s), resend=False))

    async def trim_log(self, upto: int) -> int:
        keys = (self._prefix + m.LOG, self._prefix + m.LAST_LOG)
        removed = 0
        while True:
            # Sent again after a loss it removes no more than it should: versions don't move.
            self.trips += 1
            count: int = await self._connection.run(scripts.LOG_TRIM, keys, (upto, LOG_LINES))
            removed += count
            if count < LOG_LINES:
                return removed


def _slice_of(field: bytes) -> tuple[int, int]:
    """`k<id>_<size>`"""
    ident, _, size = field[1:].partition(b"_")
    return int(ident), int(size)
