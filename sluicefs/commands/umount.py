# SPDX-License-Identifier: Apache-2.0
"""`sluice umount MOUNTPOINT`: end a mount, and wait until what was written is stored. Source: cli §4.7."""

from __future__ import annotations

import errno
import os
import select
import time

import click

from core.config import format_size
from core.errors import ConfigError, SluiceError
from gateways.fuse import mount as mounting
from gateways.fuse.holder import messages, runtime
from sluicefs.cli import command
from sluicefs.options import DURATION, option
from sluicefs.output import attended, show

#: Another mount of ours may lie above it, or a descriptor may be on its way out of a process that just ended.
_BUSY_TRIES = 5
_FLUSH_POLL_S = 0.5


@command("umount")
@click.argument("mount_point", metavar="MOUNTPOINT")
@click.option("-f", "--force", is_flag=True, help="Also if it is in use, or its server is gone or stuck.")
@click.option("-l", "--lazy", is_flag=True, help="Out of sight at once; it ends when nobody uses it any more.")
@click.option("--flush", is_flag=True, help="First wait until nothing is staged (--writeback) any more.")
@option("--timeout", type=DURATION, default="5m", help="How long to wait for the rest to be stored.")
def umount_command(mount_point: str, force: bool, lazy: bool, flush: bool, timeout: float) -> int:
    """End a mount. Returns when everything that was written there is stored: in the object store, or with --writeback
    on the local disk, from where the next mount uploads it; --flush waits for that, too."""
    parent, name = os.path.split(os.path.abspath(mount_point))
    path = os.path.join(os.path.realpath(parent), name)
    found = mounting.find_mount(path)
    if found is None:
        raise ConfigError(f"nothing is mounted at {path}; `findmnt -t fuse.sluicefs,fuse.juicefs` lists mounts")
    if not mounting.is_fuse(found.type):
        raise ConfigError(f"{path} is a mount of {found.source} ({found.type}), none of ours; use umount(8)")
    if flush:
        _await_uploads(path, timeout)
    holder = _holder(found.device)
    _unmount(path, force=force, lazy=lazy)
    if holder and not lazy and not _wait(holder, timeout):
        raise SluiceError(
            f"{path} is unmounted, but process {holder} still stores what was written after {timeout:g} s; let it end"
        )
    show({"mount_point": path, "unmounted": True}, f"{path} is unmounted")
    return 0


def _await_uploads(path: str, timeout_s: float) -> None:
    """Until the mount says that no block waits on its disk. It goes on serving meanwhile."""
    deadline = time.monotonic() + timeout_s
    began: tuple[float, int] | None = None
    while True:
        blocks, size = _staged(path)
        if not blocks:
            return
        now = time.monotonic()
        if now >= deadline:
            raise SluiceError(
                f"{path}: {blocks} blocks with {format_size(size)} still wait for their upload after {timeout_s:g} s, "
                "so it stays mounted; give a longer --timeout (--upload-delay and --upload-hours of the mount count), "
                "or leave --flush out: the next mount with --writeback and the same --cache-dir uploads them"
            )
        began = began or (now, size)
        if attended():
            speed = (began[1] - size) / (now - began[0]) if now > began[0] else 0
            left = f", {format_size(int(speed))}/s, {size / speed:.0f} s left" if speed > 0 else ""
            click.echo(f"waiting for {blocks} staged blocks, {format_size(size)}{left}", err=True)
        time.sleep(_FLUSH_POLL_S)


def _staged(path: str) -> tuple[int, int]:
    """(blocks, bytes) that wait for their upload, from the mount's own statistics."""
    for name in (".stats", ".jfs.stats"):
        try:
            with open(os.path.join(path, name)) as stats:
                values = dict(line.split(" ", 1) for line in stats if line.startswith("juicefs_staging_"))
        except FileNotFoundError:
            continue
        except OSError as e:
            raise SluiceError(f"{path}: its statistics can't be read, so nobody knows what is staged: {e}") from e
        found = {name: int(float(value)) for name, value in values.items()}
        return found.get("juicefs_staging_blocks", 0), found.get("juicefs_staging_block_bytes", 0)
    raise SluiceError(f"{path}: there is no .stats in it, so nobody knows what is staged; unmount without --flush")


def _unmount(path: str, *, force: bool, lazy: bool) -> None:
    for attempt in range(_BUSY_TRIES):
        try:
            mounting.unmount(path, lazy=lazy, force=force)
            return
        except OSError as e:
            if e.errno != errno.EBUSY or attempt == _BUSY_TRIES - 1:
                raise SluiceError(str(e.strerror).replace("--lazy", "`--lazy`")) from e
        time.sleep(0.1)


def _holder(device: str) -> int:
    """The process that keeps the mount; 0 if it can't be asked."""
    sock = runtime.connect(device)
    if sock is None:
        return 0
    with sock:
        messages.send(sock, {"do": "status"})
        try:
            status = messages.receive(sock)
        except TimeoutError:
            return 0
    return int(status.get("holder", 0)) if status else 0


def _wait(pid: int, timeout_s: float) -> bool:
    """Until that process has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:
        return True  # a kernel without it (before 5.3), or not ours to watch
    deadline = time.monotonic() + timeout_s
    told = False
    try:
        while True:
            if select.select([fd], [], [], min(2.0, max(0.0, deadline - time.monotonic())))[0]:
                return True
            if time.monotonic() >= deadline:
                return False
            if attended() and not told:
                told = True
                click.echo("waiting until everything is stored", err=True)
    finally:
        os.close(fd)
