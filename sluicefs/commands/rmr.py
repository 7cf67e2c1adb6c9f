# SPDX-License-Identifier: Apache-2.0
"""`sluice rmr [META-URL] PATH …`: remove whole trees, many entries at a time (cli §6.5, metadata-semantics §13.1).

On a mount the client behind it does the work, which saves a round trip through the kernel for every entry.
"""

from __future__ import annotations

import os

import click

from core.errors import ConfigError, FsError, SluiceError
from core.meta.caller import Caller
from core.meta.records import ROOT
from core.meta.tree import MAX_THREADS
from core.vfs.internal import protocol
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.mounts import Control, TooOld, find_place, report_failure, split_arguments
from sluicefs.options import option
from sluicefs.output import note, report_error, show
from sluicefs.progress import Tick, counting
from sluicefs.volume import inner_path, opened, run


@command("rmr")
@click.argument("arguments", nargs=-1, required=True, metavar="[META-URL] PATH...")
@click.option("--skip-trash", is_flag=True, help="Remove for good, not into the volume's trash (root only).")
@option("--threads", "-p", type=click.IntRange(1, MAX_THREADS), default=50, help="Removals at the same time.")
def rmr_command(arguments: tuple[str, ...], skip_trash: bool, threads: int) -> int:
    """Remove PATH and everything below it. PATH is below a mount, or inside the volume that META-URL names. The trash,
    or an hour in it, is emptied.

    In the trash the tree lies flat; `sluice restore --put-back` brings it back as it was.
    """
    meta_url, paths = split_arguments(arguments)
    if meta_url is None:
        return _on_mounts(paths, skip_trash, threads)
    inner = [inner_path(path) for path in paths]
    if b"/" in inner:
        raise ConfigError("the root of the volume can't be removed; name what is in it")
    return run(_rmr(meta_url, inner, skip_trash, threads))


async def _rmr(meta_url: str, paths: list[bytes], skip_trash: bool, threads: int) -> int:
    removed = failed = 0
    async with opened(meta_url, mount_point="rmr", jobs=False) as volume:
        for path in paths:
            with counting() as tick:
                try:
                    removed += await _remove(volume, path, skip_trash, threads, tick)
                except FsError as error:
                    failed += report_error(error.strerror or str(error), error)
    return _end(removed, failed)


async def _remove(volume: Volume, path: bytes, skip_trash: bool, threads: int, tick: Tick) -> int:
    folder, _, name = path.rpartition(b"/")
    parent = (await volume.fs.lookup(folder)).ino if folder else ROOT
    caller = Caller(os.geteuid(), (os.getegid(), *os.getgroups()))
    return await volume.meta.remove_tree(
        parent, name, caller, skip_trash=skip_trash, threads=threads, progress=lambda count: tick("removed", count)
    )


def _on_mounts(paths: list[str], skip_trash: bool, threads: int) -> int:
    removed = failed = 0
    for path in paths:
        try:
            removed += _remove_mounted(path, skip_trash, threads)
        except (SluiceError, OSError) as error:
            failed += report_failure(path, error)
    return _end(removed, failed)


def _remove_mounted(path: str, skip_trash: bool, threads: int) -> int:
    place = find_place(path)
    if place.path == place.root:
        raise ConfigError(f"{path} is the root of a mount and can't be removed; name what is in it")
    request = protocol.RemoveTree(place.parent, place.name, skip_trash, threads)
    removed = 0

    def count(first: int, second: int) -> None:
        nonlocal removed
        removed = first
        tick("removed", first)

    with counting() as tick, Control(place.control) as control:
        try:
            control.ask(request, count)
        except TooOld:
            if skip_trash:
                raise
            with Control(place.control) as other:
                other.ask(request, count, legacy=True)
    return max(removed, 1)  # old clients tell no number


def _end(removed: int, failed: int) -> int:
    note(f"removed {removed}")
    show({"removed": removed, "failed": failed}, "")
    return 1 if failed else 0
