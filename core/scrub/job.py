# SPDX-License-Identifier: Apache-2.0
"""Scrubbing in the background of a client that serves: short runs, one client of the volume at a time.

A gate in the metadata (a counter of our own that no other client reads) lets one client through per period; whoever
passes goes on where the last one stopped. So the rate counts for the whole volume, however many clients have the
option, and a client that dies is followed by another one within minutes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from core.errors import SluiceError
from core.scrub.scrub import Scrub, ScrubReport
from core.scrub.state import read_state

if TYPE_CHECKING:
    from core.volume import Volume  # which starts the job

log = logging.getLogger("sluice.scrub")

#: Counter that tells when the last run began.
GATE: Final = "sluiceScrub"
#: A run takes so long, and the next one begins so much later at the earliest, whoever makes it.
RUN_S: Final = 120.0
PERIOD_S: Final = 125
#: How often a client asks whether it is its turn.
ASK_S: Final = 20.0
#: After a whole pass the next one begins when the first block is this old news.
REST_S: Final = 7 * 24 * 3600


class ScrubJob:
    """`job = ScrubJob(volume, rate)`, `meta.start_job(job.ask_s, job)`. Its counts, since the process began, are what
    metrics show."""

    def __init__(self, volume: Volume, bytes_per_s: float, *, rest_s: float = REST_S) -> None:
        self._volume = volume
        self._bytes_per_s = bytes_per_s
        self._rest_s = rest_s
        self.ask_s = ASK_S
        self.blocks = 0
        self.bytes = 0
        self.faults = 0

    async def __call__(self) -> ScrubReport | None:
        """One run if it is this client's turn. A store that fails is asked again later."""
        meta = self._volume.meta
        now = meta.clock_ns() // 1_000_000_000
        if not await meta.store.gate(GATE, now, PERIOD_S):
            return None
        state = await read_state(self._volume.objects)
        if not state.position and now - state.last_ended < self._rest_s:
            return None
        try:
            report = await Scrub(self._volume, bytes_per_s=self._bytes_per_s).run(seconds=RUN_S)
        except (SluiceError, OSError) as e:
            log.warning("the scrub stopped early, it goes on later: %s", e)
            return None
        self.blocks += report.blocks
        self.bytes += report.bytes
        self.faults += len(report.faults)
        if report.finished:
            log.info(
                "all blocks were read back: %d of %d bytes, %d faults are known",
                report.state.last_blocks, report.state.last_bytes, len(report.state.faults),
            )  # fmt: skip
        return report
