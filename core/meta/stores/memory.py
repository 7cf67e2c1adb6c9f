# SPDX-License-Identifier: Apache-2.0
"""A record store in plain dictionaries: for tests, and the readable reference of what the others must do.

One process, nothing durable. Every operation is one dictionary step, so it is atomic on the event loop.
"""

from __future__ import annotations

import bisect
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import FILE, Attr, DirStat, Quota
from core.meta.store import (
    ADD,
    APPEND,
    DELETE,
    EXACT,
    LOG,
    PATCH,
    PUT,
    PUT_NEW,
    Capabilities,
    Check,
    DirEntry,
    Outcome,
    RecordStore,
    Resolved,
    Step,
    Write,
)  # fmt: skip

_DICT_KINDS = {k.XATTRS, k.CHUNKS, k.PARENTS, k.FLOCKS, k.PLOCKS}
# "Next free" of id counters in an empty volume: inode 1 is the root; all others start at 1 (format §1.9).
_COUNTER_START = {
    "nextInode": 2, "nextChunk": 1, "nextSession": 1, "nextTrash": 1, "aclMaxId": 1, "krbTokenMaxId": 1,
}  # fmt: skip


class MemoryStore(RecordStore):
    name = "memory"
    caps = Capabilities(shared=False, local=True)

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[Key, Any] = {}
        self._names: dict[int, list[bytes]] = {}  # per directory, sorted
        self._groups: dict[tuple[str, int], set[Any]] = {}  # members of the dict kinds
        self._logged = 0

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        return cls()

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    async def wipe(self) -> None:
        self._records.clear()
        self._names.clear()
        self._groups.clear()

    # -- reading ------------------------------------------------------------------------------------------------

    def _get(self, key: Key) -> Any:
        kind = key[0]
        if kind == k.OCCUPIED:
            return bool(self._names.get(key[1]))
        if kind == k.XATTRS:
            return {n: self._records[k.xattr(key[1], n)] for n in sorted(self._group(k.XATTR, key[1]))}
        if kind == k.CHUNKS:
            found = sorted(i for i in self._group(k.CHUNK, key[1]) if i < key[2])
            return {i: self._records[k.chunk(key[1], i)] for i in found}
        if kind == k.PARENTS:
            counts = {p: self._records[k.parent(key[1], p)] for p in self._group(k.PARENT, key[1])}
            return {p: n for p, n in counts.items() if n > 0}
        if kind in (k.FLOCKS, k.PLOCKS):
            return dict(self._records.get(key, {}))
        if kind == k.COUNTER:
            return self._records.get(key, _COUNTER_START.get(key[1], 0))
        return self._records.get(key)

    def _group(self, kind: str, ino: int) -> set[Any]:
        return self._groups.get((kind, ino), set())

    async def read(self, *keys: Key) -> list[Any]:
        self.trips += 1
        return [self._get(key) for key in keys]

    async def resolve(
        self, base: int, names: Sequence[bytes], *, xattrs: bool = False, chunk: bool = False
    ) -> Resolved:
        self.trips += 1
        root = attr = self._get(k.node(base))
        at, steps = base, list[Step]()
        for name in names:
            if attr is None or not attr.is_dir:
                break
            entry = self._get(k.entry(at, name))
            if entry is None:
                break
            at = entry.ino
            attr = self._get(k.node(at))
            steps.append(Step(entry, attr))
        whole = len(steps) == len(names) and attr is not None
        return Resolved(
            root,
            steps,
            self._get(k.xattrs(at)) if xattrs and whole else None,
            (self._get(k.chunk(at, 0)) or b"") if chunk and whole and attr.type == FILE else None,
        )

    async def list_entries(
        self, parent: int, after: bytes = b"", limit: int = 1000, *, attrs: bool = False
    ) -> list[DirEntry]:
        self.trips += 1
        names = self._names.get(parent, [])
        start = bisect.bisect_right(names, after) if after else 0
        page = []
        for name in names[start : start + limit]:
            entry = self._get(k.entry(parent, name))
            page.append(DirEntry(name, entry.type, entry.ino, self._get(k.node(entry.ino)) if attrs else None))
        return page

    async def scan(self, kind: str, start: Any = None) -> AsyncIterator[tuple[Key, Any]]:
        self.trips += 1
        for key, value in list(self._records.items()):
            if key[0] != kind or key not in self._records:
                continue
            if kind == k.SUSTAINED and start is not None and key[1] != start:
                continue
            if kind == k.SLICEREF and start is not None and value > start:
                continue
            if (kind == k.CHANGELOG and start is not None and key[1] <= start) or (kind == k.PARENT and value <= 0):
                continue
            yield key, value

    # -- writing ------------------------------------------------------------------------------------------------

    async def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        self.trips += 1
        for mode, key, seen in checks:
            now = self._get(key)
            if (now != seen) if mode == EXACT else not same_identity(now, seen):
                raise Conflict(str(key), key, self._found(key, now))
        for op, key, _ in writes:
            if op == PATCH and key not in self._records:
                raise Conflict(str(key), key)
        outcome = Outcome([], [])
        for op, key, value in writes:
            self._apply(op, key, value, outcome)
        return outcome

    def _found(self, key: Key, now: Any) -> tuple[Any, Any] | None:
        if key[0] == k.ENTRY:
            return (None, None) if now is None else (now, self._get(k.node(now.ino)))
        return (None, now) if key[0] == k.NODE and now is not None else None

    def _apply(self, op: int, key: Key, value: Any, outcome: Outcome) -> None:
        if op == PUT:
            self._put(key, value)
        elif op == PUT_NEW:
            if key not in self._records:
                self._put(key, value)
        elif op == DELETE:
            self._delete(key)
        elif op == APPEND:
            self._put(key, (self._get(key) or b"") + value)
        elif op == PATCH:
            attr: Attr = self._records[key]
            self._records[key] = msgspec.structs.replace(
                attr,
                nlink=attr.nlink + value.nlink,
                mtime_ns=attr.mtime_ns if value.mtime_ns is None else value.mtime_ns,
                ctime_ns=attr.ctime_ns if value.ctime_ns is None else value.ctime_ns,
            )
        elif op == ADD:
            self._add(key, value, outcome)
        elif op == LOG:
            self._logged += 1
            self._records[k.changelog(self._logged)] = value

    def _add(self, key: Key, delta: Any, outcome: Outcome) -> None:
        kind, old = key[0], self._get(key)
        if kind == k.DIRSTAT:
            if old is None:
                outcome.no_dirstat.append(key[1])
            else:
                self._put(key, DirStat(*(a + b for a, b in zip(old, delta, strict=True))))
        elif kind == k.QUOTA:
            if old is not None:
                q = Quota(old.max_space, old.max_inodes, old.used_space + delta[0], old.used_inodes + delta[1])
                self._put(key, q)
        elif kind == k.SLICEREF:
            # A missing record means one reference, as on Redis and key-value stores.
            count = (1 if old is None else old) + delta
            self._put(key, count)
            if count <= 0 and delta < 0:
                outcome.freed.append((key[1], key[2]))
        else:
            self._put(key, (old or 0) + delta)

    def _put(self, key: Key, value: Any) -> None:
        kind = key[0]
        if kind in (k.FLOCKS, k.PLOCKS) and not value:
            self._records.pop(key, None)
            return
        if kind == k.ENTRY and key not in self._records:
            bisect.insort(self._names.setdefault(key[1], []), key[2])
        elif kind in (k.XATTR, k.CHUNK, k.PARENT):
            self._groups.setdefault((kind, key[1]), set()).add(key[2])
        self._records[key] = value

    def _delete(self, key: Key) -> None:
        kind = key[0]
        if kind in (k.XATTRS, k.PARENTS):
            member_kind = k.XATTR if kind == k.XATTRS else k.PARENT
            for member in self._groups.pop((member_kind, key[1]), set()):
                self._records.pop((member_kind, key[1], member), None)
            return
        if self._records.pop(key, None) is None:
            return
        if kind == k.ENTRY:
            names = self._names[key[1]]
            del names[bisect.bisect_left(names, key[2])]
        elif kind in (k.XATTR, k.CHUNK, k.PARENT):
            self._groups[(kind, key[1])].discard(key[2])

    async def allocate(self, name: str, count: int) -> int:
        self.trips += 1
        first: int = self._get(k.counter(name))
        self._records[k.counter(name)] = first + count
        return first

    async def gate(self, name: str, now: int, min_age_s: int) -> bool:
        self.trips += 1
        if self._records.get(k.counter(name), 0) > now - min_age_s:
            return False
        self._records[k.counter(name)] = now
        return True

    async def trim_log(self, upto: int) -> int:
        old = [key for key in self._records if key[0] == k.CHANGELOG and key[1] <= upto]
        for key in old:
            del self._records[key]
        return len(old)


def same_identity(a: Attr | None, b: Attr | None) -> bool:
    """Do two attribute records describe the same thing (all but link count, size and times)?"""
    if a is None or b is None:
        return a is b
    return (a.type, a.mode, a.uid, a.gid, a.flags, a.parent, a.access_acl, a.default_acl, a.tier) == (
        b.type, b.mode, b.uid, b.gid, b.flags, b.parent, b.access_acl, b.default_acl, b.tier,
    )  # fmt: skip
