# SPDX-License-Identifier: Apache-2.0
"""Changes that a group can hold: commits, id allocations, job gates. Pure: they know what they need and what they do.

Each says first which keys and ranges it depends on and what it guesses they hold; then `apply` decides and writes,
over whatever is there. Relative writes (ADD, PATCH, APPEND) are computed from the raw values, so that they repeat
with newer ones when the database has moved on.
Source: `core/meta/store.py` (operations), format §1.9, §3.4, §6.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import msgspec

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import DirStat, Quota
from core.meta.store import ADD, APPEND, DELETE, EXACT, LOG, PATCH, PUT, PUT_NEW, Check, Outcome, Write
from core.meta.stores.kv import values as v
from core.meta.stores.kv.driver import Pair, Range
from core.meta.stores.kv.keys import KeyCodec
from core.meta.stores.kv.overlay import Later, Overlay
from core.meta.stores.memory import same_identity

Hints = dict[bytes, bytes | None]
RangeHints = dict[Range, list[Pair]]


class Change(ABC):
    """keys, ranges: what it depends on (as dictionary keys, so each once). hints: what it expects there."""

    keys: dict[bytes, None]
    ranges: dict[Range, None]
    hints: Hints
    range_hints: RangeHints

    def __init__(self, codec: KeyCodec) -> None:
        self.codec = codec
        self.keys, self.ranges, self.hints, self.range_hints = {}, {}, {}, {}

    @abstractmethod
    def apply(self, now: Overlay) -> Any:
        """Decide and write. Conflict, MetaError: this one is refused; Later: not in this group."""


class Commit(Change):
    """`RecordStore.commit`."""

    def __init__(
        self, codec: KeyCodec, checks: Sequence[Check], writes: Sequence[Write], *, blind_wipe: bool = False
    ) -> None:
        super().__init__(codec)
        self._checks = checks
        self._writes = writes
        self._wiped: set[Key] = set()
        for mode, key, seen in checks:
            self._depend(key, seen, guess=True)
            if mode != EXACT and seen is None:
                self.hints.pop(codec.encode(key), None)
        settled: set[Key] = set()  # written before in this very commit: what was there no longer matters
        for op, key, value in writes:
            if key in settled:
                continue
            if op == ADD:
                # Slices and files that nobody shares have no count; counters, statistics and quotas mostly have one.
                self._depend(key, None, guess=key[0] in (k.SLICEREF, k.PARENT))
            elif op == APPEND or (op == PUT_NEW and not (key[0] == k.SLICEREF and value == 1)):
                self._depend(key, None, guess=key[0] != k.COUNTER)
            elif op == PATCH:
                self._depend(key, None, guess=False)
            elif op == DELETE and codec.is_group(key):
                if blind_wipe and not self._touches(key):
                    self._wiped.add(key)
                else:
                    self.ranges[codec.group(key)] = None
            elif op in (PUT, DELETE):
                settled.add(key)

    def _depend(self, key: Key, expected: Any, *, guess: bool) -> None:
        if self.codec.is_group(key):
            where = self.codec.group(key)
            self.ranges[where] = None
            if not guess or expected is True:
                return
            self.range_hints[where] = sorted(
                (self.codec.encode(member), v.encode(member, expected[member[2]]) or b"")
                for member in (self.codec.members(key, expected) if expected else ())
            )
            return
        raw = self.codec.encode(key)
        self.keys[raw] = None
        if guess and raw not in self.hints:
            start = expected is None or (key[0] == k.COUNTER and expected == v.decode(key, None))
            self.hints[raw] = None if start else v.encode(key, expected)

    def _touches(self, group: Key) -> bool:
        """Does this commit do anything else with members of this group?"""
        start, end = self.codec.group(group)[:2]
        kind = {k.XATTRS: k.XATTR, k.PARENTS: k.PARENT}.get(group[0])
        return any(start <= raw < end for raw in self.keys) or any(
            key[0] == kind and key[1] == group[1] for _, key, _ in self._writes
        )

    # -- deciding ------------------------------------------------------------------------------------------------

    def value(self, now: Overlay, key: Key) -> Any:
        """The record's value as it is now."""
        if not self.codec.is_group(key):
            return v.decode(key, now.get(self.codec.encode(key)))
        return group_value(self.codec, key, now.range(self.codec.group(key)))

    def apply(self, now: Overlay) -> Outcome:
        for mode, key, seen in self._checks:
            present = self.value(now, key)
            if (present != seen) if mode == EXACT else not same_identity(present, seen):
                raise Conflict(str(key), key, self._found(now, key, present))
        outcome = Outcome([], [])
        for op, key, value in self._writes:
            if op == ADD:
                self._add(now, key, value, outcome)
            elif op == LOG:
                now.log(value)
            elif op == DELETE and self.codec.is_group(key):
                self._wipe(now, key)
            else:
                raw = self.codec.encode(key)
                if op == PATCH:
                    now.put(raw, self._patched(now, key, raw, value))
                elif op == APPEND:
                    now.put(raw, (now.get(raw) or b"") + value)
                elif op == DELETE:
                    now.put(raw, None)
                    if key[0] == k.SESSION:
                        now.put(self.codec.legacy_session(key), None)
                elif op != PUT_NEW or self._is_missing(now, key, raw, value):
                    now.put(raw, v.encode(key, value))
        return outcome

    def _found(self, now: Overlay, key: Key, present: Any) -> tuple[Any, Any] | None:
        """For `Conflict.found`. None for an entry whose inode this group hasn't read: the store asks for it."""
        if key[0] == k.NODE:
            return None if present is None else (None, present)
        if key[0] != k.ENTRY:
            return None
        if present is None:
            return (None, None)
        node = k.node(present.ino)
        try:
            return (present, v.decode(node, now.get(self.codec.encode(node))))
        except Later:
            return None

    def _is_missing(self, now: Overlay, key: Key, raw: bytes, value: Any) -> bool:
        if key[0] == k.SLICEREF and value == 1:
            return False  # no record means just that: one reference
        present = now.get(raw)
        return present is None or (not present and v.decode(key, present) is None)

    def _patched(self, now: Overlay, key: Key, raw: bytes, patch: Any) -> bytes | None:
        attr = v.decode(key, now.get(raw))
        if attr is None:
            raise Conflict(str(key), key)
        return v.encode(
            key,
            msgspec.structs.replace(
                attr,
                nlink=max(0, attr.nlink + patch.nlink),
                mtime_ns=attr.mtime_ns if patch.mtime_ns is None else patch.mtime_ns,
                ctime_ns=attr.ctime_ns if patch.ctime_ns is None else patch.ctime_ns,
            ),
        )

    def _wipe(self, now: Overlay, key: Key) -> None:
        where = self.codec.group(key)
        if key in self._wiped:
            now.wipe(where.start, where.end)
            return
        for raw, _ in now.range(where):
            now.put(raw, None)

    def _add(self, now: Overlay, key: Key, delta: Any, outcome: Outcome) -> None:
        kind, raw = key[0], self.codec.encode(key)
        old = v.decode(key, now.get(raw))
        new: Any
        if kind == k.DIRSTAT:
            if old is None:
                outcome.no_dirstat.append(key[1])
                return
            new = DirStat(*(a + b for a, b in zip(old, delta, strict=True)))
        elif kind == k.QUOTA:
            if old is None:
                return
            new = Quota(old.max_space, old.max_inodes, old.used_space + delta[0], old.used_inodes + delta[1])
        elif kind == k.SLICEREF:
            new = (1 if old is None else old) + delta
            if new <= 0 and delta < 0:
                outcome.freed.append((key[1], key[2]))
            if new == 1:  # as good as no record (format §3.4), so keep none
                now.put(raw, None)
                return
        else:
            new = (old or 0) + delta
            if kind == k.PARENT and new == 0:  # readers ignore it
                now.put(raw, None)
                return
        now.put(raw, v.encode(key, new))


