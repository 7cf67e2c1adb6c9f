# SPDX-License-Identifier: Apache-2.0
"""Properties that are computed, as pieces of XML. Pure functions of a resource; locks and quota come as arguments.

Each maker returns the whole element (`D:` is declared on the answer), or "" if the resource has no such property.
Source: spec webdav §4.1, §12.5; RFC 4918 §15; RFC 4331.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

from core.meta.records import Attr
from core.vfs.etags import X_META
from gateways.webdav import kept
from gateways.webdav.dates import http_date, iso_date, parse_any_ns
from gateways.webdav.locks.table import Lock
from gateways.webdav.names import Path, href
from gateways.webdav.properties.dead import X_DEAD, Dead, Name, shown
from gateways.webdav.xmltext import DAV

_NS: Final = 1_000_000_000
MICROSOFT: Final = "urn:schemas-microsoft-com:"
APACHE: Final = "http://apache.org/dav/props/"
EXECUTABLE: Final = (APACHE, "executable")


class Quota(NamedTuple):
    used: int
    available: int


class Resource:
    """One member of an answer. `dead` is parsed only if somebody asks."""

    __slots__ = ("_dead", "attr", "href", "ino", "lock_prefix", "locks", "name", "quota", "xattrs")

    def __init__(
        self, name: bytes, ino: int, attr: Attr, xattrs: Mapping[bytes, bytes], href: str, *,
        locks: Sequence[Lock] = (), quota: Quota | None = None, lock_prefix: tuple[Path, Path] = ((), ()),
    ) -> None:  # fmt: skip
        self.name = name
        self.ino = ino
        self.attr = attr
        self.xattrs = xattrs
        self.href = href
        self.locks = locks
        self.quota = quota
        self.lock_prefix = lock_prefix  # URL prefix, and volume path of the export: for the roots of locks
        self._dead: dict[Name, Dead] | None = None

    @property
    def dead(self) -> dict[Name, Dead]:
        if self._dead is None:
            raw = self.xattrs.get(X_DEAD)
            self._dead = shown(raw, self.ino) if raw else {}
        return self._dead


def display_text(name: bytes) -> str:
    """A name as text that XML can hold."""
    text = name.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(c if c >= " " and c not in "\x7f\ufffe\uffff" else "\ufffd" for c in text)


def _resourcetype(r: Resource) -> str:
    return "<D:resourcetype><D:collection/></D:resourcetype>" if r.attr.is_dir else "<D:resourcetype/>"


def _displayname(r: Resource) -> str:
    return f"<D:displayname>{escape(display_text(r.name))}</D:displayname>"


def _length(r: Resource) -> str:
    return "" if r.attr.is_dir else f"<D:getcontentlength>{r.attr.length}</D:getcontentlength>"


def _type(r: Resource) -> str:
    kind = kept.DIRECTORY_TYPE if r.attr.is_dir else escape(kept.content_type(r.name, r.xattrs))
    return f"<D:getcontenttype>{kind}</D:getcontenttype>"


def _etag(r: Resource) -> str:
    return "" if r.attr.is_dir else f'<D:getetag>"{escape(kept.etag_of(r.ino, r.attr, r.xattrs))}"</D:getetag>'


def _modified(r: Resource) -> str:
    return f"<D:getlastmodified>{http_date(r.attr.mtime_ns // _NS)}</D:getlastmodified>"


def _created(r: Resource) -> str:
    seconds = min(r.attr.mtime_ns, r.attr.ctime_ns) // _NS
    if r.xattrs and X_DEAD in r.xattrs:
        stored = r.dead.get((MICROSOFT, "Win32CreationTime"))
        ns = parse_any_ns(stored.inner) if stored else None
        if ns is not None:
            seconds = ns // _NS
    return f"<D:creationdate>{iso_date(seconds)}</D:creationdate>"


def _language(r: Resource) -> str:
    if r.attr.is_dir or not r.xattrs or X_META not in r.xattrs:
        return ""
    text = kept.stored_meta(r.xattrs).get("content-language", "")
    return f"<D:getcontentlanguage>{escape(text)}</D:getcontentlanguage>" if text else ""


SUPPORTED_LOCK: Final = (
    "<D:supportedlock>"
    "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    "<D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/></D:locktype></D:lockentry>"
    "</D:supportedlock>"
)


def active_locks(locks: Sequence[Lock], lock_prefix: tuple[Path, Path], now_ns: int) -> str:
    """The content of lockdiscovery."""
    prefix, root = lock_prefix
    parts = []
    for lock in locks:
        # A lock above the export is shown at its top: the names above are nobody's business.
        where = escape(href(prefix + lock.path[len(root) :]))
        left = max(0, (lock.expires - now_ns) // _NS)
        parts.append(
            "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope>"
            f"<D:{'exclusive' if lock.exclusive else 'shared'}/></D:lockscope>"
            f"<D:depth>{'infinity' if lock.infinite else '0'}</D:depth><D:owner>{lock.owner}</D:owner>"
            f"<D:timeout>Second-{left}</D:timeout><D:locktoken><D:href>{lock.urn}</D:href></D:locktoken>"
            f"<D:lockroot><D:href>{where}</D:href></D:lockroot></D:activelock>"
        )
    return "".join(parts)


def lock_document(lock: Lock, lock_prefix: tuple[Path, Path]) -> bytes:
    """The answer to LOCK (§12.3)."""
    active = active_locks([lock], lock_prefix, time.time_ns())
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<D:prop xmlns:D="DAV:"><D:lockdiscovery>'
        f"{active}</D:lockdiscovery></D:prop>"
    ).encode()


def _discovery(r: Resource) -> str:
    if not r.locks:
        return "<D:lockdiscovery/>"
    return f"<D:lockdiscovery>{active_locks(r.locks, r.lock_prefix, time.time_ns())}</D:lockdiscovery>"


def _supported(r: Resource) -> str:
    return SUPPORTED_LOCK


def _executable(r: Resource) -> str:
    if r.attr.is_dir:
        return ""
    return f'<A:executable xmlns:A="{APACHE}">{"T" if r.attr.mode & 0o111 else "F"}</A:executable>'


def _available(r: Resource) -> str:
    if r.quota is None:
        return ""
    return f"<D:quota-available-bytes>{max(0, r.quota.available)}</D:quota-available-bytes>"


def _used(r: Resource) -> str:
    return "" if r.quota is None else f"<D:quota-used-bytes>{max(0, r.quota.used)}</D:quota-used-bytes>"


Maker = Callable[[Resource], str]

#: In the order in which allprop shows them.
ALL: Final[dict[Name, Maker]] = {
    (DAV, "resourcetype"): _resourcetype,
    (DAV, "displayname"): _displayname,
    (DAV, "creationdate"): _created,
    (DAV, "getlastmodified"): _modified,
    (DAV, "getcontentlength"): _length,
    (DAV, "getcontenttype"): _type,
    (DAV, "getetag"): _etag,
    (DAV, "getcontentlanguage"): _language,
    (DAV, "lockdiscovery"): _discovery,
    (DAV, "supportedlock"): _supported,
    EXECUTABLE: _executable,
}
#: Only if somebody names them.
ASKED: Final[dict[Name, Maker]] = {
    (DAV, "quota-available-bytes"): _available,
    (DAV, "quota-used-bytes"): _used,
}
LIVE: Final[dict[Name, Maker]] = {**ALL, **ASKED}
LOCK_NAMES: Final = ((DAV, "lockdiscovery"), (DAV, "supportedlock"))
QUOTA_NAMES: Final = frozenset(ASKED)
#: Never set by clients (§4.1). Others of DAV: are dead properties like any.
PROTECTED: Final = frozenset(LIVE) - {
    (DAV, "getlastmodified"), (DAV, "getcontentlanguage"), EXECUTABLE,
}  # fmt: skip


def dead_element(name: Name, value: Dead | None) -> str:
    """A dead property, or its empty element if value is None."""
    space, local = name
    inner = value.inner if value else ""
    lang = f' xml:lang="{escape(value.lang, {chr(34): "&quot;"})}"' if value and value.lang else ""
    if space == DAV:
        start, end = f"<D:{local}{lang}", f"</D:{local}>"
    elif space:
        start, end = f'<X:{local} xmlns:X="{escape(space, {chr(34): "&quot;"})}"{lang}', f"</X:{local}>"
    else:
        start, end = f'<{local} xmlns=""{lang}', f"</{local}>"
    return f"{start}>{inner}{end}" if inner else start + "/>"
