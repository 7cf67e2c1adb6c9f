# SPDX-License-Identifier: Apache-2.0
"""`sluice serve --mount`: several mounts of one volume in one process, alone or beside other doors.

They live as long as the process; what should outlive it is `sluice mount`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from core.errors import ConfigError


def can_mount() -> bool:
    """Is there a kernel that mounts for us?"""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return False
    return os.geteuid() == 0 or any(shutil.which(name) for name in ("fusermount3", "fusermount"))


@contextmanager
def mounts_beside(meta_url: str, mounts: Sequence[str]) -> Iterator[None]:
    """A child process that serves them while the block runs."""
    if not mounts:
        yield
        return
    command = [sys.executable, "-m", "sluicefs", "serve", meta_url]
    for mount in mounts:
        command += ["--mount", mount]
    # A group of its own: Ctrl-C is for us, who stop it when the other doors are closed.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - our own program
    try:
        yield
    finally:
        child.terminate()
        child.wait()


def serve_mounts(meta_url: str, mounts: Sequence[str], client: dict[str, Any]) -> int:
    """Serve them until SIGTERM or Ctrl-C, or until all were unmounted; the exit status. client: options of `serve`
    that `mount` has too."""
    from sluicefs import fuse_door
    from sluicefs.output import show
    from sluicefs.volume import run

    fmt = asyncio.run(fuse_door.look_up(meta_url))
    asked = [_parse(meta_url, text, client) for text in mounts]
    wishes = [fuse_door.make_wish(meta_url, point, fmt, options) for point, options in asked]

    async def main() -> int:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        running = []
        try:
            for wish in wishes:
                one = fuse_door.LocalMount(wish)
                await one.start()
                running.append(one)
            points = [wish.mount_point for wish in wishes]
            show({"volume": fmt.name, "mounts": points, "pid": os.getpid()},
                 f"volume {fmt.name}: mounted at {', '.join(points)}")  # fmt: skip
            sys.stdout.flush()
            over = asyncio.gather(*(one.door.wait() for one in running))
            asked = asyncio.ensure_future(stop.wait())
            await asyncio.wait((over, asked), return_when=asyncio.FIRST_COMPLETED)
            over.cancel()
            asked.cancel()
            await asyncio.gather(over, asked, return_exceptions=True)
        finally:
            for one in running:
                await one.stop()
        return 0

    return run(main())


def _parse(meta_url: str, text: str, client: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """PATH[,OPTIONS] as (mount point, options of `mount`)."""
    from sluicefs.cli import cli
    from sluicefs.commands.mount import absolute, with_o
    from sluicefs.mount_start import prepare_mount_point

    path, _, rest = text.partition(",")
    command = cli.get_command(click.Context(cli), "mount")
    assert command is not None
    arguments = [meta_url, path, *(["-o", rest] if rest else [])]
    with command.make_context("mount", arguments) as ctx:
        options = with_o({name: value for name, value in ctx.params.items() if name in _taken(command)})
    options.update({name: value for name, value in client.items() if name in options})
    if not rest.count("metrics="):
        options["metrics"] = "off"  # the other doors have their own
    point = absolute(path)
    if prepare_mount_point(point, force=False) is not None:
        raise ConfigError(f"{point} is a mount already; unmount it first")
    return point, options


def _taken(command: click.Command) -> set[str]:
    """What describes a mount, and not the process of `sluice mount`."""
    from sluicefs.commands.mount import PROCESS

    return {p.name for p in command.params if p.name and p.expose_value} - {"meta_url", "mount_point", *PROCESS}
