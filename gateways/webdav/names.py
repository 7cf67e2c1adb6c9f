# SPDX-License-Identifier: Apache-2.0
"""URLs and names: request target to path, path to href, and the spelling that WsgiDAV is given. Pure functions.

A path is a tuple of names (bytes, any encoding) below the root of what is served. Source: spec webdav §2, §5 (href).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gateways.webdav.errors import DavError

Path = tuple[bytes, ...]

#: Names at the root of a volume that clients never see (§2.2).
HIDDEN: Final = frozenset(
    {b".sys", b".minio.sys", b".trash", b".stats", b".config", b".accesslog", b".control", b".jfs.sys"}
)
MAX_NAME: Final = 255
MAX_PATH: Final = 4096
_HEX: Final = frozenset("0123456789abcdefABCDEF")
#: What hrefs keep as it is: gvfs compares strings, so `(` and `)` must stay (§5).
_HREF_SAFE: Final = "/!$&'()*+,;=:@"


class Target(NamedTuple):
    """A parsed URL path. slash: it ended in one, so a collection is meant."""

    path: Path
    slash: bool


def parse_target(target: str, prefix: Path = ()) -> Target:
    """The path of a request target. 400 for what can't be a path, 414 for too long, 404 outside the prefix."""
    if not target.startswith("/"):
        # Absolute form (RFC 9112 §3.2.2), as proxies send it.
        scheme, mark, rest = target.partition("://")
        if not mark or scheme.lower() not in ("http", "https"):
            raise DavError(400, "The request target must be an absolute path.")
        target = "/" + rest.partition("/")[2]
    raw = target.partition("?")[0]
    if "#" in raw:
        raise DavError(400, "A fragment does not belong into a request target.")
    names = parse_names(raw)
    if names[: len(prefix)] != prefix:
        raise DavError(404, "Nothing is served outside the prefix.")
    return Target(names[len(prefix) :], raw.endswith("/"))


def parse_names(raw: str) -> Path:
    """Percent-encoded path text to names; decoded exactly once."""
    at = raw.find("%")
    while at >= 0:
        if not (len(raw) > at + 2 and raw[at + 1] in _HEX and raw[at + 2] in _HEX):
            raise DavError(400, "Bad percent encoding in the path.")
        at = raw.find("%", at + 3)
    try:
        coded = raw.encode("latin-1")
    except UnicodeEncodeError:
        coded = raw.encode("utf-8", "surrogateescape")
    names = []
    total = 0
    for segment in coded.split(b"/"):
        if not segment:
            continue
        name = unquote_to_bytes(segment) if b"%" in segment else segment
        # A decoded slash would be another path; it can't be part of a name either.
        if name in (b".", b"..") or b"\0" in name or b"/" in name:
            raise DavError(400, "The path holds a segment that can't be a name.")
        if len(name) > MAX_NAME:
            raise DavError(414, "A name in the path is longer than 255 bytes.")
        total += len(name) + 1
        names.append(name)
    if total > MAX_PATH:
        raise DavError(414, "The path is longer than 4096 bytes.")
    return tuple(names)


def parse_prefix(text: str) -> Path:
    return parse_names(text)


@lru_cache(8192)
def quote_name(name: bytes) -> str:
    return quote_from_bytes(name, _HREF_SAFE)


def href(path: Path, *, collection: bool = False) -> str:
    """Absolute path for an answer, percent-encoded but not XML-escaped."""
    if not path:
        return "/"
    text = "/" + "/".join(map(quote_name, path))
    return text + "/" if collection else text


#: Shown only on request, and then only to be read and moved out of (§2.2).
TRASH: Final = b".trash"


def is_hidden(path: Path, *, show_trash: bool = False) -> bool:
    """Is this volume path one of the names that are never shown, or below one?"""
    return bool(path) and path[0] in HIDDEN and not (show_trash and path[0] == TRASH)


def volume_bytes(path: Path) -> bytes:
    return b"/" + b"/".join(path)


def starts_with(path: Path, above: Path) -> bool:
    """Is `path` at or below `above`?"""
    return path[: len(above)] == above


# -- the spelling for WsgiDAV --------------------------------------------------------------------------------------
# WsgiDAV quotes, unquotes and parses paths as URLs in many places. Letters, digits and `=` survive all of that, so
# each other byte travels as `=XX`; nothing in a name can be taken for syntax.


def to_layer(path: Path) -> str:
    return "/" + "/".join(quote_from_bytes(name, "").replace("%", "=").replace(".", "=2E") for name in path)


def from_layer(text: str) -> Path:
    return tuple(unquote_to_bytes(part.replace("=", "%")) for part in text.split("/") if part)


# -- Destination ---------------------------------------------------------------------------------------------------


def split_reference(text: str) -> tuple[str, str]:
    """(authority in lower case without default port, path) of an absolute URI or absolute path. 400 otherwise."""
    text = text.strip()
    if any(c in text for c in "\r\n\0\\") or not text:
        raise DavError(400, "The URL in the header is malformed.")
    if text.startswith("//"):
        raise DavError(400, "The URL in the header is malformed.")
    if text.startswith("/"):
        return "", text.partition("?")[0]
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() not in ("http", "https"):
        raise DavError(400, "The URL in the header must be an http(s) URL or an absolute path.")
    authority, _, path = rest.partition("/")
    return normal_authority(authority), "/" + path.partition("?")[0]


def normal_authority(text: str) -> str:
    """For comparing: no user, no default port, lower case."""
    text = text.rpartition("@")[2].strip().lower()
    for port in (":80", ":443"):
        if text.endswith(port):
            return text.removesuffix(port)
    return text
