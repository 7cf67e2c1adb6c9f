# SPDX-License-Identifier: Apache-2.0
"""`sluice summary META-URL PATH`: space and files of a tree, the largest first (cli §3, metadata-semantics §13.3)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import click

from core.config import format_size
from core.meta.records import DIRECTORY
from core.meta.tree import MAX_DEPTH, MAX_TOP, TreeSummary
from sluicefs.cli import command
from sluicefs.options import meta_argument, option
from sluicefs.output import show, table, text_of
from sluicefs.progress import counting
from sluicefs.volume import inner_path, join, opened, run


@command("summary")
@meta_argument
@click.argument("path", default="/")
@option("--depth", "-d", type=click.IntRange(0, MAX_DEPTH), default=2, help="Levels to show.")
@option("--entries", "-e", type=click.IntRange(1, MAX_TOP), default=10, help="Entries to show of each directory.")
@click.option("--strict", is_flag=True, help="Look at every file instead of trusting directory statistics.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, sizes in bytes.")
def summary_command(meta_url: str, path: str, depth: int, entries: int, strict: bool, as_csv: bool) -> int:
    """Space and files below PATH, a path inside the volume (default: all of it). What isn't shown of a directory is
    summed up in a line `...`."""
    return run(_summary(meta_url, inner_path(path), depth, entries, strict, as_csv))


async def _summary(meta_url: str, path: bytes, depth: int, entries: int, strict: bool, as_csv: bool) -> int:
    async with opened(meta_url, read_only=True, session=False) as volume:
        found = await volume.fs.lookup(path)
        with counting() as tick:
            tick("summing up", 0)
            tree = await volume.meta.tree_summary(found.ino, depth=depth, top=entries, strict=strict)
    rows = list(_rows(tree, path))
    header = ("PATH", "SIZE", "DIRS", "FILES")
    if as_csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        shown = text.getvalue().rstrip("\n")
    else:
        shown = table(header, [(name, format_size(size), dirs, files) for name, size, dirs, files in rows])
    show(_document(tree, path), shown)
    return 0


def _rows(tree: TreeSummary, path: bytes) -> Iterator[tuple[str, int, int, int]]:
    name = text_of(path) + ("/" if tree.type == DIRECTORY and path != b"/" else "")
    yield name, tree.total.size, tree.total.dirs, tree.total.files
    for child in tree.children:
        yield from _rows(child, join(path, child.name))


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
