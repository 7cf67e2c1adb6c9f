# SPDX-License-Identifier: Apache-2.0
"""One group commit: the checks and writes of many commits inside one SQLite transaction.

The caller (`writer.py`) has begun the transaction with BEGIN IMMEDIATE and ends it, so nobody else writes meanwhile
and what a group has seen stays true until it ends. That is why it may remember which inodes exist and what they are,
and sum up relative changes (parent inodes, usage counters, statistics, quotas) to write each once, at `flush`.

Each commit verifies its checks first, by reading only. Its writes run in a savepoint of their own, so that a commit
that fails halfway leaves no trace. Relative changes of earlier commits are written before a later commit looks
at the same record. Facts: format §3.4, §5.3, §5.5.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from core.errors import Conflict, MetaError
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.records import Attr
from core.meta.store import ADD, APPEND, DELETE, IDENTITY, LOG, NOTHING, PATCH, PUT, PUT_NEW, Check, Outcome, Write
from core.meta.stores.sqlite.mapping import (
    COUNTER_OFFSET,
    COUNTER_START,
    identity,
    kind_of,
    merge_patch,
    pack_attr,
    pack_patch,
    signed,
)  # fmt: skip
from core.meta.stores.sqlite.reader import Reader

_NO_PATCH = (0, None, None)


class Group:
    """State of one transaction. `reader` reads on the writing connection."""

    def __init__(self, conn: sqlite3.Connection, reader: Reader) -> None:
        self._execute = conn.execute
        self._conn = conn
        self._reader = reader
        self._kinds = reader.kinds
        self._texts = reader.texts
        self._pending: dict[Key, Any] = {}  # relative changes that are not written yet
        self._mine: dict[Key, Any] = {}  # the same, of the commit that is being applied
        self._identities: dict[int, tuple[Any, ...]] = {}  # inodes that exist
        self._has_stat: dict[int, bool] = {}  # directories with or without statistics

    # -- one commit ---------------------------------------------------------------------------------------------

    def commit(self, checks: Sequence[Check], writes: Sequence[Write]) -> Outcome:
        pending = self._pending
        fresh = self._verify(checks, writes)
        if not writes:
            return NOTHING
        for op, key, _ in writes:
            if op != ADD and op != PATCH and key in pending:
                self._flush(pending, key)
        self._execute("SAVEPOINT c")
        try:
            outcome = self._apply(writes, fresh)
        except BaseException:
            self._undo()
            raise
        self._execute("RELEASE c")
        if self._mine:
            self._adopt()
        return outcome

    def _undo(self) -> None:
        """Back to the savepoint. After some errors (disk full) SQLite has ended the transaction by itself."""
        self._mine.clear()
        self._identities.clear()
        self._has_stat.clear()
        if self._conn.in_transaction:
            self._execute("ROLLBACK TO c")
            self._execute("RELEASE c")

    def _verify(self, checks: Sequence[Check], writes: Sequence[Write]) -> set[Key]:
        """Raise Conflict unless all checks hold. Returns entries whose absence the unique index will prove."""
        created = {key for op, key, _ in writes if op == PUT and key[0] == k.ENTRY}
        fresh: set[Key] = set()
        for mode, key, seen in checks:
            if mode == IDENTITY:
                if seen is None or self._identity(key[1]) != identity(seen):
                    raise Conflict(f"inode {key[1]} is gone or became something else")
            elif seen is None and key in created:
                fresh.add(key)
            else:
                if key in self._pending:
                    self._flush(self._pending, key)
                present = self._reader.get(key)
                if present != seen:
                    raise Conflict(str(key), key, self._found(key, present))
        return fresh

    def _found(self, key: Key, present: Any) -> tuple[Any, Any] | None:
        """What a conflict tells about an entry or an inode."""
        if key[0] == k.ENTRY:
            return (None, None) if present is None else (present, self._reader.get(k.node(present.ino)))
        return (None, present) if key[0] == k.NODE and present is not None else None

    def _identity(self, ino: int) -> tuple[Any, ...] | None:
        found = self._identities.get(ino)
        if found is None:
            found = self._execute(self._texts.identity, (ino,)).fetchone()
            if found is not None:
                self._identities[ino] = found
        return found

    # -- writes -------------------------------------------------------------------------------------------------

    def _apply(self, writes: Sequence[Write], fresh: set[Key]) -> Outcome:
        outcome = NOTHING
        mine = self._mine
        for op, key, value in writes:
            if op == ADD:
                outcome = self._add(key, value, outcome)
                continue
            if op == PATCH:
                ino = key[1]
                if key not in mine and key not in self._pending and self._identity(ino) is None:
                    raise Conflict(f"inode {ino} is gone")
                mine[key] = merge_patch(mine.get(key, _NO_PATCH), value)
                continue
            if key in mine:
                self._flush(mine, key)
            if op == PUT:
                if key in fresh:
                    self._insert_entry(key, value)
                elif key[0] == k.NODE:
                    self._put_node(key, value)
                else:
                    self._put(key, value)
            elif op == PUT_NEW:
                self._put_new(key, value)
            elif op == DELETE:
                self._delete(key)
            elif op == APPEND:
                self._execute(self._texts.append, (key[1], key[2], value))
            elif op == LOG:
                self._execute(self._texts.log, (value,))
        return outcome

    def _insert_entry(self, key: Key, value: Any) -> None:
        try:
            self._execute(self._texts.insert_entry, (key[1], key[2], value[0], value[1]))
        except sqlite3.IntegrityError:
            raise Conflict(str(key), key, self._found(key, self._reader.get(key))) from None

    def _put_node(self, key: Key, value: Attr) -> None:
        self._identities.pop(key[1], None)
        self._execute(self._kinds[k.NODE].put, (key[1], *pack_attr(value)))

    def _put(self, key: Key, value: Any) -> None:
        first = key[0]
        kind = kind_of(self._kinds, key)
        if kind is not None:
            if first == k.SLICEREF and not key[1]:
                return
            if first == k.DIRSTAT:
                self._has_stat[key[1]] = True
            self._execute(kind.put, key[kind.skip :] + kind.pack(value))
        elif first == k.COUNTER:
            self._store_counter(key[1], value - COUNTER_OFFSET.get(key[1], 0))
        elif first in self._texts.locks:
            self._put_locks(key, value)
        else:
            raise MetaError(f"sqlite: records of kind {first!r} can't be written")

    def _put_new(self, key: Key, value: Any) -> None:
        kind = kind_of(self._kinds, key)
        if kind is None:
            raise MetaError(f"sqlite: records of kind {key[0]!r} can't be created")
        if key[0] == k.SLICEREF and not key[1]:
            return  # id 0 means zeros (format §3.1)
        if key[0] == k.DIRSTAT:
            self._has_stat[key[1]] = True
        self._execute(kind.new, key[kind.skip :] + kind.pack(value))

    def _delete(self, key: Key) -> None:
        first = key[0]
        kind = kind_of(self._kinds, key)
        if kind is not None:
            if first == k.NODE:
                self._identities.pop(key[1], None)
            elif first == k.DIRSTAT:
                self._has_stat[key[1]] = False
            self._execute(kind.delete, key[kind.skip :])
        elif first == k.XATTRS:
            self._execute(self._texts.drop_xattrs, (key[1],))
        elif first == k.COUNTER:
            self._store_counter(key[1], COUNTER_START.get(key[1], 0))
        elif first in self._texts.locks:
            self._execute(self._texts.locks[first][1], (key[1],))
        elif first not in (k.PARENTS, k.PARENT):  # derived from entries
            raise MetaError(f"sqlite: records of kind {first!r} can't be deleted")

    def _put_locks(self, key: Key, table: dict[tuple[int, int], Any]) -> None:
        _, drop, insert, _ = self._texts.locks[key[0]]
        self._execute(drop, (key[1],))
        for (sid, owner), value in table.items():
            self._execute(insert, (key[1], sid, signed(owner), ord(value) if key[0] == k.FLOCKS else value))

    # -- relative changes ---------------------------------------------------------------------------------------

    def _add(self, key: Key, delta: Any, outcome: Outcome) -> Outcome:
        first, mine = key[0], self._mine
        if first == k.COUNTER:
            if key[1] in self._texts.sequences:
                self._store_counter(key[1], self._reader.raw_counter(key[1]) + delta)
            else:
                mine[key] = mine.get(key, 0) + delta
        elif first == k.DIRSTAT:
            if not self._stat_exists(key):
                outcome = Outcome([], []) if outcome is NOTHING else outcome
                outcome.no_dirstat.append(key[1])
            else:
                self._sum(key, delta)
        elif first == k.QUOTA:
            self._sum(key, delta)
        elif first == k.SLICEREF:
            if key[1]:
                row = self._execute(self._texts.add_ref, (delta, key[1], key[2])).fetchone()
                if row is not None and row[0] <= 0 and delta < 0:
                    outcome = Outcome([], []) if outcome is NOTHING else outcome
                    outcome.freed.append((key[1], key[2]))
        elif first != k.PARENT:  # link counts per parent are derived from entries
            raise MetaError(f"sqlite: records of kind {first!r} can't be added to")
        return outcome

    def _sum(self, key: Key, delta: Any) -> None:
        old = self._mine.get(key)
        self._mine[key] = tuple(delta) if old is None else tuple(map(int.__add__, old, delta))

    def _stat_exists(self, key: Key) -> bool:
        ino = key[1]
        known = self._has_stat.get(ino)
        if known is None:
            known = self._has_stat[ino] = self._reader.get(key) is not None
        return known

    def _adopt(self) -> None:
        """The commit succeeded: its relative changes join those of the group."""
        pending = self._pending
        for key, change in self._mine.items():
            old = pending.get(key)
            if old is None:
                pending[key] = change
            elif key[0] == k.NODE:
                nlink, mtime, ctime = change
                pending[key] = (
                    old[0] + nlink, old[1] if mtime is None else mtime, old[2] if ctime is None else ctime
                )  # fmt: skip
            elif key[0] == k.COUNTER:
                pending[key] = old + change
            else:
                pending[key] = tuple(map(int.__add__, old, change))
        self._mine.clear()

    def flush(self) -> None:
        """Write what was summed up; the last step before COMMIT."""
        for key in list(self._pending):
            self._flush(self._pending, key)

    def _flush(self, changes: dict[Key, Any], key: Key) -> None:
        change = changes.pop(key)
        first, texts = key[0], self._texts
        if first == k.NODE:
            self._execute(texts.patch, pack_patch(change, key[1]))
        elif first == k.COUNTER:
            self._execute(texts.add_counter, (key[1].encode(), COUNTER_START.get(key[1], 0) + change, change))
        elif first == k.DIRSTAT:
            self._execute(texts.add_stat, (*change, key[1]))
        else:
            text = texts.add_user_quota if key[1] else texts.add_dir_quota
            self._execute(text, (*change, *key[1:]) if key[1] else (*change, key[2]))

    # -- counters as operations of their own --------------------------------------------------------------------

    def _store_counter(self, name: str, value: int) -> None:
        """Write the stored form. Some ids come from the sequence of their table, which has no unique key."""
        table = self._texts.sequences.get(name)
        if table is None:
            self._execute(self._texts.put_counter, (name.encode(), value))
        elif self._execute(self._texts.put_sequence, (value, table)).rowcount == 0:
            self._execute(self._texts.new_sequence, (table, value))

    def _raw_counter(self, name: str) -> int:
        key = k.counter(name)
        if key in self._pending:
            self._flush(self._pending, key)
        return self._reader.raw_counter(name)

    def allocate(self, name: str, count: int) -> int:
        """The first of `count` ids that now belong to the caller (format §1.9)."""
        stored = self._raw_counter(name)
        self._store_counter(name, stored + count)
        return stored + COUNTER_OFFSET.get(name, 0)

    def trim_log(self, upto: int) -> int:
        return self._execute(self._texts.trim_log, (upto,)).rowcount

    def gate(self, name: str, now: int, min_age_s: int) -> bool:
        if self._raw_counter(name) > now - min_age_s:
            return False
        self._store_counter(name, now)
        return True
