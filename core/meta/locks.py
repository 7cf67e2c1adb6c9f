# SPDX-License-Identifier: Apache-2.0
"""flock and POSIX record locks: recorded in the volume, so they hold between all clients, JuiceFS included.

A lock costs a read and a commit, an unlock the commit. Who waits for a holder of this process sleeps until that one
lets go and costs the store nothing; only what another client holds is asked for again, with growing pauses.
Nothing is recorded about waiting (there is no room for it in the format), so POSIX deadlocks are found among the
owners of this client. A flock can't be part of one that it makes itself: as in Linux, a request that has to wait
gives up the lock it would replace.
Source: semantics §10.3, §10.4, §16 (38, 45); format §4.6, §5.3, §6.3, §9.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import random
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.lockqueue import Holders, Request, Table, Waits
from core.meta.lockranges import MAX_OFFSET, Holder, Kind, Range, conflicts, decode
from core.meta.sessions import HEARTBEAT_S, Sessions
from core.meta.store import Tx

log = logging.getLogger("sluice.meta")

#: Pauses between two looks at what another client holds: the first as the original's (format §4.6), then longer.
_FIRST_PAUSE_S: Final = {"W": 0.001, "R": 0.010}
_LAST_PAUSE_S: Final = 0.050
#: How long a request lets an earlier one go first although nothing stands against itself.
DEFERENCE_S: Final = 0.5
#: Pauses before a failed unlock is tried again.
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0
_U64: Final = 2**64
_TOGETHER: Final = 100


class LockList(NamedTuple):
    """All locks of an inode, by holder (session, owner)."""

    flocks: dict[Holder, Kind]
    plocks: dict[Holder, list[Range]]


class Locks(Sessions):
    """Mixin of `Meta`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock_tables: dict[Key, Table] = {}
        self._lock_waits = Waits(self._lock_tables.get)
        self._lock_sid = 0  # the session whose locks `_locked` lists
        self._locked: set[Key] = set()  # tables in which this session may hold something
        self._owed: dict[tuple[Key, Holder], list[Request]] = {}  # unlocks that failed, in order
        self._paying: set[asyncio.Task[None]] = set()

    # -- requests ------------------------------------------------------------------------------------------------

    async def flock(
        self, ino: int, owner: int, kind: str, *, block: bool = False, timeout_s: float | None = None
    ) -> None:
        """BSD lock of a whole file: "R" shared, "W" exclusive, "U" none. Replaces what the owner holds.

        EAGAIN if another owner is in the way (with `block`: after `timeout_s`, None waits for ever). ENOENT if there is
        no such inode. Cancelling ends the wait at once, and nothing stays behind. While it waits, the owner holds
        nothing, as in Linux: two that both want to go from shared to exclusive would wait for each other.
        """
        if kind not in ("R", "W", "U"):
            raise FsError(errno.EINVAL, f"flock of inode {ino}: lock type {kind!r} is none of R, W, U")
        await self._request(Request(k.flocks(ino), self._holder(ino, owner), kind), block, timeout_s)  # type: ignore[arg-type]

    async def setlk(
        self, ino: int, owner: int, kind: str, start: int, end: int, pid: int, *, block: bool = False,
        timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        """POSIX lock of the bytes [start, end], `end` inclusive: "R", "W" or "U". As `flock` otherwise, but the owner
        keeps what it holds while it waits, and EDEADLK tells a wait that would never end (among owners of this
        client)."""
        self._require_range(ino, kind, start, end)
        if not 0 <= pid < 2**32:
            raise FsError(errno.EINVAL, f"lock of inode {ino}: process number {pid} does not fit into 32 bits")
        request = Request(k.plocks(ino), self._holder(ino, owner), kind, start, end, pid)  # type: ignore[arg-type]
        await self._request(request, block, timeout_s)

    async def getlk(self, ino: int, owner: int, kind: str, start: int, end: int) -> tuple[Kind, int, int, int]:
        """The first lock that stands against a request: (kind, start, end, pid), ("U", 0, 0, 0) if none does.

        pid is 0 if another client holds it: its process numbers mean nothing here.
        """
        self._require_range(ino, kind, start, end)
        if kind == "U":
            return "U", 0, 0, 0
        (table,) = await self.store.read(k.plocks(ino))
        me = self._holder(ino, owner)
        self._require_sound(k.plocks(ino), table)
        for holder, held in conflicts(table, me, kind, start, end):  # type: ignore[arg-type]
            return held.kind, held.start, held.end, held.pid if holder[0] == self.sid else 0
        return "U", 0, 0, 0

    async def list_locks(self, ino: int) -> LockList:
        """What everybody holds on an inode."""
        flocks, plocks = await self.store.read(k.flocks(ino), k.plocks(ino))
        self._require_sound(k.plocks(ino), plocks)
        return LockList(flocks, {holder: decode(raw) for holder, raw in plocks.items()})

    @staticmethod
    def _require_range(ino: int, kind: str, start: int, end: int) -> None:
        if kind not in ("R", "W", "U"):
            raise FsError(errno.EINVAL, f"lock of inode {ino}: lock type {kind!r} is none of R, W, U")
        if not 0 <= start <= end <= MAX_OFFSET:
            raise FsError(errno.EINVAL, f"lock of inode {ino}: bytes {start} to {end} are no range of a file")

    @staticmethod
    def _require_sound(key: Key, table: Holders) -> None:
        for (sid, owner), held in table.items() if key[0] == k.PLOCKS else ():
            try:
                decode(held)
            except ValueError as e:
                raise MetaError(
                    f"the locks of session {sid}, owner {owner:X} on inode {key[1]} can't be decoded ({e}); they go"
                    " when that session ends"
                ) from e

    def _holder(self, ino: int, owner: int) -> Holder:
        if not 0 <= owner < _U64:
            raise FsError(errno.EINVAL, f"lock of inode {ino}: owner {owner} does not fit into 64 bits")
        return self.sid, owner

    # -- trying and waiting --------------------------------------------------------------------------------------

    async def _request(self, request: Request, block: bool, timeout_s: float | None) -> None:
        if request.kind == "U":
            if self._lock_sid == self.sid and request.key not in self._locked:
                return  # this session never locked anything there
        else:
            self.require_writable()
            if not self.sid:
                raise FsError(errno.ENOLCK, "this client has no session, so nobody would ever clear its locks away")
        table = self._lock_tables.get(request.key)
        if table is None:
            table = self._lock_tables[request.key] = Table()
        table.users += 1
        try:
            if request.kind == "U":
                await self._unlock(table, request)
                return
            await self._settle(table, (request.key, request.me))
            if not block:
                if not await self._try(table, request):
                    raise self._would_block(request)
                return
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wait(table, request)
            except TimeoutError:
                raise self._would_block(request) from None
        finally:
            self._leave(table, request.key)

    async def _unlock(self, table: Table, request: Request) -> None:
        """An unlock that fails is made up for: who closed a file won't come back to unlock it a second time."""
        try:
            await self._settle(table, (request.key, request.me))
            await self._try(table, request)
        except MetaError as e:
            self._owe(table, request, e)
            raise

    def _owe(self, table: Table, request: Request, cause: MetaError) -> None:
        if not cause.retryable:
            return
        self._owed.setdefault((request.key, request.me), []).append(request)
        table.users += 1
        task = asyncio.create_task(self._make_up(table, request))
        self._paying.add(task)
        task.add_done_callback(self._paying.discard)

    async def _make_up(self, table: Table, request: Request) -> None:
        """Unlock as soon as the store can be reached again, while the session lasts."""
        what, pause = (request.key, request.me), _FIRST_RETRY_S
        try:
            while request in self._owed.get(what, ()):
                await asyncio.sleep(pause * random.uniform(0.75, 1.25))  # noqa: S311 - jitter
                pause = min(pause * 2, _LAST_RETRY_S)
                try:
                    await self._settle(table, what)
                except MetaError as e:
                    log.warning("a lock of inode %d can't be released yet: %s", request.key[1], e)
        finally:
            self._leave(table, request.key)

    async def _settle(self, table: Table, what: tuple[Key, Holder]) -> None:
        """The unlocks that an owner still owes, before anything new of it: later they would undo that."""
        while owed := self._owed.get(what):
            request = owed[0]
            await self._try(table, request)
            if owed and owed[0] is request:
                del owed[0]
            if not owed:
                self._owed.pop(what, None)

    def _leave(self, table: Table, key: Key) -> None:
        """Keep a table as long as somebody of this process holds a lock in it, or asks for one."""
        table.users -= 1
        if not table.users and not any(holder[0] == self.sid for holder in table.known or ()):
            self._lock_tables.pop(key, None)

    def _would_block(self, request: Request) -> FsError:
        whose = "another client" if request.foreign else "another owner of this client"
        what = f"bytes {request.start} to {request.end} of inode" if request.posix else "inode"
        return FsError(errno.EAGAIN, f"lock of {what} {request.key[1]}: {whose} holds one that excludes it")

    async def _wait(self, table: Table, request: Request) -> None:
        """Until granted. FIFO among requests that exclude each other."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_S[request.kind]
        deferring_until = loop.time() + DEFERENCE_S
        table.waiting[request] = None
        if request.posix:
            self._lock_waits.add(request)
        try:
            while True:
                request.event.clear()
                delay: float | None = None
                behind = table.behind(request)
                if behind and (loop.time() < deferring_until or request.in_way(table.known or {})):
                    delay = DEFERENCE_S  # not our turn; the store isn't asked
                elif await self._try(table, request):
                    if self._lock_waits.waits_elsewhere(request):
                        table.wake(everyone=True)  # they wait for an owner who waits: a circle may have closed
                    return
                elif request.foreign:
                    delay = pause * random.uniform(0.75, 1.25)  # noqa: S311 - jitter
                    pause = min(pause * 1.5, _LAST_PAUSE_S)
                if request.posix:
                    if self._lock_waits.circle(request):
                        raise FsError(
                            errno.EDEADLK,
                            f"lock of inode {request.key[1]}: its holder waits for a lock of this owner; release one",
                        )
                elif table.holds(request.me):
                    await self._try(table, Request(request.key, request.me, "U"))
                    continue
                await request.pause(delay)
        finally:
            del table.waiting[request]
            if request.posix:
                self._lock_waits.remove(request)
            table.wake()

    async def _try(self, table: Table, request: Request) -> bool:
        """Ask for it once. False if somebody is in the way. Cancelling leaves the owner with what it had; an unlock
        happens all the same."""
        task = asyncio.ensure_future(self._attempt(table, request))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            request.abandoned = request.kind != "U"  # an unlock is finished whoever waits for it
            table.users += 1  # others of this process must meet us there until it is settled
            self.spawn(self._abandon(table, request, task))
            raise

    async def _abandon(self, table: Table, request: Request, task: asyncio.Task[bool]) -> None:
        """The caller has gone while its request was at the store: take back what it may have got."""
        try:
            if await task and request.abandoned:  # granted in the very moment; else the attempt has taken it back
                async with table.turn:
                    await self._take_back(table, request)
        except MetaError as e:
            # What may have been granted has to go; what the owner held before in that range goes with it.
            undo = Request(request.key, request.me, "U", request.start, request.end, request.pid)
            self._owe(table, undo, e)
            raise
        finally:
            self._leave(table, request.key)

    async def _attempt(self, table: Table, request: Request) -> bool:
        async with table.turn:
            request.foreign = False
            if request.kind == "U":
                if table.known is not None and request.applied(table.known) == table.known:
                    return True
            elif request.abandoned or table.ours_in_way(request):
                return False
            elif request.me[0] != self.sid:
                raise FsError(errno.ENOLCK, f"lock of inode {request.key[1]}: the session it was asked in has ended")
            self._locked.add(request.key)
            second = False
            try:
                try:
                    granted = await self._ask(table, request)
                except MetaError as e:
                    if not e.uncertain:
                        raise
                    # What we hold is written by nobody else: a second look tells whether the first try arrived.
                    second, table.known, before = True, None, request.before
                    granted = await self._ask(table, request)
                    request.before = before
                if granted and request.abandoned:
                    await self._take_back(table, request)
            except BaseException:
                # It may have happened, or not: let waiters look for themselves instead of sleeping on it.
                table.known = None
                table.wake()
                raise
            if granted and (second or request.before is not None):
                table.wake()  # a release, or a change that may free something
            return granted

    async def _ask(self, table: Table, request: Request) -> bool:
        """One transaction; with `table.known` it begins by expecting that nothing has changed."""
        new: Holders = {}
        granted = False

        async def body(tx: Tx) -> None:
            nonlocal new, granted
            granted = False
            old, attr = table.known, table.attr
            if tx.attempt or old is None or attr is None or request.in_way(old) or request.applied(old) == old:
                old, attr = await tx.peek(request.key, k.node(request.key[1]))
                assert old is not None
                self._require_sound(request.key, old)
                table.known, table.attr = old, attr
            if request.kind != "U":
                if attr is None:
                    raise FsError(errno.ENOENT, f"inode {request.key[1]}, to be locked, does not exist any more")
                if others := request.in_way(old):
                    request.foreign = any(holder[0] != self.sid for holder in others)
                    return
                tx.expect_identity(request.key[1], attr)
            granted = True
            new = request.applied(old)
            request.before = old.get(request.me)
            tx.expect(request.key, old)
            if new != old:
                tx.put(request.key, new)
                self._log_lock(tx, request)

        await self.store.transact(body)
        if granted:
            table.known = new
        return granted

    def _log_lock(self, tx: Tx, request: Request) -> None:
        ino, owner = request.key[1], request.me[1]
        if request.posix:
            self.log_change(tx, "SETLK", ino, owner, request.kind, request.start, request.end, request.pid)
        else:
            self.log_change(tx, "FLOCK", ino, owner, request.kind)

    async def _take_back(self, table: Table, request: Request) -> None:
        """Give the owner what it held before the request, in the requested range. The caller has the turn."""
        request.abandoned = False
        before = request.before
        parts = [Request(request.key, request.me, "U", request.start, request.end, request.pid)]
        if request.posix:
            parts += [
                Request(
                    request.key, request.me, r.kind, max(r.start, request.start), min(r.end, request.end), r.pid
                )
                for r in decode(before or b"")
                if r.start <= request.end and r.end >= request.start
            ]  # fmt: skip
        elif before:
            parts = [Request(request.key, request.me, before)]
        for part in parts:
            await self._ask(table, part)
        table.wake()

    # -- sessions ------------------------------------------------------------------------------------------------

    async def new_session(self, mount_point: str, *, heartbeat_s: int = HEARTBEAT_S) -> None:
        await super().new_session(mount_point, heartbeat_s=heartbeat_s)
        self._lock_sid = self.sid
        self._locked.clear()
        self._lock_tables.clear()

    async def adopt_session(
        self, sid: int, mount_point: str, *, heartbeat_s: int = HEARTBEAT_S, handles: Iterable[int] = ()
    ) -> None:
        inodes = sorted(set(handles))
        await super().adopt_session(sid, mount_point, heartbeat_s=heartbeat_s)
        self._lock_sid = self.sid
        # Where it may hold something; the tables are read when they are needed.
        self._locked = {key for ino in inodes for key in (k.flocks(ino), k.plocks(ino))}
        self._lock_tables.clear()

    async def leave_session(self) -> None:
        """An unlock that failed is tried once more; then the lock stays with the session."""
        for task in self._paying:
            task.cancel()
        await asyncio.gather(*self._paying, return_exceptions=True)
        for requests in list(self._owed.values()):
            for request in requests:
                try:
                    await self._ask(Table(), request)
                except FsError as e:
                    log.error("inode %d stays locked until this client ends: %s", request.key[1], e)
        self._owed.clear()
        await super().leave_session()

    async def end_session(self) -> None:
        self._owed.clear()  # every lock of the session goes now
        for task in self._paying:
            task.cancel()
        await asyncio.gather(*self._paying, return_exceptions=True)
        await super().end_session()

    async def clean_session(self, sid: int) -> None:
        """The own session knows where it holds locks; for others every lock of the volume has to be looked at."""
        if not sid or sid != self._lock_sid:
            await super().clean_session(sid)
            return
        keys = sorted(self._locked)
        for at in range(0, len(keys), _TOGETHER):
            await asyncio.gather(*[self._drop_locks(key, sid) for key in keys[at : at + _TOGETHER]])
        self._lock_sid = 0
        self._locked.clear()
        for table in list(self._lock_tables.values()):
            table.known = None
            table.wake(everyone=True)
        async for key, _ in self.store.scan(k.SUSTAINED, sid):
            await self.finalise_sustained(sid, key[2])
        await self.store.transact(lambda tx: self._forget(tx, sid))
