# SPDX-License-Identifier: Apache-2.0
"""`sluice mount META-URL MOUNTPOINT`: the volume as a folder of this machine. Source: cli §4.1–§4.6.

The same command line is run three times: by its user, who learns of errors; by the holder, as the worker that serves;
and by a user again, later, to replace that worker by one of a newer version.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import click

from core.errors import ConfigError, SluiceError
from core.log import hide
from gateways.fuse.holder.client import HolderLine
from gateways.fuse.holder.spec import Program
from sluicefs import __version__, fuse_door, mount_log
from sluicefs.cli import command
from sluicefs.fuse_door import Wish
from sluicefs.fuse_options import flag_of, mount_options, parse_o, truth
from sluicefs.options import meta_argument, option, size
from sluicefs.output import note, settings, show

_ENVIRONMENT = dict(os.environ)  # before anything of it is taken out; what the worker will see


@command("mount")
@meta_argument
@click.argument("mount_point", metavar="MOUNTPOINT")
@click.option("-d", "--background", is_flag=True, help="Become a daemon when the mount answers.")
@click.option("--foreground", is_flag=True, hidden=True)
@option("--log-size", type=size(1 << 20), default="100M", help="A longer log file is rotated; 0 is never (MiB).")
@option("--log-keep", type=click.IntRange(0), default=7, help="Rotated log files that are kept.")
@click.option("--no-syslog", is_flag=True, help="A mount in the background logs to its file only.")
@click.option("--force", is_flag=True, help="Mount over what is mounted there.")
@click.option("--update-fstab", is_flag=True, help="Write the line of this mount into /etc/fstab.")
@click.option("--disable-transparent-hugepage", is_flag=True, help="No huge pages for this process.")
@mount_options
def mount_command(meta_url: str, mount_point: str, **options: Any) -> int:
    """Show a volume as a folder.

    Again on the same MOUNTPOINT, it replaces the process that serves the mount by a new one (an upgrade, say); programs
    that work there see a short pause. A process that dies is replaced, too.
    """
    line = HolderLine.from_environment(os.environ)
    process = {name: options.pop(name) for name in PROCESS}
    options = with_o(options)
    path = absolute(mount_point)
    background = process["background"] and not os.environ.get("JFS_FOREGROUND")
    log_path = ""
    if background or settings.log_file:
        log_path = mount_log.require_writable(settings.log_file or mount_log.default_path())
    if line is not None:
        _set_up_log(process, log_path, background)
        return _work(line, meta_url, path, process, options)
    return _start(meta_url, path, process, options, log_path, background)


PROCESS = ("background", "foreground", "log_size", "log_keep", "no_syslog", "force", "update_fstab",
            "disable_transparent_hugepage")  # fmt: skip


# -- the user's process ----------------------------------------------------------------------------------------------


def _start(
    meta_url: str, path: str, process: dict[str, Any], options: dict[str, Any], log_path: str, background: bool
) -> int:
    from sluicefs import mount_start

    found = mount_start.prepare_mount_point(path, force=process["force"])
    fmt = asyncio.run(fuse_door.look_up(meta_url))
    hide(fmt.secret_key, fmt.session_token)
    wish = fuse_door.make_wish(meta_url, path, fmt, options)
    asyncio.run(fuse_door.prove_store(fmt, wish))
    program = Program(
        [sys.executable, "-m", "sluicefs", *sys.argv[1:]], _worker_environment(), os.getcwd(), __version__
    )
    identity = wish.identity(fmt)
    if found is not None:
        pid = None if process["force"] else mount_start.replace_running(found, identity, program)
        if pid is not None:
            show({"volume": fmt.name, "mount_point": path, "worker": pid, "replaced": True},
                 f"{path} is served by a new process now (pid {pid})")  # fmt: skip
            return 0
        if not process["force"]:
            raise ConfigError(
                f"{path} is a mount of {found.source} already, of another user or program; unmount it, or mount over"
                " it by --force"
            )
    if process["update_fstab"]:
        from sluicefs.fstab import update_fstab

        note(update_fstab(sys.argv[1:], path))
    spec = mount_start.mount_new(wish, fmt.name, identity, program, log_path)
    if not background:
        note(f"{fmt.name} is mounted at {path}; Ctrl-C or `sluice umount {path}` ends it")
        mount_start.become_holder(spec)
    dots = []

    def waiting() -> None:
        if sys.stderr.isatty():
            print(".", end="", file=sys.stderr, flush=True)
            dots.append(1)

    pid = mount_start.start_holder(spec, waiting)
    if dots:
        print(file=sys.stderr)
    show(
        {"volume": fmt.name, "mount_point": path, "holder": pid, "log": log_path}, f"OK, {fmt.name} is ready at {path}"
    )
    return 0


def _worker_environment() -> dict[str, str]:
    return dict(_ENVIRONMENT)


def absolute(mount_point: str) -> str:
    """Without following a link at its end: what is there may hang. /dev/fd/N is a descriptor that somebody else has."""
    path = os.path.abspath(mount_point)
    if path.startswith(("/dev/fd/", "/proc/self/fd/")):
        raise ConfigError(f"{mount_point}: descriptors as mount points aren't there yet; give a folder")
    parent, name = os.path.split(path)
    return os.path.join(os.path.realpath(parent), name) if name else path


def with_o(options: dict[str, Any]) -> dict[str, Any]:
    """Flags of ours that stand in -o, as in an fstab line, become flags."""
    ctx = click.get_current_context()
    params = {name.lstrip("-"): param for param in ctx.command.params for name in param.opts if name.startswith("--")}
    texts = options["o_options"]
    own = parse_o(texts, frozenset(params)).own
    found = dict(options)
    for name, value in own.items():
        param = params[name]
        if not param.name:
            continue
        converted: Any = value
        if isinstance(param, click.Option) and param.is_flag:
            converted = truth(value, f"-o {name}")
        else:
            converted = param.type_cast_value(ctx, value)
        if param.callback is not None:
            param.callback(ctx, param, converted)
        if param.name in found:
            found[param.name] = converted
    found["o_options"] = tuple(_without(text, own) for text in texts)
    return found


def _without(text: str, own: dict[str, str]) -> str:
    return ",".join(part for part in text.split(",") if flag_of(part) not in own)


# -- the worker ------------------------------------------------------------------------------------------------------


def _set_up_log(process: dict[str, Any], log_path: str, background: bool) -> None:
    mount_log.set_up(
        log_path or None, settings.level, form=settings.log_format, log_id=settings.log_id,
        most_bytes=process["log_size"], keep=process["log_keep"], syslog=background and not process["no_syslog"],
    )  # fmt: skip


def _work(line: HolderLine, meta_url: str, path: str, process: dict[str, Any], options: dict[str, Any]) -> int:
    from gateways.fuse import worker
    from sluicefs.volume import run

    worker.spare_resources()
    if process["disable_transparent_hugepage"]:
        worker.without_huge_pages()

    async def main() -> int:
        wishes: list[Wish] = []

        async def open_volume() -> Any:
            if not wishes:
                fmt = await fuse_door.look_up(meta_url)
                hide(fmt.secret_key, fmt.session_token)
                wish = fuse_door.make_wish(meta_url, path, fmt, options)
                wishes.append(wish._replace(door=fuse_door.with_copies(wish, fmt.uuid)))
            return await fuse_door.opener(wishes[0])()

        return await worker.Worker(
            line, open_volume, lambda: wishes[0].door, lambda door: fuse_door.attend(door, wishes[0]),
            patience_s=options["meta_patience"],
        ).run()  # fmt: skip

    try:
        return run(main())
    except (SluiceError, OSError):
        if settings.log_file or process["background"]:
            raise SystemExit(1) from None  # the holder was told, and tells the user
        raise
