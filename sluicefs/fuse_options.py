# SPDX-License-Identifier: Apache-2.0
"""Options of `sluice mount` and of `sluice serve --mount`, and what `-o` may hold: the kernel's options, FUSE's, and in
an fstab any flag of ours.

Source: cli §4.1 (flags and defaults), §4.3 (fstab), mount(8), mount.fuse3(8). Flags of JuiceFS that mean something we
don't have are refused with a reason; those that only tune what works differently here are taken and said to be so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import click

from core.config import parse_bool, parse_size
from core.errors import ConfigError
from sluicefs.options import DURATION, chain, client_options, option, size

#: Flags of JuiceFS that nothing here needs; accepted, so that its scripts and fstab lines go on working.
WITHOUT_EFFECT: Final[dict[str, str]] = {
    "skip-dir-nlink": "link counts of folders never make a request fail here",
    "skip-dir-mtime": "times of folders are changed without a conflict",
    "sort-dir": "listings are sorted anyway",
    "open-cache-limit": "there is no cache of opened files",
    "max-deletes": "deletions adapt by themselves",
    "no-usage-report": "nothing is ever reported",
    "network-interfaces": "all addresses of this machine are registered",
    "no-agent": "there is no profiling listener",
}
#: Flags of JuiceFS that change what a mount does and aren't there.
NOT_THERE: Final[dict[str, str]] = {
    "open-cache": "attributes of opened files are never believed to be fresh",
    "storage-class": "set it with `sluice config`",
    "tag": "objects can't be tagged yet",
    "backup-skip-trash": "backups hold the trash, too",
    "consul": "register the address of --metrics by other means",
    "pyroscope": "profiles can't be pushed",
}
#: They have no value after them.
_SWITCHES: Final = frozenset(
    ("sort-dir", "no-usage-report", "no-agent", "backup-skip-trash")
)  # fmt: skip

#: Options of -o that mount(2) and the kernel's FUSE take as they are.
KERNEL: Final = frozenset(
    ("ro", "rw", "nosuid", "suid", "nodev", "dev", "noexec", "exec", "noatime", "atime", "nodiratime", "diratime",
     "relatime", "norelatime", "strictatime", "sync", "async", "dirsync", "allow_other", "default_permissions")
)  # fmt: skip
_KERNEL_VALUES: Final = ("max_read", "context", "fscontext", "defcontext", "rootcontext")
#: Options of -o for us, beside `subtype` and `fsname`.
_OWN: Final = frozenset(("writeback_cache", "async_dio", "debug"))
#: Words of fstab lines and of mount(8) that say nothing to us; a name may have a value (x-systemd.requires=…).
_IGNORED: Final = frozenset(
    ("_netdev", "nofail", "defaults", "remount", "background", "auto", "noauto", "user", "nouser", "users", "nonempty",
     "big_writes", "auto_unmount", "owner", "group", "foreground")
)  # fmt: skip
_ALIASES: Final = {"attrcacheto": "attr-cache", "entrycacheto": "entry-cache", "direntrycacheto": "dir-entry-cache"}
_NOT_FOR_FSTAB: Final = frozenset(("background", "force", "update-fstab", "help", "foreground"))


def _said(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Callback of flags that are refused or have no effect."""
    if value in (None, False):
        return
    name = str(param.opts[0]).lstrip("-")
    if name in NOT_THERE:
        if name == "open-cache" and value in ("0", "0s"):
            return
        raise ConfigError(f"--{name} isn't there: {NOT_THERE[name]}; leave it out")
    from sluicefs.output import note

    note(f"--{name} has no effect: {WITHOUT_EFFECT[name]}")


def _foreign(name: str) -> Callable[[Any], Any]:
    more: dict[str, Any] = {"is_flag": True} if name in _SWITCHES else {"metavar": "VALUE"}
    if name == "tag":
        more["multiple"] = False
    return click.option(f"--{name}", hidden=True, expose_value=False, callback=_said, **more)


#: How one mount shows a volume.
posix_options = chain(
    option("--subdir", metavar="PATH", help="Show this folder of the volume as the root."),
    option("--enable-xattr", is_flag=True, help="Extended attributes of users."),
    option("--enable-cap", is_flag=True, help="File capabilities (security.capability)."),
    option("--enable-selinux", is_flag=True, help="SELinux labels (security.selinux)."),
    option("--enable-ioctl", is_flag=True, help="chattr: immutable, append-only, skip-trash."),
    option("--root-squash", metavar="UID:GID", help="Who root is on this mount."),
    option("--all-squash", metavar="UID:GID", help="Who everybody is on this mount."),
    option("--umask", metavar="OCTAL", help="Instead of the umask of each process."),
    option("--hide-internal", is_flag=True, help="Leave .stats, .config and .accesslog out of listings."),
    option("--prefix-internal", is_flag=True, help="Call them .jfs.stats and so on."),
    option("--fast-statfs", is_flag=True, help="df may show what was seen last."),
    option("--atime-mode", type=click.Choice(["noatime", "relatime", "strictatime"]), default="noatime",
           help="When times of access are kept."),
    option("--attr-cache", type=DURATION, default="1s", help="How long the kernel believes attributes,"),
    option("--entry-cache", type=DURATION, default="1s", help="names of files,"),
    option("--dir-entry-cache", type=DURATION, default="1s", help="names of folders,"),
    option("--negative-entry-cache", type=DURATION, default="0s", help="and that there is no such name."),
    option("--readdir-cache", is_flag=True, help="The kernel may keep listings."),
)  # fmt: skip

