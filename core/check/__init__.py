# SPDX-License-Identifier: Apache-2.0
"""The recount: is every counter, link, statistic, quota and reference of a volume what its records say it must be?

`check` proves and changes nothing; `recount` sets right what can be. Others may be at work: what the first pass finds
must be found again, unchanged, by a second one, else it was only a change that was seen half; totals that others keep
moving are measured by `core/meta/recount.py` and `core/meta/measure.py`.
Source: spec metadata-semantics §1.2 (invariants), §2, §3, §6.7, §14.2; metadata-format §1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from core.check.findings import KINDS, OBJECTS, Finding
from core.check.objects import ObjectCheck
from core.check.recounting import LIMIT, Progress, one_pass, quiet
from core.check.repair import DIRECTORY_MODE, repair, statistics_lack
from core.errors import FsError
from core.meta import keys as k
from core.meta.meta import Meta
from core.meta.records import ROOT, TRASH, Attr, DirStat, node_space
from core.meta.recount import Sample, measure
from core.object.api import ObjectStore
from core.object.retried import RetriedStore

#: Repairs bring the next thing to light: what a recreated directory holds, for one, or the rest of very many.
_ROUNDS: Final = 100
#: Kinds that have ways of their own to be sure.
_MEASURED: Final = ("counters", "quota", "owner-quota")


async def check(
    meta: Meta, *, objects: ObjectStore | ObjectCheck | None = None, confirm: bool = True, progress: Progress = quiet
) -> list[Finding]:
    """Everything that is wrong (at most LIMIT of a kind), confirmed unless nobody else is at work (confirm=False).

    objects: also prove that every block of every slice of a living file exists and has a size that it can have; an
    `ObjectCheck` with a proof reads them all.
    """
    if objects is not None:
        # A copy: what one check has found doesn't narrow the next one.
        objects = objects if isinstance(objects, ObjectCheck) else ObjectCheck(objects)
        patient = RetriedStore(objects.objects, attempts=5, max_pause_s=10.0)
        objects = replace(objects, objects=patient, only=None)
    found = await one_pass(meta, objects, progress)
    if found and confirm:
        again: dict[tuple[str, object], Finding] = {}
        if any(finding.kind not in _MEASURED for finding in found):
            again = {(finding.kind, finding.key): finding for finding in await one_pass(meta, objects, progress)}
        sure = [await _confirmed(meta, finding, again.get((finding.kind, finding.key))) for finding in found]
        found = [finding for finding in sure if finding is not None]
    if meta.user_group_quota:
        progress("users and groups", 0)
        found += [
            Finding("owner-quota", (c.kind, c.ident), (c.stored.used_space, c.stored.used_inodes), c.counted)
            for c in await meta.check_owner_quotas()
        ][:LIMIT]
    return found


async def _confirmed(meta: Meta, finding: Finding, again: Finding | None) -> Finding | None:
    """The finding if the second pass saw the same; of totals, what is certain about them while others work."""
    if finding.kind == "counters":
        lacks = await measure(lambda: _count_nodes(meta))
        if not lacks:
            return None
        return finding._replace(expected=(finding.stored[0] + lacks.space, finding.stored[1] + lacks.inodes))
    if finding.kind == "quota":
        try:
            checked = await meta.check_quota(finding.key[0], strict=True)
        except FsError:
            return None  # deleted meanwhile
        if not checked.missing:
            return None
        return finding._replace(
            stored=(checked.stored.used_space, checked.stored.used_inodes), expected=checked.counted
        )
    if finding.kind == "dirstat" and again is not None and again != finding and again.stored is not None:
        lack = await statistics_lack(meta, finding.key[0])
        expected = DirStat(*(a + b for a, b in zip(again.stored, lack, strict=True)))
        return again._replace(expected=expected) if any(lack) else None
    return finding if finding == again else None


async def _count_nodes(meta: Meta) -> Sample:
    keys = (k.counter("usedSpace"), k.counter("totalInodes"))
    before = await meta.store.read(*keys)
    space = inodes = mark = 0
    async for key, attr in meta.store.scan(k.NODE):
        if key[1] not in (ROOT, TRASH):
            space += node_space(attr)
            inodes += 1
            mark ^= _trace(key[1], attr)
    after = await meta.store.read(*keys)
    return Sample((before[0], before[1]), (space, inodes), (after[0], after[1]), mark)


def _trace(ino: int, attr: Attr) -> int:
    """A number that changes when the inode does."""
    return hash((ino, attr.length, attr.ctime_ns))


async def recount(
    meta: Meta,
    *,
    objects: ObjectStore | ObjectCheck | None = None,
    directory_mode: int = DIRECTORY_MODE,
    progress: Progress = quiet,
) -> tuple[list[Finding], list[Finding]]:
    """Check and set right, until nothing is found that can be: (what is still wrong, what was repaired).

    Clients may go on working; directory_mode: of directories whose attributes are lost.
    """
    repaired: list[Finding] = []
    found = await check(meta, objects=objects, progress=progress)
    for _ in range(_ROUNDS):
        done = [finding for finding in found if await repair(meta, finding, directory_mode=directory_mode)]
        repaired += done
        if not done:
            break
        found = await check(meta, objects=objects, progress=progress)
    return found, repaired


__all__ = ["KINDS", "LIMIT", "OBJECTS", "Finding", "ObjectCheck", "check", "recount", "repair"]
