# SPDX-License-Identifier: Apache-2.0
"""`sluice gc META-URL`: what no file uses: counted, and with --delete removed (cli §2.5, metadata-semantics §14.1).

The work and its rules are in `core/gc`.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

import click

from core.config import format_size
from core.errors import ConfigError
from core.gc import SKIP_VARIABLE, GcReport, collect, fence_s
from core.meta import keys as k
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, option, store_override, volume_options
from sluicefs.output import attended, note, report_error, show, table
from sluicefs.volume import opened, run

#: Classes of objects in the order in which they are shown.
CLASSES = ("valid", "compacted", "pending", "leaked", "skipped")

#: What else may be found: field of the report, what it is called.
_FOUND = (
    ("stale_sessions", "clients that died"),
    ("expired_trash", "hours of trash that are due"),
    ("detached", "unfinished clones"),
    ("delfiles", "removed files whose data is still there"),
    ("lost_files", "files that don't exist but have slices"),
    ("delayed_due", "records of compacted slices that are due"),
    ("unused_slices", "slices that nobody uses"),
    ("miscounted", "slices counted more often than used"),
    ("temporary_files", "temporary files of killed uploads"),
)


@command("gc")
@meta_argument
@click.option("--delete", is_flag=True, help="Remove leaked objects, due trash and data of removed files.")
@click.option("--compact", is_flag=True, help="Merge the slices of files that were written in pieces, first.")
@option("--threads", "-p", type=click.IntRange(1, 1000), default=10, help="Deletions and merges at the same time.")
@option("--rate", type=click.FloatRange(0), default=0, help="Objects deleted per second at most; 0 is no limit.")
@click.option("--force", is_flag=True, help="Delete without a fence although clients are at work (see below).")
@store_override
def gc_command(
    meta_url: str, delete: bool, compact: bool, threads: int, rate: float, force: bool, **client: Any
) -> int:  # fmt: skip
    """Find objects that no file uses. Nothing is removed without --delete. Killed or interrupted, it can be started
    again at any time, also twice at once.

    JFS_GC_SKIPPEDTIME (3600): seconds for which a new object is left alone, because somebody may be about to say whose
    it is. It must be longer than the longest upload; 0 is refused while clients are registered."""
    return run(_gc(meta_url, delete, compact, threads, rate, force, fence_s(), volume_options(client)))


async def _gc(
    meta_url: str, delete: bool, compact: bool, threads: int, rate: float, force: bool, young: float,
    client: dict[str, Any],
) -> int:  # fmt: skip
    async with opened(meta_url, session=False, read_only=not (delete or compact), **client) as volume:
        if delete and not young and not force:
            await _require_alone(volume)
        progress = _progress if attended() else _quiet
        report = await collect(
            volume, delete=delete, compact=compact, threads=threads, min_age_s=young, deletions_per_s=rate,
            progress=progress,
        )  # fmt: skip
    if attended():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    for failure in report.failures[:100]:
        report_error(f"{failure}; the next run tries again")
    show(document(report), _text(report))
    if not delete and _leftovers(report):
        note("`sluice gc --delete META-URL` removes what is left over")
    return 1 if report.failures else 0


async def _require_alone(volume: Volume) -> None:
    """Without a fence an object that somebody has just stored, and not yet named, would look like nobody's."""
    now = volume.meta.clock_ns() / 1e9
    alive = [key[1] async for key, expiry in volume.meta.store.scan(k.SESSION) if expiry >= now]
    if alive:
        raise ConfigError(
            f"{SKIP_VARIABLE}=0 leaves no time between storing and naming an object, and {len(alive)} client(s) are at "
            "work (`sluice status` tells which): stop them, or wait a minute if they were killed, or give a time "
            "longer than their longest upload, or say --force if none of them writes"
        )


def document(report: GcReport) -> dict[str, Any]:
    """The report as JSON."""
    found = asdict(report)
    found.update(
        scanned=report.scanned.objects, deleted=report.deleted.objects, deletedBytes=report.deleted.bytes,
        failed=len(report.failures),
    )  # fmt: skip
    del found["failures"], found["delete"], found["compaction"]
    if report.compaction is not None:
        found["compacted_chunks"] = report.compaction.compacted
        found["merged_slices"] = report.compaction.removed
    if report.counters is not None:
        names = ("usedSpace", "totalInodes")
        stored, counted = (dict(zip(names, values, strict=True)) for values in report.counters)
        found["counters"] = {"stored": stored, "counted": counted}
    return {_camel(name): value for name, value in found.items()}


def _text(report: GcReport) -> str:
    rows = [
        (name, tally.objects, format_size(tally.bytes)) for name in CLASSES for tally in (getattr(report, name),)
    ]  # fmt: skip
    lines = [table(("Objects", "Count", "Size"), rows)]
    lines += [f"{what}: {getattr(report, name)}" for name, what in _FOUND if getattr(report, name)]
    if report.counters is not None:
        lines.append("usage counters: {} bytes, {} inodes stored; {} bytes, {} inodes counted".format(
            *report.counters[0], *report.counters[1]))  # fmt: skip
    if report.compaction is not None:
        lines.append(f"compacted: {report.compaction.compacted} chunks, {report.compaction.removed} slices fewer")
    if report.rewritten.objects:
        lines.append(f"moved out of mostly unused slices: {format_size(report.rewritten.bytes)}")
    if report.remembered:
        lines.append(f"the store can't tell how old objects are; {report.remembered} are remembered for the next run")
    if report.delete:
        lines.append(f"deleted: {report.deleted.objects} objects, {format_size(report.deleted.bytes)}")
    return "\n".join(lines)


def _leftovers(report: GcReport) -> bool:
    return bool(report.leaked.objects or report.counters) or any(getattr(report, name) for name, _ in _FOUND)


def _progress(what: str, count: int) -> None:
    print(f"\r\033[K{what}: {count}", end="", file=sys.stderr, flush=True)


def _quiet(what: str, count: int) -> None:
    pass


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)
