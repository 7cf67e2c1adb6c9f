# SPDX-License-Identifier: Apache-2.0
"""`sluice fsck META-URL`: what the records say against a recount; with --repair set right (metadata-semantics §14.2).

The recount and the repairs are in `core/check.py`. Exit status 0: nothing is wrong (any more); 1: something is.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import click

from core.check import KINDS, Finding, check, repair
from sluicefs.cli import command
from sluicefs.options import meta_argument, store_override, volume_options
from sluicefs.output import note, show, text_of
from sluicefs.volume import opened, run

#: Text output names so many findings of a kind; JSON has all.
_SHOWN = 100
#: A repair may bring the next thing to light: what a recreated directory holds, for one.
_ROUNDS = 5


@command("fsck")
@meta_argument
@click.option("--repair", "mend", is_flag=True, help="Set right what can be set right.")
@click.option("--objects", is_flag=True, help="Also prove that the objects of all files exist (lists the bucket).")
@store_override
def fsck_command(meta_url: str, mend: bool, objects: bool, **client: Any) -> int:
    """Recount everything: usage, statistics, links, parents, references. Nothing is changed without --repair.

    Others may go on working: what they change meanwhile is looked at twice.
    """
    return run(_fsck(meta_url, mend, objects, volume_options(client)))


async def _fsck(meta_url: str, mend: bool, with_objects: bool, client: dict[str, Any]) -> int:
    repaired: list[Finding] = []
    async with opened(meta_url, session=False, read_only=not mend, **client) as volume:
        objects = volume.objects if with_objects else None
        found = await check(volume.meta, objects=objects)
        for _ in range(_ROUNDS if mend else 0):
            done = [finding for finding in found if await repair(volume.meta, finding)]
            repaired += done
            if not done:
                break
            found = await check(volume.meta, objects=objects)
    show(
        {"found": [_document(f) for f in found], "repaired": [_document(f) for f in repaired]},
        "\n".join([*(f"repaired: {line}" for line in _lines(repaired)), *_lines(found)]),
    )
    if found:
        can = sum(finding.repairable for finding in found)
        hint = f"; `sluice fsck --repair` can set {can} of them right" if can and not mend else ""
        note(f"{len(found)} things are wrong{hint}")
    else:
        note("Nothing is wrong." if not repaired else "Nothing is wrong any more.")
    return 1 if found else 0


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