#: The connection to the kernel, and what keeps it alive.
fuse_options = chain(
    click.option("-o", "o_options", multiple=True, metavar="LIST", envvar="SLUICE_O",
                 help="Options of the kernel and of FUSE: allow_other, ro, nosuid, writeback_cache, max_read=N …"),
    option("--max-fuse-io", type=size(1), default="1M", help="Largest request of the kernel."),
    option("--passthrough/--no-passthrough", default=False,
           help="Let the kernel read cached files by itself where it can."),
    option("--fuse-backend", type=click.Choice(["builtin", "pyfuse3"]), default="builtin",
           help="What speaks with the kernel; pyfuse3 can do less."),
    option("--write-log", type=size(1 << 20), default="64M",
           help="Memory for written bytes that must survive a crash of the process (MiB)."),
    option("--meta-patience", type=DURATION, default="5m",
           help="How long requests wait for a metadata server that is away."),
    option("--metrics", metavar="HOST:PORT", default="127.0.0.1:9567",
           help="Serve Prometheus metrics here; off for none."),
    option("--custom-labels", metavar="K:V;K:V", help="Labels of all metrics."),
)  # fmt: skip

mount_options = chain(
    posix_options,
    fuse_options,
    client_options,
    option("--check-storage", is_flag=True, help="Prove the object store before mounting."),
    *[_foreign(name) for name in (*WITHOUT_EFFECT, *NOT_THERE)],
)


class KernelOptions(NamedTuple):
    """What `-o` said. mount: for mount(2), in order. own: flags of ours by name, as in `--name value`."""

    mount: list[str]
    own: dict[str, str]
    subtype: str = "sluicefs"
    fsname: str = ""
    read_only: bool = False
    writeback_cache: bool = False
    async_dio: bool = False
    debug: bool = False


def parse_o(texts: tuple[str, ...] | list[str], known: frozenset[str] = frozenset()) -> KernelOptions:
    """known: names of our flags that may stand in it, as in an fstab. ConfigError for what nobody understands."""
    mount: list[str] = []
    own: dict[str, str] = {}
    found: dict[str, Any] = {}
    for part in (part.strip() for text in texts for part in _split(text)):
        name, equals, value = part.partition("=")
        flag = _ALIASES.get(name, name)
        if not part or name in _IGNORED or name.startswith(("x-", "comment")):
            continue
        if part in KERNEL:
            mount.append(part)
            if part in ("ro", "rw"):
                found["read_only"] = part == "ro"
        elif name in _KERNEL_VALUES and equals:
            mount.append(f"{name}={parse_size(value)}" if name == "max_read" else part)
        elif part in _OWN:
            found[part] = True
        elif name in ("subtype", "fsname") and value:
            found[name] = value.removeprefix("fuse.") if name == "subtype" else value
        elif flag in known and flag not in _NOT_FOR_FSTAB:
            own[flag] = value if equals else "true"
        else:
            raise ConfigError(
                f"-o {part}: neither an option of the kernel nor one of ours; `sluice mount --help` lists ours"
            )
    return KernelOptions(mount, own, **found)


def flag_of(part: str) -> str:
    """The flag of ours that one part of -o would be, without dashes."""
    name = part.strip().partition("=")[0]
    return _ALIASES.get(name, name)


def _split(text: str) -> list[str]:
    """At commas; one after a backslash belongs to a value."""
    return [part.replace("\0", ",") for part in text.replace("\\,", "\0").split(",")]


def parse_owner(text: str | None, flag: str) -> tuple[int, int] | None:
    """UID:GID or UID."""
    if not text:
        return None
    uid, _, gid = text.partition(":")
    if not uid.isdecimal() or not (gid or uid).isdecimal() or max(int(uid), int(gid or uid)) >= 2**32 - 1:
        raise ConfigError(f"{flag}: {text!r} is no UID:GID, such as 65534:65534")
    return int(uid), int(gid or uid)


def parse_umask(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        mask = int(text, 8)
    except ValueError:
        mask = -1
    if not 0 <= mask <= 0o777:
        raise ConfigError(f"--umask: {text!r} is no octal number up to 777, such as 022")
    return mask


def parse_labels(text: str | None) -> dict[str, str]:
    labels = {}
    for part in filter(None, (part.strip() for part in (text or "").split(";"))):
        name, colon, value = part.partition(":")
        if not colon or not name.isidentifier():
            raise ConfigError(f"--custom-labels: {part!r} is not of the form name:value")
        labels[name] = value
    return labels


def truth(value: str, flag: str) -> bool:
    return parse_bool(value, option=flag)


def may_allow_other() -> bool:
    """Other users may see the mount: always of root's, else only if the administrator allows that."""
    if os.geteuid() == 0:
        return True
    try:
        with open("/etc/fuse.conf") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False
