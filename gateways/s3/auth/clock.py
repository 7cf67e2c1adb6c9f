# SPDX-License-Identifier: Apache-2.0
"""Times of signatures: both formats, and how far a client's clock may be off. The present is always an argument.

Source: spec s3 §5.2 (formats, ±15 minutes).
"""

from __future__ import annotations

import calendar
import time
from email.utils import mktime_tz, parsedate_tz
from functools import lru_cache

from gateways.s3.errors import S3Error

MAX_SKEW_S = 15 * 60


@lru_cache(maxsize=64)  # all requests of one second carry the same text
def parse_basic(text: str) -> int | None:
    """Unix time of ISO basic `YYYYMMDDTHHMMSSZ`; None if it isn't exactly that."""
    if len(text) != 16 or text[8] != "T" or text[15] != "Z" or not text.isascii():
        return None
    if not (text[:8].isdigit() and text[9:15].isdigit()):
        return None
    try:
        return calendar.timegm(time.strptime(text, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        return None


def format_basic(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def format_iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def parse_any(text: str) -> int | None:
    """ISO basic or RFC 1123 (header `Date`). A time before 1970 is no date of a request: None."""
    found = parse_basic(text)
    if found is None:
        try:
            fields = parsedate_tz(text)
            found = None if fields is None else int(mktime_tz(fields))
        except (ValueError, OverflowError, IndexError, TypeError):
            return None
    return None if found is None or found < 0 else found


def check_skew(signed_at: float, now: float, as_sent: str) -> None:
    """Signed requests are valid ±15 minutes."""
    if -MAX_SKEW_S <= now - signed_at <= MAX_SKEW_S:
        return
    raise S3Error(
        "RequestTimeTooSkewed",
        extra=(
            ("RequestTime", as_sent),
            ("ServerTime", format_iso(now)),
            ("MaxAllowedSkewMilliseconds", str(MAX_SKEW_S * 1000)),
        ),
    )
