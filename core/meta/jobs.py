# SPDX-License-Identifier: Apache-2.0
"""Background jobs that every client shares through gates: deleted files, unused slices, expired trash.

Source: spec metadata-semantics §8–§9, §10.2.
"""

from __future__ import annotations

import asyncio
import calendar
import logging
import random
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Final

from core.errors import FsError, SluiceError
from core.meta import keys as k
from core.meta.records import DIRECTORY, ROOT, TRASH, node_space
from core.meta.sessions import Sessions
from core.meta.store import Tx

log = logging.getLogger("sluice.jobs")

HOUR_S: Final = 3600
GATE_S: Final = 54 * 60
#: The change log is trimmed more often (semantics §10.2).
TRIM_S: Final = 300
TRIM_GATE_S: Final = 270
#: Trees that a crashed clone left behind are removed after a day (semantics §13.2).
DETACHED_S: Final = 24 * HOUR_S
_DELAYED = struct.Struct(">QI")


class Jobs(Sessions):
    """Mixin of `Meta`."""

    _jobs: list[asyncio.Task[None]]

    def start_jobs(self) -> None:
        """Jittered; the gates let one client of the volume do each job."""
        self._jobs = []
        self.start_job(HOUR_S, self.run_jobs)
        self.start_job(TRIM_S, self.trim_change_log)

    def start_job(self, interval_s: float, job: Callable[[], Awaitable[object]]) -> None:
        """Run `job` every `interval_s` seconds until `stop_jobs`; what fails is tried again next time."""
        self._jobs.append(asyncio.create_task(self._repeat(interval_s, job)))

    async def stop_jobs(self) -> None:
        jobs, self._jobs = getattr(self, "_jobs", []), []
        for task in jobs:
            task.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _repeat(self, interval_s: float, job: Callable[[], Awaitable[object]]) -> None:
        while True:
            await asyncio.sleep(interval_s * random.uniform(0.95, 1.05))  # noqa: S311 - jitter
            try:
                await job()
            except (SluiceError, FsError) as e:
                log.warning("a background job stopped early, the next round goes on: %s", e)
            except Exception:
                log.exception("a background job failed unexpectedly")

    async def run_jobs(self) -> None:
        now = self._now_s()
        if await self.store.gate("lastCleanupFiles", now, GATE_S):
            await self.clean_deleted_files(HOUR_S)
        if await self.store.gate("nextCleanupSlices", now, GATE_S):
            await self.clean_unused_slices()
        if await self.store.gate("lastCleanupTrash", now, GATE_S):
            await self.clean_trash(24 * self.trash_days + 2)
            await self.clean_delayed_slices(self.trash_days * 86400)

    def _now_s(self) -> int:
        return self.clock_ns() // 1_000_000_000

    async def clean_deleted_files(self, min_age_s: int = 0) -> int:
        """Delete the data of removed files whose deletion was recorded at least `min_age_s` ago."""
        edge = self._now_s() - min_age_s
        done = 0
        async for key, when in self.store.scan(k.DELFILE):
            if when <= edge:
                await self.delete_data(key[1], key[2])
                done += 1
        return done

    async def clean_unused_slices(self) -> int:
        """Retry the deletion of slices whose count says nobody uses them."""
        dead = [key async for key, _ in self.store.scan(k.SLICEREF, 0)]
        for key in dead:
            await self.delete_slice(key[1], key[2])
        return len(dead)

    async def clean_delayed_slices(self, min_age_s: int) -> int:
        """Release slices that a compaction replaced while the trash was on."""
        edge = self._now_s() - min_age_s
        done = 0
        async for key, _ in self.store.scan(k.DELSLICES):
            if key[2] < edge:
                await self._release_delayed(key)
                done += 1
        return done

    async def _release_delayed(self, key: k.Key) -> None:
        """In several commits if the database changes only so many records at once; each shortens the record."""
        most = max(1, self.store.caps.max_writes - 2) if self.store.caps.max_writes else 1 << 30

        async def body(tx: Tx) -> tuple[Tx, bool]:
            (raw,) = await tx.read(key)
            if not raw:
                return tx, False
            pairs = list(_DELAYED.iter_unpack(raw[: len(raw) // _DELAYED.size * _DELAYED.size]))
            for slice_id, size in pairs[-most:]:
                tx.add(k.sliceref(slice_id, size), -1)
            if left := pairs[:-most]:
                tx.put(key, raw[: len(left) * _DELAYED.size])
            else:
                tx.delete(key)
            self.log_change(tx, "CLEANUP_DELAYED_SLICES", key[1], key[2])
            return tx, bool(left)

        more = True
        while more:
            tx, more = await self.store.transact(body)
            for slice_id, size in tx.outcome.freed:
                await self.delete_slice(slice_id, size)

    async def trim_change_log(self) -> int:
        """Drop change-log lines that are too old or too many, as the setting says; returns how many (§15.5)."""
        if not self.change_log or not await self.store.gate("lastCleanupChangelog", self._now_s(), TRIM_GATE_S):
            return 0
        max_age, max_lines = self.format.change_log_max_age, self.format.change_log_max_lines
        total = 0
        if max_lines:
            async for _ in self.store.scan(k.CHANGELOG):
                total += 1
        edge, last, seen = self._now_s() - max_age, 0, 0
        async for key, line in self.store.scan(k.CHANGELOG):
            too_old = max_age > 0 and int(line.partition(b".")[0]) < edge
            if not too_old and total - seen <= max_lines:
                break
            if not too_old and not max_lines:
                break
            last = key[1]
            seen += 1
        return await self.store.trim_log(last) if seen else 0

    # -- trash ---------------------------------------------------------------------------------------------------

    async def clean_trash(self, keep_hours: int) -> int:
        """Empty and remove hourly directories that are older than `keep_hours`; returns how many nodes went."""
        edge = self._now_s() - keep_hours * HOUR_S
        removed = 0
        for hour in sorted(await self.readdir(TRASH, b"", 1 << 20), key=lambda e: e.ino):
            try:
                when = calendar.timegm(time.strptime(hour.name.decode(), "%Y-%m-%d-%H"))
            except ValueError:
                continue
            if when >= edge:
                break
            removed += await self.remove_children(hour.ino)
            await self._remove_hour(hour.name, hour.ino)
        return removed

    async def _remove_hour(self, name: bytes, ino: int) -> None:
        async def body(tx: Tx) -> Tx:
            found = await self.store.resolve(TRASH, [name])
            if not found.steps or found.steps[0].attr is None:
                return tx
            tx.expect(k.entry(TRASH, name), found.steps[0].entry)
            tx.delete(k.entry(TRASH, name))
            await self.drop_directory(tx, TRASH, name, ino, found.steps[0].attr, 0, self.clock_ns())
            return tx

        self.after_commit(await self.store.transact(body))
        self._hour = (-1, 0)

    async def remove_children(self, ino: int, *, skip_trash: bool = True) -> int:
        """Everything below a directory, the directory itself stays; returns how many entries went."""
        removed = 0
        while page := await self.readdir(ino, b"", 1000):
            before = removed
            for entry in page:
                try:
                    if entry.type == DIRECTORY:
                        removed += await self.remove_children(entry.ino, skip_trash=skip_trash)
                        await self.rmdir(ino, entry.name, skip_trash=skip_trash)
                    else:
                        await self.unlink(ino, entry.name, skip_trash=skip_trash)
                    removed += 1
                except FsError as e:
                    if e.errno not in (2, 39):  # ENOENT, ENOTEMPTY: somebody else is at work here
                        raise
            if removed == before:
                break
        return removed

    # -- usage -------------------------------------------------------------------------------------------------------

    async def count_all(self) -> tuple[int, int]:
        """(used space, inodes) as a full scan finds them; root and trash root don't count (format §1.7)."""
        space = inodes = 0
        async for key, attr in self.store.scan(k.NODE):
            if key[1] not in (ROOT, TRASH):
                space += node_space(attr)
                inodes += 1
        return space, inodes
