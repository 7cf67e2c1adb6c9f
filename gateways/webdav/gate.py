# SPDX-License-Identifier: Apache-2.0
"""What every request is judged by before anything happens: names, conditions, the If header, and locks.

The same for methods answered on the loop and for those of WsgiDAV. Source: spec webdav §2, §11 (Destination), §12.1
(tokens needed), §13, §14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateways.http.messages import Request
from gateways.webdav import conditions, ifheader, kept
from gateways.webdav.auth.users import User
from gateways.webdav.config import DEFAULT_LOCK_S, WebDavConfig
from gateways.webdav.errors import DavError
from gateways.webdav.export import Export, Node
from gateways.webdav.locks.service import LockService
from gateways.webdav.locks.table import TOKEN_SCHEME, Lock, unsatisfied
from gateways.webdav.names import Path, Target, href, normal_authority, parse_target, split_reference, starts_with

CHANGING: Final = frozenset(
    {"PUT", "PATCH", "DELETE", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "PROPPATCH"}
)  # fmt: skip
_NO_STATE: Final = ifheader.State("", frozenset())
_NS: Final = 1_000_000_000


class Call:
    """One request on its way: what it is about, and who asks."""

    __slots__ = (
        "config", "destination", "export", "headers", "locks", "method", "path", "request", "slash", "submitted",
        "user",
    )  # fmt: skip

    def __init__(
        self, request: Request, target: Target, user: User, export: Export, config: WebDavConfig,
        locks: LockService | None,
    ) -> None:  # fmt: skip
        self.request = request
        self.method = request.method
        self.headers = request.headers
        self.path, self.slash = target
        self.user = user
        self.export = export
        self.config = config
        self.locks = locks
        self.submitted: list[str] = []  # state tokens as they came
        self.destination: Path | None = None

    @property
    def place(self) -> Path:
        return self.export.place(self.path)

    def href(self, path: Path, *, collection: bool = False) -> str:
        return href(self.config.prefix + path, collection=collection)

    def lock_root(self, lock: Lock) -> str:
        root = self.export.root
        return self.href(lock.path[len(root) :] if starts_with(lock.path, root) else ())


def etag_of(node: Node) -> str:
    """ "" for collections: they exist but have no entity tag."""
    found = node.found
    return "" if node.is_dir else kept.etag_of(found.ino, found.attr, found.xattrs)


def require_visible(call: Call) -> None:
    """404 for reading what is hidden, 403 for changing it; read-only doors and users change nothing."""
    changing = call.method in CHANGING
    if changing and (call.config.read_only or call.export.read_only or call.user.read_only):
        raise DavError(403, "This is read-only.")
    if call.export.hides(call.path):
        raise DavError(403 if changing else 404, "This name is reserved." if changing else "")
    # What lies in the trash can be read and moved out; its own folders stay (§2.2).
    if changing and call.export.in_trash(call.path) and (call.method != "MOVE" or len(call.path) < 3):
        raise DavError(403, "What is in the trash can be read, and moved out of it; nothing else.")


async def judge(call: Call, node: Node | None) -> bool:
    """Conditions and the If header. True: answer 304. Raises 412 and 400."""
    headers = call.headers
    if "if-match" in headers or "if-none-match" in headers or "if-unmodified-since" in headers or (
        "if-modified-since" in headers
    ):  # fmt: skip
        reading = call.method in ("GET", "HEAD")
        seconds = node.found.attr.mtime_ns // _NS if node is not None else 0
        if conditions.evaluate(headers, None if node is None else etag_of(node), seconds, reading=reading):
            return True
    text = headers.get("if")
    if text is not None:
        header = ifheader.parse(text)
        call.submitted = header.tokens
        if call.locks is not None:
            await call.locks.fresh()

        async def state_of(uri: str) -> ifheader.State:
            return await _state(call, node, uri)

        if not await ifheader.holds(header, state_of):
            raise DavError(412, "The If header does not hold.")
    return False


async def _state(call: Call, node: Node | None, uri: str) -> ifheader.State:
    path = call.path
    if uri:
        try:
            found = _own_path(call, uri)
        except DavError:
            return _NO_STATE
        if found is None or call.export.hides(found):
            return _NO_STATE
        path = found
        if path != call.path:
            node = await call.export.find(path)
    tokens: frozenset[str] = frozenset()
    if call.locks is not None:
        tokens = frozenset(lock.urn for lock in call.locks.table.covering(call.export.place(path)))
    etag = etag_of(node) if node is not None else ""
    return ifheader.State(f'"{etag}"' if etag else "", tokens)


def _own_path(call: Call, reference: str) -> Path | None:
    """The path of a URL of this server; None for other servers."""
    authority, raw = split_reference(reference)
    if authority and authority not in _authorities(call):
        return None
    return parse_target(raw, call.config.prefix).path


def _authorities(call: Call) -> set[str]:
    own = {normal_authority(call.headers.get("host", "")), *call.config.external_authorities}
    if call.request.peer in call.config.trusted_proxies:
        own |= {normal_authority(name) for name in call.headers.get("x-forwarded-host", "").split(",")}
    return own


def destination(call: Call) -> Path:
    """Of COPY and MOVE. 400 malformed, 502 another server, 403 outside or hidden."""
    text = call.headers.get("destination")
    if text is None:
        raise DavError(400, "The Destination header is missing.")
    try:
        found = _own_path(call, text)
    except DavError as error:
        raise DavError(403 if error.status == 404 else error.status, error.text) from error
    if found is None:
        raise DavError(502, "The destination is on another server.")
    if call.export.hides(found) or call.export.in_trash(found):
        raise DavError(403, "This name is reserved.")
    return found


# -- locks ---------------------------------------------------------------------------------------------------------


def touches_locks(call: Call) -> bool:
    """Is the place of a PUT, or the collection that holds it, locked as far as this process knows?"""
    if call.locks is None or not len(call.locks.table):
        return False
    table, place = call.locks.table, call.place
    return bool(table.covering(place) or table.covering(place[:-1]))


async def require_tokens(call: Call, node: Node | None, target: Node | None = None) -> None:
    """423 unless a token of every lock that the method touches was submitted by its holder."""
    locks = call.locks
    if locks is None:
        return
    await locks.fresh()
    if not len(locks.table):
        return
    missing = _missing(call, node, target)
    if missing:
        await locks.reread()
        missing = _missing(call, node, target)
    if missing:
        if call.method == "DELETE" and all(
            lock.path != call.place and starts_with(lock.path, call.place) for lock in missing
        ):
            raise MembersLocked([call.lock_root(lock) for lock in missing])
        roots = list(dict.fromkeys(call.lock_root(lock) for lock in missing))
        raise DavError(423, condition="lock-token-submitted", hrefs=roots)


class MembersLocked(DavError):
    """DELETE of a collection whose members are locked: a multistatus names them, and nothing is removed."""

    def __init__(self, hrefs: Sequence[str]) -> None:
        super().__init__(207, hrefs=list(dict.fromkeys(hrefs)))


def _missing(call: Call, node: Node | None, target: Node | None) -> list[Lock]:
    assert call.locks is not None
    table, place = call.locks.table, call.place
    touched: list[Lock] = []
    method = call.method
    if method in ("DELETE", "MOVE"):
        touched += table.covering(place) + table.below(place) + table.covering(place[:-1])
    elif method in ("PUT", "PATCH", "PROPPATCH", "MKCOL"):
        touched += table.covering(place)
        if node is None:
            touched += table.covering(place[:-1])
    elif method == "LOCK" and node is None:
        # The new lock itself is judged when it is granted.
        touched += table.covering(place[:-1])
    if call.destination is not None:
        there = call.export.place(call.destination)
        touched += table.covering(there) + table.below(there)
        if target is None:
            touched += table.covering(there[:-1])
    submitted = {token.removeprefix(TOKEN_SCHEME) for token in call.submitted}
    unique = {lock.token: lock for lock in touched}
    return unsatisfied(unique.values(), submitted, call.user.name)


def lock_timeout(header: str | None, most: int) -> int:
    """Seconds: the first value of the Timeout header that can be read, at most `most` (spec §12.1)."""
    for part in (header or "").split(","):
        word = part.strip().lower()
        if word == "infinite":
            return most
        if word.startswith("second-") and word[7:].isdecimal():
            return max(1, min(int(word[7:18]), most))
    return min(DEFAULT_LOCK_S, most)
