# SPDX-License-Identifier: Apache-2.0
"""PUT and PATCH: a body stored aside, proven, and bound to its name in one transaction.

Whatever breaks before that transaction leaves the old content. New content keeps what belongs to the file: mode,
owner, group, and every extended attribute that doesn't describe the old bytes. Source: spec webdav §8, §9.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Mapping
from typing import Final

from core.errors import FsError, MetaError
from core.vfs.api import Caller, Condition
from core.vfs.etags import synthetic_etag
from core.vfs.filesystem import Content, Published, SourceChanged
from core.vfs.temporary import new_temporary
from gateways.http.messages import Body, Response
from gateways.webdav import digests, kept, recalculate
from gateways.webdav.dates import http_date, parse_epoch_ns
from gateways.webdav.errors import DavError
from gateways.webdav.export import Node
from gateways.webdav.gate import Call

_NS: Final = 1_000_000_000
_SMALL: Final = 64 << 10
_TRIES: Final = 20


async def put(call: Call, node: Node | None) -> Response:
    """The gate has judged names, conditions and locks; `node` is what it saw."""
    headers = call.headers
    if "content-range" in headers:
        raise DavError(400, "A part of a file can't be PUT; use PATCH with X-Update-Range.")
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise DavError(415, "Encoded bodies aren't taken; send the plain bytes.")
    if node is not None and node.is_dir:
        raise DavError(405, "A collection of this name exists.")
    if node is not None and (headers.get("overwrite") or "T").upper() == "F":
        raise DavError(412, "It exists already.")
    if not call.path:
        raise DavError(405, "The root is a collection.")
    where = node.real if node is not None else (*(await call.export.find_parent(call.path)).real, call.path[-1])
    await _require_room(call)
    keep_md5 = call.config.etag == "md5"
    checks = digests.wanted(headers, md5=keep_md5)
    content = await receive(call, call.request.body, checks)
    mtime_ns = sent_ns = parse_epoch_ns(headers.get("x-oc-mtime", ""))
    if keep_md5 and mtime_ns is None:
        mtime_ns = call.export.fs.meta.clock_ns()  # the ETag is bound to it
    etag = checks.md5.hexdigest() if keep_md5 and checks is not None else ""
    kind = headers.get("content-type", "") if call.config.store_content_type else ""
    facts = kept.facts_of(content.length, mtime_ns or 0, etag, kind)
    published = await bind(call, where, node, content, _condition(call, node), mtime_ns=mtime_ns, facts=facts)
    return written(201 if node is None else 204, published, sent_ns is not None, etag=etag)


def written(status: int, published: Published, accepted: bool = False, *, etag: str = "") -> Response:
    headers = [
        ("ETag", f'"{etag or synthetic_etag(published.ino, published.attr)}"'),
        ("Last-Modified", http_date(published.attr.mtime_ns // _NS)),
    ]
    if accepted:
        headers.append(("X-OC-Mtime", "accepted"))
    return Response(status, headers)


def _condition(call: Call, node: Node | None) -> Condition | None:
    """What the publish proves once more: a conditional PUT never overwrites what it didn't mean."""
    if "if-match" not in call.headers and "if-none-match" not in call.headers and "if" not in call.headers:
        return None
    if node is None:
        return Condition(absent=True)
    attr = node.found.attr
    return Condition(ino=node.ino, mtime_ns=attr.mtime_ns, ctime_ns=None)


async def _require_room(call: Call) -> None:
    """A body that can't fit is refused before it is sent (Finder announces chunked ones in a header of its own)."""
    text = call.headers.get("x-expected-entity-length", "")
    length = call.request.body.length or (int(text) if text.isdecimal() and len(text) < 19 else 0)
    if length and length > 64 << 20:
        stat = await call.export.fs.meta.statfs()
        if length > stat.available:
            raise DavError(507, condition="sufficient-disk-space")


async def receive(call: Call, body: Body, checks: digests.Checks | None) -> Content:
    """Store a body. Whatever goes wrong, nothing of it remains."""
    fs, length = call.export.fs, body.length
    if length is not None and length <= _SMALL:
        data = await _collect(body, length)
        if checks is not None:
            checks.update(data)
            checks.require()
        return await fs.content_of(data)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + call.config.max_body_s
    writer = fs.new_content(length)
    try:
        total = 0
        while piece := await body.read():
            total += len(piece)
            if loop.time() > deadline:
                raise DavError(408, "The body took too long.", close=True)
            if checks is not None:
                await loop.run_in_executor(None, checks.update, piece)
            await writer.write(piece)
        if length is not None and total != length:
            raise DavError(400, "The body is shorter than announced.", close=True)
        if checks is not None:
            checks.require()
        return await writer.finish()
    except BaseException:
        await writer.abort()
        raise


async def _collect(body: Body, length: int) -> bytes:
    if not length:
        return b""
    data = bytes(await body.read())
    if len(data) < length:
        parts = [data]
        have = len(data)
        while have < length and (more := await body.read()):
            parts.append(bytes(more))
            have += len(more)
        data = b"".join(parts)
    if len(data) != length:
        raise DavError(400, "The body is shorter than announced.", close=True)
    return data


async def bind(
    call: Call, where: tuple[bytes, ...], node: Node | None, content: Content, condition: Condition | None, *,
    mtime_ns: int | None = None, facts: Mapping[bytes, bytes] | None = None,
) -> Published:  # fmt: skip
    """Give content its name. It is discarded only when it certainly wasn't bound. facts: attributes about it."""
    export, fs = call.export, call.export.fs
    caller, mode, xattrs = export.caller, call.config.file_mode, {}
    if node is not None:
        old = node.found.attr
        mode = old.mode
        # Owner and group stay those of the file, whoever writes it; its permission was tested with the caller.
        await fs.meta.require_access(export.caller, node.ino, old, 2)
        caller = Caller(old.uid, (old.gid,), check=False)
        xattrs = {k: v for k, v in (node.found.xattrs or {}).items() if k not in kept.OF_CONTENT}
    if facts:
        xattrs |= facts
    try:
        published = await fs.publish(
            export.bytes_of(where), content, caller, mode=mode, xattrs=xattrs, mtime_ns=mtime_ns,
            condition=condition,
        )  # fmt: skip
    except FsError as e:
        if isinstance(e, (MetaError, SourceChanged)):
            raise
        await fs.discard(content)
        if e.errno in (errno.EEXIST, errno.ESTALE):
            raise DavError(412, "It was changed by somebody else meanwhile.") from e
        raise
    return published


# -- PATCH ---------------------------------------------------------------------------------------------------------

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
                return written(204, await bind(call, node.real, node, whole, condition))
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
