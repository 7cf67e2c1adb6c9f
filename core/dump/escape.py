# SPDX-License-Identifier: Apache-2.0
"""Bytes as text in a JSON dump: names, link targets and values of extended attributes need not be UTF-8.

Bytes up to 0x20, `%`, `"`, `\\` and whatever is no valid UTF-8 become `%XX`; the rest stands as it is
(spec metadata-semantics §15.1). The original damages a genuine U+FFFD, so that is escaped too; every reader decodes it.
"""

from __future__ import annotations

import re
from typing import Final

_ESCAPED: Final = {
    **{chr(byte): f"%{byte:02X}" for byte in (*range(0x21), *b'%"\\')},
    **{chr(0xDC00 + byte): f"%{byte:02X}" for byte in range(0x80, 0x100)},  # surrogateescape's stand-ins
    "\ufffd": "%EF%BF%BD",
}
_SPECIAL = re.compile('[\x00-\x20%"\\\\\ufffd\udc80-\udcff]')
_CODE = re.compile(rb"%([0-9A-F]{2})")
_BYTES: Final = {b"%02X" % byte: bytes((byte,)) for byte in range(256)}

#: What Go's JSON writer escapes inside strings beyond the standard; entry names are written without it.
_HTML: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_HTML_SPECIAL = re.compile("[<>&\u2028\u2029]")


def escape(raw: bytes) -> str:
    text = raw.decode("utf-8", "surrogateescape")
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda found: _ESCAPED[found[0]], text)


def unescape(text: str) -> bytes:
    """Inverse of `escape`. A `%` without two upper-case hex digits stands for itself."""
    raw = text.encode("utf-8", "surrogateescape")
    if b"%" not in raw:
        return raw
    return _CODE.sub(lambda found: _BYTES[found[1]], raw)


def html_safe(text: str) -> str:
    """JSON text as Go writes it; equal for every reader, but equal bytes are easier to compare."""
    if _HTML_SPECIAL.search(text) is None:
        return text
    return _HTML_SPECIAL.sub(lambda found: _HTML[found[0]], text)
