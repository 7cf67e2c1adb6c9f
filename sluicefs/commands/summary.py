# SPDX-License-Identifier: Apache-2.0
"""`sluice summary [META-URL] [PATH]`: space and files of a tree, largest first (cli §3, metadata-semantics §13.3)."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Iterator
from typing import Any

import click

from core.config import format_size
from core.errors import ConfigError, FsError
from core.meta.records import DIRECTORY
from core.meta.tree import MAX_DEPTH, MAX_TOP, TreeSummary
from core.vfs.internal import protocol
from sluicefs.cli import command
from sluicefs.mounts import Control, find_place, is_meta_url
from sluicefs.options import option
from sluicefs.output import show, table, text_of
from sluicefs.progress import counting
from sluicefs.volume import inner_path, join, opened, run


@command("summary")
@click.argument("arguments", nargs=-1, required=True, metavar="[META-URL] [PATH]")
@option("--depth", "-d", type=click.IntRange(0, MAX_DEPTH), default=2, help="Levels to show.")
@option("--entries", "-e", type=click.IntRange(1, MAX_TOP), default=10, help="Entries to show of each directory.")
@click.option("--strict", is_flag=True, help="Look at every file instead of trusting directory statistics.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, sizes in bytes.")
def summary_command(arguments: tuple[str, ...], depth: int, entries: int, strict: bool, as_csv: bool) -> int:
    """Space and files below PATH: below a mount, or inside the volume that META-URL names (default: all of it). What
    isn't shown of a directory is summed up in a line `...`."""
    if len(arguments) > 2 or (len(arguments) == 2 and not is_meta_url(arguments[0])):
        raise ConfigError("one PATH at a time: below a mount, or META-URL and a path inside the volume")
    if not is_meta_url(arguments[0]):
        document = _of_mount(arguments[0], depth, entries, strict)
    else:
        path = inner_path(arguments[1] if len(arguments) == 2 else "/")
        document = run(_of_volume(arguments[0], path, depth, entries, strict))
    return _print(document, as_csv)


async def _of_volume(meta_url: str, path: bytes, depth: int, entries: int, strict: bool) -> dict[str, Any]:
    async with opened(meta_url, read_only=True, session=False) as volume:
        found = await volume.fs.lookup(path)
        with counting() as tick:
            tick("summing up", 0)
            tree = await volume.meta.tree_summary(found.ino, depth=depth, top=entries, strict=strict)
    return _document(tree, path)


def _of_mount(path: str, depth: int, entries: int, strict: bool) -> dict[str, Any]:
    place = find_place(path, follow=True)
    request = protocol.TreeSum(place.ino, depth, entries, strict)
    with counting() as tick, Control(place.control) as control:
        found = json.loads(control.ask(request, lambda files, size: tick("summing up", files)))
    if found.get("Errno"):
        raise FsError(found["Errno"], f"{path}: {os.strerror(found['Errno'])}")
    if not found.get("Tree"):
        raise FsError(errno.EIO, f"{path}: the mount told nothing about it")
    return _told(found["Tree"], path.rstrip("/") or "/")


def _told(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """What a mount told, in the form in which a volume's own tree is shown. It says nothing about lengths."""
    document: dict[str, Any] = {
        "path": path, "type": "dir" if tree.get("Type") == DIRECTORY else "file", "size": tree.get("Size", 0),
        "files": tree.get("Files", 0), "dirs": tree.get("Dirs", 0),
    }  # fmt: skip
    children = tree.get("Children") or []
    if children:
        names = [str(child.get("Path", "")).rstrip("/").rpartition("/")[2] for child in children]
        document["children"] = [
            _told(child, f"{path.rstrip('/')}/{name}") for child, name in zip(children, names, strict=True)
        ]
    return document


def _print(document: dict[str, Any], as_csv: bool) -> int:
    rows = list(_rows(document))
    header = ("PATH", "SIZE", "DIRS", "FILES")
    if as_csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        shown = text.getvalue().rstrip("\n")
    else:
        shown = table(header, [(name, format_size(size), dirs, files) for name, size, dirs, files in rows])
    show(document, shown)
    return 0


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, int, int, int]]:
    path = document["path"]
    name = path + ("/" if document["type"] == "dir" and path != "/" else "")
    yield name, document["size"], document["dirs"], document["files"]
    for child in document.get("children", ()):
        yield from _rows(child)


def _document(tree: TreeSummary, path: bytes) -> dict[str, Any]:
    document: dict[str, Any] = {
        "path": text_of(path),
        "type": "dir" if tree.type == DIRECTORY else "file",
        "length": tree.total.length,
        "size": tree.total.size,
        "files": tree.total.files,
        "dirs": tree.total.dirs,
    }
    if tree.children:
        document["children"] = [_document(child, join(path, child.name)) for child in tree.children]
    return document
