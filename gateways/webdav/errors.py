# SPDX-License-Identifier: Apache-2.0
"""What a request is refused with: a status, a line of text or a precondition of RFC 4918, and headers.

One table turns errno into a status. Texts name what failed, never internals. Source: spec webdav §15; RFC 4918 §16.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final
from xml.sax.saxutils import escape

from core.errors import MetaError, ObjectError

XML_TYPE: Final = ("Content-Type", "application/xml; charset=utf-8")
TEXT_TYPE: Final = ("Content-Type", "text/plain; charset=utf-8")
RETRY_AFTER: Final = "2"

REASONS: Final = {
    100: "Continue", 200: "OK", 201: "Created", 204: "No Content", 206: "Partial Content", 207: "Multi-Status",
    304: "Not Modified", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 411: "Length Required",
    412: "Precondition Failed", 413: "Content Too Large", 414: "URI Too Long", 415: "Unsupported Media Type",
    416: "Range Not Satisfiable", 422: "Unprocessable Content", 423: "Locked", 424: "Failed Dependency",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 507: "Insufficient Storage",
}  # fmt: skip


class DavError(Exception):
    """A refusal. condition: local name of a `DAV:` precondition element; hrefs: what it is about."""

    def __init__(
        self, status: int, text: str = "", *, condition: str = "", hrefs: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (), close: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(f"{status} {text or condition or REASONS.get(status, '')}")
        self.status = status
        self.text = text
        self.condition = condition
        self.hrefs = tuple(hrefs)
        self.headers = tuple(headers)
        self.close = close

    def body(self) -> tuple[tuple[str, str], bytes]:
        """Content type and document."""
        if self.condition:
            return XML_TYPE, error_document(self.condition, self.hrefs)
        text = self.text or REASONS.get(self.status, "Error")
        return TEXT_TYPE, (text + "\n").encode("utf-8", "backslashreplace")


def error_document(condition: str, hrefs: Sequence[str] = ()) -> bytes:
    inner = "".join(f"<D:href>{escape(href)}</D:href>" for href in hrefs)
    element = f"<D:{condition}>{inner}</D:{condition}>" if inner else f"<D:{condition}/>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<D:error xmlns:D="DAV:">{element}</D:error>'.encode()


#: errno -> (status when reading, status when changing). Source: spec webdav §15.
_ERRNO: Final = {
    errno.ENOENT: (404, 409), errno.ENOTDIR: (404, 409), errno.EEXIST: (412, 412), errno.EISDIR: (405, 405),
    errno.EACCES: (403, 403), errno.EPERM: (403, 403), errno.EROFS: (403, 403), errno.ENOSPC: (507, 507),
    errno.EDQUOT: (507, 507), errno.ENAMETOOLONG: (414, 414), errno.ELOOP: (404, 409), errno.ENOTEMPTY: (409, 409),
    errno.EINVAL: (403, 403), errno.EXDEV: (507, 507), errno.ETXTBSY: (409, 409), errno.EBUSY: (409, 409),
    errno.ESTALE: (404, 412), errno.EFBIG: (507, 507), errno.ETIMEDOUT: (503, 503), errno.EAGAIN: (503, 503),
    errno.ECONNREFUSED: (503, 503), errno.ECONNRESET: (503, 503), errno.ENOTCONN: (503, 503),
    errno.EHOSTUNREACH: (503, 503), errno.ENETUNREACH: (503, 503), errno.EPIPE: (503, 503), errno.ENOMEM: (503, 503),
    errno.EMFILE: (503, 503),
}  # fmt: skip

_TEXTS: Final = {
    404: "No such file or collection.",
    405: "A collection of this name exists.",
    409: "The collection that should hold it is missing or is a file.",
    412: "It changed or exists already.",
    414: "A name in the path is longer than 255 bytes.",
    503: "The storage is busy or away; try again.",
}


def from_exception(error: BaseException, *, changing: bool = False) -> DavError | None:
    """The answer to a failure of the file system; None for what isn't one (a bug: log it)."""
    if isinstance(error, DavError):
        return error
    if isinstance(error, ObjectError) or (isinstance(error, TimeoutError) and not error.errno):
        return DavError(503, _TEXTS[503], headers=[("Retry-After", RETRY_AFTER)])
    if not isinstance(error, OSError):
        return None
    status = _ERRNO.get(error.errno or 0, (500, 500))[changing]
    if isinstance(error, MetaError) and error.retryable:
        status = 503
    if status == 507:
        # RFC 4331 §6: which of the two limits it was.
        return DavError(507, condition="sufficient-disk-space" if error.errno == errno.ENOSPC else "quota-not-exceeded")
    headers = [("Retry-After", RETRY_AFTER)] if status == 503 else []
    return DavError(status, _TEXTS.get(status, ""), headers=headers)
