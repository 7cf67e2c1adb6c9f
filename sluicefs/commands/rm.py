# SPDX-License-Identifier: Apache-2.0
"""`sluice rm META-URL PATH …`: remove files, or trees with -r, through the volume's trash."""

from __future__ import annotations

import errno

import click

from core.errors import ConfigError, FsError
from sluicefs.cli import command
from sluicefs.options import meta_argument
from sluicefs.output import note, report_error, show
from sluicefs.volume import inner_path, opened, run


@command("rm")
@meta_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-r", "-R", "--recursive", is_flag=True, help="Remove folders and what is in them.")
@click.option("-f", "--force", is_flag=True, help="A path that doesn't exist is no error.")
@click.option("--skip-trash", is_flag=True, help="Remove for good, not into the volume's trash.")
def rm_command(meta_url: str, paths: tuple[str, ...], recursive: bool, force: bool, skip_trash: bool) -> int:
    """Remove PATH, a path inside the volume. What is removed stays in .trash as long as the volume keeps it."""
    inner = [inner_path(path) for path in paths]
    if b"/" in inner:
        raise ConfigError("the root of the volume can't be removed; name what is in it")
    return run(_rm(meta_url, inner, recursive, force, skip_trash))


async def _rm(meta_url: str, paths: list[bytes], recursive: bool, force: bool, skip_trash: bool) -> int:
    removed = failed = 0
    async with opened(meta_url) as volume:
        for path in paths:
            try:
                if recursive:
                    removed += await volume.fs.remove_tree(path, skip_trash=skip_trash)
                else:
                    await volume.fs.unlink(path, skip_trash=skip_trash)
                    removed += 1
            except FsError as error:
                if force and error.errno == errno.ENOENT:
                    continue
                hint = "; -r removes folders" if error.errno == errno.EISDIR else ""
                failed += report_error(f"{error.strerror}{hint}", error)
    note(f"removed {removed}")
    show({"removed": removed, "failed": failed}, "")
    return 1 if failed else 0
