# SPDX-License-Identifier: Apache-2.0
"""Dates as HTTP and WebDAV write and read them. Pure functions; English names whatever the locale.

Source: spec webdav §4.1, §6.2, §8 (X-OC-Mtime).
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import formatdate, mktime_tz, parsedate_tz
from functools import lru_cache
from typing import Final

_NS: Final = 1_000_000_000
#: Seconds that fit into 64-bit nanoseconds, and into the four-digit years of the formats.
_MAX_S: Final = 9_000_000_000
_EPOCH: Final = re.compile(r"(\d{1,10})(?:\.(\d{1,18}))?")


@lru_cache(65536)
def http_date(seconds: int) -> str:
    return formatdate(min(max(seconds, -_MAX_S), _MAX_S), usegmt=True)


@lru_cache(65536)
def iso_date(seconds: int) -> str:
    when = datetime.fromtimestamp(min(max(seconds, -_MAX_S), _MAX_S), UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_http_date(text: str) -> int | None:
    try:
        fields = parsedate_tz(text)
        return None if fields is None else int(mktime_tz(fields))
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def parse_epoch_ns(text: str) -> int | None:
    """Decimal seconds with an optional fraction, not negative (X-OC-Mtime)."""
    found = _EPOCH.fullmatch(text.strip())
    if found is None:
        return None
    seconds, fraction = int(found[1]), (found[2] or "")
    return None if seconds > _MAX_S else seconds * _NS + int(fraction.ljust(9, "0")[:9] or 0)


def parse_any_ns(text: str) -> int | None:
    """An HTTP date, RFC 3339, or decimal epoch seconds (§6.2)."""
    text = text.strip()
    ns = parse_epoch_ns(text)
    if ns is not None:
        return ns
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        seconds = parse_http_date(text)
        return None if seconds is None or not -_MAX_S < seconds < _MAX_S else seconds * _NS
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    seconds = int(when.timestamp())
    return seconds * _NS + when.microsecond * 1000
