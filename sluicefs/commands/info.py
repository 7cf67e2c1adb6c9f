# SPDX-License-Identifier: Apache-2.0
"""`sluice info [META-URL] PATH …`: inode, size and the objects that hold a file's bytes (cli §3).

Without a metadata address the paths are below a mount, which is asked through its control file; a mount of a JuiceFS
client before 1.0 answers with a text of its own, which is shown as it is.
"""

from __future__ import annotations

import json
import os
from typing import Any

import click

from core.config import format_size
from core.errors import ConfigError, FsError, SluiceError
from core.meta.records import Attr
from core.vfs.internal import protocol
from core.vfs.internal.describe import info_document
from core.volume import Volume
from sluicefs.cli import command
from sluicefs.mounts import Control, Place, TooOld, find_place, report_failure, split_arguments
from sluicefs.output import report_error, settings, show, table
from sluicefs.volume import TYPE_WORDS, inner_path, opened, run

_TYPES = {0o100000: 1, 0o040000: 2, 0o120000: 3, 0o010000: 4, 0o060000: 5, 0o020000: 6, 0o140000: 7}


@command("info")
@click.argument("arguments", nargs=-1, required=True, metavar="[META-URL] PATH...")
@click.option("-i", "--inode", is_flag=True, help="The arguments are inode numbers; of the mount around this folder.")
@click.option("-r", "--recursive", is_flag=True, help="Sum up everything below a folder.")
@click.option("--strict", is_flag=True, help="Look at every file instead of trusting directory statistics.")
@click.option("--raw", is_flag=True, help="Show slice records instead of objects.")
def info_command(arguments: tuple[str, ...], inode: bool, recursive: bool, strict: bool, raw: bool) -> int:
    """Where PATH is kept: inode, length, space, names, its objects, and who holds locks on it. PATH is below a mount,
    or inside the volume that META-URL names.

    \b
    sluice info /mnt/volume/d/file
    sluice info META-URL /d/file
    """
    meta_url, rest = split_arguments(arguments, "INODE" if inode else "PATH")
    request = protocol.Info(0, recursive, raw, strict)
    if meta_url is None:
        return _on_mounts(rest, inode, request)
    return run(_info(meta_url, rest, inode, request))


async def _info(meta_url: str, paths: list[str], by_inode: bool, request: protocol.Info) -> int:
    answers = _Answers(request.raw)
    async with opened(meta_url, read_only=True, session=False) as volume:
        for text in paths:
            try:
                if by_inode:
                    ino = _number(text)
                    attr = await volume.meta.getattr(ino)
                else:
                    found = await volume.fs.lookup(inner_path(text), follow=False)
                    ino, attr = found.ino, found.attr
                answers.add(text, TYPE_WORDS.get(attr.type, ""), await _describe(volume, ino, attr, request))
            except FsError as error:
                answers.failed += report_error(str(error.strerror), error)
    return answers.end()


async def _describe(volume: Volume, ino: int, attr: Attr, request: protocol.Info) -> dict[str, Any]:
    return await info_document(
        volume.meta, volume.format, ino, recursive=request.recursive, raw=request.raw, strict=request.strict
    )


def _on_mounts(paths: list[str], by_inode: bool, request: protocol.Info) -> int:
    answers = _Answers(request.raw)
    for text in paths:
        try:
            if by_inode:
                place, ino, kind = find_place(os.getcwd()), _number(text), ""
            else:
                place = find_place(text)
                ino = place.ino
                kind = TYPE_WORDS.get(_TYPES.get(os.lstat(place.path).st_mode & 0o170000, 0), "")
            _ask(answers, text, kind, place, request._replace(ino=ino))
        except (SluiceError, OSError) as error:
            answers.failed += report_failure(text, error)
    return answers.end()


def _ask(answers: _Answers, text: str, kind: str, place: Place, request: protocol.Info) -> None:
    with Control(place.control) as control:
        try:
            answers.add(text, kind, json.loads(control.ask(request)))
            return
        except TooOld:
            pass
    with Control(place.control) as control:
        answers.add_text(text, request.ino, control.ask(request, legacy=True).decode("utf-8", "replace"))


class _Answers:
    """Prints what was found, or collects it for one JSON document."""

    def __init__(self, raw: bool) -> None:
        self.failed = 0
        self._raw = raw
        self._documents: list[dict[str, Any]] = []

    def add(self, asked: str, kind: str, found: dict[str, Any]) -> None:
        if found.get("Failed"):
            self.failed += report_error(f"{asked}: {found.get('Reason') or 'it failed'}")
            return
        document = _document(asked, kind, found, self._raw)
        self._documents.append(document)
        if not settings.json:
            print(_text(document, self._raw))

    def add_text(self, asked: str, ino: int, text: str) -> None:
        self._documents.append({"asked": asked, "inode": ino, "text": text})
        if not settings.json:
            print(f"{asked} :\n{text}")

    def end(self) -> int:
        if settings.json:
            show(self._documents)
        return 1 if self.failed else 0


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{text!r} is no inode number")
    return int(text)


def _document(asked: str, kind: str, found: dict[str, Any], raw: bool) -> dict[str, Any]:
    total = found.get("Summary") or {}
    document: dict[str, Any] = {
        "asked": asked, "inode": found.get("Ino", 0), "type": kind, "files": total.get("Files", 0),
        "dirs": total.get("Dirs", 0), "length": total.get("Length", 0), "size": total.get("Size", 0),
        "paths": found.get("Paths") or [], "tier": found.get("Tier", 0),
    }  # fmt: skip
    rows = found.get("Chunks" if raw else "Objects") or []
    if kind == "file" or rows:
        name, ident = ("slices", ("sliceId", "Id")) if raw else ("objects", ("objectName", "Key"))
        document[name] = [
            {
                "chunkIndex": row.get("ChunkIndex", 0), ident[0]: row.get(ident[1]), "size": row.get("Size", 0),
                "offset": row.get("Off", 0), "length": row.get("Len", 0),
                **({"pos": row["Pos"]} if "Pos" in row else {}),
            }
            for row in rows
        ]  # fmt: skip
    for name, label in (("FLocks", "flocks"), ("PLocks", "plocks")):
        if found.get(name):
            document[label] = found[name]
    return document


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
    for name in ("slices" if raw else "objects", "flocks", "plocks"):
        rows = document.get(name)
        if rows:
            lines += [f" {name}:", table(list(rows[0]), [list(row.values()) for row in rows])]
    return "\n".join(lines)
