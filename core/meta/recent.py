# SPDX-License-Identifier: Apache-2.0
"""Inodes and entries that this client has seen or written lately, for transactions that read nothing.

A transaction may take them for granted because its commit proves them: it costs one round trip, or two more if
somebody else was at work. Nothing but `directory` is ever answered from here. If guesses keep failing, because other
clients work in the same places, guessing pauses for a while.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import msgspec

from core.meta import keys as k
from core.meta.keys import Key

#: Records that are remembered, a few hundred bytes each.
_MOST: Final = 20_000
#: A failed guess weighs as much as so many good ones; above the limit only every so many-th transaction guesses.
_WEIGHT: Final = 4
_LIMIT: Final = 16
_PAUSE: Final = 32


def forget_oldest(known: dict[Any, Any]) -> None:
    """Make room in a dictionary that is full: an eighth goes. One at a time would search the places of all that went
    before for the first one that is left, which costs 30 µs."""
    for key in list(islice(known, max(1, len(known) // 8))):
        del known[key]


class RecentRecords:
    """What one client believes; the oldest goes first."""

    def __init__(self, most: int = _MOST) -> None:
        self._records: dict[Key, Any] = {}
        self._read_s: dict[int, float] = {}  # when the database last told of these directories
        # Serial numbers of the commits of this client that patched an inode (mostly a directory) last.
        self._changes: dict[int, int] = {}
        self._change = self._forgotten = 0
        self._most = most
        self._failed = 0
        self._skipped = 0

    def get(self, key: Key) -> Any:
        return self._records.get(key)

    def learn(self, key: Key, value: Any) -> None:
        """As the database has just told; None: it is not there."""
        records = self._records
        if value is None:
            records.pop(key, None)
            return
        if key not in records and len(records) >= self._most:
            forget_oldest(records)
        records[key] = value

    def learn_directory(self, ino: int, attr: Any) -> None:
        """The same of a directory in which something was looked up."""
        self.learn((k.NODE, ino), attr)
        if len(self._read_s) >= self._most:
            self._read_s.clear()
        self._read_s[ino] = time.monotonic()

    def changes(self, ino: int) -> int:
        """A number that moves with each patch that this client commits. Who asks before a question to the database and
        after its answer knows whether the answer may be from before a change."""
        return self._changes.get(ino, self._forgotten)

    def answered_directory(self, ino: int, attr: Any, changes: int) -> None:
        """`learn_directory` of an answer to a question that was asked when `changes` was this."""
        if self.changes(ino) == changes:
            self.learn_directory(ino, attr)
        else:
            self._read_s.pop(ino, None)

    def directory(self, ino: int, max_age_s: float) -> tuple[Any, float] | None:
        """Attributes of a directory as the database told them so long ago (seconds), with every change that this client
        has made since. For what may be that old anyway."""
        read_s = self._read_s.get(ino)
        if read_s is None:
            return None
        age = time.monotonic() - read_s
        attr = self._records.get((k.NODE, ino)) if age < max_age_s else None
        return None if attr is None else (attr, age)

    def learn_step(self, parent: int, name: bytes, entry: Any, attr: Any) -> None:
        self.learn((k.ENTRY, parent, name), entry)
        self.learn((k.NODE, entry[1]), attr)

    # -- what commits tell ----------------------------------------------------------------------------------------

    def committed(self, writes: Sequence[tuple[int, Key, Any]], guessed: bool) -> None:
        """These writes (put 0, delete 1, patch 4) are in the database now."""
        if guessed and self._failed:
            self._failed -= 1
        records = self._records
        for op, key, value in writes:
            if key[0] is not k.NODE and key[0] is not k.ENTRY:
                continue
            if op == 0:
                self.learn(key, value)
            elif op == 1:
                records.pop(key, None)
            elif op == 4:
                if len(self._changes) >= self._most:
                    self._changes.clear()
                    self._forgotten = self._change
                self._change = self._changes[key[1]] = self._change + 1
                if (attr := records.get(key)) is not None:
                    # Others may have changed the link count too; what decides upon it verifies it.
                    records[key] = msgspec.structs.replace(
                        attr,
                        nlink=attr.nlink + value.nlink,
                        mtime_ns=attr.mtime_ns if value.mtime_ns is None else value.mtime_ns,
                        ctime_ns=attr.ctime_ns if value.ctime_ns is None else value.ctime_ns,
                    )

    def refused(self, keys: Iterable[Key], guessed: bool) -> None:
        """A commit that expected these was refused: at least one of them is something else by now."""
        for key in keys:
            self._records.pop(key, None)
            if key[0] is k.NODE:
                self._read_s.pop(key[1], None)
        if guessed:
            self._failed = min(self._failed + _WEIGHT, 2 * _LIMIT)

    def worth_trying(self) -> bool:
        if self._failed < _LIMIT:
            return True
        self._skipped += 1
        if self._skipped % _PAUSE:
            return False
        self._failed -= _WEIGHT  # a new chance
        return True
