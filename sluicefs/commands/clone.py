# SPDX-License-Identifier: Apache-2.0
"""`sluice clone [META-URL] SOURCE TARGET`: a file or tree a second time, without copying its data.

The work is done by `Meta.clone`, here or in the client behind a mount: a tree appears complete or not at all.
Source: cli §2.9.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from core.errors import ConfigError, FsError
from core.meta.caller import Caller
from core.vfs.filesystem import split
from core.vfs.internal import protocol
from sluicefs.cli import command
from sluicefs.mounts import Control, find_place
from sluicefs.options import option
from sluicefs.output import attended, note, show, text_of
from sluicefs.volume import inner_path, join, opened, run


@command("clone")
@click.argument("arguments", nargs=-1, required=True, metavar="[META-URL] SOURCE TARGET")
@click.option("-p", "--preserve", is_flag=True, help="Keep owner, group, permission bits and times.")
@option("--threads", "-t", type=click.IntRange(1, 255), default=4, help="Transactions at the same time.")
def clone_command(arguments: tuple[str, ...], preserve: bool, threads: int) -> None:
    """Make TARGET a copy of SOURCE: two paths below one mount, or inside the volume that META-URL names. No data
    moves: the copy refers to the same slices until one of the two is changed. TARGET must not exist; a slash at its
    end means a folder that does.

    \b
    sluice clone /mnt/volume/data/set1 /mnt/volume/backup/set1
    sluice clone META-URL --preserve /data/set1 /backup/
    """
    if len(arguments) == 2:
        _clone_mounted(*arguments, preserve, threads)
        return
    if len(arguments) != 3:
        raise click.UsageError("give SOURCE and TARGET below a mount, or META-URL and two paths inside the volume")
    meta_url, source, target = arguments
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
        with _progress() as tick:
            made = await volume.meta.clone(
                found.ino, parent.ino, split(target)[-1], _owner(), preserve=preserve, umask=_umask(),
                concurrency=threads, progress=tick,
            )  # fmt: skip
    _end(text_of(target), made.ino, made.nodes)


def _clone_mounted(source: str, target: str, preserve: bool, threads: int) -> None:
    origin = find_place(source)
    if origin.path == origin.root:
        raise ConfigError("the root of a mount can't be cloned: the copy would be inside it; name what is in it")
    if target.endswith("/"):
        target = os.path.join(target, os.fsdecode(origin.name))
    copy = find_place(target, missing=True)
    if os.path.lexists(copy.path):
        raise FsError(errno.EEXIST, f"{target}: exists already")
    if os.lstat(origin.path).st_dev != os.stat(os.path.dirname(copy.path)).st_dev:
        raise ConfigError(f"{source} and {target} are on different mounts; a clone shares data inside one volume")
    nodes = 1

    def count(done: int, total: int) -> None:
        nonlocal nodes
        nodes = max(done, 1)
        tick(done, total)

    request = protocol.CloneTree(
        origin.ino, origin.parent, copy.parent, copy.name, _umask(), protocol.PRESERVE if preserve else 0, threads
    )
    with _progress() as tick, Control(origin.control) as control:
        try:
            control.ask(request, count)
        except FsError as error:
            raise FsError(error.errno or errno.EIO, f"{source} -> {target}: {error.strerror}") from error
    try:
        ino = os.lstat(copy.path).st_ino
    except OSError:  # somebody moved it already
        ino = 0
    _end(target, ino, nodes)


def _end(target: str, ino: int, nodes: int) -> None:
    note(f"cloned {nodes} files and folders to {target}")
    show({"path": target, "inode": ino, "nodes": nodes}, "")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
