# SPDX-License-Identifier: Apache-2.0
"""`sluice rmr META-URL PATH …`: remove whole trees, many entries at a time (cli §6.5, metadata-semantics §13.1)."""

from __future__ import annotations

import os

import click

from core.errors import ConfigError, FsError
from core.meta.caller import Caller
from core.meta.records import ROOT
from core.meta.tree import MAX_THREADS
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, option
from sluicefs.output import note, report_error, show
from sluicefs.progress import Tick, counting
from sluicefs.volume import inner_path, opened, run


@command("rmr")
@meta_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--skip-trash", is_flag=True, help="Remove for good, not into the volume's trash (root only).")
@option("--threads", "-p", type=click.IntRange(1, MAX_THREADS), default=50, help="Removals at the same time.")
def rmr_command(meta_url: str, paths: tuple[str, ...], skip_trash: bool, threads: int) -> int:
    """Remove PATH, a path inside the volume, and everything below it. /.trash, or an hour in it, is emptied.

    In the trash the tree lies flat; `sluice restore --put-back` brings it back as it was.
    """
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
    note(f"removed {removed}")
    show({"removed": removed, "failed": failed}, "")
    return 1 if failed else 0


async def _remove(volume: Volume, path: bytes, skip_trash: bool, threads: int, tick: Tick) -> int:
    folder, _, name = path.rpartition(b"/")
    parent = (await volume.fs.lookup(folder)).ino if folder else ROOT
    caller = Caller(os.geteuid(), (os.getegid(), *os.getgroups()))
    return await volume.meta.remove_tree(
        parent, name, caller, skip_trash=skip_trash, threads=threads, progress=lambda count: tick("removed", count)
    )
