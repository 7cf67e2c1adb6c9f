# SPDX-License-Identifier: Apache-2.0
"""`sluice ls META-URL [PATH …]`: list folders of a volume without mounting it."""

from __future__ import annotations

import datetime
from typing import Any

import click

from core.meta.records import Attr
from core.vfs.filesystem import FileSystem
from sluicefs.cli import command
from sluicefs.options import meta_argument
from sluicefs.output import settings, show, text_of
from sluicefs.volume import TYPE_WORDS, inner_path, join, mode_text, opened, run

_PAGE = 1000


@command("ls")
@meta_argument
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-l", "--long", is_flag=True, help="Mode, links, owner, size and time too.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, too.")
def ls_command(meta_url: str, paths: tuple[str, ...], long: bool, recursive: bool) -> None:
    """List PATH, a path inside the volume (default: its root), in byte order of the names."""
    run(_ls(meta_url, [inner_path(path) for path in paths] or [b"/"], long, recursive))


async def _ls(meta_url: str, paths: list[bytes], long: bool, recursive: bool) -> None:
    everything: list[dict[str, Any]] = []
    async with opened(meta_url, read_only=True, session=False) as volume:
        fs = volume.fs
        for path in paths:
            found = await fs.lookup(path, follow=False)
            if not found.attr.is_dir:
                _entry(path, path, found.ino, found.attr, long, everything)
                continue
            await _folder(fs, path, found.ino, long, recursive, len(paths) > 1 or recursive, everything)
    if settings.json:
        show(everything)


async def _folder(
    fs: FileSystem, path: bytes, ino: int, long: bool, recursive: bool, headed: bool, out: list[dict[str, Any]]
) -> None:
    """One folder, then those inside it. A stack, not recursion: trees may be deeper than Python likes."""
    waiting = [(path, ino)]
    first = True
    while waiting:
        path, ino = waiting.pop()
        if headed and not settings.json:
            print(f"{'' if first else chr(10)}{text_of(path)}:")
        first = False
        inside: list[tuple[bytes, int]] = []
        after = b""
        while True:
            page = await fs.list_dir(ino, after, _PAGE)
            for entry in page:
                if entry.attr is None:
                    continue  # an entry whose inode is lost; `fsck` is the tool for it
                _entry(join(path, entry.name), entry.name, entry.ino, entry.attr, long, out)
                if recursive and entry.attr.is_dir:
                    inside.append((join(path, entry.name), entry.ino))
            if len(page) < _PAGE:
                break
            after = page[-1].name
        waiting.extend(reversed(inside))


def _entry(path: bytes, name: bytes, ino: int, attr: Attr, long: bool, out: list[dict[str, Any]]) -> None:
    when = datetime.datetime.fromtimestamp(attr.mtime_ns // 1_000_000_000, datetime.UTC)
    if settings.json:
        out.append(
            {
                "path": path, "type": TYPE_WORDS.get(attr.type, str(attr.type)), "inode": ino,
                "mode": f"{attr.mode:04o}", "nlink": attr.nlink, "uid": attr.uid, "gid": attr.gid,
                "size": attr.length, "mtime": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "mtime_ns": attr.mtime_ns,
            }
        )  # fmt: skip
        return
    shown = text_of(name) + ("/" if attr.is_dir else "")
    if long:
        stamp = when.strftime("%Y-%m-%d %H:%M:%S")
        print(f"{mode_text(attr)} {attr.nlink:3} {attr.uid:5} {attr.gid:5} {attr.length:13} {stamp} {shown}")
    else:
        print(shown)
