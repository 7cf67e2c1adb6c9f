# SPDX-License-Identifier: Apache-2.0
"""`sluice restore META-URL HOUR …`: bring back what was removed in an hour (cli §2.7, metadata-semantics §14)."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from core.errors import ConfigError, FsError
from core.meta.caller import Caller
from core.meta.records import TRASH
from core.meta.restore import Restored
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, option
from sluicefs.output import note, report_error, show, table, text_of
from sluicefs.progress import Tick, counting
from sluicefs.volume import opened, run


@command("restore")
@meta_argument
@click.argument("hours", nargs=-1, metavar="[HOUR...]")
@click.option("--put-back", is_flag=True, help="Move everything to where it was, not only together in the trash.")
@option("--threads", "-p", type=click.IntRange(1, 1000), default=10, help="Entries at the same time.")
def restore_command(meta_url: str, hours: tuple[str, ...], put_back: bool, threads: int) -> int:
    """Restore what was removed in HOUR, YYYY-MM-DD-HH in UTC, as the folders of /.trash are named. Without HOUR: show
    which there are. Root only.

    Removed trees lie flat in the trash. This puts them together again where they lie, to look at; with --put-back
    everything goes to the directory it was removed from. Nothing is overwritten: what is there again is counted as a
    conflict and stays in the trash. Exit status 1 if anything could not be restored.
    """
    if os.geteuid() != 0:
        raise ConfigError("restore moves entries of all users out of the trash, so only root may run it; use sudo")
    return run(_restore(meta_url, hours, put_back, threads))


async def _restore(meta_url: str, hours: tuple[str, ...], put_back: bool, threads: int) -> int:
    async with opened(meta_url, mount_point="restore", jobs=False, read_only=not hours) as volume:
        if not hours:
            return await _hours(volume)
        word = "restored" if put_back else "rebuilt"
        reports: dict[str, Restored] = {}
        bad = 0
        for hour in hours:
            with counting() as tick:
                try:
                    reports[hour] = await volume.meta.restore(
                        hour.encode(), Caller(), put_back=put_back, threads=threads,
                        progress=_told(tick, word),
                    )  # fmt: skip
                except FsError as error:
                    bad += report_error(error.strerror or str(error), error)
    _report(reports, put_back)
    return 1 if bad or any(r.failed or r.conflicts for r in reports.values()) else 0


def _told(tick: Tick, word: str) -> Callable[[Restored], None]:
    return lambda report: tick(f"{word}, {report.conflicts} conflicts", report.restored)


def _report(reports: dict[str, Restored], put_back: bool) -> None:
    for report in reports.values():
        for reason in report.reasons[:20]:
            report_error(reason)
    rows = [(hour, r.restored, r.skipped, r.conflicts, r.failed) for hour, r in reports.items()]
    header = ("Hour", "Restored" if put_back else "Rebuilt", "Skipped", "Conflicts", "Failed")
    documents: list[dict[str, Any]] = [{"hour": hour, **asdict(r)} for hour, r in reports.items()]
    show(documents, table(header, rows) if rows else "")
    if any(r.conflicts for r in reports.values()):
        note(
            "where names are taken again, what was removed stays in the trash; rename what is there, or move it by hand"
        )
    if not put_back and any(r.skipped for r in reports.values()):
        note("what is skipped was removed from directories that still exist; --put-back moves it there")


async def _hours(volume: Volume) -> int:
    """What there is to restore."""
    found: list[tuple[str, int]] = []
    for hour in await volume.meta.readdir(TRASH, b"", 1 << 20):
        summary = await volume.meta.summary(hour.ino, recursive=False)
        found.append((text_of(hour.name), summary.files + summary.dirs - 1))
    show(
        [{"hour": hour, "entries": count} for hour, count in found],
        table(("Hour", "Entries"), found) if found else "",
    )  # fmt: skip
    if not found:
        note("The trash is empty.")
    return 0
