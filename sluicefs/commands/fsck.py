# SPDX-License-Identifier: Apache-2.0
"""`sluice fsck META-URL`: what the records say against a recount and against the objects; with --repair set right.

The recount, the proof of objects and the repairs are in `core/check`. Exit status 0: nothing is wrong (any more); 1:
something is. Source: cli §2.6, metadata-semantics §14.2.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import click

from core.check import KINDS, LIMIT, OBJECTS, Finding, ObjectCheck, check, recount
from core.check.salvage import What, put_aside, salvage, told_copies
from core.chunk.diskcache import split_dirs
from core.config import format_size
from core.errors import ConfigError
from core.meta import keys as k
from core.scrub import BlockProof
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, option, size, store_override, volume_options
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
@click.option(
    "--objects/--no-objects", default=True, help="Prove that the objects of all files exist (lists the bucket)."
)
@click.option("--read", "--verify-data", "read", is_flag=True, help="Read and decode every block, too.")
@option("--threads", "-p", type=click.IntRange(1, 1000), default=8, help="Blocks read at the same time.")
@option("--rate", type=size(), default="0", help="Bytes read per second at most, such as 50M; 0 is no limit.")
@option(
    "--cache-dir",
    metavar="PATH",
    help="Look for copies of lost objects in these cache folders; with --repair put them back.",
)
@click.option(
    "--broken",
    type=click.Choice(["move", "truncate"]),
    help="With --repair: files that have lost bytes are moved to /lost+found, or cut before the first lost byte.",
)
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
    meta_url: str, mend: bool, objects: bool, read: bool, threads: int, rate: int, cache_dir: str | None,
    broken: What | None, path: str | None, recursive: bool, sync_dir_stat: bool, repair_dir_mode: int, **client: Any,
) -> int:  # fmt: skip
    """Recount everything: usage, statistics, quotas, links, parents, references; and prove that every object that a
    file needs exists and has the size it must have. Nothing is changed without --repair.

    Others may go on working: what they change meanwhile is looked at twice, and totals get what they lack added.
    """
    if broken and not mend:
        raise ConfigError("--broken: it changes the volume, so --repair has to be given as well")
    if (read or broken or cache_dir) and not objects:
        raise ConfigError("--no-objects: the other options are about objects")
    inner = None if path is None else text_of(inner_path(path))
    wanted = _Objects(read, threads, float(rate), split_dirs(cache_dir or ""), broken) if objects else None
    return run(_fsck(meta_url, mend, wanted, inner, repair_dir_mode, volume_options(client)))


class _Objects(NamedTuple):
    """What to do about objects."""

    read: bool
    threads: int
    bytes_per_s: float
    caches: list[str]
    broken: What | None


async def _fsck(
    meta_url: str, mend: bool, wanted: _Objects | None, path: str | None, mode: int, client: dict[str, Any]
) -> int:  # fmt: skip
    repaired: list[Finding] = []
    async with opened(meta_url, session=False, read_only=not mend, **client) as volume:
        looking = object_check(volume, wanted)
        try:
            with await ticking(volume) as tick:
                if not mend:
                    found = await check(volume.meta, objects=looking, progress=tick)
                    if wanted is not None and wanted.caches:
                        found = await told_copies(volume, found, wanted.caches)
                elif looking is None:
                    found, repaired = await recount(volume.meta, directory_mode=mode, progress=tick)
                else:
                    # Records first: what they repair needn't be read once for each round.
                    _, repaired = await recount(volume.meta, directory_mode=mode, progress=tick)
                    found = await check(volume.meta, objects=looking, progress=tick)
                    assert wanted is not None
                    repaired += (back := await salvage(volume, found, wanted.caches))
                    lost = [finding for finding in found if finding not in back]
                    if wanted.broken is not None:
                        repaired += await put_aside(volume, lost, wanted.broken)
                    if repaired and any(finding.kind in OBJECTS for finding in repaired):
                        found = await check(volume.meta, objects=looking, progress=tick)
                    if wanted.broken == "move":
                        aside = {finding.key[0] for finding in repaired if finding.kind in OBJECTS}
                        found = [f for f in found if not (f.kind in OBJECTS and f.key[0] in aside)]
        finally:
            if looking is not None and looking.proof is not None:
                looking.proof.close()
    if path is not None:
        found = [finding for finding in found if _below(finding.path, path)]
    return report(found, repaired)


def object_check(volume: Volume, wanted: _Objects | None) -> ObjectCheck | None:
    if wanted is None:
        return None
    proof = None
    if wanted.read:
        proof = BlockProof(
            volume.objects, volume.format, threads=wanted.threads, bytes_per_s=wanted.bytes_per_s
        )  # fmt: skip
    return ObjectCheck(volume.objects, proof, wanted.threads)


def _below(found: str, path: str) -> bool:
    return path == "/" or found == path or found.startswith(path + "/")


async def ticking(volume: Volume) -> AbstractContextManager[Tick]:
    """Progress that knows how many inodes there should be."""
    (inodes,) = await volume.meta.store.read(k.counter("totalInodes"))
    return counting(inodes or None)


def report(found: list[Finding], repaired: list[Finding]) -> int:
    """Print what is wrong and what was set right; the exit status."""
    show(
        {
            "found": [_document(f) for f in found],
            "repaired": [_document(f) for f in repaired],
            "brokenFiles": _broken(found),
        },
        "\n".join([*(f"repaired: {line}" for line in _lines(repaired)), *_lines(found)]),
    )
    if not found:
        note("Nothing is wrong." if not repaired else "Nothing is wrong any more.")
        return 0
    can = sum(finding.repairable for finding in found)
    hint = f"; `sluice fsck --repair` can set {can} of them right" if can and not repaired else ""
    files = _broken(found)
    if files:
        lost = sum(part["length"] for file in files for part in file["ranges"])
        note(f"files that have lost bytes: {len(files)} ({format_size(lost)}); they are named above")
    if any(finding.kind == "object" for finding in found):
        note("a client with --writeback may have missing objects staged on its disk; it uploads them, and `sluice fsck "
             "--cache-dir` there names them")  # fmt: skip
    most = max(Counter(finding.kind for finding in found).values())
    note(f"{len(found)}{' or more' if most >= LIMIT else ''} things are wrong{hint}")
    return 1


def _broken(found: list[Finding]) -> list[dict[str, Any]]:
    """Files with lost bytes: path, inode, and for each range which object it was in and why it is lost."""
    files: dict[int, dict[str, Any]] = {}
    for finding in found:
        if finding.kind in OBJECTS and finding.ranges:
            file = files.setdefault(finding.key[0], {"path": finding.path, "inode": finding.key[0], "ranges": []})
            file["ranges"] += [
                {"offset": offset, "length": length, "object": finding.key[1], "cause": finding.stored}
                for offset, length in finding.ranges
            ]
    return list(files.values())


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
