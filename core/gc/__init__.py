# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: find, and on request remove, what nobody refers to. A live object is never removed.

What makes it safe while others work on the volume:
- Objects are listed first, references are read afterwards: what was in use when it was listed is found in use, unless
  its last file went away meanwhile, and then it may go.
- A fence (1 h, JFS_GC_SKIPPEDTIME): an object younger than that may belong to a client that has stored it and not said
  so yet. Nothing is deleted and no count is touched whose objects aren't all older.
- Before anything goes, references are read a second time; only what looks the same both times is touched. (A copy may
  put a reference where the reader has been and the removal of the original take one from where it will come.)
- A count is set right only if it still has the value that was read before the first reading (a verified commit).
  A publish registers `put_new(sliceref, refs)` in the transaction that adds its use, so a count that was lowered too
  early would be one too low for a member of a pack that publishes later: that is what the fence excludes.
- A count goes to 0 first, objects second, the record last: an interruption at any point is finished by the next run of
  any client's hourly job, JuiceFS included.

- Of two runs at once, and of a run that was killed and started again, neither knows of the other: every step proves
  what it rests upon when it commits, deleting what is gone is no error, and what is left is found again.

`run.py` goes through the volume, `tables.py` asks the ledger, `records.py` commits, `seen.py` remembers for stores that
can't tell an object's age, `rewrite.py` moves what little is left of large slices, `local.py` sweeps folders.
Memory is bounded by the ledger's cache. Source: spec metadata-semantics §8, §9, §14.1; data-path §11.
"""

from __future__ import annotations

import os
from typing import Final

from core.config import parse_duration
from core.gc.records import delayed_slices, set_counters, set_references
from core.gc.report import GcReport, Progress, Tally
from core.gc.run import FENCE_S, collect

SKIP_VARIABLE: Final = "JFS_GC_SKIPPEDTIME"


def fence_s() -> float:
    """Age below which objects are left alone, from the environment (ConfigError if that is no duration)."""
    return parse_duration(os.environ.get(SKIP_VARIABLE) or str(FENCE_S), option=SKIP_VARIABLE)


__all__ = [
    "FENCE_S", "SKIP_VARIABLE", "GcReport", "Progress", "Tally", "collect", "delayed_slices", "fence_s",
    "set_counters", "set_references",
]  # fmt: skip
