# SPDX-License-Identifier: Apache-2.0
"""A pass over all blocks of a volume, by the listing of its object store, from where the last one stopped.

No record is read: what lies under `chunks/` is proven, whoever wrote it. What should be there and isn't is `fsck`'s to
find. Memory: some hundred blocks' names, the checksums of a folder, and the blocks under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from core.chunk.naming import BlockId, block_key, parse_block_key
from core.errors import ObjectNotFound
from core.object.api import ObjectInfo
from core.object.retried import RetriedStore
from core.scrub.proof import BlockProof
from core.scrub.state import MOST_FAULTS, Fault, State, read_state, write_state
from core.scrub.sums import Sums, drop_gone, folder_of, read_sums, write_sums

if TYPE_CHECKING:
    from core.volume import Volume  # which starts the job

log = logging.getLogger("sluice.scrub")

#: Blocks between two looks at the clock and the state.
_BATCH: Final = 64
#: The position is kept this often.
_KEEP_S: Final = 10.0

#: Told about blocks and bytes so far.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class ScrubReport:
    """Of one run. finished: the pass reached the end. new_sums: blocks whose checksum is kept from now on; proven:
    blocks that have one already and are what they were. faults: key -> what is wrong, of this run."""

    blocks: int = 0
    bytes: int = 0
    proven: int = 0
    new_sums: int = 0
    finished: bool = False
    faults: dict[str, str] = field(default_factory=dict)
    state: State = field(default_factory=State)


class Scrub:
    """bytes_per_s: of objects; 0 is no limit. keep_sums: compare with kept checksums and keep new ones (the object
    store must be writable)."""

    def __init__(
        self, volume: Volume, *, bytes_per_s: float = 0, threads: int = 4, keep_sums: bool = True,
        clock: Callable[[], float] = time.time, progress: Progress = lambda blocks, size: None,
    ) -> None:  # fmt: skip
        # A listing of days goes on after a request that failed.
        self._objects = RetriedStore(volume.objects, attempts=5, max_pause_s=10.0)
        self._hash_prefix = volume.format.hash_prefix
        self._block_size = volume.format.block_size
        self._proof = BlockProof(volume.objects, volume.format, threads=threads, bytes_per_s=bytes_per_s)
        self._keep_sums = keep_sums
        self._clock = clock
        self._progress = progress
        # A batch takes no longer than the time between two looks at the clock, at the slowest.
        self._batch = _BATCH
        if bytes_per_s:
            self._batch = max(1, min(_BATCH, int(bytes_per_s * _KEEP_S / self._block_size)))

    async def run(self, *, restart: bool = False, seconds: float | None = None) -> ScrubReport:
        """Go on where the last run stopped, to the end or for so many seconds. Raises ObjectError if the store can't
        be listed."""
        state = State() if restart else await read_state(self._objects)
        report = ScrubReport(state=state)
        now = self._clock()
        until = None if seconds is None else now + seconds
        if not state.position:
            state.started, state.blocks, state.bytes = now, 0, 0
        run = _Folder(self, report)
        kept = now
        batch: list[ObjectInfo] = []
        listing = self._objects.list("chunks/", state.position)
        try:
            async for info in listing:
                if batch and (len(batch) >= self._batch or folder_of(batch[-1].key) != folder_of(info.key)):
                    await run.prove(batch)
                    batch.clear()
                    now = self._clock()
                    if until is not None and now >= until:
                        return report
                    if now - kept >= _KEEP_S:
                        kept = now
                        await self._keep(state, now)
                batch.append(info)
            if batch:
                await run.prove(batch)
            await run.leave()
            now = self._clock()
            report.finished = True
            state.passes += 1
            state.last_started, state.last_ended = state.started, now
            state.last_blocks, state.last_bytes = state.blocks, state.bytes
            state.position = ""
            self._forget_gone(state)
            if self._keep_sums:
                await drop_gone(self._objects)
            return report
        finally:
            if not report.finished:
                await run.leave(whole=False)
            await self._keep(state, self._clock())
            self._proof.close()

    def _forget_gone(self, state: State) -> None:
        """What a whole pass hasn't seen is gone (or repaired, and then it was forgotten when it was read)."""
        for key in [key for key, fault in state.faults.items() if fault.last_seen < state.started]:
            del state.faults[key]

    async def _keep(self, state: State, now: float) -> None:
        state.updated = now
        await write_state(self._objects, state)


class _Folder:
    """The folder that is gone through, with its checksums."""

    def __init__(self, scrub: Scrub, report: ScrubReport) -> None:
        self._scrub = scrub
        self._report = report
        self._name: str | None = None
        self._sums: Sums = {}
        self._seen: Sums = {}
        self._new = 0
        self._from_start = True

    async def prove(self, batch: list[ObjectInfo]) -> None:
        """Objects of one folder."""
        scrub, report = self._scrub, self._report
        name = folder_of(batch[0].key)
        if name != self._name:
            first = self._name is None and bool(report.state.position)
            await self.leave()
            self._name = name
            self._from_start = not (first and folder_of(report.state.position) == name)
            self._sums = await read_sums(scrub._objects, name) if scrub._keep_sums else {}
        blocks: list[BlockId] = []
        for info in batch:
            block = parse_block_key(info.key)
            if block is not None and block_key(*block, scrub._hash_prefix) == info.key:
                blocks.append(block)
        results = await asyncio.gather(*(self._prove(block) for block in blocks))
        now = scrub._clock()
        for block, (fault, gone) in zip(blocks, results, strict=True):
            key = block_key(*block, scrub._hash_prefix)
            if gone:
                continue
            report.blocks += 1
            report.bytes += block[2]
            report.state.blocks += 1
            report.state.bytes += block[2]
            if fault is None:
                report.state.faults.pop(key, None)
                continue
            report.faults[key] = fault
            log.error("%s: %s; `sluice fsck --read` names the files", key, fault)
            known = report.state.faults.get(key)
            if known is not None:
                known.cause, known.last_seen = fault, now
            elif len(report.state.faults) < MOST_FAULTS:
                report.state.faults[key] = Fault(key, fault, now, now)
        report.state.position = batch[-1].key
        scrub._progress(report.blocks, report.bytes)

    async def _prove(self, block: BlockId) -> tuple[str | None, bool]:
        """(what is wrong, is it gone: deleted since it was listed)."""
        scrub = self._scrub
        expected = self._sums.get(block)
        fault, crc = await scrub._proof.prove(block, expected)
        if fault is not None:
            if expected is not None:
                self._seen[block] = expected
            try:
                await scrub._objects.head(block_key(*block, scrub._hash_prefix))
            except ObjectNotFound:
                return None, True
            except Exception as e:
                log.debug("%s", e)
            return fault, False
        assert crc is not None
        if expected is not None:
            self._report.proven += 1
        else:
            self._new += 1
            self._report.new_sums += scrub._keep_sums
        self._seen[block] = crc
        return None, False

    async def leave(self, *, whole: bool = True) -> None:
        """Keep the checksums of this folder; those of blocks that are gone leave if all of it was seen."""
        if self._name is not None and self._scrub._keep_sums:
            drop = whole and self._from_start and len(self._seen) < len(self._sums) + self._new
            if self._new or drop:
                await write_sums(self._scrub._objects, self._name, self._seen if drop else {**self._sums, **self._seen})
        self._name, self._sums, self._seen, self._new = None, {}, {}, 0
