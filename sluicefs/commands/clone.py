# SPDX-License-Identifier: Apache-2.0
"""`sluice clone META-URL SOURCE TARGET`: a file or tree a second time, without copying its data.

The work is done by `Meta.clone`: a tree appears complete or not at all. Source: cli §2.9.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from core.errors import ConfigError
from core.meta.caller import Caller
from core.vfs.filesystem import split
from sluicefs.cli import command
from sluicefs.options import meta_argument, option
from sluicefs.output import attended, note, show, text_of
from sluicefs.volume import inner_path, join, opened, run


@command("clone")
@meta_argument
@click.argument("source")
@click.argument("target")
@click.option("-p", "--preserve", is_flag=True, help="Keep owner, group, permission bits and times.")
@option("--threads", "-t", type=click.IntRange(1, 255), default=4, help="Transactions at the same time.")
def clone_command(meta_url: str, source: str, target: str, preserve: bool, threads: int) -> None:
    """Make TARGET a copy of SOURCE, both paths inside the volume. No data moves: the copy refers to the same slices
    until one of the two is changed. TARGET must not exist; a slash at its end means a folder that does.

    \b
    sluice clone META-URL /data/set1 /backup/set1
    sluice clone META-URL --preserve /data/set1 /backup/
    """
    origin, copy = inner_path(source), inner_path(target)
    if origin == b"/":
        raise ConfigError("the root of the volume can't be cloned: the copy would be inside it; name what is in it")
    if target.endswith("/"):
        copy = join(copy, split(origin)[-1])
    run(_clone(meta_url, origin, copy, preserve, threads))


async def _clone(meta_url: str, source: bytes, target: bytes, preserve: bool, threads: int) -> None:
    async with opened(meta_url, mount_point="clone") as volume:
        found = await volume.fs.lookup(source, follow=False)
        parent = await volume.fs.lookup(b"/" + b"/".join(split(target)[:-1]))
        umask = os.umask(0)
        os.umask(umask)
        with _progress() as tick:
            made = await volume.meta.clone(
                found.ino, parent.ino, split(target)[-1], _owner(), preserve=preserve, umask=umask,
                concurrency=threads, progress=tick,
            )  # fmt: skip
    note(f"cloned {made.nodes} files and folders to {text_of(target)}")
    show({"path": text_of(target), "inode": made.ino, "nodes": made.nodes}, "")


def _owner() -> Caller:
    """Whoever runs the command owns the copy; what may be read is up to the database's own access control."""
    if not hasattr(os, "getuid"):
        return Caller()
    return Caller(os.getuid(), (os.getgid(), *os.getgroups()), os.getpid(), check=False)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Told (nodes so far, nodes expected); a bar where a person looks on."""
    if not attended():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("clone", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
