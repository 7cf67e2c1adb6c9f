# SPDX-License-Identifier: Apache-2.0
"""Reads a whole volume through the engine, as a door does, and compares it with a manifest, field by field."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from core.chunk.api import FileRange
from core.errors import FsError
from core.meta.records import ROOT, SYMLINK, TRASH, Attr
from core.vfs.filesystem import Found
from core.volume import Volume
from tests.golden.volumes import Expected, Unreadable

_PAGE = 100  # small, so that the large directories need many pages


async def walk(volume: Volume, root: int = ROOT) -> dict[bytes, tuple[int, Attr]]:
    """Every path below an inode: (inode, attributes). The trash isn't listed in the root."""
    found: dict[bytes, tuple[int, Attr]] = {b"/": (root, await volume.meta.getattr(root))}
    waiting = [(b"", root)]
    while waiting:
        folder, ino = waiting.pop()
        after, last = b"", b""
        while True:
            page = await volume.fs.list_dir(ino, after, _PAGE)
            for entry in page:
                assert entry.name > last, "a listing must be in byte order and free of repetition"
                last = entry.name
                assert entry.attr is not None, f"{entry.name!r} has no attributes"
                path = folder + b"/" + entry.name
                found[path] = (entry.ino, entry.attr)
                if entry.attr.is_dir:
                    waiting.append((path, entry.ino))
            if len(page) < _PAGE:
                break
            after = page[-1].name
    return found


async def sha256(volume: Volume, ino: int, attr: Attr) -> str:
    digest = hashlib.sha256()
    length = 0
    async for piece in volume.fs.iter_range(Found(ino, attr, 0), 0, attr.length):
        if isinstance(piece, FileRange):
            with open(piece.path, "rb") as file:
                file.seek(piece.offset)
                data: Any = file.read(piece.length)
        else:
            data = piece
        digest.update(data)
        length += len(data)
    assert length == attr.length
    return digest.hexdigest()


async def xattrs(volume: Volume, ino: int) -> dict[bytes, bytes | Unreadable]:
    """What listxattr and getxattr give, the ACLs that are kept elsewhere among them."""
    found: dict[bytes, bytes | Unreadable] = {}
    for name in await volume.meta.listxattr(ino):
        try:
            found[name] = await volume.meta.getxattr(ino, name)
        except FsError as error:
            found[name] = Unreadable(error.errno or 0)
    return found


#: What a manifest says instead of a hash about one file of 8 GiB that is a single hole.
ALL_ZEROS = "all zeros, not read"
_ENDS = 64 << 20


async def nonzero_bytes(volume: Volume, ino: int, attr: Attr, *, large: bool) -> int:
    """Bytes that aren't zero: in the whole file, or in its first and last 64 MiB."""
    ranges = [(0, attr.length)] if large else [(0, _ENDS), (attr.length - _ENDS, _ENDS)]
    count = 0
    for offset, length in ranges:
        async for piece in volume.fs.iter_range(Found(ino, attr, 0), offset, length):
            assert not isinstance(piece, FileRange), "a hole lies in no file"
            count += len(piece) - bytes(piece).count(0)
    return count


async def differences(
    volume: Volume, manifest: Iterable[Expected], *, trash: bool = False, large: bool = False
) -> list[str]:
    """Everything that isn't as the manifest says; empty if all is. large: read gigabytes of holes to the end, too."""
    found = await walk(volume, TRASH if trash else ROOT)
    wrong: list[str] = []

    def compare(path: bytes, what: str, is_value: object, expected: object) -> None:
        if is_value != expected:
            wrong.append(f"{path!r} {what}: {is_value!r} instead of {expected!r}")

    seen = set()
    for line in manifest:
        seen.add(line.path)
        if line.path not in found:
            wrong.append(f"{line.path!r} is missing")
            continue
        ino, attr = found[line.path]
        if trash and line.path == b"/":
            # JuiceFS shows the trash's own folder with the time of its mount, and shows it when it has no record.
            compare(line.path, "type and mode", (attr.type, attr.mode), (line.type, line.mode))
            continue
        for what in ("type", "mode", "uid", "gid", "nlink", "mtime_ns", "ctime_ns"):
            compare(line.path, what, getattr(attr, what), getattr(line, what))
        compare(line.path, "ino", ino, line.ino)
        if line.size is not None:
            compare(line.path, "size", attr.length, line.size)
        if line.rdev is not None:
            compare(line.path, "rdev", attr.rdev, line.rdev)
        if line.target is not None and attr.type == SYMLINK:
            compare(line.path, "target", await volume.meta.readlink(ino), line.target)
        if line.sha256 == ALL_ZEROS:
            compare(line.path, "bytes that aren't zero", await nonzero_bytes(volume, ino, attr, large=large), 0)
        elif line.sha256 is not None:
            compare(line.path, "content", await sha256(volume, ino, attr), line.sha256)
        compare(line.path, "xattrs", await xattrs(volume, ino), line.xattrs)
    wrong += [f"{path!r} should not be there" for path in found if path not in seen]
    return wrong
