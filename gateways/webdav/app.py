# SPDX-License-Identifier: Apache-2.0
"""The application: a request in, a response out. Who may, what it is about, and which module answers.

Source: spec webdav §2–§3, §7, §16–§18.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Final
from xml.etree.ElementTree import Element

import msgspec

from core.errors import FsError
from core.meta.base import WRITE
from core.meta.records import FILE, ROOT, SYMLINK
from core.vfs.api import Condition
from core.vfs.filesystem import FileSystem
from gateways.http.messages import Application, BadRequest, IncompleteBody, Request, Response, SlowBody, read_all
from gateways.webdav import gate, listing, patch, propfind, read, write
from gateways.webdav.auth.door import Doorkeeper
from gateways.webdav.auth.users import ANONYMOUS, User
from gateways.webdav.compress import compress
from gateways.webdav.config import MAX_XML_BYTES, WebDavConfig
from gateways.webdav.cors import Cors
from gateways.webdav.dates import parse_epoch_ns
from gateways.webdav.errors import RETRY_AFTER, XML_TYPE, DavError, from_exception
from gateways.webdav.export import Export, Node
from gateways.webdav.gate import Call, MembersLocked
from gateways.webdav.layer.bridge import Bridge
from gateways.webdav.layer.context import Context
from gateways.webdav.locks.service import LockService
from gateways.webdav.locks.table import TOKEN_SCHEME
from gateways.webdav.names import href, normal_authority, parse_target, to_layer
from gateways.webdav.normalize import settled
from gateways.webdav.properties.live import Quota, Resource, lock_document
from gateways.webdav.proppatch import proppatch
from gateways.webdav.xmltext import parse

log = logging.getLogger("sluice.webdav")

READING: Final = ("OPTIONS", "GET", "HEAD", "PROPFIND")
_ON_FILE: Final = "OPTIONS, GET, HEAD, PUT, PATCH, DELETE, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"
_ON_COLLECTION: Final = "OPTIONS, GET, HEAD, DELETE, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"
_ON_NOTHING: Final = "OPTIONS, PUT, MKCOL, LOCK"
_LAYER: Final = frozenset({"MKCOL", "DELETE", "COPY", "MOVE", "LOCK", "UNLOCK", "PROPPATCH"})
_KNOWN: Final = _LAYER | {"OPTIONS", "GET", "HEAD", "PUT", "PATCH", "PROPFIND"}
_QUOTA_S: Final = 5.0
#: What Finder looks for at the root of a volume; empty files say "don't index, don't make thumbnails" (§18.1).
_MAC_HINTS: Final = frozenset(
    {b".metadata_never_index", b".metadata_never_index_unless_rootfs", b".ql_disablethumbnails", b".ql_disablecache"}
)

#: Which part of the volume a user sees.
ExportOf = Callable[[User], Export]


class WebDavApplication(Application):
    """One volume behind one door. `close` ends its threads."""

    def __init__(
        self, fs: FileSystem, config: WebDavConfig, *, doorkeeper: Doorkeeper | None = None,
        locks: LockService | None = None, export_of: ExportOf | None = None,
        observe: Callable[[Request, Response, float], None] | None = None,
    ) -> None:  # fmt: skip
        self.fs = fs
        self.config = config
        self.locks = locks
        self._doorkeeper = doorkeeper or Doorkeeper(None)
        whole = Export(fs)
        self._export_of = export_of or (lambda user: whole)
        self._observe = observe
        self._bridge = Bridge(threads=config.threads, locking=locks is not None)
        self._cors = Cors(config.cors_origins)
        self._quota: dict[int, tuple[float, Quota]] = {}
        #: DAV, and MS-Author-Via for clients of Microsoft that never ask OPTIONS (§3).
        classes = "1" if config.read_only or locks is None else "1, 2, 3, sabredav-partialupdate"
        self._class_headers = [("DAV", classes), ("MS-Author-Via", "DAV")]

    def close(self) -> None:
        self._bridge.close()

    async def __call__(self, request: Request) -> Response:
        started = time.monotonic()
        try:
            response = await self._answer(request)
        except DavError as error:
            response = self._refusal(error)
        except (IncompleteBody, SlowBody) as error:
            status = 408 if isinstance(error, SlowBody) else 400
            response = self._refusal(DavError(status, "The body ended early.", close=True))
        except Exception as error:
            known = from_exception(error, changing=request.method in gate.CHANGING)
            if known is None or known.status >= 500:
                log.error(
                    "%s %s failed: %s", request.method, request.target.partition("?")[0][:500], error,
                    exc_info=None if isinstance(error, OSError) else error,
                )  # fmt: skip
            response = self._refusal(known or DavError(500, "The server failed; its log says why."))
        if self._cors.enabled:
            self._cors.decorate(request, response)
        if self.config.gzip:
            compress(request, response)
        if self._observe is not None:
            self._observe(request, response, time.monotonic() - started)
        return response

    def _refusal(self, error: DavError) -> Response:
        if isinstance(error, MembersLocked):
            parts = "".join(
                f"<D:response><D:href>{href}</D:href><D:status>HTTP/1.1 423 Locked</D:status></D:response>"
                for href in error.hrefs
            )
            return Response(207, [XML_TYPE, *self._class_headers], propfind.HEAD + parts.encode() + propfind.TAIL)
        kind, body = error.body()
        headers = [kind, *error.headers]
        if error.status == 401:
            headers += self._class_headers
        return Response(error.status, headers, body, close=error.close)

    def refusal(self, error: BadRequest) -> Response:
        headers = {405: [("Allow", _ON_FILE)], 503: [("Retry-After", RETRY_AFTER)]}.get(error.status, [])
        return self._refusal(DavError(error.status, error.message, headers=headers, close=True))

    def failure(self, request: Request, error: BaseException) -> Response:
        known = from_exception(error, changing=False)
        # What was found a moment ago failed: that is no answer about the request.
        if known is None or known.status < 500:
            known = DavError(500, "The server failed; its log says why.")
        response = self._refusal(known)
        response.close = True
        return response

    # -- one request --------------------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        method = request.method
        if method == "OPTIONS":
            preflight = self._cors.preflight(request)
            if preflight is not None:
                return preflight
            if request.target == "*":
                return self._options(_ON_COLLECTION, file=False)
            free = not self.config.strict_auth and ("authorization" not in request.headers or request.target == "/")
            user = ANONYMOUS if free else await self._doorkeeper.admit(request)
            return await self._answer_options(request, user, free=free)
        user = await self._doorkeeper.admit(request)
        self._require_own_origin(request)
        if method not in _KNOWN:
            raise DavError(405, "This method is not known here.", headers=[("Allow", _ON_FILE)])
        try:
            target = parse_target(request.target, self.config.prefix)
        except DavError as error:
            if error.status == 404 and method == "PROPFIND":
                return await self._propfind_above(request)
            raise
        export = self._export_of(user)
        if self.config.normalize:
            target = target._replace(path=await settled(export, target.path))
        call = Call(request, target, user, export, self.config, self.locks)
        gate.require_visible(call)
        if method in ("GET", "HEAD"):
            return await self._get(call)
        if method == "PUT":
            return await self._put(call)
        if method == "PROPFIND":
            return await self._propfind(call)
        if method == "PATCH":
            node = await export.find(call.path)
            await gate.judge(call, node)
            await gate.require_tokens(call, node)
            return await patch.patch(call, node)
        return await self._layer(call)

    def _require_own_origin(self, request: Request) -> None:
        """Browsers attach Basic credentials to requests of any page: those of foreign pages change nothing (§20)."""
        origin = request.headers.get("origin")
        if origin is None or request.method not in gate.CHANGING or self._cors.allows(origin):
            return
        own = {normal_authority(request.headers.get("host", "")), *self.config.external_authorities}
        if normal_authority(origin.partition("://")[2]) not in own:
            raise DavError(403, "Requests of other web sites are refused.")

    # -- OPTIONS ------------------------------------------------------------------------------------------------

    async def _answer_options(self, request: Request, user: User, *, free: bool) -> Response:
        try:
            target = parse_target(request.target, self.config.prefix)
        except DavError as error:
            if error.status == 404:
                return self._options(_ON_COLLECTION, file=False)
            raise
        if free:
            # Nobody has logged in: the answer must not tell what exists.
            return self._options(_ON_COLLECTION if target.slash or not target.path else _ON_FILE, file=False)
        export = self._export_of(user)
        node = None if export.hides(target.path) else await export.find(target.path)
        if node is None:
            return self._options(_ON_NOTHING, file=False)
        return self._options(_ON_COLLECTION if node.is_dir else _ON_FILE, file=not node.is_dir)

    def _options(self, allow: str, *, file: bool) -> Response:
        if self.config.read_only:
            allow = ", ".join(READING)
        elif self.locks is None:
            allow = allow.replace(", LOCK, UNLOCK", "").replace(", LOCK", "")
        headers = [*self._class_headers, ("Allow", allow), ("Public", allow)]
        if file:
            headers.append(("Accept-Ranges", "bytes"))
        return Response(200, headers)

    # -- reading ------------------------------------------------------------------------------------------------

    async def _get(self, call: Call) -> Response:
        node = await call.export.find(call.path, chunk=True)
        if node is None:
            hint = self._mac_hint(call)
            if hint is not None:
                return hint
            raise DavError(404)
        if await gate.judge(call, node):
            kept_headers = [
                h for h in read.headers_of(call, node) if h[0] in ("ETag", "Last-Modified", "Cache-Control")
            ]
            return Response(304, kept_headers)
        if not node.is_dir:
            if call.export.caller.uid:
                await self.fs.meta.require_access(call.export.caller, node.ino, node.found.attr, 4)
            return await read.get_file(call, node)
        if call.method == "HEAD":
            # The answer to GET would be streamed: no length is known.
            return Response(200, read.headers_of(call, node), _nothing())
        if self.config.disallow_list:
            raise DavError(403, "Collections can't be listed this way.")
        if self.config.html_index and "text/html" in call.headers.get("accept", ""):
            if not call.slash and call.path:
                # Relative links of the page need it; browsers follow.
                return Response(302, [("Location", call.href(call.path, collection=True))])
            fixed = self.config.read_only or call.export.read_only or call.user.read_only
            writable = not fixed and not call.export.in_trash(call.path)
            return await listing.page(call, node, writable=writable)
        return await self._members(call, node, call.headers.get("depth", "1"), propfind.Question(None))

    def _mac_hint(self, call: Call) -> Response | None:
        if not self.config.mac_hints or len(call.path) != 1 or call.path[0] not in _MAC_HINTS:
            return None
        return Response(200, [("Content-Type", "application/octet-stream"), ("ETag", '"mac-hint"')])

    async def _hint_properties(self, call: Call, question: propfind.Question) -> Response:
        """Of a file that Finder looks for and that isn't there: empty, and as old as the root (§18.1)."""
        root = await call.export.find(())
        if root is None:
            raise DavError(404)
        attr = msgspec.structs.replace(root.found.attr, type=FILE, length=0, mode=0o444)
        shown = Resource(call.path[-1], root.ino, attr, {}, call.href(call.path))
        text = propfind.renderer(question)(shown)
        return Response(207, [XML_TYPE, *self._class_headers], propfind.HEAD + text.encode() + propfind.TAIL)

    async def _propfind(self, call: Call) -> Response:
        body = await read_all(call.request.body, MAX_XML_BYTES)
        if body is None:
            raise DavError(413, "An XML document may take 1 MiB.", close=True)
        prefer = call.headers.get("prefer", "").lower()
        minimal = "return=minimal" in prefer or call.headers.get("brief", "").lower() == "t"
        question = propfind.parse_question(body, minimal=minimal)
        node = await call.export.find(call.path)
        if node is None and self._mac_hint(call) is not None:
            return await self._hint_properties(call, question)
        if node is None:
            raise DavError(404)
        await gate.judge(call, node)
        return await self._members(call, node, call.headers.get("depth", "infinity"), question)

    async def _members(self, call: Call, node: Node, depth_text: str, question: propfind.Question) -> Response:
        words = [word.strip() for word in depth_text.lower().split(",")]
        noroot = "noroot" in words[1:] or "depth-noroot" in call.headers.get("prefer", "").lower()
        if words[0] not in ("0", "1", "infinity"):
            raise DavError(400, "Depth must be 0, 1 or infinity.")
        depth = -1 if words[0] == "infinity" else int(words[0])
        if depth < 0 and node.is_dir and not self.config.depth_infinity:
            raise DavError(403, condition="propfind-finite-depth")
        if depth and node.is_dir and call.export.caller.uid:
            await self.fs.meta.require_access(call.export.caller, node.ino, node.found.attr, 4)
        if self.locks is not None:
            await self.locks.fresh()
        quota = await self._quota_of(node) if question.wants_quota else None
        windows = call.headers.get("user-agent", "").startswith("Microsoft-WebDAV-MiniRedir")
        walk = propfind.Walk(
            call.export, self.locks.table if self.locks else None, prefix=self.config.prefix,
            root_name=self.config.volume_name.encode(), quota=quota,
        )  # fmt: skip
        parts = propfind.answer(
            walk, node, depth, propfind.renderer(question, no_locks=windows), root=not noroot,
            limit=self.config.depth_infinity_limit,
        )  # fmt: skip
        headers = [XML_TYPE, *self._class_headers]
        applied = [w for w, on in (("return=minimal", question.minimal), ("depth-noroot", noroot)) if on]
        if applied and "prefer" in call.headers:
            headers.append(("Preference-Applied", ", ".join(applied)))
        if node.is_dir and not call.slash:
            headers.append(("Content-Location", call.href(call.path, collection=True)))
        if depth == 0 or not node.is_dir:
            return Response(207, headers, b"".join([part async for part in parts]))
        # The first pieces are made before the answer begins: failures until then get a status of their own.
        first = [await anext(parts), await anext(parts)]
        return Response(207, headers, _resumed(first, parts))

    async def _propfind_above(self, request: Request) -> Response:
        """GNOME and Windows ask for every parent of a mounted URL: a virtual collection with the next name (§18.4)."""
        path = parse_target(request.target).path
        prefix = self.config.prefix
        if path != prefix[: len(path)]:
            raise DavError(404)
        root = await self.fs.lookup(b"/")
        shown = [path] if request.headers.get("depth", "0") == "0" else [path, prefix[: len(path) + 1]]
        body = await read_all(request.body, MAX_XML_BYTES)
        render = propfind.renderer(propfind.parse_question(body or b""))
        tops = [Resource(p[-1] if p else b"", ROOT, root.attr, {}, href(p, collection=True)) for p in shown]
        text = "".join(map(render, tops))
        return Response(207, [XML_TYPE, *self._class_headers], propfind.HEAD + text.encode() + propfind.TAIL)

    async def _quota_of(self, node: Node) -> Quota:
        ino = node.ino if node.is_dir else node.found.parent
        known = self._quota.get(ino)
        now = time.monotonic()
        if known is None or known[0] < now:
            stat = await self.fs.meta.statfs(ino)
            if len(self._quota) > 1000:
                self._quota.clear()
            known = self._quota[ino] = (now + _QUOTA_S, Quota(stat.used, stat.available))
        return known[1]

    # -- changing -----------------------------------------------------------------------------------------------

    async def _put(self, call: Call) -> Response:
        if not self.config.mac_files and call.path and (
            call.path[-1].startswith(b"._") or call.path[-1] == b".DS_Store"
        ):  # fmt: skip
            raise DavError(403, "Files of the Finder are not kept here.")
        done = await write.put_at_once(call)
        if isinstance(done, Response):
            return done
        try:
            node = await call.export.find(call.path)
            if node is None and call.path:
                node = await call.export.find(call.path, follow=False)
                if node is not None and node.found.attr.type == SYMLINK:
                    # Writing through a link that leads nowhere we may go would create what was not meant.
                    raise DavError(409, "A link stands here that leads nowhere.")
                # Anything else was made by somebody else between the two looks.
            await gate.judge(call, node)
            await gate.require_tokens(call, node)
        except BaseException:
            if done is not None:
                await self.fs.discard(done.content)
            raise
        return await write.put(call, node, done)

    async def _layer(self, call: Call) -> Response:
        """Judged here, carried out by WsgiDAV."""
        method, headers = call.method, call.headers
        if method in ("LOCK", "UNLOCK") and self.locks is None:
            raise DavError(405, "This server has no locks.", headers=[("Allow", _ON_FILE)])
        body = b""
        if method in ("LOCK", "PROPPATCH"):
            found = await read_all(call.request.body, MAX_XML_BYTES)
            if found is None:
                raise DavError(413, "An XML document may take 1 MiB.", close=True)
            body = found
            self._require_document(call, body)
        elif call.request.body.length != 0:
            # A body without a meaning is read and forgotten, but for MKCOL, where it might ask for something.
            ignored = await read_all(call.request.body, 64 << 10)
            if method == "MKCOL" and ignored != b"":
                raise DavError(415, "A body has no meaning here.")
        target: Node | None = None
        if not call.path and method in ("DELETE", "MOVE"):
            raise DavError(403, "The root of what is served stays.")
        if method in ("COPY", "MOVE"):
            call.destination = gate.destination(call)
            if self.config.normalize:
                call.destination = await settled(call.export, call.destination)
        node = await call.export.find(call.path)
        if node is None and method in ("DELETE", "MOVE"):
            # A link that leads nowhere isn't shown, and isn't removed either.
            raise DavError(404)
        if node is None and method in ("COPY", "PROPPATCH"):
            raise DavError(404)
        if call.destination is not None:
            target = await call.export.find(call.destination)
            self._require_target(call, node, target)
        await gate.judge(call, node)
        if method == "UNLOCK":
            self._require_unlockable(call)
        await gate.require_tokens(call, node, target)
        if method == "LOCK" and node is not None and call.export.caller.uid:
            # Who may not write may not keep others from writing either.
            await self.fs.meta.require_access(call.export.caller, node.ino, node.found.attr, WRITE)
        if method == "PROPPATCH" and node is not None:
            return await self._proppatch(call, node, parse(body))
        context = Context(
            asyncio.get_running_loop(), self.config, call.export, self.locks, call.user.name,
            gate.lock_timeout(headers.get("timeout"), self.config.lock_max_timeout_s),
        )  # fmt: skip
        context.nodes[call.path] = node
        context.mtime_ns = (
            parse_epoch_ns(headers.get("x-oc-mtime", "")) if method in ("MKCOL", "COPY", "MOVE") else None
        )
        passed = self._passed_headers(call)
        path = to_layer(call.path)
        if self.locks is not None:
            await self.locks.fresh()
        response = await self._bridge.call(
            context, method, path, headers=passed, body=body, secure=call.request.secure, submitted=call.submitted
        )
        return await self._finish(call, context, response, node, target)

    async def _proppatch(self, call: Call, node: Node, document: Element) -> Response:
        answer = await proppatch(call, node, document)
        headers = [XML_TYPE, *self._class_headers]
        now = None if node.is_dir else await call.export.find(call.path)
        if now is not None:
            # A new date is a new ETag, where it is made of the date.
            headers.append(("ETag", f'"{gate.etag_of(now)}"'))
        return Response(207, headers, answer)

    @staticmethod
    def _require_document(call: Call, body: bytes) -> None:
        if not body.strip():
            if call.method == "PROPPATCH":
                raise DavError(400, "A propertyupdate document is needed.")
            if "if" not in call.headers:
                raise DavError(400, "A refresh needs an If header with the lock's token.")
            return
        root = parse(body)
        if call.method == "LOCK":
            kinds = [child for each in root if each.tag == "{DAV:}locktype" for child in each]
            if kinds and kinds[0].tag != "{DAV:}write":
                raise DavError(422, "Only write locks are possible.")

    def _require_target(self, call: Call, node: Node | None, target: Node | None) -> None:
        """The same resource by another spelling, and overwriting what contains the source: 403 (§11)."""
        path, there = call.path, call.destination
        assert there is not None
        if (call.headers.get("overwrite") or "T").upper() not in ("T", "F"):
            raise DavError(400, "Overwrite must be T or F.")
        if path == there or (target is not None and node is not None and target.real == node.real):
            raise DavError(403, "Source and destination are the same.")
        if not there or path[: len(there)] == there or there[: len(path)] == path:
            raise DavError(403, "Source and destination lie within each other.")

    @staticmethod
    def _require_unlockable(call: Call) -> None:
        token = call.headers.get("lock-token", "").strip()
        if token.startswith(TOKEN_SCHEME) and "<" not in token and ">" not in token:
            # The npm client sends the token of the lock's XML as it stands there; it can't mean anything else.
            token = call.headers["lock-token"] = f"<{token}>"
        if not (token.startswith("<") and token.endswith(">") and len(token) > 2):
            raise DavError(400, "Lock-Token must hold a token in angle brackets.")

    @staticmethod
    def _passed_headers(call: Call) -> dict[str, str]:
        passed: dict[str, str] = {
            name: call.headers[name] for name in ("depth", "overwrite", "lock-token") if name in call.headers
        }
        if call.destination is not None:
            passed["destination"] = to_layer(call.destination)
        if call.method == "LOCK":
            passed["timeout"] = "Second-1"  # the context knows
        if call.method in ("DELETE", "PROPPATCH", "MKCOL", "MOVE") and passed.get("depth") == "":
            del passed["depth"]
        if call.method == "PROPPATCH":
            passed.pop("depth", None)
        return passed

    async def _finish(
        self, call: Call, context: Context, response: Response, node: Node | None, target: Node | None
    ) -> Response:
        """What WsgiDAV's answer lacks for strict clients."""
        status = response.status
        headers = response.headers
        if any(name.lower() == "content-type" and value.startswith("text/html") for name, value in headers):
            # Its pages say no more than a line does.
            headers = [(name, value) for name, value in headers if name.lower() != "content-type"]
            response.headers = headers
            response.body = b""
            if status >= 400:
                kind, response.body = DavError(status).body()
                headers.append(kind)
        if call.method in ("COPY", "MOVE") and status == 204 and target is None:
            response.status = 201
        if context.mtime_ns is not None and status < 300:
            headers.append(("X-OC-Mtime", "accepted"))
        if status == 207:
            headers += self._class_headers
        if call.method == "LOCK" and status < 300 and context.granted is not None:
            # WsgiDAV writes prefixes like ns0 and the token without brackets; not every client parses XML for real.
            response.body = lock_document(context.granted, (self.config.prefix, call.export.root))
            response.headers = [XML_TYPE]
            if context.new_lock:
                response.headers.append(("Lock-Token", f"<{context.granted.urn}>"))
        if call.method == "LOCK" and status >= 400 and context.created is not None:
            # The lock was lost to somebody else after its empty file had been made.
            await _undo(call, context.created)
        return response


async def _undo(call: Call, made: Node) -> None:
    attr = made.found.attr
    try:
        await call.export.fs.unlink(
            call.export.bytes_of(made.real), skip_trash=True,
            condition=Condition(ino=made.ino, mtime_ns=attr.mtime_ns),
        )  # fmt: skip
    except FsError as error:
        log.debug("an empty file stays: %s", error)


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def _resumed(first: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for part in first:
        yield part
    async for part in rest:
        yield part
