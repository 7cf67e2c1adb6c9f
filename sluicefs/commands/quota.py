# SPDX-License-Identifier: Apache-2.0
"""`sluice quota set|get|delete|list|check META-URL`: limits on directories, users and groups (cli §2.3).

The rules are in `core/meta/quota.py`. Exit status of `check`: 1 if usage differed and wasn't repaired.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Final

import click

from core.config import format_size
from core.errors import ConfigError, FsError
from core.meta.publish import ImplicitDirs
from core.meta.quota import DIRECTORY, GROUP, USER, QuotaCheck, QuotaEntry
from core.meta.records import Quota
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument, option, size
from sluicefs.output import note, show, table, text_of
from sluicefs.progress import counting
from sluicefs.volume import inner_path, opened, run

ACTIONS: Final = ("set", "get", "delete", "list", "check")
_HEADER: Final = ("Size", "Used", "Use%", "Inodes", "IUsed", "IUse%")
#: How long `set` waits for other clients: two of their longest usual heartbeats.
_PATIENCE_S: Final = 30.0
Subject = tuple[int, int]


@command("quota")
@click.argument("action", type=click.Choice(ACTIONS), metavar="set|get|delete|list|check")
@meta_argument
@option("--path", metavar="PATH", help="A directory, as a path inside the volume.")
@option("--uid", type=click.IntRange(0), metavar="N", help="A user.")
@option("--gid", type=click.IntRange(0), metavar="N", help="A group.")
@option("--capacity", type=size(1 << 30), help="set: limit of space (GiB without a suffix); 0 is none.")
@option("--inodes", type=click.IntRange(0), metavar="N", help="set: limit of files and directories; 0 is none.")
@click.option("--create", is_flag=True, help="set: make the directory if it is missing.")
@click.option("--strict", is_flag=True, help="set, check: look at every file instead of trusting directory statistics.")
@click.option("--repair", is_flag=True, help="check: set right what differs.")
@click.option("--no-wait", is_flag=True, help="set: don't wait until other clients know of a new quota.")
def quota_command(action: str, meta_url: str, **given: Any) -> int:
    """Limit what may be stored below a directory, or by a user or group.

    \b
      sluice quota set META-URL --path /projects/x --capacity 100 --inodes 1000000
      sluice quota set META-URL --uid 1000 --capacity 20G
      sluice quota list META-URL
      sluice quota check META-URL --repair

    Quotas nest. Who exceeds one gets "Disk quota exceeded". Without --path, --uid and --gid, `list` shows and `check`
    counts all of them. The first quota of a user or group switches the accounting of owners on, which counts every
    file once. Clients learn of changes at their heartbeat (12 s).
    """
    selected = [name for name in ("path", "uid", "gid") if given[name] is not None]
    if len(selected) > 1:
        raise ConfigError(f"--{selected[0]} and --{selected[1]} exclude each other: a quota is on one of them")
    if not selected and action in ("set", "get", "delete"):
        raise ConfigError(f"quota {action} needs --path, --uid or --gid")
    if action == "set" and given["capacity"] is None and given["inodes"] is None:
        raise ConfigError("quota set needs --capacity or --inodes (0 is no limit)")
    if given["uid"] == 0 and action == "set":
        raise ConfigError("--uid 0: root can't have a quota; it has to be able to set things right")
    return run(_quota(action, meta_url, given))


async def _quota(action: str, meta_url: str, given: dict[str, Any]) -> int:
    changing = action in ("set", "delete") or (action == "check" and given["repair"])
    async with opened(meta_url, session=False, read_only=not changing) as volume:
        subject = await _subject(volume, given, create=action == "set" and given["create"])
        if action == "set":
            assert subject is not None
            return await _set(volume, subject, given)
        if action == "get":
            assert subject is not None
            await _show(volume, [QuotaEntry(*subject, await volume.meta.get_quota(*subject))])
            return 0
        if action == "delete":
            assert subject is not None
            await volume.meta.delete_quota(*subject)
            note("the quota is removed; other clients learn of it at their heartbeat")
            return 0
        if action == "list":
            entries = [entry async for entry in volume.meta.iter_quotas()]
            await _show(volume, [e for e in entries if subject is None or subject == (e.kind, e.ident)])
            return 0
        return await _check(volume, subject, given)


async def _subject(volume: Volume, given: dict[str, Any], *, create: bool) -> Subject | None:
    """Kind and number of what is selected."""
    if given["uid"] is not None:
        return USER, given["uid"]
    if given["gid"] is not None:
        return GROUP, given["gid"]
    if given["path"] is None:
        return None
    path = inner_path(given["path"])
    try:
        return DIRECTORY, (await volume.fs.lookup(path)).ino
    except FsError as error:
        if error.errno != errno.ENOENT or not create:
            hint = "; `quota set --create` makes it" if error.errno == errno.ENOENT else ""
            raise FsError(error.errno or errno.EIO, f"{error.strerror}{hint}") from error
    umask = os.umask(0)
    os.umask(umask)
    made = await volume.fs.mkdir(path, mode=0o777 & ~umask, parents=ImplicitDirs(0o777, umask))
    return DIRECTORY, made.ino


async def _set(volume: Volume, subject: Subject, given: dict[str, Any]) -> int:
    meta = volume.meta
    capacity, inodes = (-1 if given[name] is None else given[name] for name in ("capacity", "inodes"))
    known = {(entry.kind, entry.ident) async for entry in meta.iter_quotas()}
    accounting = meta.user_group_quota
    await meta.set_quota(*subject, max_space=capacity, max_inodes=inodes, strict=given["strict"])
    fresh = subject not in known if subject[0] == DIRECTORY else not accounting
    if fresh and not given["no_wait"]:
        others = len(await meta.sessions())
        if others:
            note(f"waiting until {others} clients know of it, at their next heartbeat; --no-wait doesn't")
        silent = await meta.await_heartbeats(timeout_s=_PATIENCE_S)
        if others:
            await _recount(volume, subject, strict=False, repair=True)
        if silent:
            note(
                f"no sign of clients {', '.join(map(str, silent))}: what they change is counted only once they know;"
                " `sluice quota check --repair` sets it right then, `sluice status` shows who they are"
            )
    await _show(volume, [QuotaEntry(*subject, await meta.get_quota(*subject))])
    return 0


async def _recount(volume: Volume, subject: Subject | None, *, strict: bool, repair: bool) -> list[QuotaCheck]:
    meta = volume.meta
    if subject is None:
        return await meta.check_quotas(strict=strict, repair=repair)
    if subject[0] == DIRECTORY:
        found = [await meta.check_quota(subject[1], strict=strict, repair=repair)]
    else:
        found = await meta.check_owner_quotas(repair=repair)
    return [c for c in found if c.missing and (c.kind, c.ident) == subject]


async def _check(volume: Volume, subject: Subject | None, given: dict[str, Any]) -> int:
    with counting() as tick:
        tick("counting", 0)
        if subject is not None:
            await volume.meta.get_quota(*subject)  # says so if there is none
        found = await _recount(volume, subject, strict=given["strict"], repair=given["repair"])
    rows, documents = [], []
    for c in found:
        name = await _name(volume, (c.kind, c.ident))
        documents.append(
            {**name, "usedSpace": c.stored.used_space, "usedInodes": c.stored.used_inodes, "countedSpace": c.counted[0],
             "countedInodes": c.counted[1], "exact": c.missing.exact, "repaired": c.repaired}
        )  # fmt: skip
        rows.append(
            (_shown(name), format_bytes(c.stored.used_space), format_bytes(c.counted[0]), c.stored.used_inodes,
             c.counted[1], "repaired" if c.repaired else "")
        )  # fmt: skip
    header = ("Path/ID", "Used", "Counted", "IUsed", "ICounted", "")
    show(documents, table(header, rows) if rows else "")
    if not found:
        note("The stored usage is right.")
    elif not given["repair"]:
        note(f"the usage of {len(found)} quotas is wrong; `sluice quota check --repair` sets it right")
    return 1 if found and not given["repair"] else 0


# -- showing ---------------------------------------------------------------------------------------------------------


async def _name(volume: Volume, subject: Subject) -> dict[str, Any]:
    kind, ident = subject
    if kind != DIRECTORY:
        return {"uid" if kind == USER else "gid": ident}
    try:
        paths = await volume.meta.paths(ident)
    except FsError:
        paths = []
    return {"path": text_of(paths[0]) if paths else f"(inode {ident}, which doesn't exist)", "inode": ident}


def _shown(name: dict[str, Any]) -> str:
    return str(name["path"]) if "path" in name else ":".join(map(str, next(iter(name.items()))))


async def _show(volume: Volume, entries: list[QuotaEntry]) -> None:
    named = [(await _name(volume, (e.kind, e.ident)), e) for e in entries]
    named.sort(key=lambda item: (item[1].kind, item[0].get("path", ""), item[1].ident))
    first = {DIRECTORY: "Path", USER: "User ID", GROUP: "Group ID"}
    kinds = {e.kind for e in entries}
    title = first[kinds.pop()] if len(kinds) == 1 else "Path/ID"
    show(
        [
            {**name, "maxSpace": e.quota.max_space, "maxInodes": e.quota.max_inodes, "usedSpace": e.quota.used_space,
             "usedInodes": e.quota.used_inodes}
            for name, e in named
        ],
        table((title, *_HEADER), [(_shown(name), *_row(e.quota)) for name, e in named]) if named else "",
    )  # fmt: skip
    if not named:
        note("There are no quotas; `sluice quota set` makes one.")


def _row(q: Quota) -> tuple[object, ...]:
    return (
        format_size(q.max_space) if q.max_space > 0 else "unlimited",
        format_bytes(q.used_space),
        _percent(q.used_space, q.max_space),
        f"{q.max_inodes:,}" if q.max_inodes > 0 else "unlimited",
        f"{q.used_inodes:,}",
        _percent(q.used_inodes, q.max_inodes),
    )


def _percent(used: int, limit: int) -> str:
    return f"{max(0, used) * 100 / limit:.0f}%" if limit > 0 else ""


def format_bytes(number: int) -> str:
    """Sizes of wrong records may be negative."""
    return format_size(number) if number >= 0 else f"-{format_size(-number)}"
