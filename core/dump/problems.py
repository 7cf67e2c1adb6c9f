# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a dump file, where in its tree, and how much of it: the list that a refused load shows.

Errors forbid the load, notes don't. The list is bounded, the counts are exact. Kinds that a user may choose to drop or
clamp (`--lossy`) are errors without that choice and notes with it.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

_KEPT: Final = 1000
#: Of one kind of problem so many are kept, so that the first kind doesn't hide the others.
_KEPT_PER_KIND: Final = 100


class Problem(NamedTuple):
    """where: a path in the tree, or which part of the file. kind: one short phrase, the same for all of its kind."""

    where: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: {self.kind}" if self.where else self.kind
        return f"{text}: {self.detail}" if self.detail else text


class Problems:
    def __init__(self, *, lossy: bool = False) -> None:
        self.lossy = lossy
        self.errors: list[Problem] = []
        self.notes: list[Problem] = []
        self.error_count = 0
        self.note_count = 0
        self.kinds: Counter[str] = Counter()

    def error(self, where: str, kind: str, detail: object = "") -> None:
        self.error_count += 1
        self._keep(self.errors, where, kind, detail)

    def note(self, where: str, kind: str, detail: object = "") -> None:
        self.note_count += 1
        self._keep(self.notes, where, kind, detail)

    def loss(self, where: str, kind: str, detail: object = "") -> None:
        """Something that can be loaded only by losing a part of it."""
        if self.lossy:
            self.note(where, kind, detail)
        else:
            self.error(where, kind, f"{detail}; --lossy loads without it" if detail else "--lossy loads without it")

    def _keep(self, found: list[Problem], where: str, kind: str, detail: object) -> None:
        self.kinds[kind] += 1
        if self.kinds[kind] <= _KEPT_PER_KIND and len(found) < _KEPT:
            found.append(Problem(where, kind, str(detail)))
