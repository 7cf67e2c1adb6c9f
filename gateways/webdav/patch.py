# SPDX-License-Identifier: Apache-2.0
"""PATCH with SabreDAV's partial update: a file whose new version shares everything but the bytes that came.

Atomic like a PUT: the new version is put together from references and bound to the name in one transaction.
Source: spec webdav §9; SabreDAV documentation, "HTTP PATCH".
"""

from __future__ import annotations

from typing import Final

import msgspec

from core.vfs.api import Condition
from core.vfs.filesystem import SourceChanged
from core.vfs.temporary import new_temporary
from gateways.http.messages import Response
from gateways.webdav import digests, recalculate
from gateways.webdav.errors import DavError
from gateways.webdav.export import Node
from gateways.webdav.gate import Call
from gateways.webdav.intake import receive
from gateways.webdav.write import bind, written

_TRIES: Final = 20
_PATCH_TYPE: Final = "application/x-sabredav-partialupdate"


async def patch(call: Call, node: Node | None) -> Response:
    """SabreDAV's partial update: the new file shares everything but the bytes that came (§9)."""
    headers, body = call.headers, call.request.body
    if node is None:
        raise DavError(404)
    if node.is_dir:
        raise DavError(405, "A collection can't be patched.")
    if recalculate.HEADER in headers:
        return await recalculate.recalculate(call, node)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != _PATCH_TYPE:
        raise DavError(415, f"The content type must be {_PATCH_TYPE}.", headers=[("Accept-Patch", _PATCH_TYPE)])
    if body.length is None:
        raise DavError(411, "Content-Length is needed.")
    length, size = body.length, node.found.attr.length
    start = update_start(headers.get("x-update-range", ""), length, size)
    content = await receive(call, body, digests.wanted(headers))
    fs = call.export.fs
    # The bytes need an inode before others can share them: a file in the temporary area that lives for a moment.
    path = (await new_temporary(fs)).path
    try:
        made = await fs.publish(path, content, mode=0o600)
    except BaseException:
        await fs.discard(content)
        raise
    try:
        for attempt in range(_TRIES):
            size = node.found.attr.length
            if headers.get("x-update-range", "").strip().lower() == "append":
                start = size
            parts = [(node.ino, 0, min(start, size))]
            if start > size:
                parts.append((made.ino, length, start - size))  # a hole: there is nothing at that place
            parts.append((made.ino, 0, length))
            if start + length < size:
                parts.append((node.ino, start + length, size - start - length))
            whole = await fs.clone_content([part for part in parts if part[2]])
            attr = node.found.attr
            condition = Condition(ino=node.ino, mtime_ns=attr.mtime_ns)
            try:
                published = await bind(call, node.real, node, whole, condition)
                return written(call, msgspec.structs.replace(published, replaced=True))
            except (SourceChanged, DavError) as e:
                if (isinstance(e, DavError) and e.status != 412) or attempt == _TRIES - 1:
                    raise
                again = await call.export.find(node.path)
                if again is None or "if-match" in headers:
                    raise DavError(412, "It was changed by somebody else meanwhile.") from e
                node = again
        raise DavError(503, "The file changes too fast; try again.")
    finally:
        await fs.unlink(path, skip_trash=True)


def update_start(text: str, length: int, size: int) -> int:
    """First byte of an X-Update-Range. 400 without one, 416 if it doesn't fit the body."""
    text = text.strip().lower()
    if text == "append":
        return size
    unit, equals, spec = text.partition("=")
    first, dash, last = spec.partition("-")
    if unit.strip() != "bytes" or not equals or not dash or any(
        part and not (part.isdecimal() and len(part) < 19) for part in (first, last)
    ):  # fmt: skip
        raise DavError(400, "X-Update-Range must be bytes=FIRST-[LAST], bytes=-COUNT or append.")
    if not first:
        if not last or int(last) > size:
            raise DavError(416, "The file has fewer bytes.")
        return size - int(last)
    if last and int(last) - int(first) + 1 != length:
        raise DavError(416, "The range and the length of the body differ.")
    if not last and length == 0:
        return int(first)
    return int(first)
