# SPDX-License-Identifier: Apache-2.0
"""Who in this process waits for which lock: requests, the queue of each lock table, the graph of who waits for whom.

No IO. `core/meta/locks.py` asks the store and decides; here is only what this process knows without asking.
Order: a request waits behind an earlier one that it excludes, so writers aren't starved by readers. As no application
may depend on that, the deference ends after a while (`locks.py`): no deadlock is made that the locks themselves
don't make.
Source: semantics §10.3, §10.4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from core.meta import keys as k
from core.meta.keys import Key
from core.meta.lockranges import Holder, Kind, apply, clash, conflicts, decode, encode
from core.meta.records import Attr

#: A lock table as stored: flocks(ino) with "R" or "W", plocks(ino) with lists of ranges.
Holders = dict[Holder, Any]


class Request:
    """One owner wants a lock, or wants to be rid of one. flock: the range is not looked at."""

    __slots__ = ("abandoned", "before", "end", "event", "foreign", "key", "kind", "me", "pid", "start")

    def __init__(self, key: Key, me: Holder, kind: Kind, start: int = 0, end: int = 0, pid: int = 0) -> None:
        self.key = key
        self.me = me
        self.kind: Kind = kind
        self.start = start
        self.end = end
        self.pid = pid
        self.event = asyncio.Event()
        self.foreign = False  # the last try failed because of another client
        self.abandoned = False  # nobody waits for the answer any more
        self.before: Any = None  # what the owner held when the lock was granted

    @property
    def posix(self) -> bool:
        return bool(self.key[0] == k.PLOCKS)

    def in_way(self, table: Holders) -> set[Holder]:
        """Holders that stand against this request."""
        if self.kind == "U":
            return set()
        if self.posix:
            return {holder for holder, _ in conflicts(table, self.me, self.kind, self.start, self.end)}
        return {holder for holder, kind in table.items() if holder != self.me and "W" in (kind, self.kind)}

    def excludes(self, other: Request) -> bool:
        """Can't both be granted."""
        if other.me == self.me:
            return False
        if self.posix:
            return clash(self.kind, self.start, self.end, other.kind, other.start, other.end)
        return "W" in (self.kind, other.kind)

    def applied(self, table: Holders) -> Holders:
        """The table once this is granted."""
        new = dict(table)
        held: Any
        if self.posix:
            ranges = decode(table.get(self.me, b""))
            held = encode(apply(ranges, self.kind, self.pid, self.start, self.end))
        else:
            held = "" if self.kind == "U" else self.kind
        if held:
            new[self.me] = held
        else:
            new.pop(self.me, None)
        return new

    async def pause(self, seconds: float | None) -> None:
        """Until somebody wakes us, at most so long."""
        if seconds is None:
            await self.event.wait()
            return
        timer = asyncio.get_running_loop().call_later(seconds, self.event.set)
        try:
            await self.event.wait()
        finally:
            timer.cancel()


class Table:
    """What this process knows about the locks of one kind on one inode, and who waits there.

    known: the table as last seen or written. What it says about this process is the truth, because only we change
    that; about others it is a guess that a commit verifies. None: nothing is known.
    """

    __slots__ = ("attr", "known", "turn", "users", "waiting")

    def __init__(self) -> None:
        self.turn = asyncio.Lock()  # one request of this process at a time, so that they don't lose races to each other
        self.users = 0
        self.known: Holders | None = None
        self.attr: Attr | None = None
        self.waiting: dict[Request, None] = {}  # in order of arrival

    def ours_in_way(self, request: Request) -> set[Holder]:
        """Holders of this process that stand against a request."""
        return {h for h in request.in_way(self.known or {}) if h[0] == request.me[0]}

    def holds(self, me: Holder) -> bool:
        return self.known is not None and me in self.known

    def behind(self, request: Request) -> bool:
        """Is it an earlier request's turn? Who holds something here already may always try: others may wait for it."""
        if self.holds(request.me):
            return False
        for earlier in self.waiting:
            if earlier is request:
                return False
            if request.excludes(earlier):
                return True
        return False

    def next_up(self) -> Iterator[Request]:
        """Those that wait for nobody before them."""
        earlier: list[Request] = []
        for request in self.waiting:
            if request.posix:
                if self.holds(request.me) or not any(request.excludes(other) for other in earlier):
                    yield request
            elif request.kind == "R" or not earlier:
                yield request  # nobody who waits for a flock holds one, so there is no one else behind a writer
            if not request.posix and request.kind == "W":
                return
            earlier.append(request)

    def wake(self, everyone: bool = False) -> None:
        """After a change here: let those try who may now. Sleepers decide for themselves what to do."""
        for request in list(self.waiting) if everyone else list(self.next_up()):
            request.event.set()


class Waits:
    """The waits-for graph of POSIX locks: which owners of this process wait, and for whom.

    Edges are looked up when asked for, in `Table.known`, so they are never stale. Waits of other clients are recorded
    nowhere (format §4.6), so a circle that leads through another client can't be seen.
    """

    def __init__(self, table_of: Callable[[Key], Table | None]) -> None:
        self._table_of = table_of
        self._requests: dict[Holder, list[Request]] = {}

    def add(self, request: Request) -> None:
        self._requests.setdefault(request.me, []).append(request)

    def remove(self, request: Request) -> None:
        mine = self._requests[request.me]
        mine.remove(request)
        if not mine:
            del self._requests[request.me]

    def waits_elsewhere(self, request: Request) -> bool:
        """Has the owner of this waiting request another one waiting? (Threads of one process share an owner.)"""
        return len(self._requests.get(request.me, ())) > 1

    def circle(self, request: Request) -> bool:
        """Would somebody who is in the way wait, however indirectly, for this request's owner?"""
        seen: set[Holder] = set()
        todo = [request]
        while todo:
            asking = todo.pop()
            table = self._table_of(asking.key)
            for holder in table.ours_in_way(asking) if table is not None else ():
                if holder == request.me:
                    return True
                if holder not in seen:
                    seen.add(holder)
                    todo += self._requests.get(holder, ())
        return False
