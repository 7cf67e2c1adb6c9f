# SPDX-License-Identifier: Apache-2.0
"""Clean-ups one after another until a time is over: `python -m tests.faults.gc_worker URL SECONDS [FENCE]`.

Without FENCE the fence is the default of the command (JFS_GC_SKIPPEDTIME, an hour). Every other run compacts as well.
Prints one JSON line: how many runs, what they deleted and set right, and what failed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from core.gc import collect, fence_s
from core.volume import open_volume


async def main(url: str, seconds: float, fence: float) -> None:
    until = time.monotonic() + seconds
    runs = deleted = corrected = rewritten = compacted = 0
    failures: list[str] = []
    volume = await open_volume(url, session=False, io_retries=2)
    try:
        while time.monotonic() < until:
            report = await collect(volume, delete=True, compact=runs % 2 == 1, min_age_s=fence)
            runs += 1
            deleted += report.deleted.objects
            corrected += report.corrected
            rewritten += report.rewritten.objects
            compacted += report.compaction.compacted if report.compaction else 0
            failures += report.failures
    finally:
        await volume.close()
    print(json.dumps({"runs": runs, "deleted": deleted, "corrected": corrected, "rewritten": rewritten,
                      "compacted": compacted, "failures": failures}))  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else fence_s()))
