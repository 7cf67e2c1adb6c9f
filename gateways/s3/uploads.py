# SPDX-License-Identifier: Apache-2.0
"""Multipart uploads on the volume: where they lie, how one is found, which parts it has.

The layout is JuiceFS's, so that an upload begun by one kind of gateway can be continued by the other:
`/.sys/[BUCKET/]uploads/HEX3/UPLOADID/N`. Our further facts are in `s3-ext` of the directory and of the parts.
Source: spec s3 §4.4, §12.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Sequence
from typing import Final, NamedTuple

from core.errors import FsError
from core.meta.records import DIRECTORY, FILE, Attr
from core.vfs.etags import Ext, decode_ext, identify
from core.vfs.filesystem import Found
from core.vfs.temporary import list_all
from gateways.s3.config import MAX_PARTS
from gateways.s3.errors import S3Error
from gateways.s3.keys import check_upload_id
from gateways.s3.metadata import X_OBJECT
from gateways.s3.service import Service

#: Only names of this length are uploads (§4.4).
ID_LENGTH: Final = 36


class Upload(NamedTuple):
    """One upload in progress. path: of its directory."""

    upload_id: str
    path: bytes
    ino: int
    key: bytes
    initiated_ns: int
    xattrs: dict[bytes, bytes]
    ext: Ext

    @property
    def algorithm(self) -> str:
        return self.ext.alg or ""

    @property
    def checksum_type(self) -> str:
        return self.ext.ckt or ""


class Part(NamedTuple):
    number: int
    ino: int
    attr: Attr
    etag: str
    ext: Ext | None

    @property
    def size(self) -> int:
        return self.attr.length

    @property
    def checksums(self) -> dict[str, str]:
        return (self.ext.ck or {}) if self.ext is not None else {}


def upload_path(service: Service, bucket: str, upload_id: str) -> bytes:
    raw = upload_id.encode("ascii")
    return service.sys_path(bucket, b"uploads", raw[:3], raw)


def _upload(upload_id: str, path: bytes, ino: int, attr: Attr, xattrs: dict[bytes, bytes]) -> Upload:
    ext = decode_ext(xattrs) or Ext(v=1)
    # JuiceFS reports atime; a mount or a marker may have made it useless.
    initiated = ext.began or attr.atime_ns or attr.mtime_ns
    return Upload(upload_id, path, ino, xattrs.get(X_OBJECT, b""), initiated, xattrs, ext)


async def find_upload(service: Service, bucket: str, key: bytes, upload_id: str) -> Upload:
    """The upload of exactly this key (1 trip). Raises NoSuchUpload; the id never touches a path unchecked."""
    check_upload_id(upload_id)
    raw = upload_id.encode("ascii")
    found: Found | None = None
    # Before 1.2 JuiceFS had no HEX3 level.
    for path in (upload_path(service, bucket, upload_id), service.sys_path(bucket, b"uploads", raw)):
        try:
            found = await service.fs.lookup(path, service.caller, xattrs=True, follow=False)
            break
        except FsError as e:
            if e.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
    if found is None or not found.attr.is_dir:
        raise S3Error("NoSuchUpload")
    upload = _upload(upload_id, path, found.ino, found.attr, found.xattrs or {})
    if upload.key != key:
        raise S3Error("NoSuchUpload")
    return upload


async def list_uploads(service: Service, bucket: str) -> list[Upload]:
    """All uploads of a bucket, in no order. Trips: one per HEX3 directory (at once) and one for the attributes."""
    root = service.sys_path(bucket, b"uploads")
    try:
        found = await service.fs.lookup(root, service.caller)
    except FsError as e:
        if e.errno in (errno.ENOENT, errno.ENOTDIR):
            return []
        raise
    top = [e for e in await list_all(service.fs, found.ino) if e.type == DIRECTORY and e.attr is not None]
    groups = [e for e in top if len(e.name) == 3]
    listed = await asyncio.gather(*(list_all(service.fs, e.ino) for e in groups))
    entries = [(root + b"/" + e.name, e) for e in top if len(e.name) == ID_LENGTH]
    for group, inside in zip(groups, listed, strict=True):
        path = root + b"/" + group.name
        entries += [(path + b"/" + e.name, e) for e in inside if len(e.name) == ID_LENGTH and e.type == DIRECTORY]
    xattrs = await service.fs.get_xattrs([e.ino for _, e in entries])
    return [
        _upload(e.name.decode("latin-1"), path, e.ino, e.attr, values)
        for (path, e), values in zip(entries, xattrs, strict=True)
        if e.attr is not None and values.get(X_OBJECT)
    ]


def part_number(name: bytes) -> int:
    """Number of a part file, 0 if it is something else. Decimal without leading zeros."""
    if name.isdigit() and name[:1] != b"0" and len(name) <= 5:
        number = int(name)
        return number if number <= MAX_PARTS else 0
    return 0


async def find_parts(service: Service, upload: Upload, numbers: Sequence[int]) -> list[Part | None]:
    """The parts of these numbers (3 trips)."""
    if not numbers:
        return []
    entries = await service.fs.stat_entries(upload.ino, [b"%d" % n for n in numbers])
    there = [e for e in entries if e is not None and e.type == FILE and e.attr is not None]
    xattrs = dict(zip([e.ino for e in there], await service.fs.get_xattrs([e.ino for e in there]), strict=True))
    out: list[Part | None] = []
    for number, entry in zip(numbers, entries, strict=True):
        if entry is None or entry.attr is None or entry.type != FILE:
            out.append(None)
            continue
        etag, ext = identify(entry.ino, entry.attr, xattrs[entry.ino])
        out.append(Part(number, entry.ino, entry.attr, etag, ext))
    return out


async def part_numbers(service: Service, upload: Upload) -> list[int]:
    """Numbers of the parts that are there, ascending."""
    entries = await list_all(service.fs, upload.ino, attrs=False)
    return sorted(n for n in (part_number(e.name) for e in entries if e.type == FILE) if n)


async def remove_upload(service: Service, path: bytes) -> None:
    """The directory with its parts, past the trash; gone already is fine."""
    try:
        await service.fs.remove_tree(path, service.caller, skip_trash=True)
    except FsError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
