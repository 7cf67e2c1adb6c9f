# SPDX-License-Identifier: Apache-2.0
"""What a run of `gc` has found and done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from core.meta.compact import Compacted

#: Told about each step: (what is being done, how many so far).
Progress = Callable[[str, int], None]


@dataclass(slots=True)
class Tally:
    objects: int = 0
    bytes: int = 0

    def count(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


@dataclass(slots=True)
class GcReport:
    """What was found; with delete=True also what was done about it.

    Objects, each in one class: valid (a file uses it), compacted (replaced by a compaction, kept for the trash days),
    pending (its count says nobody uses it), leaked (nobody knows it), skipped (younger than the fence, or not ours).
    lost_files: inodes that don't exist any more but have slices. miscounted: slices whose count is higher than the
    number of their uses. rewritten: chunks that used a little of a large slice and have it elsewhere now, with bytes.
    remembered: objects of a store without times that a later run will know to be old.
    counters: (usedSpace, totalInodes) as stored and as counted, if they differ.
    """

    delete: bool = False
    scanned: Tally = field(default_factory=Tally)
    valid: Tally = field(default_factory=Tally)
    compacted: Tally = field(default_factory=Tally)
    pending: Tally = field(default_factory=Tally)
    leaked: Tally = field(default_factory=Tally)
    skipped: Tally = field(default_factory=Tally)
    compaction: Compacted | None = None
    rewritten: Tally = field(default_factory=Tally)
    stale_sessions: int = 0
    expired_trash: int = 0
    detached: int = 0
    delfiles: int = 0
    lost_files: int = 0
    unused_slices: int = 0
    delayed_due: int = 0
    miscounted: int = 0
    corrected: int = 0
    temporary_files: int = 0
    remembered: int = 0
    deleted: Tally = field(default_factory=Tally)
    failures: list[str] = field(default_factory=list)
    counters: tuple[tuple[int, int], tuple[int, int]] | None = None
