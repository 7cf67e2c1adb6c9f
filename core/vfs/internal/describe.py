# SPDX-License-Identifier: Apache-2.0
"""What `info` tells about an inode: sums, names, where its bytes are, who holds locks.

One document for the control file (its JSON form is JuiceFS's) and for commands that open the volume themselves.
Source: metadata-semantics §12.2 (fields), cli §3 (`info`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from core.chunk.naming import block_key, block_length
from core.config import format_size
from core.errors import FsError
from core.meta import keys as k
from core.meta.data import chunk_count, parse_chunk
from core.meta.format import Format
from core.meta.meta import Meta
from core.meta.records import CHUNK_SIZE, FILE, Slice
from core.meta.slices import pieces_for

_CHUNKS: Final = 500


async def info_document(
    meta: Meta, fmt: Format, ino: int, *, recursive: bool = False, raw: bool = False, strict: bool = False,
    below: bytes = b"",
) -> dict[str, Any]:  # fmt: skip
    """Never raises for the inode's sake: Failed and Reason say what is wrong. below: path of the mounted directory,
    taken off the paths."""
    document: dict[str, Any] = {
        "Ino": ino, "Failed": False, "Reason": "", "Summary": {"Length": 0, "Size": 0, "Files": 0, "Dirs": 0},
        "Paths": [], "Chunks": [], "Objects": [], "PLocks": [], "FLocks": [], "Tier": 0, "RestoreStatus": "",
    }  # fmt: skip
    try:
        attr = await meta.getattr(ino)
        total = await meta.summary(ino, recursive=recursive, strict=strict)
        document["Summary"] = {"Length": total.length, "Size": total.size, "Files": total.files, "Dirs": total.dirs}
        document["Paths"] = [_text(_inside(path, below)) for path in await meta.paths(ino)]
        document["Tier"] = attr.tier
        if attr.type == FILE:
            async for index, end, records in _chunks(meta, ino, attr.length):
                if raw:
                    document["Chunks"] += [_chunk(index, s) for s in records]
                else:
                    document["Objects"] += _objects(fmt, index, pieces_for(records, 0, end))
            locks = await meta.list_locks(ino)
            document["FLocks"] = [
                {"Sid": sid, "Owner": owner, "Type": kind} for (sid, owner), kind in locks.flocks.items()
            ]
            document["PLocks"] = [
                {"Sid": sid, "Owner": owner, "Type": r.kind, "Pid": r.pid, "Start": r.start, "End": r.end}
                for (sid, owner), ranges in locks.plocks.items()
                for r in ranges
            ]
    except FsError as e:
        document["Failed"] = True
        document["Reason"] = e.strerror or str(e)
    return document


def legacy_lines(document: dict[str, Any], raw: bool = False) -> str:
    """The text that clients before 1.0 print as it is."""
    if document["Failed"]:
        return f" {document['Reason']}\n"
    total = document["Summary"]
    lines = [
        f"  inode: {document['Ino']}",
        f"  files: {total['Files']}",
        f"   dirs: {total['Dirs']}",
        f" length: {format_size(total['Length'])} ({total['Length']} Bytes)",
        f"   size: {format_size(total['Size'])} ({total['Size']} Bytes)",
        *(f"   path: {path}" for path in document["Paths"]),
    ]
    if document["Chunks"]:
        lines.append(" chunks:")
        lines += [f"\t{c['ChunkIndex']}:\t{c['Id']}\t{c['Size']}\t{c['Off']}\t{c['Len']}" for c in document["Chunks"]]
    if document["Objects"]:
        lines.append("objects:")
        lines += [f"\t{o['ChunkIndex']}:\t{o['Key']}\t{o['Size']}\t{o['Off']}\t{o['Len']}" for o in document["Objects"]]
    return "\n".join(lines) + "\n"


async def _chunks(meta: Meta, ino: int, length: int) -> AsyncIterator[tuple[int, int, list[Slice]]]:
    """(index, end of the file in it, records) of every chunk that has any, hundreds in one trip."""
    number = chunk_count(length)
    for at in range(0, number, _CHUNKS):
        indexes = range(at, min(at + _CHUNKS, number))
        for index, raw in zip(indexes, await meta.store.read(*(k.chunk(ino, i) for i in indexes)), strict=True):
            yield index, min(CHUNK_SIZE, length - index * CHUNK_SIZE), parse_chunk(ino, index, raw)


def _chunk(index: int, s: Slice) -> dict[str, int]:
    return {"ChunkIndex": index, "Id": s.id, "Size": s.size, "Off": s.off, "Len": s.length, "Pos": s.pos}


def _objects(fmt: Format, index: int, pieces: list[Slice]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for piece in pieces:
        at, end = piece.off, piece.off + piece.length
        while at < end:
            key, size, offset, step = "", piece.length, 0, end - at
            if piece.id:
                block = at // fmt.block_size
                size = block_length(piece.size, block, fmt.block_size)
                offset = at - block * fmt.block_size
                step = min(size - offset, end - at)
                key = f"{fmt.name}/{block_key(piece.id, block, size, fmt.hash_prefix)}"
            rows.append(
                {
                    "ChunkIndex": index, "Key": key, "Size": size, "Off": offset, "Len": step,
                    "Pos": piece.pos + at - piece.off,
                }
            )  # fmt: skip
            at += step
    return rows


def _inside(path: bytes, below: bytes) -> bytes:
    if below and (path == below or path.startswith(below + b"/")):
        return path[len(below) :] or b"/"
    return path


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
