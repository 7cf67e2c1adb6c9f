# SPDX-License-Identifier: Apache-2.0
"""GetObject and HeadObject, and GetObjectAttributes.

One metadata round trip: inode, xattrs and the slices of the first chunk come together. Small bodies leave in one write;
cached blocks and local files are passed on as they are. Source: spec s3 §3.4, §3.5, §4.3, §6, §11.2, §11.3, §11.8.
"""

from __future__ import annotations

import errno
from typing import Final

from core.errors import FsError
from core.meta.records import FILE
from core.object.api import Buffer
from core.vfs.etags import X_TAGS, Ext, identify
from core.vfs.filesystem import Found
from gateways.http.messages import Response, ResponseBody
from gateways.s3 import xml
from gateways.s3.conditions import not_modified
from gateways.s3.errors import S3Error
from gateways.s3.keys import parse_part_number
from gateways.s3.list_objects import parse_limit
from gateways.s3.metadata import explicit_dir, meta_headers, part_count, wire
from gateways.s3.ranges import parse_range, part_range
from gateways.s3.service import Call, Service, xml_response
from gateways.s3.xml import ObjectParts
from gateways.s3.xml_text import http_time

#: Bodies up to this size are read before the head is written, so that both leave together.
SMALL_BYTES: Final = 64 << 10
_NS: Final = 1_000_000_000

#: Query parameter -> header that it replaces, on signed requests (§11.2).
_OVERRIDES: Final = {
    "response-content-type": "Content-Type", "response-content-language": "Content-Language",
    "response-expires": "Expires", "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition", "response-content-encoding": "Content-Encoding",
}  # fmt: skip


def check_version(params: dict[str, str]) -> None:
    """Without versioning there is one version, called null (§11.2)."""
    version = params.get("versionId")
    if version is None or version == "null":
        return
    if not version:
        raise S3Error("InvalidArgument", "Version id cannot be the empty string")
    # Real version ids are opaque; what could be one is merely not there.
    if version.isascii() and version.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise S3Error("NoSuchVersion")
    raise S3Error("InvalidArgument", "Invalid version id specified")


def opened(service: Service, key: bytes, found: Found) -> bool:
    """Is this node the object that the key means (§3.4, §3.5)?"""
    if key.endswith(b"/"):
        return found.attr.is_dir and (service.config.head_dir or explicit_dir(found.attr, found.xattrs))
    return found.attr.type == FILE


async def find_object(service: Service, call: Call, bucket: str, key: bytes, *, chunk: bool = False) -> Found:
    """The object of a key, in one trip. Raises NoSuchKey, NoSuchBucket."""
    try:
        found = await service.fs.lookup(service.object_path(bucket, key), service.caller, xattrs=True, chunk=chunk)
    except FsError as e:
        if e.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        raise await service.missing_key(bucket) from e
    if not opened(service, key, found):
        raise S3Error("NoSuchKey")
    return found


async def get_object(service: Service, call: Call) -> Response:
    params = call.params
    headers_in = call.headers
    if params:
        check_version(params)
    found = await find_object(service, call, call.bucket, call.key, chunk=call.method == "GET")
    attr, xattrs = found.attr, found.xattrs
    etag, ext = identify(found.ino, attr, xattrs)
    seconds = attr.mtime_ns // _NS
    size = 0 if attr.is_dir else attr.length
    common = [("ETag", f'"{etag}"'), ("Last-Modified", http_time(seconds))]
    headers = meta_headers(call.key, attr, xattrs)
    if not_modified(headers_in, etag, seconds, service.clock() / 1e9):
        return Response(304, [*common, *[h for h in headers if h[0] == "Cache-Control"]])
    headers += common
    headers.append(("Accept-Ranges", "bytes"))
    headers.append(("X-Content-Type-Options", "nosniff"))
    if xattrs:
        tags = xattrs.get(X_TAGS)
        if tags:
            headers.append(("x-amz-tagging-count", str(tags.count(b"&") + 1)))

    status, start, length = 200, 0, size
    if "partNumber" in params:
        status, start, length = _part(params["partNumber"], headers_in, ext, size, headers)
    elif "range" in headers_in:
        chosen = parse_range(headers_in["range"], size)
        if chosen is not None:
            start, length = chosen
            status = 206
    if status == 206:
        headers.append(("Content-Range", f"bytes {start}-{start + length - 1}/{size}"))
    elif ext is not None and ext.ck and headers_in.get("x-amz-checksum-mode", "").upper() == "ENABLED":
        headers += checksum_headers(ext)
    if params:
        _override(call, headers)
    if call.method == "HEAD":
        return Response(status, headers, length=length)
    body = await _body(service, found, start, length)
    return Response(status, headers, body, length=length)


