# SPDX-License-Identifier: Apache-2.0
"""PUT: a body stored aside, proven, and bound to its name in one transaction.

Whatever breaks before that transaction leaves the old content. New content keeps what belongs to the file: mode,
owner, group, and every extended attribute that doesn't describe the old bytes.

Two ways to the same end. `put_at_once` is for the plain PUT of a small body: it asks nothing before, and the commit
proves that the folder is there, that the name is free or a file, and that no lock came or went (1 trip, 2 if a file is
replaced). Everything else, and what that commit refuses, takes `put`, after the gate has judged what is there.
Source: spec webdav §8, §12.2, §19.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from core.errors import FsError, MetaError
from core.meta.namespace import SymlinkInPath
from core.meta.publish import GuardChanged
from core.meta.records import ROOT
from core.vfs.api import Caller, Condition
from core.vfs.etags import synthetic_etag
from core.vfs.filesystem import Content, Published, SourceChanged
from gateways.http.messages import Response
from gateways.webdav import digests, kept
from gateways.webdav.dates import http_date, parse_epoch_ns
from gateways.webdav.errors import DavError
from gateways.webdav.export import Node
from gateways.webdav.gate import Call, touches_locks
from gateways.webdav.intake import SMALL_BYTES, receive

_NS: Final = 1_000_000_000
#: Headers that make a PUT depend on what is there, or on what the client is told before it sends the body.
_NOT_PLAIN: Final = frozenset(
    {"if", "if-match", "if-none-match", "if-unmodified-since", "content-range", "content-encoding", "expect",
     "overwrite"}
)  # fmt: skip
#: What `put` explains better: a link on the way, no folder, a folder in place of the file, and the like.
_LONG_WAY: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ESTALE, errno.EPERM})


class Received(NamedTuple):
    """A body that is stored and bound to nothing. facts: attributes about it. etag: its MD5, "" if none is kept."""

    content: Content
    mtime_ns: int | None
    facts: dict[bytes, bytes]
    etag: str


async def put_at_once(call: Call) -> Response | Received | None:
    """The answer; or None: not a plain PUT, nothing was read of it; or the stored body: `put` has to decide."""
    export, locks, length = call.export, call.locks, call.request.body.length
    if (
        length is None or length > SMALL_BYTES or not call.path or export.caller.uid
        or not _NOT_PLAIN.isdisjoint(call.headers)
    ):  # fmt: skip
        return None
    if locks is not None and locks.guards() is None:
        await locks.prepare()
    if touches_locks(call):
        return None
    received = await _receive(call)
    content = received.content
    # Only now: what was known before the body was stored may have changed meanwhile.
    guards = locks.guards() if locks is not None else []
    if guards is None or touches_locks(call):
        return received
    fs = export.fs
    try:
        published = await fs.meta.publish(
            ROOT, export.place(call.path), content, export.caller, mode=call.config.file_mode, umask=fs.umask,
            xattrs=received.facts, mtime_ns=received.mtime_ns, inherit=kept.OF_CONTENT, guards=guards,
        )  # fmt: skip
    except (GuardChanged, SymlinkInPath):
        return received
    except FsError as e:
        if isinstance(e, MetaError):
            raise
        if e.errno in _LONG_WAY:
            return received
        await fs.discard(content)
        raise
    return written(call, published, received.etag)


async def put(call: Call, node: Node | None, received: Received | None = None) -> Response:
    """The gate has judged names, conditions and locks; `node` is what it saw. received: a body that is stored."""
    try:
        where = await _place(call, node)
        if received is None:
            await _require_room(call)
    except BaseException:
        if received is not None:
            await call.export.fs.discard(received.content)
        raise
    received = received or await _receive(call)
    published = await bind(
        call, where, node, received.content, _condition(call, node), mtime_ns=received.mtime_ns, facts=received.facts
    )
    return written(call, msgspec.structs.replace(published, replaced=node is not None), received.etag)


async def _place(call: Call, node: Node | None) -> tuple[bytes, ...]:
    """Where the file is or will be, free of links."""
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
    return node.real if node is not None else (*(await call.export.find_parent(call.path)).real, call.path[-1])


async def _receive(call: Call) -> Received:
    config, headers = call.config, call.headers
    keep_md5 = config.etag == "md5"
    checks = digests.wanted(headers, md5=keep_md5)
    content = await receive(call, call.request.body, checks)
    mtime_ns = parse_epoch_ns(headers["x-oc-mtime"]) if "x-oc-mtime" in headers else None
    etag, kind = "", ""
    if keep_md5 and checks is not None:
        etag = checks.md5.hexdigest()
        if mtime_ns is None:
            mtime_ns = call.export.fs.meta.clock_ns()  # the ETag is bound to it
    if config.store_content_type:
        kind = headers.get("content-type", "")
    return Received(content, mtime_ns, kept.facts_of(content.length, mtime_ns or 0, etag, kind), etag)


def written(call: Call, published: Published, etag: str = "") -> Response:
    headers = [
        ("ETag", f'"{etag or synthetic_etag(published.ino, published.attr)}"'),
        ("Last-Modified", http_date(published.attr.mtime_ns // _NS)),
    ]
    if call.method == "PUT" and parse_epoch_ns(call.headers.get("x-oc-mtime", "")) is not None:
        headers.append(("X-OC-Mtime", "accepted"))
    return Response(204 if published.replaced else 201, headers)


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


async def bind(
    call: Call, where: tuple[bytes, ...], node: Node | None, content: Content, condition: Condition | None, *,
    mtime_ns: int | None = None, facts: Mapping[bytes, bytes] | None = None,
) -> Published:  # fmt: skip
    """Give content its name. It is discarded only when it certainly wasn't bound. facts: attributes about it."""
    export, fs = call.export, call.export.fs
    caller, mode = export.caller, call.config.file_mode
    stored: dict[bytes, bytes] = {}
    try:
        if node is not None:
            old = node.found.attr
            mode = old.mode
            # Owner and group stay those of the file, whoever writes it; its permission was tested with the caller.
            await fs.meta.require_access(export.caller, node.ino, old, 2)
            caller = Caller(old.uid, (old.gid,), check=False)
            stored = {k: v for k, v in (node.found.xattrs or {}).items() if k not in kept.OF_CONTENT}
        return await fs.publish(
            export.bytes_of(where), content, caller, mode=mode, xattrs={**stored, **(facts or {})},
            mtime_ns=mtime_ns, condition=condition,
        )  # fmt: skip
    except FsError as e:
        if isinstance(e, (MetaError, SourceChanged)):
            raise
        await fs.discard(content)
        if e.errno in (errno.EEXIST, errno.ESTALE):
            raise DavError(412, "It was changed by somebody else meanwhile.") from e
        raise
