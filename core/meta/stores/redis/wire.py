# SPDX-License-Identifier: Apache-2.0
"""One physical connection to Redis that pipelines by itself.

Commands issued in one turn of the event loop leave in one write; replies are parsed by hiredis (RESP2, bytes) and
matched to futures in order. No task, timer or lock per command. Bounded: `full` tells callers to wait for `room`.
A connection that is lost fails every waiting command, and tells which of them may have reached the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from hiredis import Reader, ReplyError

MAX_PENDING: Final = 8192  # commands without an answer; 8192 of about 1 KB keep a server busy for 0.1 s or more
MAX_QUEUED_BYTES: Final = 8 << 20  # packed commands of one turn; xattrs and chunk lists can be 60 KB each
_MORE: Final = object()

#: One command as bytes; takes str, bytes, int and float. (The library's own annotation knows one-element tuples only.)
pack_command: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command


class WireLost(Exception):
    """The connection ended before the answer came. `sent`: the server may have seen the command."""

    def __init__(self, cause: str, sent: bool) -> None:
        super().__init__(cause)
        self.sent = sent


class _Batch:
    """Several replies that belong to one future."""

    __slots__ = ("future", "left", "replies")

    def __init__(self, future: asyncio.Future[Any], count: int) -> None:
        self.future = future
        self.left = count
        self.replies: list[Any] = []


class Wire(asyncio.Protocol):
    """`send` queues packed commands and returns the future of their reply (a list, if there are several).

    An error reply is a `hiredis.ReplyError` as result, not as exception: the caller decides. A cancelled future
    changes nothing for the others; its reply is dropped when it comes.
    """

    def __init__(self, *, read_timeout_s: float, write_timeout_s: float, lost: Callable[[Wire], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = Reader(notEnoughData=_MORE)
        self._pending: deque[asyncio.Future[Any] | _Batch] = deque()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._transport: asyncio.Transport | None = None
        self._read_timeout_s = read_timeout_s
        self._write_timeout_s = write_timeout_s
        self._lost = lost
        self._cause = ""
        self._progress = 0.0  # when something last came in, or when the queue stopped being empty
        self._paused_at = 0.0  # 0: the socket takes data
        self._watch: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self.peer = ""  # host:port of a TCP server
        self.address: tuple[str, int] | None = None  # as it was dialled
        self.server = ""  # which process answers; a restarted server is another one
        self.full = False
        self.closed = False

    # -- sending ------------------------------------------------------------------------------------------------

    def send(self, packed: bytes, count: int = 1) -> asyncio.Future[Any]:
        """Never waits; look at `full` first. `count`: how many commands are packed."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.closed:
            future.set_exception(WireLost(self._cause, False))
            return future
        pending = self._pending
        if not pending:
            self._progress = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_later(self._read_timeout_s, self._check)
        pending.append(future if count == 1 else _Batch(future, count))
        if not self._out:
            # Runs after every task that is ready now, so all they ask for leaves together.
            self._loop.call_soon(self._flush)
        self._out.append(packed)
        self._out_bytes += len(packed)
        if len(pending) >= MAX_PENDING or self._out_bytes >= MAX_QUEUED_BYTES:
            self.full = True
        return future

    @property
    def silent_s(self) -> float:
        """For how long somebody has been waiting without anything coming in."""
        return self._loop.time() - self._progress if self._pending and not self.closed else 0.0

    def _flush(self) -> None:
        out = self._out
        if out and self._transport is not None and not self.closed:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._out_bytes = 0
            self._transport.write(data)
            if self.full and not self._paused_at and len(self._pending) < MAX_PENDING:
                self._make_room()

    async def room(self) -> None:
        """Wait until `full` is over or the connection is lost."""
        while self.full and not self.closed:
            if self._room is None:
                self._room = self._loop.create_future()
            await asyncio.shield(self._room)

    def _make_room(self) -> None:
        self.full = False
        if self._room is not None:
            if not self._room.done():
                self._room.set_result(None)
            self._room = None

    def close(self, cause: str = "closed") -> None:
        """End the connection now; waiting commands fail with `WireLost`."""
        self._cause = self._cause or cause
        if self._transport is not None:
            self._transport.abort()
        self._end()

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports have no common base class
        self._transport.set_write_buffer_limits(high=4 << 20)
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.peer = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    def pause_writing(self) -> None:
        self._paused_at = self._loop.time()
        self.full = True
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_later(self._write_timeout_s, self._check)

    def resume_writing(self) -> None:
        self._paused_at = 0.0
        if len(self._pending) < MAX_PENDING:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self._pending
        future: Any
        self._progress = self._loop.time()
        try:
            reader.feed(data)
            gets = reader.gets
            while (reply := gets()) is not _MORE:
                waiter = pending[0]
                if type(waiter) is _Batch:
                    waiter.replies.append(reply)
                    waiter.left -= 1
                    if waiter.left:
                        continue
                    future, reply = waiter.future, waiter.replies
                else:
                    future = waiter
                pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except Exception as e:  # a broken reply or one nobody asked for: the stream has lost its meaning
            self.close(f"unreadable answer ({type(e).__name__}: {e})")
            return
        if self.full and not self._paused_at and len(pending) < MAX_PENDING // 2:
            self._make_room()

    def eof_received(self) -> None:
        self._cause = self._cause or "the server closed the connection"

    def connection_lost(self, exc: Exception | None) -> None:
        self._cause = self._cause or (str(exc) if exc else "the server closed the connection")
        self._end()

    # -- the end ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """One timer for all: has the server been silent, or the socket stuck, for too long?"""
        self._watch = None
        now = self._loop.time()
        if self._paused_at and now - self._paused_at >= self._write_timeout_s:
            self.close(f"the server takes no data for {self._write_timeout_s:g} s")
        elif self._pending and now - self._progress >= self._read_timeout_s:
            self.close(f"no answer for {self._read_timeout_s:g} s")
        elif self._pending:
            left = self._progress + self._read_timeout_s - now
            if self._paused_at:
                left = min(left, self._paused_at + self._write_timeout_s - now)
            self._watch = self._loop.call_later(max(left, 0.01), self._check)

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        # Commands still in `_out` never left this process.
        reached = len(self._pending) - len(self._out)
        self._out.clear()
        for i, waiter in enumerate(self._pending):
            future = waiter.future if type(waiter) is _Batch else waiter
            assert isinstance(future, asyncio.Future)
            if not future.done():
                future.set_exception(WireLost(self._cause, i < reached))
        self._pending.clear()
        self._make_room()
        self._lost(self)


def first_error(replies: Any) -> ReplyError | None:
    """The first error among the replies of a batch, one level deep (the answer of EXEC is a list)."""
    for reply in replies:
        if isinstance(reply, ReplyError):
            return reply
        if type(reply) is list:
            for inner in reply:
                if isinstance(inner, ReplyError):
                    return inner
    return None
