# SPDX-License-Identifier: Apache-2.0
"""The command tree: which commands there are, in which group help shows them, and what all of them share.

A command's module is imported when it is used, so that `sluice version` doesn't pay for the gateways.
Source: cli §1.1 (global options before or after arguments; groups of help).
"""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Callable
from typing import Any, Final

import click

from core import log
from core.config import parse_bool
from sluicefs.options import global_options
from sluicefs.output import settings

#: name -> (group of help, one line). The module is sluicefs/commands/<name>.py, its function `<name>_command`.
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "format": ("Administration", "Create a volume, or change one."),
    "config": ("Administration", "Show or change a volume's settings."),
    "gc": ("Administration", "Find, and with --delete remove, objects that no file uses."),
    "fsck": ("Administration", "Prove records and objects; with --repair set right what is wrong."),
    "scrub": ("Administration", "Read all data back, and prove that it is what it was."),
    "quota": ("Administration", "Limits on directories, users and groups."),
    "restore": ("Administration", "Put files of the trash back."),
    "compact": ("Administration", "Merge the slices of files that were written in pieces."),
    "check": ("Administration", "Prove counters, links, statistics and references; change nothing."),
    "dump": ("Administration", "Write all metadata to a file, as JSON or as a binary backup."),
    "load": ("Administration", "Fill an empty database from a dump or backup."),
    "status": ("Inspection", "Settings, clients and usage of a volume."),
    "info": ("Inspection", "Where the data of a file lies."),
    "summary": ("Inspection", "Space and files of a tree, largest first."),
    "stats": ("Inspection", "What a mount does, second by second."),
    "profile": ("Inspection", "Operations of an access log, and their times."),
    "debug": ("Inspection", "Collect what is needed to find a mount's trouble."),
    "version": ("Inspection", "Version of this program."),
    "mount": ("Service", "Show a volume as a folder."),
    "umount": ("Service", "End a mount."),
    "serve": ("Service", "Open doors over a volume; --demo makes one to try."),
    "gateway": ("Service", "Serve a volume through the S3 protocol."),
    "webdav": ("Service", "Serve a volume through WebDAV."),
    "ls": ("Utility", "List a folder of a volume."),
    "cp": ("Utility", "Copy files into, out of or inside a volume."),
    "rm": ("Utility", "Remove files of a volume."),
    "rmr": ("Utility", "Remove whole trees."),
    "warmup": ("Utility", "Fill the disk cache ahead, empty it, look into it."),
    "clone": ("Utility", "Copy a file or tree without copying its data."),
}
_GROUPS: Final = ("Administration", "Inspection", "Service", "Utility")
_HELP: Final = {"help_option_names": ["-h", "--help"]}


class Command(click.Command):
    """A command that takes the global options too, wherever they stand."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**_HELP, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        taken = {name for param in self.params for name in param.opts}
        self.params.extend(o for o in global_options() if not taken.intersection(o.opts))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Also takes `--flag=true` and `--flag=false`, as JuiceFS's scripts write them."""
        flags = {name: param for param in self.params if isinstance(param, click.Option) and param.is_flag
                 for name in param.opts}  # fmt: skip
        plain: list[str] = []
        for at, argument in enumerate(args):
            if argument == "--":
                plain += args[at:]
                break
            name, equals, value = argument.partition("=")
            if not equals or name not in flags:
                plain.append(argument)
            elif parse_bool(value, option=name):
                plain.append(name)
            else:
                plain += flags[name].secondary_opts[:1]
        return super().parse_args(ctx, plain)

    def invoke(self, ctx: click.Context) -> Any:
        if settings.log_id == "random":
            settings.log_id = secrets.token_hex(3)
        log.setup(
            settings.level, form=settings.log_format, log_id=settings.log_id, path=settings.log_file,
            colour=False if settings.no_color else None,
        )  # fmt: skip
        return super().invoke(ctx)


class Tree(click.Group):
    """Commands by name, loaded when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"sluicefs.commands.{name}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in _GROUPS:
            with formatter.section(group):
                formatter.write_dl([(name, text) for name, (kind, text) in COMMANDS.items() if kind == group])


def _version(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    if given:
        from sluicefs.commands.version import version_line

        click.echo(version_line())
        ctx.exit()


cli = Tree(
    "sluice",
    help="One file system behind every door: S3 first, over any object store and a metadata database.",
    context_settings={**_HELP, "max_content_width": 110},
    params=[
        *global_options(),
        click.Option(
            ["-V", "--version", "show_version"], is_flag=True, is_eager=True, expose_value=False, callback=_version,
            help="Show the version and exit.",
        ),
    ],
)  # fmt: skip


def command(name: str, **rest: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Decorator of a command's function."""
    rest.setdefault("short_help", COMMANDS[name][1])
    return click.command(name, cls=Command, **rest)
