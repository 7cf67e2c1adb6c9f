# SPDX-License-Identifier: Apache-2.0
"""GET and HEAD of files: headers, ranges, bytes as a stream. Source: spec webdav §7."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Final

from core.chunk.api import FileRange
from core.object.api import Buffer
from core.vfs.etags import X_META
from gateways.http.messages import Response
from gateways.webdav import kept
from gateways.webdav.conditions import range_applies
from gateways.webdav.dates import http_date
from gateways.webdav.export import Export, Node
from gateways.webdav.gate import Call, etag_of
from gateways.webdav.ranges import Range, parse

_NS: Final = 1_000_000_000
#: Up to this size the bytes are fetched before the answer begins: one write for everything, and failures get a status.
_SMALL: Final = 256 << 10


def headers_of(call: Call, node: Node) -> list[tuple[str, str]]:
    attr, xattrs = node.found.attr, node.found.xattrs
    seconds = attr.mtime_ns // _NS
    if node.is_dir:
        return [("Content-Type", kept.DIRECTORY_TYPE), ("Last-Modified", http_date(seconds))]
    name = node.path[-1] if node.path else b""
    headers = [
        ("Content-Type", kept.content_type(name, xattrs)),
        ("ETag", f'"{etag_of(node)}"'),
        ("Last-Modified", http_date(seconds)),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "no-cache"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if xattrs and X_META in xattrs:
        meta = kept.stored_meta(xattrs)
        for key, header in (("content-encoding", "Content-Encoding"), ("content-language", "Content-Language")):
            value = meta.get(key, "")
            if value and value.isascii() and value.isprintable():
                headers.append((header, value))
    if call.config.safe_html:
        headers.append(("Content-Security-Policy", "sandbox"))
    return headers


async def get_file(call: Call, node: Node) -> Response:
    """The file, one range of it, or several as multipart."""
    size, fs = node.found.attr.length, call.export.fs
    headers = headers_of(call, node)
    if call.method == "HEAD":
        return Response(200, headers, length=size)
    wanted: list[Range] = []
    text = call.headers.get("range")
    if text and range_applies(call.headers.get("if-range"), etag_of(node), node.found.attr.mtime_ns // _NS):
        wanted = parse(text, size)
    if len(wanted) > 1:
        return _several(call.export, node, headers, wanted, size)
    start, length, status = 0, size, 200
    if wanted:
        start, length = wanted[0]
        status = 206
        headers.append(("Content-Range", wanted[0].content_range(size)))
    if length <= _SMALL:
        data = await fs.read(node.found, start, length) if length else b""
        return Response(status, headers, [data])
    return Response(status, headers, fs.iter_range(node.found, start, length), length=length)


def _several(export: Export, node: Node, headers: list[tuple[str, str]], wanted: list[Range], size: int) -> Response:
    boundary = secrets.token_hex(16)
    kind = headers[0][1]
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {each.content_range(size)}\r\n\r\n".encode()
        for each in wanted
    ]
    tail = f"\r\n--{boundary}--\r\n".encode()

    async def parts() -> AsyncIterator[Buffer | FileRange]:
        for head, each in zip(heads, wanted, strict=True):
            yield head
            async for piece in export.fs.iter_range(node.found, each.start, each.length):
                yield piece
        yield tail

    length = sum(map(len, heads)) + sum(each.length for each in wanted) + len(tail)
    headers[0] = ("Content-Type", f"multipart/byteranges; boundary={boundary}")
    return Response(206, headers, parts(), length=length)
