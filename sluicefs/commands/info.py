# SPDX-License-Identifier: Apache-2.0
"""`sluice info META-URL PATH …`: inode, size and the objects that hold a file's bytes (cli §3)."""

from __future__ import annotations

from typing import Any

import click

from core.chunk.naming import block_key, block_length
from core.config import format_size
from core.errors import ConfigError, FsError
from core.meta.records import CHUNK_SIZE, ROOT, Attr, node_space
from core.meta.slices import pieces_for
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.options import meta_argument
from sluicefs.output import report_error, settings, show, table, text_of
from sluicefs.volume import TYPE_WORDS, inner_path, join, opened, run

_PAGE = 1000


@command("info")
@meta_argument
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-i", "--inode", is_flag=True, help="The arguments are inode numbers.")
@click.option("-r", "--recursive", is_flag=True, help="Sum up everything below a folder.")
@click.option("--raw", is_flag=True, help="Show slice records instead of objects.")
def info_command(meta_url: str, paths: tuple[str, ...], inode: bool, recursive: bool, raw: bool) -> int:
    """Where PATH, inside the volume, is kept: inode, length, space, and its objects."""
    return run(_info(meta_url, paths, inode, recursive, raw))


async def _info(meta_url: str, paths: tuple[str, ...], by_inode: bool, recursive: bool, raw: bool) -> int:
    documents, failed = [], 0
    async with opened(meta_url, read_only=True, session=False) as volume:
        for text in paths:
            try:
                if by_inode:
                    ino = _number(text)
                    document = await _describe(volume, text, ino, await volume.meta.getattr(ino), recursive, raw)
                else:
                    found = await volume.fs.lookup(inner_path(text), follow=False)
                    document = await _describe(volume, text, found.ino, found.attr, recursive, raw)
            except FsError as error:
                failed += report_error(str(error.strerror), error)
                continue
            documents.append(document)
            if not settings.json:
                print(_text(document, raw))
    if settings.json:
        show(documents)
    return 1 if failed else 0


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{text!r} is no inode number")
    return int(text)


async def _describe(volume: Volume, asked: str, ino: int, attr: Attr, recursive: bool, raw: bool) -> dict[str, Any]:
    files, dirs, length, space = await _sum(volume, ino, attr, recursive)
    document: dict[str, Any] = {
        "asked": asked,
        "inode": ino,
        "type": TYPE_WORDS.get(attr.type, str(attr.type)),
        "files": files,
        "dirs": dirs,
        "length": length,
        "size": space,
        "paths": await _paths(volume, ino),
        "tier": attr.tier,
    }
    if attr.is_file:
        rows = await _rows(volume, ino, attr.length, raw)
        document["slices" if raw else "objects"] = rows
    return document


async def _sum(volume: Volume, ino: int, attr: Attr, recursive: bool) -> tuple[int, int, int, int]:
    """Files, folders, bytes and space; of a folder its own children, or with `recursive` everything below."""
    if not attr.is_dir:
        return 1, 0, attr.length, node_space(attr)
    files, dirs, length, space = 0, 1, 0, node_space(attr)
    waiting = [ino]
    while waiting:
        here, after = waiting.pop(), b""
        while True:
            page = await volume.fs.list_dir(here, after, _PAGE)
            for entry in page:
                if entry.attr is None:
                    continue
                if entry.attr.is_dir:
                    dirs += 1
                    if recursive:
                        waiting.append(entry.ino)
                else:
                    files += 1
                    length += entry.attr.length
                space += node_space(entry.attr)
            if len(page) < _PAGE:
                break
            after = page[-1].name
    return files, dirs, length, space


async def _paths(volume: Volume, ino: int) -> list[str]:
    """All names of an inode, hard links included."""
    if ino == ROOT:
        return ["/"]
    found: list[str] = []
    for parent in await volume.meta.parents(ino):
        folder = b""
        at = parent
        while at != ROOT:
            above = (await volume.meta.getattr(at)).parent
            names = [e.name for e in await _entries(volume, above) if e.ino == at]
            if not names:
                break
            folder = join(b"/" + names[0], folder.lstrip(b"/")) if folder else b"/" + names[0]
            at = above
        found += [text_of(join(folder or b"/", e.name)) for e in await _entries(volume, parent) if e.ino == ino]
    return found


async def _entries(volume: Volume, ino: int) -> list[Any]:
    found: list[Any] = []
    after = b""
    while True:
        page = await volume.fs.list_dir(ino, after, _PAGE, attrs=False)
        found += page
        if len(page) < _PAGE:
            return found
        after = page[-1].name


async def _rows(volume: Volume, ino: int, length: int, raw: bool) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    fmt = volume.format
    for index in range((length + CHUNK_SIZE - 1) // CHUNK_SIZE):
        records = await volume.meta.read_chunk(ino, index)
        if raw:
            rows += [
                {
                    "chunkIndex": index,
                    "sliceId": s.id,
                    "size": s.size,
                    "offset": s.off,
                    "length": s.length,
                    "pos": s.pos,
                }
                for s in records
            ]
            continue
        for piece in pieces_for(records, 0, min(CHUNK_SIZE, length - index * CHUNK_SIZE)):
            at, end = piece.off, piece.off + piece.length
            while at < end:
                if not piece.id:
                    key, size, step = "", piece.length, piece.length
                    offset = 0
                else:
                    block = at // fmt.block_size
                    size = block_length(piece.size, block, fmt.block_size)
                    offset = at - block * fmt.block_size
                    step = min(size - offset, end - at)
                    key = f"{fmt.name}/{block_key(piece.id, block, size, fmt.hash_prefix)}"
                rows.append(
                    {
                        "chunkIndex": index, "objectName": key, "size": size, "offset": offset, "length": step,
                        "pos": piece.pos + at - piece.off,
                    }
                )  # fmt: skip
                at += step
    return rows


def _text(document: dict[str, Any], raw: bool) -> str:
    lines = [f"{document['asked']} :"]
    for name in ("inode", "files", "dirs"):
        lines.append(f"  {name}: {document[name]}")
    for name in ("length", "size"):
        lines.append(f"  {name:>6}: {format_size(document[name])} ({document[name]} Bytes)")
    if len(document["paths"]) == 1:
        lines.append(f"    path: {document['paths'][0]}")
    else:
        lines += ["   paths:", *(f"        {path}" for path in document["paths"])]
    rows = document.get("slices" if raw else "objects")
    if rows:
        lines += [" slices:" if raw else " objects:", table(list(rows[0]), [list(row.values()) for row in rows])]
    return "\n".join(lines)
