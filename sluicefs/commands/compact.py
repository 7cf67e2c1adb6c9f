# SPDX-License-Identifier: Apache-2.0
"""`sluice compact [META-URL] PATH …`: files that were written in pieces get fewer and larger slices.

The work is done by `Meta.compact_tree`; contents and times stay as they are. Source: cli §2.12, metadata-semantics
§13.4.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from core.errors import FsError, SluiceError
from core.meta.compact import Compacted
from core.vfs.internal import protocol
from sluicefs.cli import command
from sluicefs.mounts import Control, find_place, report_failure, split_arguments
from sluicefs.options import client_options, option, volume_options
from sluicefs.output import attended, note, report_error, show
from sluicefs.volume import inner_path, opened, run


@command("compact")
@click.argument("arguments", nargs=-1, required=True, metavar="[META-URL] PATH...")
@option("--threads", "-p", type=click.IntRange(1, 1000), default=10, help="Chunks at the same time.")
@client_options
def compact_command(arguments: tuple[str, ...], threads: int, **client: Any) -> int:
    """Merge the slices of every file below PATH: below a mount, or inside the volume that META-URL names. What a file
    consisted of before is kept as long as the volume keeps its trash. `sluice gc --compact` does it for the whole
    volume."""
    meta_url, paths = split_arguments(arguments)
    if meta_url is None:
        return _compact_mounted(paths, threads)
    return run(_compact(meta_url, [inner_path(path) for path in paths], threads, volume_options(client)))


async def _compact(meta_url: str, paths: list[bytes], threads: int, client: dict[str, Any]) -> int:
    total = Compacted()
    failed = 0
    async with opened(meta_url, mount_point="compact", **client) as volume:
        for path in paths:
            try:
                found = await volume.fs.lookup(path)
                report = await volume.meta.compact_tree(
                    found.ino, concurrency=threads, progress=_progress if attended() else None
                )
            except FsError as error:
                failed += report_error(error.strerror or str(error), error)
                continue
            for failure in report.failures[:100]:
                report_error(failure)
            failed += len(report.failures)
            total.files += report.files
            total.chunks += report.chunks
            total.compacted += report.compacted
            total.removed += report.removed
    if attended():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    note(f"compacted {total.compacted} of {total.chunks} chunks in {total.files} files, {total.removed} slices fewer")
    document = {
        "files": total.files, "chunks": total.chunks, "compacted": total.compacted, "merged": total.removed,
        "failed": failed,
    }  # fmt: skip
    show(document, "")
    return 1 if failed else 0


def _compact_mounted(paths: list[str], threads: int) -> int:
    """The client behind the mount tells how many chunks it has seen and merged; its log names those that failed."""
    chunks = compacted = failed = 0
    for path in paths:
        seen = (0, 0)

        def count(first: int, second: int) -> None:
            nonlocal seen
            seen = first, second
            if attended():
                print(f"\r\033[Kchunks compacted: {second}", end="", file=sys.stderr, flush=True)

        try:
            place = find_place(path, follow=True)
            with Control(place.control) as control:
                control.ask(protocol.Compact(place.ino, threads), count)
        except (SluiceError, OSError) as error:
            failed += report_failure(path, error)
        chunks, compacted = chunks + seen[0], compacted + seen[1]
    if attended():
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    note(f"compacted {compacted} of {chunks} chunks")
    show({"chunks": chunks, "compacted": compacted, "failed": failed}, "")
    return 1 if failed else 0


def _progress(report: Compacted) -> None:
    print(f"\r\033[Kchunks compacted: {report.compacted}", end="", file=sys.stderr, flush=True)
