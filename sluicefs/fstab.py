# SPDX-License-Identifier: Apache-2.0
"""/etc/fstab: the line of a mount (`--update-fstab`), and the helper that mount(8) calls for it.

    META-URL  MOUNTPOINT  sluicefs  _netdev,nofail,OPTIONS  0 0

mount(8) runs `mount.sluicefs META-URL MOUNTPOINT [-sfnv] [-N namespace] [-o OPTIONS] [-t type]`; the helper becomes
`sluice mount -d` with those options. Source: cli §4.3, mount(8) (external helpers).
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import Final

import click

from core.config import mask_url, url_password
from core.errors import ConfigError

FSTAB: Final = "/etc/fstab"
HELPER: Final = "/sbin/mount.sluicefs"
_UPDATEDB: Final = "/etc/updatedb.conf"
#: Flags that belong to one start and not into a table.
_LEFT_OUT: Final = frozenset(("-d", "--background", "--update-fstab", "--force", "--foreground"))


def helper() -> None:
    """Entry of `mount.sluicefs`."""
    arguments = translate(sys.argv[1:])
    if arguments is None:
        sys.exit(0)
    # As the program itself: workers are started with our command line, which is mount(8)'s otherwise.
    os.execv(sys.executable, [sys.executable, "-m", "sluicefs", "mount", *arguments])  # noqa: S606


def translate(arguments: list[str]) -> list[str] | None:
    """The arguments of `sluice mount`; None if there is nothing to do (`mount -f` only looks)."""
    places: list[str] = []
    options: list[str] = []
    more: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-o":
            options.append(next(rest, ""))
        elif argument.startswith("-o"):
            options.append(argument[2:])
        elif argument in ("-t", "-N"):
            next(rest, None)
        elif argument.startswith("-") and len(argument) > 1 and set(argument[1:]) <= set("sfnvwr"):
            if "f" in argument:
                return None
            if "v" in argument:
                more.append("--verbose")
            if "r" in argument:
                more.append("--read-only")
        else:
            places.append(argument)
    if len(places) != 2:
        print("usage: mount.sluicefs META-URL MOUNTPOINT [-o OPTIONS]", file=sys.stderr)
        sys.exit(1)
    text = ",".join(part for part in options if part)
    return [*places, "-d", *more, *(["-o", text] if text else [])]


# -- --update-fstab --------------------------------------------------------------------------------------------------


def fstab_line(arguments: list[str], mount_point: str) -> str:
    """The line for a command line `mount META-URL MOUNTPOINT --flag value …` without its secrets."""
    from sluicefs.cli import cli

    group = click.Context(cli)
    command = cli.get_command(group, "mount")
    assert command is not None
    takes = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
    meta_url, parts = "", ["_netdev", "nofail"]
    rest = iter(arguments)
    seen_command = False
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            if not seen_command:
                seen_command = True
            elif not meta_url:
                meta_url = argument
            continue
        param = takes.get(name)
        flag = isinstance(param, click.Option) and param.is_flag
        if not flag and not equals:
            value = next(rest, "")
        if name in _LEFT_OUT:
            continue
        if name == "-o":
            parts += [part for part in value.split(",") if part and part not in parts]
        elif flag:
            parts.append(name.lstrip("-") if not equals else f"{name.lstrip('-')}={value}")
        else:
            parts.append(f"{name.lstrip('-')}={value}".replace(",", "\\,"))
    if "://" in meta_url and url_password(meta_url):
        raise ConfigError("--update-fstab: everybody can read /etc/fstab; give the password in META_PASSWORD_FILE")
    return f"{_escape(meta_url)}  {_escape(mount_point)}  sluicefs  {_escape(','.join(parts))}  0 0"


def update_fstab(arguments: list[str], mount_point: str, *, table: str = FSTAB, helper_path: str = HELPER) -> str:
    """Write the line (in place of an older one of this mount point) and the helper; says what was done."""
    if os.geteuid() != 0:
        raise ConfigError("--update-fstab: only root may change /etc/fstab")
    if in_container():
        return "a container has no fstab of its own: it stays as it is"
    line = fstab_line(arguments, mount_point)
    lines = _read(table)
    kept = [old for old in lines if not _is_of(old, mount_point)]
    _write(table, [*kept, line])
    _link_helper(helper_path)
    _spare_updatedb()
    return f"{table}: {mask_url(line.split()[0])} is mounted at {mount_point} when the machine starts"


def in_container() -> bool:
    return os.path.exists("/.dockerenv") or "container" in os.environ


def _read(table: str) -> list[str]:
    try:
        with open(table) as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def _is_of(line: str, mount_point: str) -> bool:
    fields = line.split()
    return len(fields) >= 3 and not line.startswith("#") and fields[1] == _escape(mount_point) and fields[2] in (
        "sluicefs", "fuse.sluicefs", "juicefs"
    )  # fmt: skip


def _write(path: str, lines: list[str]) -> None:
    """Replaced at once, with the rights it had: a machine without an fstab doesn't start."""
    temporary = f"{path}.sluice"
    with open(temporary, "w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    if os.path.exists(path):
        shutil.copystat(path, temporary)
    os.replace(temporary, path)


def _link_helper(path: str) -> None:
    target = shutil.which("mount.sluicefs") or os.path.join(os.path.dirname(sys.executable), "mount.sluicefs")
    if os.path.realpath(target) == os.path.realpath(path) and os.path.exists(path):
        return
    if not os.path.exists(target):
        raise ConfigError("mount.sluicefs isn't installed beside this program; install the package again")
    if os.path.islink(path):
        os.unlink(path)
    os.symlink(target, path)


def _spare_updatedb() -> None:
    """locate(1) must not walk through whole volumes each night."""
    try:
        text = "\n".join(_read(_UPDATEDB))
        if "PRUNEFS" not in text or "fuse.sluicefs" in text:
            return
        lines = [
            line.replace('"', '"fuse.sluicefs ', 1) if line.lstrip().startswith("PRUNEFS") else line
            for line in text.splitlines()
        ]
        _write(_UPDATEDB, lines)
    except OSError:
        pass


def _escape(text: str) -> str:
    return text.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")


if __name__ == "__main__":
    helper()
