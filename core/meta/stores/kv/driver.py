# SPDX-License-Identifier: Apache-2.0
"""What a key-value database must offer to hold volumes: snapshot reads, and commits that depend on what was read.

A transaction names everything it depends on when it begins. The driver finds out what is there (or takes the given
hints for it), the layer above decides and computes, and the commit applies all writes only if everything that the
transaction depends on is still as it was shown. If it isn't, the driver hands out the next attempt with what is there
now. So etcd can do with one round trip (compare what was hinted, write, or return the present values), and TiKV can
run an optimistic transaction (begin, read, lock what is only read, write).

Keys are full keys, the volume's prefix included. Every coroutine may raise MetaError, and nothing else but TooLarge
and SnapshotGone.
Source: format §6.5; semantics §1.6.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Pair = tuple[bytes, bytes]


class Range(NamedTuple):
    """Keys in [start, end), at most `limit` (0: all). keys_only: values come back as b""."""

    start: bytes
    end: bytes
    limit: int = 0
    keys_only: bool = False


class Reading(NamedTuple):
    """What one read saw, in the order of the question; all of it at one moment.

    at: names that moment; given to the next `get`, it reads the same one (SnapshotGone: forgotten).
    when: the same as a number that grows with every commit, if the database has one; it tells old news from new.
    """

    values: list[bytes | None]
    ranges: list[list[Pair]]
    at: Any
    when: int = 0


class Limits(NamedTuple):
    """What fits into one transaction; 0: no limit. The layer groups commits up to here and refuses single larger ones.

    depends: keys and ranges that it depends on. writes: keys written. bytes: keys and values written.
    page: keys per page of a scan. log_lines: lines of the change log; 0: the store keeps none.
    blind_wipe: a commit can delete a range that it hasn't read.
    """

    depends: int = 0
    writes: int = 0
    bytes: int = 0
    page: int = 1000
    log_lines: int = 0
    blind_wipe: bool = False


class TooLarge(Exception):
    """The transaction doesn't fit into what the database takes at once; nothing was changed."""


class SnapshotGone(Exception):
    """The database no longer keeps the moment that `at` names; read anew."""


class Transaction(ABC):
    """One attempt. Everything asked for at `begin` is in `values` and `ranges`.

    fresh: it is what the database held at some moment since `begin`; else some of it is hints that only the commit
    proves, and a refusal based on it isn't final.
    """

    values: dict[bytes, bytes | None]
    ranges: dict[Range, list[Pair]]
    fresh: bool
    when: int = 0  # as in Reading; after a commit, its moment

    async def refresh(self, more: Sequence[bytes] = ()) -> None:
        """Replace hints by what is there, and depend on `more` keys, too; `fresh` afterwards. Only called before."""
        raise NotImplementedError

    def log_version(self, number: int) -> int:
        """Version of the number-th line (from 0, below Limits.log_lines) of the change log in this transaction."""
        raise NotImplementedError

    @abstractmethod
    async def commit(
        self, writes: Mapping[bytes, bytes | None], wipes: Sequence[tuple[bytes, bytes]] = ()
    ) -> Transaction | None:
        """Put (or, for None, delete) keys and wipe ranges, if all of `values` and `ranges` still holds.

        None: done, durable. Else nothing was changed, and here is the next attempt with what is there now (fresh).
        No written key lies in a wiped range. A key that is only in `values` must be verified, too (locked where the
        database sees only conflicts of writers). MetaError(uncertain=True) if the answer was lost; never sent again.
        """

    async def abandon(self) -> None:
        """Nothing to commit: let go of what the database holds for this attempt."""
        return


class KVDriver(ABC):
    """One database. trips: round trips that callers waited for, counted by the driver.

    pauses: after a lost race `commit` waits a random while itself, before it looks at what is there now.
    cancellable: a commit is one message, so whoever waits for it may be cancelled: it happens as a whole, or not.
    """

    name: str = "kv"
    pauses: bool = False
    cancellable: bool = False
    limits: Limits = Limits()

    def __init__(self) -> None:
        self.trips = 0

    @abstractmethod
    async def open(self) -> None:
        """Connect and prove that the database answers; MetaError names the place and what to do."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def get(self, keys: Sequence[bytes], ranges: Sequence[Range] = (), at: Any = None) -> Reading:
        """Any number of keys and ranges at one moment: the present one, or that of an earlier reading (1 trip)."""

    @abstractmethod
    async def begin(
        self,
        keys: Sequence[bytes],
        ranges: Sequence[Range],
        hints: Mapping[bytes, bytes | None],
        range_hints: Mapping[Range, list[Pair]],
    ) -> Transaction:
        """Start a transaction that depends on these keys and ranges (each once).

        hints: what some of them probably hold. A driver may take them as read, save the trip, and let the commit
        compare (`fresh` is False then), or ignore them.
        """

    async def scan(self, start: bytes, end: bytes, limit: int, *, keys_only: bool = False) -> list[Pair]:
        """One page of a long scan, from `start` on; fewer than `limit` is the end. Needs no snapshot over pages."""
        return (await self.get((), (Range(start, end, limit, keys_only),))).ranges[0]

    @abstractmethod
    async def clear(self, start: bytes, end: bytes) -> None:
        """Delete every key in [start, end); need not be atomic."""
