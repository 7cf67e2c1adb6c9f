# SPDX-License-Identifier: Apache-2.0
"""The access log as a file that is read: every reader gets the lines from its open on, in a buffer of its own.

Whoever serves requests asks `listening` before it makes a line, so a log that nobody reads costs one attribute. A slow
reader loses the newest lines (and is told how many), never makes a request wait, and never takes more memory than
`MAX_LINES` lines of `MAX_LINE` bytes. Source: cli §10.1 (10240 lines per reader, `#` in an idle second).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

MAX_LINES: Final = 10_240
#: Longer lines are cut: a line holds at most two names of 255 bytes and a link's target.
MAX_LINE: Final = 8 << 10
IDLE_S: Final = 1.0
#: After the first line a read waits so long for others: under load one read then brings hundreds of them.
GATHER_S: Final = 0.01
_IDLE: Final = b"#\n"


class AccessLog:
    """All readers of one mount's log. Event loop only."""

    def __init__(self) -> None:
        self._readers: set[LogReader] = set()
        #: Does anybody read? Checked by whoever would have to make the line.
        self.listening = False
        #: Told whenever that changes, for whoever prepares lines at some cost.
        self.on_listening: Callable[[bool], None] | None = None

    def write(self, line: str) -> None:
        """One line without its end; names in it may hold any byte (surrogateescape)."""
        raw = line.encode("utf-8", "surrogateescape")[:MAX_LINE] + b"\n"
        for reader in self._readers:
            reader.add(raw)

    def open(self) -> LogReader:
        reader = LogReader(self)
        self._readers.add(reader)
        self._listen()
        return reader

    def closed(self, reader: LogReader) -> None:
        self._readers.discard(reader)
        self._listen()

    def _listen(self) -> None:
        if self.listening != bool(self._readers):
            self.listening = bool(self._readers)
            if self.on_listening is not None:
                self.on_listening(self.listening)


class LogReader:
    """One open access log. Offsets mean nothing: it is a stream. One read at a time."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log
        self._lines: deque[bytes] = deque()
        self._rest = b""  # of a line that didn't fit into the last read
        self._lost = 0
        self._come = asyncio.Event()

    def add(self, raw: bytes) -> None:
        if len(self._lines) >= MAX_LINES:
            self._lost += 1
            return
        if self._lost:
            self._lines.append(b"# %d lines were lost: the reader is too slow\n" % self._lost)
            self._lost = 0
        self._lines.append(raw)
        self._come.set()

    async def read(self, offset: int, size: int) -> bytes:
        """What was logged since the last read, or `#` after a second in which nothing was. Cancelling loses nothing."""
        if not self._lines and not self._rest:
            self._come.clear()
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._come.wait()
                await asyncio.sleep(GATHER_S)
            except TimeoutError:
                return _IDLE[:size]
        # No await from here on.
        parts, room = [self._rest], size - len(self._rest)
        while room > 0 and self._lines:
            parts.append(self._lines.popleft())
            room -= len(parts[-1])
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]

    def close(self) -> None:
        self._log.closed(self)
        self._lines.clear()
        self._rest = b""
