# SPDX-License-Identifier: Apache-2.0
"""Cross-origin requests, off unless origins are named. No IO. Source: spec webdav §17; Fetch standard (CORS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateways.http.messages import Request, Response

_METHODS: Final = "OPTIONS, GET, HEAD, PUT, PATCH, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK"
_HEADERS: Final = (
    "Authorization, Content-Type, Depth, Destination, If, If-Match, If-None-Match, Lock-Token, Overwrite, Range, "
    "Timeout, X-OC-Mtime, X-Update-Range, X-Requested-With"
)
_EXPOSED: Final = "DAV, ETag, Last-Modified, Lock-Token, Content-Range, Content-Length, Location, WWW-Authenticate"
_MAX_AGE: Final = "600"


class Cors:
    """Which origins may ask. `*` allows all, then without credentials."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)
        self.enabled = bool(origins)

    def allows(self, origin: str) -> bool:
        return "*" in self._origins or origin in self._origins

    def preflight(self, request: Request) -> Response | None:
        """The answer if this OPTIONS asks for permission; None if it is WebDAV's."""
        origin = request.headers.get("origin")
        if not self.enabled or origin is None or "access-control-request-method" not in request.headers:
            return None
        response = Response(200, [("Vary", "Origin")])
        if self.allows(origin):
            response.headers += [
                ("Access-Control-Allow-Methods", _METHODS),
                ("Access-Control-Allow-Headers", _HEADERS),
                ("Access-Control-Max-Age", _MAX_AGE),
            ]
        return response

    def decorate(self, request: Request, response: Response) -> None:
        origin = request.headers.get("origin")
        if origin is None or not self.allows(origin):
            return
        if origin in self._origins:
            response.headers += [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Allow-Credentials", "true"),
                ("Vary", "Origin"),
            ]
        else:
            response.headers.append(("Access-Control-Allow-Origin", "*"))
        response.headers.append(("Access-Control-Expose-Headers", _EXPOSED))
