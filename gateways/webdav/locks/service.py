# SPDX-License-Identifier: Apache-2.0
"""Taking, refreshing and giving back locks, so that all servers of a volume agree; or in memory for a single server.

Before a request that needs locks, `fresh` compares the folder's generation (one round trip) and reads what is new.
A lock that looks expired is read again before it is forgotten: another server may have refreshed it.
Source: spec webdav §12.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

import msgspec

from core.errors import FsError
from core.meta.keys import Key
from gateways.webdav.config import MAX_LOCKS, MAX_LOCKS_OF_ONE, REFRESH_WRITE_S
from gateways.webdav.errors import DavError
from gateways.webdav.locks.records import LockRecords
from gateways.webdav.locks.table import Lock, LockTable
from gateways.webdav.names import Path

log = logging.getLogger("sluice.webdav.locks")

_NS: Final = 1_000_000_000
_SWEEP_S: Final = 60


class LockConflict(Exception):
    """Other locks are in the way."""

    def __init__(self, locks: Sequence[Lock]) -> None:
        super().__init__("locked by " + ", ".join(str(lock.path) for lock in locks))
        self.locks = tuple(locks)


class LockService:
    """The locks of one volume as this process knows them. All methods run on one event loop.

    records: where they are shared, None keeps them in this process.
    """

    def __init__(
        self, records: LockRecords | None, *, max_timeout_s: int = 86400, relaxed_s: float = 0,
        clock: Callable[[], int] = time.time_ns, monotonic: Callable[[], float] = time.monotonic,
        max_locks: int = MAX_LOCKS, max_of_one: int = MAX_LOCKS_OF_ONE,
    ) -> None:  # fmt: skip
        self.table = LockTable()
        self._records = records
        self._max_timeout_s = max_timeout_s
        self._relaxed_s = relaxed_s
        self._clock = clock
        self._monotonic = monotonic
        self._max_locks = max_locks
        self._max_of_one = max_of_one
        self._generation = -1
        self._looked = -1.0e9
        self._inos: dict[str, int] = {}
        self._written: dict[str, int] = {}  # token -> expiry that is stored
        self._loading: asyncio.Lock = asyncio.Lock()

    # -- keeping up ---------------------------------------------------------------------------------------------

    async def fresh(self) -> None:
        """Know every lock that was taken before this call, and forget those that ended."""
        if self._records is not None:
            now = self._monotonic()
            if now - self._looked >= self._relaxed_s:
                generation = await self._records.generation()
                if generation != self._generation:
                    async with self._loading:
                        await self._load(generation)
                self._looked = now
        await self._expire()

    async def run(self) -> None:
        """Each minute, until cancelled: locks that ended go, also if nobody asks for them (§12.2)."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            try:
                await self.fresh()
            except OSError as error:
                log.warning("locks that ended can't be removed yet, next try in %d s: %s", _SWEEP_S, error)

    def guards(self) -> list[tuple[Key, Any]] | None:
        """Records that prove, in the commit of a change, that `table` is what all servers agree on: a change that is
        allowed by it then needs no round trip to ask first. None: `fresh` has to be called, or `prepare`."""
        now = self._clock()
        if any(lock.expires <= now for lock in self.table):
            return None
        if self._records is None:
            return []
        guard = self._records.guard
        return [guard] if guard is not None and guard[1].mtime_ns == self._generation else None

    async def prepare(self) -> None:
        """Make `guards` possible."""
        await self.fresh()
        if self._records is not None and self._records.guard is None:
            await self._records.prepare()
            await self.fresh()

    async def reread(self) -> None:
        """Before a request is refused: another server may have given back what this one still knows."""
        if self._records is not None:
            self._generation, self._looked = -1, -1.0e9
        await self.fresh()

    async def _load(self, generation: int) -> None:
        assert self._records is not None
        if generation == self._generation:
            return
        names = await self._records.names() if generation else {}
        gone = [token for token in self.table.tokens() if token not in names]
        for token in gone:
            self._forget(token)
        new = [token for token in names if self.table.get(token) is None]
        for lock in await self._records.load(names[token] for token in new):
            if lock.token in names:
                self.table.put(lock)
                self._inos[lock.token] = names[lock.token]
                self._written[lock.token] = lock.expires
        self._generation = generation

    async def _expire(self) -> None:
        now = self._clock()
        ended = [lock for lock in self.table if lock.expires <= now]
        if not ended:
            return
        if self._records is not None:
            known = {lock.token: self._inos[lock.token] for lock in ended if lock.token in self._inos}
            for lock in await self._records.load(known.values()):
                if lock.expires > now and self.table.get(lock.token) is not None:
                    self.table.put(lock)
                    self._written[lock.token] = lock.expires
            ended = [lock for lock in ended if (held := self.table.get(lock.token)) and held.expires <= now]
            await self._records.remove([lock.token for lock in ended])
        for lock in ended:
            self._forget(lock.token)

    def _forget(self, token: str) -> None:
        self.table.remove(token)
        self._inos.pop(token, None)
        self._written.pop(token, None)

    # -- changing -----------------------------------------------------------------------------------------------

    async def acquire(
        self, path: Path, *, infinite: bool, exclusive: bool, owner: str, principal: str, timeout_s: int
    ) -> Lock:
        """A new lock. `LockConflict` if others are in the way, 507 if there are too many."""
        if self._records is None:
            await self._expire()
            return self._grant(path, infinite, exclusive, owner, principal, timeout_s)
        async with self._records.exclusive():
            self._looked = -1.0e9
            await self.fresh()
            lock = self._grant(path, infinite, exclusive, owner, principal, timeout_s)
            try:
                self._inos[lock.token] = await self._records.add(lock)
            except BaseException:
                self._forget(lock.token)
                raise
            self._written[lock.token] = lock.expires
            return lock

    def _grant(self, path: Path, infinite: bool, exclusive: bool, owner: str, principal: str, timeout_s: int) -> Lock:
        conflicts = self.table.conflicts(path, infinite=infinite, exclusive=exclusive)
        if conflicts:
            raise LockConflict(conflicts)
        if len(self.table) >= self._max_locks or self.table.held_by(principal) >= self._max_of_one:
            raise DavError(507, "There are too many locks; unlock some first.")
        now = self._clock()
        timeout = self._capped(timeout_s)
        lock = Lock(
            token=str(uuid.uuid4()), path=path, infinite=infinite, exclusive=exclusive, owner=owner,
            principal=principal, created=now, timeout=timeout, expires=now + timeout * _NS,
        )  # fmt: skip
        self.table.put(lock)
        return lock

    def _capped(self, timeout_s: int) -> int:
        return max(1, min(timeout_s, self._max_timeout_s))

    async def refresh(self, token: str, timeout_s: int) -> Lock | None:
        """Restart the time of a lock; None if there is none."""
        lock = self.table.get(token)
        if lock is None:
            return None
        timeout = self._capped(timeout_s)
        now = self._clock()
        lock = msgspec.structs.replace(lock, timeout=timeout, expires=now + timeout * _NS)
        self.table.put(lock)
        stored = self._written.get(lock.token, 0)
        if self._records is not None and not lock.expires <= stored <= lock.expires + REFRESH_WRITE_S * _NS:
            # Rounded up, so that refreshes of the next seconds need no writing.
            kept = msgspec.structs.replace(lock, expires=lock.expires + REFRESH_WRITE_S * _NS)
            try:
                await self._records.update(self._inos[lock.token], kept)
            except FsError as e:
                if e.errno != errno.ENOENT:
                    raise
                self._forget(lock.token)
                return None
            self._written[lock.token] = kept.expires
        return lock

    async def release(self, tokens: Collection[str]) -> None:
        """Give locks back; those that are gone already are fine."""
        known = [lock.token for token in tokens if (lock := self.table.get(token)) is not None]
        if not known:
            return
        if self._records is not None:
            await self._records.remove(known)
        for token in known:
            self._forget(token)

    async def release_tree(self, path: Path) -> None:
        """What was here is gone: so are the locks on it and below it."""
        here = [lock.token for lock in self.table.covering(path) if lock.path == path]
        await self.release(here + [lock.token for lock in self.table.below(path)])
