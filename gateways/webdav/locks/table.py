# SPDX-License-Identifier: Apache-2.0
"""The locks that a server knows, by token and by path. Pure; no IO, no clock.

Paths are tuples of names of the volume. Finding what covers a path costs its depth, finding what lies below it a
binary search. Source: spec webdav §12.1, §12.2; RFC 4918 §6–§7.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import msgspec

from gateways.webdav.names import Path, starts_with

TOKEN_SCHEME = "urn:uuid:"  # noqa: S105 - not a secret by itself; principals are checked


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """One active lock. owner: inner XML as the client gave it; expires: nanoseconds since the epoch."""

    token: str  # the UUID only
    path: Path
    infinite: bool  # depth infinity, else 0
    exclusive: bool
    owner: str
    principal: str
    created: int
    timeout: int
    expires: int

    @property
    def urn(self) -> str:
        return TOKEN_SCHEME + self.token


class LockTable:
    """An index of locks. All methods are synchronous."""

    def __init__(self) -> None:
        self._by_token: dict[str, Lock] = {}
        self._by_path: dict[Path, list[Lock]] = {}
        self._paths: list[Path] = []  # sorted; what lies below a path follows it without a gap
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._by_token)

    def __iter__(self) -> Iterator[Lock]:
        return iter(list(self._by_token.values()))

    def tokens(self) -> Collection[str]:
        return self._by_token.keys()

    def held_by(self, principal: str) -> int:
        return self._of[principal]

    def get(self, token: str) -> Lock | None:
        """By UUID or by URN."""
        return self._by_token.get(token.removeprefix(TOKEN_SCHEME))

    def put(self, lock: Lock) -> None:
        """Add, or replace the one with this token."""
        self.remove(lock.token)
        self._by_token[lock.token] = lock
        self._of[lock.principal] += 1
        here = self._by_path.get(lock.path)
        if here is None:
            self._by_path[lock.path] = [lock]
            insort(self._paths, lock.path)
        else:
            here.append(lock)

    def remove(self, token: str) -> Lock | None:
        lock = self._by_token.pop(token.removeprefix(TOKEN_SCHEME), None)
        if lock is None:
            return None
        self._of[lock.principal] -= 1
        here = self._by_path[lock.path]
        here.remove(lock)
        if not here:
            del self._by_path[lock.path]
            del self._paths[bisect_left(self._paths, lock.path)]
        return lock

    # -- questions ----------------------------------------------------------------------------------------------

    def covering(self, path: Path) -> list[Lock]:
        """Locks on the path, and infinite ones above it."""
        if not self._by_token:
            return []
        found = [lock for depth in range(len(path)) for lock in self._by_path.get(path[:depth], ()) if lock.infinite]
        return found + self._by_path.get(path, [])

    def below(self, path: Path) -> list[Lock]:
        """Locks on members of the path, at any depth; not its own."""
        found: list[Lock] = []
        at = bisect_left(self._paths, path)
        while at < len(self._paths) and starts_with(self._paths[at], path):
            if self._paths[at] != path:
                found += self._by_path[self._paths[at]]
            at += 1
        return found

    def conflicts(self, path: Path, *, infinite: bool, exclusive: bool) -> list[Lock]:
        """What stands against a new lock: two of which one is exclusive can't cover the same resource."""
        around = self.covering(path)
        if infinite:
            around += self.below(path)
        return [lock for lock in around if exclusive or lock.exclusive]


def unsatisfied(locks: Iterable[Lock], submitted: Collection[str], principal: str) -> list[Lock]:
    """Those locks whose token is needed and wasn't submitted by their holder.

    For shared locks on one path a single token of this principal is enough (spec §13).
    """
    needed: dict[Path, list[Lock]] = {}
    for lock in locks:
        needed.setdefault(lock.path, []).append(lock)
    missing: list[Lock] = []
    for group in needed.values():
        if not any(lock.token in submitted and lock.principal == principal for lock in group):
            missing += group
    return missing
