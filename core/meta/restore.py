# SPDX-License-Identifier: Apache-2.0
"""Restore from the trash: the tree of one hour, rebuilt where it lies or put back where it was.

The name of an entry in the trash says where it was: `<parent inode>-<inode>-<name>`. Removed directories lie there
empty, beside what was in them. Rebuilding moves the entries of such directories back into them, inside the trash;
putting back moves every entry to its old directory, wherever that is. Nothing is ever overwritten.
Source: spec metadata-semantics §9, §14; metadata-format §1.8.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from core.errors import FsError, MetaError
from core.meta import keys as k
from core.meta.base import show
from core.meta.caller import ROOT_CALLER, Caller
from core.meta.jobs import Jobs
from core.meta.namespace import RENAME_NOREPLACE, RENAME_RESTORE
from core.meta.records import DIRECTORY, TRASH
from core.meta.store import DirEntry

_HOUR: Final = re.compile(rb"\d{4}-\d\d-\d\d-\d\d")
_PAGE: Final = 1000
#: Failures that are kept with their reason.
MAX_REASONS: Final = 100


@dataclass(slots=True)
class Restored:
    """What became of the entries of an hour.

    restored: moved. skipped: their directory wasn't removed in the same hour, so only putting back can place them.
    conflicts: the name is taken again; they stay in the trash. failed: with the first reasons in `reasons`.
    """

    restored: int = 0
    skipped: int = 0
    conflicts: int = 0
    failed: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return self.restored + self.skipped + self.conflicts + self.failed


def parse_trash_name(name: bytes) -> tuple[int, int, bytes] | None:
    """(parent inode, inode, original name) of an entry in the trash; None if it isn't made like that."""
    parent, dash, rest = name.partition(b"-")
    ino, dash2, original = rest.partition(b"-")
    if not (dash and dash2 and original and parent.isdigit() and ino.isdigit()):
        return None
    return int(parent), int(ino), original


class Restore(Jobs):
    """Mixin of `Meta`."""

    async def restore(
        self, hour: bytes, caller: Caller = ROOT_CALLER, *, put_back: bool = False, threads: int = 10,
        progress: Callable[[Restored], None] | None = None,
    ) -> Restored:  # fmt: skip
        """Restore one hour of the trash, `YYYY-MM-DD-HH` in UTC. EPERM (not root), EINVAL, ENOENT.

        Single entries that can't be restored are counted. May be repeated, also after an interruption.
        """
        self.require_writable()
        if caller.uid != 0:
            raise FsError(errno.EPERM, "only root restores from the trash")
        if not _HOUR.fullmatch(hour):
            raise FsError(errno.EINVAL, f"{show(hour)}: an hour of the trash is named YYYY-MM-DD-HH, in UTC")
        (entry,) = await self.store.read(k.entry(TRASH, hour))
        if entry is None:
            raise FsError(errno.ENOENT, f"{show(hour)}: no such hour in the trash; `sluice ls META-URL /.trash` lists")
        work = _Restoring(self, entry.ino, put_back, max(1, threads), progress)
        await work.run()
        return work.report


class _Restoring:
    """The work on one hour."""

    def __init__(
        self, meta: Restore, hour: int, put_back: bool, threads: int, progress: Callable[[Restored], None] | None
    ) -> None:
        self.meta = meta
        self.hour = hour
        self.put_back = put_back
        self.threads = threads
        self.progress = progress
        self.report = Restored()
        self._homes: set[int] = set()  # directories removed in this hour: where entries are rebuilt
        self._changed: set[int] = set()  # directories whose statistics must be looked at

    async def run(self) -> None:
        if not self.put_back:
            await self._find_homes()
        after = b""
        while page := await self.meta.readdir(self.hour, after, _PAGE):
            await self._restore_page(page)
            after = page[-1].name
            if len(page) < _PAGE:
                break
        # Directories lost their statistics when they went to the trash; what was moved into them meanwhile is counted
        # here, not by the next operation that finds none.
        if self.meta.dir_stats:
            for ino in self._changed:
                await self.meta.recount_directory(ino)

    async def _restore_page(self, page: list[DirEntry]) -> None:
        entries = iter(page)  # shared: each worker takes the next one

        async def work() -> None:
            for entry in entries:
                await self._restore(entry)
                if self.progress is not None:
                    self.progress(self.report)

        workers = [asyncio.create_task(work()) for _ in range(min(self.threads, len(page)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _find_homes(self) -> None:
        """Directories that are entries of this hour. A rebuilt one lies in another of them and counts as well."""
        after = b""
        while page := await self.meta.readdir(self.hour, after, _PAGE):
            self._homes.update(e.ino for e in page if e.type == DIRECTORY)
            after = page[-1].name
            if len(page) < _PAGE:
                break

    async def _restore(self, entry: DirEntry) -> None:
        report = self.report
        place = parse_trash_name(entry.name)
        if place is None:
            self._failed(f"{show(entry.name)}: its name doesn't say where it was")
            return
        parent, _, name = place
        if not self.put_back and parent not in self._homes:
            report.skipped += 1
            return
        try:
            await self.meta.rename(self.hour, entry.name, parent, name, RENAME_NOREPLACE | RENAME_RESTORE)
        except MetaError:
            raise  # the database, not this entry
        except FsError as e:
            if e.errno == errno.EEXIST:
                report.conflicts += 1
            elif e.errno == errno.ENOENT and not await self._is_there(entry):
                return  # somebody else restored or removed it
            else:
                self._failed(f"{show(entry.name)}: {e.strerror}")
            return
        report.restored += 1
        if entry.type == DIRECTORY:
            self._changed.add(entry.ino)
        if not self.put_back:
            self._changed.add(parent)

    async def _is_there(self, entry: DirEntry) -> bool:
        (now,) = await self.meta.store.read(k.entry(self.hour, entry.name))
        return now is not None

    def _failed(self, reason: str) -> None:
        self.report.failed += 1
        if len(self.report.reasons) < MAX_REASONS:
            self.report.reasons.append(reason)
