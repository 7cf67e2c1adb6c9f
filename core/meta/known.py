# SPDX-License-Identifier: Apache-2.0
"""Places that a publish may take for granted, because its commit proves them.

An earlier publish has learned which inode a directory path leads to, and what it put under a name. The next one into
the same directory reads nothing: it guesses from here, and the commit fails if the guess is wrong, telling what is
there instead (`Conflict.found`). So a publish costs one round trip, or two if somebody else has been at work. Nothing
here is ever believed: errors are only raised from records that the store has given in this transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from core.errors import Conflict
from core.meta import keys as k
from core.meta.keys import Key
from core.meta.recent import forget_oldest
from core.meta.records import FILE, Attr, Entry
from core.meta.store import Resolved

#: Directories and files that are remembered; about 1 KiB each.
_MAX: Final = 10_000

Target = tuple[Entry | None, Attr | None]


class Place(msgspec.Struct, frozen=True, gc=False):
    """A directory as a path led to it, and what a name in it is.

    path: entries to verify. attr: only its identity is verified. target: (None, None) for a free name.
    """

    parent: int
    attr: Attr
    path: tuple[tuple[Key, Entry], ...]
    target: Target = (None, None)


class KnownPlaces:
    """What one client remembers; bounded, the oldest goes first."""

    def __init__(self) -> None:
        self._dirs: dict[tuple[int | bytes, ...], Place] = {}
        self._files: dict[tuple[int, bytes], Target] = {}

    def guess(self, base: int, names: Sequence[bytes], *, replacing: bool) -> Place | None:
        """Where `names` probably lead. replacing: the name may be one of the files that were published before."""
        place = self._dirs.get((base, *names[:-1]))
        # What may refuse the change is read, not guessed.
        if place is None or place.attr.flags or place.attr.in_trash:
            return None
        target = self._files.get((place.parent, names[-1])) if replacing else None
        return place if target is None else msgspec.structs.replace(place, target=target)

    @staticmethod
    def corrected(place: Place | None, lost: Conflict | None, name: bytes) -> Place | None:
        """The guess with what the failed commit found, if only the name was guessed wrong; None: read everything."""
        if place is None or lost is None or lost.found is None:
            return None
        if lost.key == k.entry(place.parent, name):
            return msgspec.structs.replace(place, target=lost.found)
        entry = place.target[0]
        if entry is not None and lost.key == k.node(entry.ino):
            return msgspec.structs.replace(place, target=(entry, lost.found[1]))
        return None

    def learn_directory(self, base: int, names: Sequence[bytes], found: Resolved, parent: int, attr: Attr) -> None:
        path, at = [], base
        for name, step in zip(names[:-1], found.steps, strict=False):
            path.append((k.entry(at, name), step.entry))
            at = step.entry.ino
        if len(self._dirs) >= _MAX:
            forget_oldest(self._dirs)
        self._dirs[(base, *names[:-1])] = Place(parent, attr, tuple(path))

    def learn_file(self, parent: int, name: bytes, ino: int, attr: Attr) -> None:
        if len(self._files) >= _MAX:
            forget_oldest(self._files)
        self._files[(parent, name)] = (Entry(FILE, ino), attr)
