# SPDX-License-Identifier: Apache-2.0
"""Text inside S3 XML: escaping, time stamps, `encoding-type=url`.

Pure functions without imports from the rest of the gateway, so that errors.py and xml.py can share them.
Source: spec s3 §8 (escapes, times) and §10.5 (URL encoding).
"""

from __future__ import annotations

import time
from functools import lru_cache
from urllib.parse import quote_from_bytes

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

#: Markup, and the characters that XML parsers would otherwise normalize or refuse. NUL can't be written at all;
#: no key may contain it. Below 0x20 is what AWS sends too: not well-formed XML 1.0, clients avoid it with
#: `encoding-type=url`.
_ESCAPES = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;", ord('"'): "&quot;"}
_ESCAPES.update({c: f"&#x{c:X};" for c in range(1, 0x20)})
_ESCAPES[0] = "\ufffd"
_ESCAPES[0x7F] = "&#x7F;"
_ESCAPES[0xFFFE] = _ESCAPES[0xFFFF] = "\ufffd"

_CONTROLS = bytes(c for c in _ESCAPES if c < 0x20 or c == 0x7F)
_SPECIAL = bytes(c for c in _ESCAPES if c < 0x80)


def escape(text: str) -> str:
    """Text that is safe as XML character data and as an attribute value."""
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        # Lone surrogates stand for file names that aren't UTF-8; they can't be written in XML as they are.
        return text.translate(_ESCAPES).encode("utf-8", "replace").decode()
    # One C pass decides; ordinary keys need no more than that. EF BF begins U+FFFE and U+FFFF.
    if len(raw.translate(None, _SPECIAL)) == len(raw) and (text.isascii() or b"\xef\xbf" not in raw):
        return text
    if len(raw.translate(None, _CONTROLS)) == len(raw) and b"\xef\xbf" not in raw:
        # Markup alone: four passes in C beat one in Python.
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    return text.translate(_ESCAPES)


def url_encode(raw: bytes) -> str:
    """`encoding-type=url`: every byte but `A-Za-z0-9-._~/` as %XX."""
    return quote_from_bytes(raw, "/")


@lru_cache(maxsize=512)
def _day(days: int) -> str:
    return time.strftime("%Y-%m-%dT", time.gmtime(days * 86400))


def iso_time(seconds: int, nanoseconds: int = 0) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`. Only days are cached: a listing has as many seconds as keys."""
    days, rest = divmod(seconds, 86400)
    return f"{_day(days)}{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}.{nanoseconds // 1_000_000:03d}Z"


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=1024)
def http_time(seconds: int) -> str:
    """RFC 1123 in GMT, as `Last-Modified` and `Date` want it; independent of the locale."""
    t = time.gmtime(seconds)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:02d} {_MONTHS[t.tm_mon]} {t.tm_year} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} GMT"
    )
