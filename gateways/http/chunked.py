# SPDX-License-Identifier: Apache-2.0
"""Chunked transfer coding of request bodies: bytes in, views of the payload out. No IO, no copies of payload.

Strict where leniency enables smuggling: CRLF only, 1–16 hex digits, no blanks, bounded extensions and trailers.
Trailer fields are checked for length and thrown away: S3 clients put their trailers inside aws-chunked.
Source: RFC 9112 section 7.1.
"""

from __future__ import annotations

import re

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?", re.DOTALL)
_TRAILER_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*", re.DOTALL)
#: Longest chunk-size line, extensions included, and longest trailer section; nobody sends either in earnest.
MAX_LINE_BYTES = 1024
MAX_TRAILER_BYTES = 8 * 1024


class ChunkError(Exception):
    """The framing is broken; nothing after this point can be trusted."""


class ChunkedDecoder:
    """Feed what arrives; get payload views. After `ended`, bytes beyond `consumed` belong to the next request."""

    __slots__ = ("_left", "_line", "_state", "_trailer_bytes", "consumed", "ended")

    def __init__(self) -> None:
        self.ended = False
        self.consumed = 0  # of the last `feed`
        self._state = "size"  # size → data → crlf → size …; 0 → trailer
        self._left = 0
        self._line = bytearray()  # a line whose end has not come yet
        self._trailer_bytes = 0

    def feed(self, data: bytes | bytearray) -> list[memoryview]:
        """Payload in `data`, as views of it. Raises `ChunkError`."""
        view = memoryview(data)
        payload: list[memoryview] = []
        at, end = 0, len(data)
        while at < end and not self.ended:
            if self._state == "data":
                take = min(self._left, end - at)
                payload.append(view[at : at + take])
                at += take
                self._left -= take
                if not self._left:
                    self._state = "crlf"
                continue
            at = self._feed_line(data, at, end)
        self.consumed = at
        return payload

    def _feed_line(self, data: bytes | bytearray, at: int, end: int) -> int:
        stop = data.find(b"\n", at, end)
        if stop < 0:
            self._line += data[at:end]
            if len(self._line) > MAX_LINE_BYTES:
                raise ChunkError("A line of the chunk framing is too long.")
            return end
        line = bytes(self._line) + data[at : stop + 1]
        self._line.clear()
        if len(line) > MAX_LINE_BYTES:
            raise ChunkError("A line of the chunk framing is too long.")
        if not line.endswith(b"\r\n"):
            raise ChunkError("A line of the chunk framing ends in LF without CR.")
        self._take_line(line[:-2])
        return stop + 1

    def _take_line(self, line: bytes) -> None:
        if self._state == "crlf":
            if line:
                raise ChunkError("A chunk is longer than its size line says.")
            self._state = "size"
        elif self._state == "size":
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                raise ChunkError("A chunk size is not a hexadecimal number.")
            self._left = int(match[1], 16)
            self._state = "data" if self._left else "trailer"
        elif line:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise ChunkError("The trailer section is too long.")
            if _TRAILER_LINE.fullmatch(line) is None:
                raise ChunkError("A trailer field is malformed.")
        else:
            self.ended = True
