# SPDX-License-Identifier: Apache-2.0
"""The access log: one line per request, text or JSON, without secrets.

Lines gather in memory and leave in one `write` of whole lines on an O_APPEND descriptor, so that workers can share a
file. A file that was renamed away (logrotate) is noticed at the next flush and opened anew.
Source: spec s3 §19 (masked values) and §21 (`--access-log`).

Text line: time, peer, method, target as JSON string, status, bytes received (declared), bytes sent, milliseconds,
request id, and `cut` if the answer did not go out completely.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable

from core.errors import ConfigError
from gateways.http.messages import Request, Response

log = logging.getLogger("sluice.http.access")

#: Headers by which a door numbers its answers.
_REQUEST_IDS = frozenset(("x-amz-request-id", "x-request-id"))

#: Flush at once beyond this; the server's tick does it once per second otherwise.
FLUSH_BYTES = 64 * 1024

# Query values that let somebody act as the client (or guess at its key). Names may come percent-encoded; a name that
# is encoded differently from every client's spelling is masked by the second alternative.
_SECRET = re.compile(
    r"((?:^|[?&])(?:X-Amz-Signature|X-Amz-Security-Token|Signature|AWSAccessKeyId|X-Amz-Credential"
    r"|[^=&]*%[0-9A-Fa-f]{2}[^=&]*)=)[^&]*",
    re.IGNORECASE,
)


def mask(target: str) -> str:
    """A request target whose secret query values are replaced by ***."""
    path, mark, query = target.partition("?")
    if not mark:
        return target
    return path + "?" + _SECRET.sub(r"\1***", query)


class AccessLog:
    """An observer for `Server`: pass `log.observe`, and `log.flush` as a tick job."""

    def __init__(self, path: str, *, json_lines: bool = False, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._json = json_lines
        self._clock = clock
        self._lines: list[str] = []
        self._size = 0
        self._second = -1
        self._second_text = ""
        self._fd = -1
        self._open()

    def _open(self) -> None:
        try:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ConfigError(f"access log {self._path} can't be opened: {error.strerror}") from error

    def observe(self, request: Request, response: Response, sent: int, seconds: float, complete: bool) -> None:
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        when = f"{self._second_text}.{int(now * 1000) % 1000:03d}Z"
        target = mask(request.target) if request.query_string else request.target
        request_id = "-"
        for name, value in response.headers:
            if name.lower() in _REQUEST_IDS:
                request_id = value
                break
        received = request.body.length or 0
        ms = round(seconds * 1000, 3)
        if self._json:
            line = json.dumps(
                {
                    "time": when, "peer": request.peer, "method": request.method, "target": target,
                    "status": response.status, "received": received, "sent": sent, "ms": ms,
                    "request_id": request_id, "complete": complete,
                }
            )  # fmt: skip
        else:
            # The target is the only field a client can put quotes or control characters into.
            line = (
                f"{when} {request.peer or '-'} {request.method} {json.dumps(target)} {response.status} {received} "
                f"{sent} {ms} {request_id}{'' if complete else ' cut'}"
            )
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what gathered. A full disk loses lines, never requests."""
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode("utf-8", "backslashreplace")
        self._lines.clear()
        self._size = 0
        try:
            self._reopen_if_moved()
            os.write(self._fd, data)
        except (OSError, ConfigError) as error:
            log.warning("access log %s: lines were lost: %s", self._path, error)

    def _reopen_if_moved(self) -> None:
        ours = os.fstat(self._fd)
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev):
            os.close(self._fd)
            self._open()

    def close(self) -> None:
        self.flush()
        os.close(self._fd)
        self._fd = -1
