# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 responses from bytes; no IO.

Source: RFC 9112 §4 (status line), §5 (fields), §6 (body length), §7.1 (chunked).
"""

from __future__ import annotations

from typing import NamedTuple

from core.object.api import Buffer

# RFC 9112 leaves the limit to us. S3 answers have less than 2 KiB of fields; user metadata adds 2 KiB.
MAX_HEAD = 64 << 10
# A chunk-size line is a hex number and extensions nobody uses.
MAX_CHUNK_LINE = 4096

CHUNKED = -1
UNTIL_CLOSE = -2


class BadResponse(Exception):
    """The peer does not speak HTTP/1.1."""


class Head(NamedTuple):
    status: int
    headers: dict[str, str]  # lower-case names; repeated fields joined by a comma
    keep_alive: bool


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Buffer


def parse_head(data: bytes) -> Head:
    """Status line and fields, without the empty line that ends them."""
    lines = data.split(b"\r\n")
    first = lines[0]
    # "HTTP/1.1 200 OK"; the reason may be missing.
    if len(first) < 12 or first[:7] != b"HTTP/1." or first[8:9] != b" " or not first[9:12].isdigit():
        raise BadResponse(f"not a status line: {first[:40]!r}")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or not name or name[-1:] in b" \t" or name[:1] in b" \t":
            raise BadResponse(f"not a header line: {line[:40]!r}")
        key = name.decode("latin-1").lower()
        text = value.strip(b" \t").decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    connection = headers.get("connection", "").lower()
    keep = "close" not in connection if first[7:8] == b"1" else "keep-alive" in connection
    return Head(int(first[9:12]), headers, keep)


def body_length(method: str, head: Head) -> int:
    """Bytes of the body, CHUNKED or UNTIL_CLOSE."""
    if method == "HEAD" or head.status in (204, 304) or head.status < 200:
        return 0
    coding = head.headers.get("transfer-encoding")
    if coding is not None:
        if coding.lower() != "chunked":
            raise BadResponse(f"transfer coding {coding!r} is not supported")
        return CHUNKED
    length = head.headers.get("content-length")
    if length is None:
        return UNTIL_CLOSE
    if not length.isascii() or not length.isdigit():
        raise BadResponse(f"not a content length: {length[:40]!r}")
    return int(length)


class ChunkedDecoder:
    """`feed(data)` collects the body; `done` is True after the last chunk and its trailers."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.done = False
        self.excess = False  # bytes after the end
        self._line = bytearray()
        self._left = 0  # bytes of the current chunk, then of the CR LF behind it
        self._state = "size"

    def feed(self, data: memoryview) -> None:
        at = 0
        while at < len(data):
            if self.done:
                self.excess = True
                return
            if self._state == "data":
                part = data[at : at + self._left]
                self.body += part
                at += len(part)
                self._left -= len(part)
                if not self._left:
                    self._state = "end"
                continue
            # Lines are short, and few: one per chunk.
            piece = bytes(data[at : at + MAX_CHUNK_LINE])
            end = piece.find(b"\n")
            self._line += piece if end < 0 else piece[: end + 1]
            at += len(piece) if end < 0 else end + 1
            if len(self._line) > MAX_CHUNK_LINE:
                raise BadResponse("a chunk line or trailer is too long")
            if end >= 0:
                self._take_line(bytes(self._line).rstrip(b"\r\n"))
                self._line.clear()

    def _take_line(self, line: bytes) -> None:
        if self._state == "end":
            if line:
                raise BadResponse("a chunk is longer than it said")
            self._state = "size"
        elif self._state == "trailer":
            self.done = not line
        else:
            digits = line.partition(b";")[0].strip()
            if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
                raise BadResponse(f"not a chunk size: {line[:40]!r}")
            self._left = int(digits, 16)
            self._state = "data" if self._left else "trailer"
