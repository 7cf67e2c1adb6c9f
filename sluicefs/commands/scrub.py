# SPDX-License-Identifier: Apache-2.0
"""`sluice scrub META-URL`: read every block back, decode it, and compare it with its kept checksum (`core/scrub`).

A run goes on where the last one stopped, also one that a serving client made (`--scrub RATE` of mount, gateway, webdav
and serve). Exit status 0: nothing is wrong; 1: some blocks are.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import click
import msgspec

from core.config import format_size
from core.scrub import Scrub, ScrubReport, State, read_state
from sluicefs.cli import command
from sluicefs.options import DURATION, meta_argument, option, size, store_override, volume_options
from sluicefs.output import attended, note, show
from sluicefs.volume import opened, run


@command("scrub")
@meta_argument
@option("--rate", type=size(), default="0", help="Bytes read per second at most, such as 50M; 0 is no limit.")
@option("--threads", "-p", type=click.IntRange(1, 1000), default=8, help="Blocks read at the same time.")
@option("--for", "duration", type=DURATION, help="Stop after this time; the next run goes on there.")
@click.option("--restart", is_flag=True, help="From the first block on, whatever was read before.")
@click.option("--no-sums", is_flag=True, help="Neither compare with kept checksums nor keep new ones.")
@click.option("--status", is_flag=True, help="Only tell where a scrub is and what it has found.")
@store_override
def scrub_command(
    meta_url: str, rate: int, threads: int, duration: float | None, restart: bool, no_sums: bool, status: bool,
    **client: Any,
) -> int:  # fmt: skip
    """Read back every block of the volume, past all caches. A block that can't be decoded, or isn't what it was when
    it was first read back, is told; `sluice fsck --read` then names the files.

    Checksums are kept in the object store, beside the blocks; other clients aren't disturbed and needn't know."""
    return run(_scrub(meta_url, float(rate), threads, duration, restart, not no_sums, status, volume_options(client)))


async def _scrub(
    meta_url: str, rate: float, threads: int, duration: float | None, restart: bool, sums: bool, status: bool,
    client: dict[str, Any],
) -> int:  # fmt: skip
    async with opened(meta_url, session=False, read_only=True, **client) as volume:
        if status:
            return _tell(await read_state(volume.objects), None)
        progress = _progress if attended() else _quiet
        scrub = Scrub(volume, bytes_per_s=rate, threads=threads, keep_sums=sums, progress=progress)
        report = await scrub.run(restart=restart, seconds=duration)
    if attended():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return _tell(report.state, report)


def _tell(state: State, report: ScrubReport | None) -> int:
    document: dict[str, Any] = {"state": msgspec.to_builtins(state)}
    lines = [f"{key}: {fault.cause}" for key, fault in sorted(state.faults.items())]
    if report is not None:
        document |= {
            "blocks": report.blocks, "bytes": report.bytes, "proven": report.proven, "newSums": report.new_sums,
            "finished": report.finished, "faults": report.faults,
        }  # fmt: skip
        lines.append(
            f"{report.blocks} blocks read back ({format_size(report.bytes)}): {report.proven} are what they were, "
            f"{report.new_sums} have a checksum from now on, {len(report.faults)} are damaged"
        )
        if not report.finished:
            lines.append(f"stopped at {state.position}; the next run goes on there")
    else:
        if state.position:
            lines.append(f"at {state.position}: {state.blocks} blocks of this pass, begun {_date(state.started)}")
        if state.passes:
            lines.append(
                f"last pass: {state.last_blocks} blocks ({format_size(state.last_bytes)}), "
                f"{_date(state.last_started)} to {_date(state.last_ended)}"
            )
        if not state.position and not state.passes:
            lines.append("nothing was ever read back")
    show(document, "\n".join(lines))
    if state.faults:
        note(f"{len(state.faults)} damaged blocks; `sluice fsck --read META-URL` names the files, and with --repair "
             "--cache-dir puts back what lies in a cache")  # fmt: skip
    return 1 if state.faults else 0


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def _progress(blocks: int, size: int) -> None:
    print(f"\r\033[K{blocks} blocks, {format_size(size)}", end="", file=sys.stderr, flush=True)


def _quiet(blocks: int, size: int) -> None:
    pass