class Allocate(Change):
    """Reserve ids: answers the first one."""

    def __init__(self, codec: KeyCodec, name: str, count: int) -> None:
        super().__init__(codec)
        self._key, self._count = k.counter(name), count
        self._raw = codec.encode(self._key)
        self.keys[self._raw] = None
        self.hints[self._raw] = None  # the first id of all; else the commit fails and brings the number

    def apply(self, now: Overlay) -> int:
        first: int = v.decode(self._key, now.get(self._raw))
        now.put(self._raw, v.encode(self._key, first + self._count))
        return first


class Gate(Change):
    """Set-if-small: answers whether the caller may run the job."""

    def __init__(self, codec: KeyCodec, name: str, now_s: int, min_age_s: int) -> None:
        super().__init__(codec)
        self._key, self._now_s, self._min_age_s = k.counter(name), now_s, min_age_s
        self._raw = codec.encode(self._key)
        self.keys[self._raw] = None
        self.hints[self._raw] = None

    def apply(self, now: Overlay) -> bool:
        last: int = v.decode(self._key, now.get(self._raw))
        if last > self._now_s - self._min_age_s:
            return False
        now.put(self._raw, v.encode(self._key, self._now_s))
        return True


def group_value(codec: KeyCodec, key: Key, pairs: Sequence[Pair]) -> Any:
    """xattrs, chunks, parents, occupied from the pairs in their range."""
    if key[0] == k.OCCUPIED:
        return bool(pairs)
    if key[0] == k.PARENTS:
        counts = {codec.member(key, raw): v.decode((k.PARENT, key[1], 0), value) for raw, value in pairs}
        return {parent: count for parent, count in counts.items() if count > 0}
    if key[0] == k.CHUNKS:
        return {codec.member(key, raw): value for raw, value in pairs if value}
    return {codec.member(key, raw): value for raw, value in pairs}
