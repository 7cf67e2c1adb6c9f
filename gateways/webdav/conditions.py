# SPDX-License-Identifier: Apache-2.0
"""HTTP's own conditional headers: If-Match, If-None-Match, and the two dates. Pure functions.

Order of RFC 9110 §13.2.2. ETags are given without quotes; dates are whole seconds. Source: spec webdav §14.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateways.webdav.dates import parse_http_date
from gateways.webdav.errors import DavError

_TAG: Final = re.compile(r'\s*(W/)?"([^"]*)"\s*(?:,|$)|\s*([^",\s]+)\s*(?:,|$)')


def _matches(header: str, etag: str | None, *, weak: bool) -> bool:
    """Is the ETag among those of the header? None: there is no resource. weak: W/ tags may match."""
    if header.strip() == "*":
        return etag is not None
    if etag is None:
        return False
    at = 0
    while at < len(header):
        found = _TAG.match(header, at)
        if found is None:
            return False
        at = found.end()
        tag = found[2] if found[2] is not None else found[3]  # some clients leave the quotes out
        if tag == etag and (weak or not found[1]):
            return True
        if found.end() == found.start():
            return False
    return False


def evaluate(headers: Mapping[str, str], etag: str | None, mtime_s: int, *, reading: bool) -> bool:
    """True: answer 304. Raises 412. etag: None if the resource is missing."""
    match = headers.get("if-match")
    if match is not None:
        if not _matches(match, etag, weak=False):
            raise DavError(412, "If-Match does not hold.")
    elif (text := headers.get("if-unmodified-since")) is not None:
        since = parse_http_date(text)
        if since is not None and etag is not None and mtime_s > since:
            raise DavError(412, "If-Unmodified-Since does not hold.")
    none = headers.get("if-none-match")
    if none is not None:
        if _matches(none, etag, weak=True):
            if reading:
                return True
            raise DavError(412, "If-None-Match does not hold.")
    elif reading and (text := headers.get("if-modified-since")) is not None:
        since = parse_http_date(text)
        return since is not None and etag is not None and mtime_s <= since
    return False


def range_applies(if_range: str | None, etag: str, mtime_s: int) -> bool:
    """Does If-Range let the Range header count? Strong comparison, or the exact date."""
    if not if_range:
        return True
    if if_range.lstrip().startswith(('"', "W/")):
        return if_range.strip() == f'"{etag}"'
    return parse_http_date(if_range) == mtime_s
