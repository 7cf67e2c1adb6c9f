# SPDX-License-Identifier: Apache-2.0
"""Reading data back before anybody misses it: does each block still decode, and is it what it was?

`proof.py` proves one block: it is fetched past all caches (S3 kinds compare the CRC-32C in the object's metadata),
decrypted, decompressed, its length compared, and its checksum with the one that an earlier pass has kept.
`sums.py` keeps those checksums, one small object per folder of blocks, under `sluice/` beside `chunks/`: no other
client looks there, no record changes, and blocks that JuiceFS wrote are covered as well. A block never changes once it
is written, so a checksum that differs is damage.
`scrub.py` goes through all objects of a volume at a set rate and remembers where it is and what it has found
(`state.py`); `job.py` is the same in the background of a serving client, one client of the volume at a time.
"""

from core.scrub.job import GATE, ScrubJob
from core.scrub.proof import BlockProof
from core.scrub.scrub import Scrub, ScrubReport
from core.scrub.state import State, read_state

__all__ = ["GATE", "BlockProof", "Scrub", "ScrubJob", "ScrubReport", "State", "read_state"]
