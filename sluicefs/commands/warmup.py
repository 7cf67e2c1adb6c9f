# SPDX-License-Identifier: Apache-2.0
"""`sluice warmup [META-URL] [PATH …]`: fill the disk cache with files and folders, empty it, or look what is there.

On a mount the client behind it does the work in its own cache; with a metadata address this process fills the folders
of --cache-dir, for a mount that starts later. Source: cli §6.4, data-path §11.1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from core.config import format_size
from core.errors import ConfigError, SluiceError
from core.vfs.internal import protocol
from core.vfs.internal.progress import Tally
from core.vfs.internal.warmup import Warmed, Warmer, find_paths
from sluicefs.cli import command
from sluicefs.mounts import Control, OnProgress, Place, TooOld, find_place, is_meta_url, report_failure
from sluicefs.options import client_options, option, volume_options
from sluicefs.output import attended, note, report_error, show, table
from sluicefs.volume import inner_path, opened, run

_VERBS: Final = {protocol.WARM: "warmed up", protocol.EVICT: "evicted", protocol.CHECK: "checked"}


@command("warmup")
@click.argument("arguments", nargs=-1, metavar="[META-URL] [PATH]...")
@option("--file", "-f", "list_file", metavar="FILE", help="Read more paths from a file, one per line; - is stdin.")
@option("--threads", "-p", type=click.IntRange(1, 1000), default=50, help="Downloads at the same time.")
@click.option("-b", "--background", is_flag=True, help="Return at once; the mount goes on (its log tells the end).")
@click.option("--evict", is_flag=True, help="Take the blocks out of the cache.")
@click.option("--check", is_flag=True, help="Only look which blocks are in the cache.")
@client_options
def warmup_command(
    arguments: tuple[str, ...], list_file: str | None, threads: int, background: bool, evict: bool, check: bool,
    **client: Any,
) -> int:  # fmt: skip
    """Bring files and everything below folders into the disk cache of this host: below a mount, or inside the volume
    that META-URL names, into --cache-dir.

    \b
    sluice warmup /mnt/volume/models
    sluice warmup --check /mnt/volume/models
    sluice warmup META-URL /models --cache-dir /var/jfsCache
    """
    if evict and check:
        raise click.UsageError("--evict and --check exclude each other")
    action = protocol.EVICT if evict else protocol.CHECK if check else protocol.WARM
    rest = list(arguments)
    meta_url = rest.pop(0) if rest and is_meta_url(rest[0]) else None
    paths = rest + (_listed(list_file) if list_file else [])
    if not paths:
        raise ConfigError("nothing to do: give paths, or --file with one path per line")
    if meta_url is None:
        return _on_mounts(paths, threads, background, action)
    if background:
        raise ConfigError("--background needs a mount that goes on; leave it out with META-URL")
    return run(_in_volume(meta_url, paths, threads, action, volume_options(client, door=True)))


def _listed(path: str) -> list[str]:
    text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    return [line for line in (part.rstrip("\r") for part in text.split("\n")) if line.strip()]


def _on_mounts(paths: Sequence[str], threads: int, background: bool, action: int) -> int:
    total, failed = Warmed(), 0
    places: dict[str, list[Place]] = {}
    for path in paths:
        try:
            place = find_place(path, follow=True)
        except (SluiceError, OSError) as error:
            failed += report_failure(path, error)
            continue
        places.setdefault(place.root or place.control, []).append(place)
    with _progress(_VERBS[action]) as tick:
        for found in places.values():
            for at in range(0, len(found), protocol.MAX_PATHS):
                some = found[at : at + protocol.MAX_PATHS]
                try:
                    _add(total, _ask(some, threads, background, action, tick))
                except (SluiceError, OSError) as error:
                    failed += report_failure(some[0].root or some[0].path, error)
    if background:
        if not failed:
            note("the mount goes on in the background; its log tells the end, `sluice warmup --check` how far it is")
        return 1 if failed else 0
    return _end(total, action, failed)


def _ask(places: Sequence[Place], threads: int, background: bool, action: int, tick: OnProgress) -> dict[str, Any]:
    # By number where a name can't stand in a list of lines.
    paths = tuple(b"inode:%d" % place.ino if b"\n" in place.inner else place.inner for place in places)
    with Control(places[0].control) as control:
        data = control.ask(protocol.WarmUp(paths, threads, background, action), tick)
    if not data and action != protocol.WARM:
        raise TooOld(f"{places[0].root}: the client behind this mount is too old to check or evict; it has warmed up")
    found: dict[str, Any] = json.loads(data) if data else {"FileCount": len(places)}  # old clients tell no figures
    return found


def _add(total: Warmed, found: dict[str, Any]) -> None:
    total.files += found.get("FileCount") or 0
    total.slices += found.get("SliceCount") or 0
    total.total += found.get("TotalBytes") or 0
    total.missing += found.get("MissBytes") or 0
    total.failed += found.get("Failed") or 0
    total.errors += found.get("Errors") or []
    for folder, size in (found.get("Locations") or {}).items():
        total.locations[folder] = total.locations.get(folder, 0) + size


async def _in_volume(meta_url: str, paths: Sequence[str], threads: int, action: int, client: dict[str, Any]) -> int:
    client.pop("read_only", None)
    async with opened(meta_url, read_only=True, session=False, **client) as volume:
        inodes = await find_paths(volume.meta, 1, [inner_path(path) for path in paths])
        with _progress(_VERBS[action]) as tick:
            tally = _Shown(tick)
            report = await Warmer(volume.meta, volume.slices, action, threads, tally).run(inodes)
    return _end(report, action, 0)


class _Shown(Tally):
    def __init__(self, tick: OnProgress) -> None:
        super().__init__()
        self._tick = tick

    def set(self, first: int, second: int = 0) -> None:
        self._tick(first, second)


def _end(report: Warmed, action: int, failed: int) -> int:
    for text in report.errors[:10]:
        report_error(text)
    cached = report.total - report.missing
    if action == protocol.CHECK:
        rows = [
            (folder, format_size(size), f"{100 * size / max(report.total, 1):.1f}%")
            for folder, size in sorted(report.locations.items())
        ]
        text = table(("Location", "Size", "Percentage"), rows) + "\n" if rows else ""
        text += (
            f"{report.files} files: {format_size(cached)} of {format_size(report.total)} "
            f"({100 * cached / max(report.total, 1):.1f}%) are cached"
        )
    elif action == protocol.EVICT:
        text = f"evicted {format_size(cached)} of {report.files} files"
    else:
        text = (
            f"warmed up {report.files} files with {format_size(report.total)}; "
            f"{format_size(report.missing - report.failed)} were fetched"
        )
        if report.failed:
            text += f", {format_size(report.failed)} could not be"
    document = {
        "files": report.files, "slices": report.slices, "bytes": report.total, "missing": report.missing,
        "failed": report.failed, "locations": report.locations,
    }  # fmt: skip
    show(document, text)
    return 1 if failed or report.failed else 0


@contextmanager
def _progress(verb: str) -> Iterator[OnProgress]:
    """Told (files, bytes) so far; drawn where a person looks on."""
    if not attended():
        yield lambda files, size: None
        return
    try:
        yield lambda files, size: print(
            f"\r\033[K{verb}: {files} files, {format_size(size)}", end="", file=sys.stderr, flush=True
        )
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
