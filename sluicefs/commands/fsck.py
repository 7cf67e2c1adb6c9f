# SPDX-License-Identifier: Apache-2.0
"""`sluice fsck META-URL`: what the records say against a recount; with --repair set right (metadata-semantics §14.2).

The recount and the repairs are in `core/check`. Exit status 0: nothing is wrong (any more); 1: something is.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from typing import Any

import click

from core.check import KINDS, LIMIT, Finding, check, recount
from core.meta import keys as k
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, store_override, volume_options
from sluicefs.output import note, show, text_of
from sluicefs.progress import Tick, counting
from sluicefs.volume import inner_path, opened, run

#: Text output names so many findings of a kind; JSON has all.
_SHOWN = 100


class _Mode(click.ParamType):  # type: ignore[type-arg]
    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else int(str(value), 8) & 0o7777
        except ValueError:
            self.fail(f"{value!r} is no octal mode such as 0755", param, ctx)


@command("fsck")
@meta_argument
@click.option("--repair", "mend", is_flag=True, help="Set right what can be set right.")
@click.option("--objects", is_flag=True, help="Also prove that the objects of all files exist (lists the bucket).")
@click.option("--path", metavar="PATH", help="Report only what concerns PATH, inside the volume, and what is below.")
@click.option("--recursive", "-r", is_flag=True, help="With --path: accepted; what is below is always looked at.")
@click.option("--sync-dir-stat", is_flag=True, help="Accepted; statistics of directories are always recounted.")
@click.option(
    "--repair-dir-mode",
    type=_Mode(),
    default="0755",
    show_default=True,
    help="Mode of directories whose attributes are lost.",
)
@store_override
def fsck_command(
    meta_url: str, mend: bool, objects: bool, path: str | None, recursive: bool, sync_dir_stat: bool,
    repair_dir_mode: int, **client: Any,
) -> int:  # fmt: skip
    """Recount everything: usage, statistics, quotas, links, parents, references. Nothing is changed without --repair.

    Others may go on working: what they change meanwhile is looked at twice, and totals get what they lack added.
    """
    inner = None if path is None else text_of(inner_path(path))
    return run(_fsck(meta_url, mend, objects, inner, repair_dir_mode, volume_options(client)))


async def _fsck(
    meta_url: str, mend: bool, with_objects: bool, path: str | None, mode: int, client: dict[str, Any]
) -> int:  # fmt: skip
    repaired: list[Finding] = []
    async with opened(meta_url, session=False, read_only=not mend, **client) as volume:
        objects = volume.objects if with_objects else None
        with await ticking(volume) as tick:
            if mend:
                found, repaired = await recount(volume.meta, objects=objects, directory_mode=mode, progress=tick)
            else:
                found = await check(volume.meta, objects=objects, progress=tick)
    if path is not None:
        found = [finding for finding in found if _below(finding.path, path)]
    return report(found, repaired)


def _below(found: str, path: str) -> bool:
    return path == "/" or found == path or found.startswith(path + "/")


async def ticking(volume: Volume) -> AbstractContextManager[Tick]:
    """Progress that knows how many inodes there should be."""
    (inodes,) = await volume.meta.store.read(k.counter("totalInodes"))
    return counting(inodes or None)


def report(found: list[Finding], repaired: list[Finding]) -> int:
    """Print what is wrong and what was set right; the exit status."""
    show(
        {"found": [_document(f) for f in found], "repaired": [_document(f) for f in repaired]},
        "\n".join([*(f"repaired: {line}" for line in _lines(repaired)), *_lines(found)]),
    )
    if not found:
        note("Nothing is wrong." if not repaired else "Nothing is wrong any more.")
        return 0
    can = sum(finding.repairable for finding in found)
    hint = f"; `sluice fsck --repair` can set {can} of them right" if can and not repaired else ""
    most = max(Counter(finding.kind for finding in found).values())
    note(f"{len(found)}{' or more' if most >= LIMIT else ''} things are wrong{hint}")
    return 1


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "text": KINDS[finding.kind][0],
        "key": [text_of(part) if isinstance(part, bytes) else part for part in finding.key],
        "path": finding.path,
        "stored": finding.stored,
        "expected": finding.expected,
        "repairable": finding.repairable,
    }


def _lines(findings: list[Finding]) -> list[str]:
    lines: list[str] = []
    count: Counter[str] = Counter()
    for finding in findings:
        count[finding.kind] += 1
        if count[finding.kind] <= _SHOWN:
            lines.append(str(finding))
    return lines + [f"… and {n - _SHOWN} more: {KINDS[kind][0]}" for kind, n in count.items() if n > _SHOWN]