async def _body(service: Service, found: Found, start: int, length: int) -> ResponseBody:
    if length == 0:
        return b""
    if length <= SMALL_BYTES:
        data: Buffer | None = service.fs.read_nowait(found, start, length)
        if data is None:
            data = await service.fs.read(found, start, length)
        if len(data) != length:
            raise FsError(errno.EIO, f"inode {found.ino}: read {len(data)} bytes at {start}, expected {length}")
        return data if type(data) is bytes else [data]
    return service.fs.iter_range(found, start, length)


def checksum_headers(ext: Ext) -> list[tuple[str, str]]:
    """x-amz-checksum-NAME of the whole object, and its type."""
    out = [(f"x-amz-checksum-{name}", value) for name, value in (ext.ck or {}).items()]
    if out:
        out.append(("x-amz-checksum-type", ext.ckt or "FULL_OBJECT"))
    return out


def _part(
    text: str, headers_in: dict[str, str], ext: Ext | None, size: int, headers: list[tuple[str, str]]
) -> tuple[int, int, int]:
    """(status, start, length) of a part; adds x-amz-mp-parts-count."""
    number = parse_part_number(text)
    if "range" in headers_in:
        raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    chosen, parts = part_range(number, size, ext.parts if ext is not None and ext.parts else ())
    if parts:
        headers.append(("x-amz-mp-parts-count", str(parts)))
    return (200, 0, 0) if chosen is None else (206, *chosen)


def _override(call: Call, headers: list[tuple[str, str]]) -> None:
    """response-* parameters replace headers, only for those who proved who they are."""
    for name, header in _OVERRIDES.items():
        value = call.params.get(name)
        if value is None:
            continue
        if not call.auth.signed:
            raise S3Error(
                "InvalidRequest", "Request specific response headers cannot be used for anonymous GET requests."
            )
        if any(c in value for c in "\r\n\0"):
            raise S3Error("InvalidArgument", f"{name} holds a line break or NUL.")
        headers[:] = [h for h in headers if h[0] != header]
        headers.append((header, wire(value)))


# -- attributes ----------------------------------------------------------------------------------------------------

_ATTRIBUTES: Final = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})


async def get_object_attributes(service: Service, call: Call) -> Response:
    check_version(call.params)
    wanted = {name.strip() for name in call.headers.get("x-amz-object-attributes", "").split(",")} - {""}
    if not wanted or not wanted <= _ATTRIBUTES:
        raise S3Error("InvalidArgument", "x-amz-object-attributes must list some of " + ", ".join(sorted(_ATTRIBUTES)))
    found = await find_object(service, call, call.bucket, call.key)
    attr = found.attr
    etag, ext = identify(found.ino, attr, found.xattrs)
    checksums = tuple(ext.ck.items()) if ext is not None and ext.ck else ()
    parts = None
    if "ObjectParts" in wanted and ext is not None and ext.parts:
        parts = _object_parts(call, ext)
    document = xml.object_attributes(
        etag=etag if "ETag" in wanted else None,
        checksums=checksums if "Checksum" in wanted else (),
        checksum_type=(ext.ckt or "FULL_OBJECT") if checksums and ext is not None else "",
        parts=parts,
        storage_class="STANDARD" if "StorageClass" in wanted else None,
        size=(0 if attr.is_dir else attr.length) if "ObjectSize" in wanted else None,
    )
    return xml_response(document, [("Last-Modified", http_time(attr.mtime_ns // _NS))])


def _object_parts(call: Call, ext: Ext) -> ObjectParts:
    """Counts always; the parts themselves only if the upload had an additional checksum."""
    assert ext.parts is not None
    params = {
        "max": call.headers.get("x-amz-max-parts", ""),
        "marker": call.headers.get("x-amz-part-number-marker", ""),
    }
    limit = parse_limit(params, "max")
    marker = parse_limit(params, "marker", 10_000) if params["marker"] else 0
    total = part_count(ext.parts)
    if not ext.pck:
        return ObjectParts(total, max_parts=limit, marker=marker)
    sizes = [size for size, count in ext.parts for _ in range(count)]
    numbers = ext.pnum or list(range(1, total + 1))
    rows = [
        (number, sizes[i], tuple((name, values[i]) for name, values in ext.pck.items() if i < len(values)))
        for i, number in enumerate(numbers[:total])
        if number > marker
    ]
    page = rows[:limit]
    return ObjectParts(total, marker, page[-1][0] if page else 0, limit, len(rows) > limit, tuple(page))
