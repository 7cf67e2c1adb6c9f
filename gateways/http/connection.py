# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 connection on an asyncio transport: frames requests, runs the handler, writes answers in order.

The handler's first step runs inside `data_received`: a request that never waits is answered without a scheduler turn.
One that suspends is carried on by the connection's own task, which is also the current task of the first step, so
`asyncio.timeout` and friends work there. Requests of one connection run one after another.
End of input while a handler computes means that the peer is gone (as in nginx and Go): the handler is cancelled.
Source: RFC 9112 sections 6, 7 and 9; spec s3 §2.4 and §19.
"""

from __future__ import annotations

import asyncio
import logging
import math
import types
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, cast

from core.object.api import Buffer
from gateways.http.body import NO_BODY, StreamBody, WholeBody
from gateways.http.chunked import ChunkedDecoder, ChunkError
from gateways.http.head import Head, check_partial, parse_head
from gateways.http.messages import BadRequest, Body, IncompleteBody, Request, Response, SlowBody
from gateways.http.sink import TransportSink
from gateways.http.write import BrokenAnswer, Plan, plan, send

if TYPE_CHECKING:
    from gateways.http.server import Server

log = logging.getLogger("sluice.http.connection")

#: A body up to this size is collected before the handler starts (unless the client waits for 100 Continue): reading
#: it then never suspends. Clients that send head and body in two segments would pay a task switch otherwise.
SMALL_BODY = 64 * 1024
#: After an answer this much of an unread body is swallowed to keep the connection; more closes it (spec §2.4).
DRAIN_BYTES = 1024 * 1024
#: Bytes of following requests that may wait while one is served.
MAX_PIPELINED = 64 * 1024

Handler = Coroutine[Any, Any, Response]


class Connection(TransportSink):
    """Made by `Server` for each accepted socket."""

    __slots__ = (
        "_body", "_busy", "_cancel_resumed", "_decoder", "_discarded", "_eof", "_expect", "_handle", "_head",
        "_input_over", "_left", "_lingering", "_missing", "_pieces", "_plan", "_read_paused", "_request", "_response",
        "_scan", "_sending", "_server", "_started", "_suspended", "_tail", "_task", "_wake", "peer",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        super().__init__(server.loop, server.limits.send_timeout_s)
        self._server = server
        self._handle = server.application.__call__
        self._task: asyncio.Task[None] | None = None
        self.peer = ""
        # input
        self._tail = b""  # bytes not understood yet
        self._scan = 0  # no end of head before this offset of the tail
        self._head: Head | None = None  # of the request being served, or waiting for its small body
        self._pieces: list[bytes] = []  # of that small body
        self._missing = 0
        self._body: StreamBody | None = None  # its bytes are arriving
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._expect = False  # 100 Continue is due at the first read
        self._discarded = 0
        self._eof = False
        self._input_over = False  # whatever comes is thrown away
        self._read_paused = False
        # handling and output
        self._busy = False
        self._request: Request | None = None
        self._response: Response | None = None
        self._started = 0.0
        self._suspended: tuple[Handler, Any] | None = None
        self._cancel_resumed = False
        self._plan: Plan | None = None
        self._wake: asyncio.Future[None] | None = None
        self._sending = False
        self._lingering = False

    # ---- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._attach(cast(asyncio.Transport, transport))  # uvloop's own class is no subclass
        peername = transport.get_extra_info("peername")
        if isinstance(peername, tuple):
            self.peer = peername[0].removeprefix("::ffff:")
        self.deadline = self._loop.time() + self._server.limits.header_timeout_s
        if not self._server.admit(self):
            self._refuse(BadRequest("Too many connections; try again later.", status=503, code="SlowDown"))

    def data_received(self, data: bytes) -> None:
        if self._input_over:
            self._discard(len(data))
            return
        if self._body is not None:
            data = self._take_body(data)
            if not data:
                return
        elif self._missing:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                self.deadline = self._loop.time() + self._server.limits.body_timeout_s
                return
            self._missing = 0
            data = b"".join(self._pieces)
            self._pieces.clear()
        elif self._tail:
            data = self._tail + data
        self._tail = data
        if not self._busy:
            self._pump(inside=False)
        elif len(data) > MAX_PIPELINED:
            self._pause()

    def eof_received(self) -> bool:
        self._eof = True
        if self._lingering or self.secure:
            return False
        if self._body is not None:
            self._body.fail(IncompleteBody("The connection ended before the declared end of the body."))
            return self._busy
        if self._busy:
            if self._sending or self._tail:
                return True
            self._cancel()
            return True  # the task aborts the transport when the handler has cleaned up
        if self._missing:
            # The handler answers a short body in its own words; it gets what came.
            self._missing = 0
            self._tail = b"".join(self._pieces)
            self._pieces.clear()
            self._pump(inside=False)
            return True
        return self._busy

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._input_over = True
        self._server.forget(self)
        if self._body is not None:
            self._body.fail(IncompleteBody("The connection was lost before the declared end of the body."))
        self._cancel()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._busy and self._tail:
            self._pump(inside=asyncio.current_task(self._loop) is not None)

    # ---- framing of input

    def _pump(self, *, inside: bool) -> None:
        """Serve requests from the tail until one waits. inside: called by the connection's own task."""
        while not (self._busy or self._input_over or self._write_paused):
            data = self._tail
            head = self._head
            if head is None:
                if not data:
                    break
                end = data.find(b"\r\n\r\n", self._scan) + 4
                try:
                    if data.startswith((b"\r\n", b"\n")) and end != 4:
                        # RFC 9112 §2.2: skip an empty line before a request (old clients end bodies with one)
                        data = data[2:] if data.startswith(b"\r\n") else data
                        self._scan = 0
                        end = data.find(b"\r\n\r\n") + 4
                    if end == 3:
                        self._tail = data
                        self._wait_for_head(data)
                        break
                    self._scan = 0
                    head = parse_head(data if end == len(data) else data[:end])
                except BadRequest as error:
                    self._refuse(error)
                    return
            else:
                end = 0
            body = self._frame_body(head, data, end)
            if body is None:
                break
            self._serve(head, body, inside)
        if self._eof and not self._busy and not self._input_over and not self._write_paused:
            self._end()

    def _wait_for_head(self, data: bytes) -> None:
        check_partial(data)
        if not self._scan:
            self.deadline = self._loop.time() + self._server.limits.header_timeout_s
        self._scan = max(1, len(data) - 3)
        self._resume()

    def _frame_body(self, head: Head, data: bytes, start: int) -> Body | None:
        """The body of a request whose bytes begin at `start`; None: wait until it is here."""
        self._head = head
        length = head.length
        if length == 0:
            self._tail = data[start:]
            return NO_BODY
        have = len(data) - start
        if length is not None and have >= length:
            end = start + length
            # A copy of a small body is cheaper than a view and frees the receive buffer.
            whole: Buffer = data[start:end] if length <= SMALL_BODY else memoryview(data)[start:end]
            self._tail = data[end:]
            return WholeBody(whole)
        if length is not None and length <= SMALL_BODY and not head.expect_continue and not self._eof:
            self._tail = b""
            self._pieces.append(data[start:])
            self._missing = length - have
            self.deadline = self._loop.time() + self._server.limits.body_timeout_s
            return None
        self._body = body = StreamBody(self, length)
        self._expect = head.expect_continue
        self._left = length or 0
        self._decoder = ChunkedDecoder() if length is None else None
        self._tail = b""
        self._busy = True  # what is there already is pushed, not discarded
        if have:
            self._tail = self._take_body(data[start:])
        if self._eof:
            body.fail(IncompleteBody("The connection ended before the declared end of the body."))
        return body

    def _take_body(self, data: bytes) -> bytes:
        """Feed the streamed body; returns what belongs to the next request."""
        body = self._body
        assert body is not None
        rest = b""
        parts: list[memoryview] | tuple[Buffer]
        if self._decoder is None:
            size = len(data)
            ended = size >= self._left
            if size > self._left:
                parts = (memoryview(data)[: self._left],)
                rest = data[self._left :]
            else:
                parts = (data,)
                self._left -= size
        else:
            try:
                parts = self._decoder.feed(data)
            except ChunkError as error:
                self._input_over = True
                body.fail(IncompleteBody(str(error)))
                if self._busy:
                    self._pause()
                else:
                    self._end()
                return b""
            ended = self._decoder.ended
            if ended:
                rest = data[self._decoder.consumed :]
        if not self._busy:
            self._discard(len(data) - len(rest))
        else:
            self._expect = False  # it came unasked, so it needs no invitation
            for part in parts:
                if not body.push(part) and not ended:
                    self._pause()
        if ended:
            self._body = None
            self._decoder = None
            body.end()
            if not self._busy:
                self.deadline = self._loop.time() + self._server.limits.keepalive_timeout_s
        return rest

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DRAIN_BYTES:
            self._input_over = True
            self._transport.close()

    def body_wanted(self) -> None:
        self.deadline = self._loop.time() + self._server.limits.body_timeout_s
        if self._expect:
            self._expect = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body_drained(self) -> None:
        self._resume()

    def _pause(self) -> None:
        if not self._read_paused and not self._lost:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._read_paused and not self._lost:
            self._read_paused = False
            self._transport.resume_reading()

    # ---- handling

    def _serve(self, head: Head, body: Body, inside: bool) -> None:
        """Run the handler's first step; answer if it was the last one too."""
        self._busy = True
        self._discarded = 0
        self.deadline = math.inf
        server = self._server
        self._request = request = Request(
            head.method, head.target, head.headers, body, peer=self.peer, secure=self.secure
        )
        if server.observer is not None:
            self._started = self._loop.time()
        task = self._task
        if task is None:
            self._task = task = self._loop.create_task(self._run())
        handler: Handler = self._handle(request)
        if not inside:
            asyncio._enter_task(self._loop, task)
        try:
            yielded = handler.send(None)
        except StopIteration as stop:
            response: Response = stop.value
        except Exception as error:
            response = server.failure(request, error)
        else:
            self._suspended = (handler, yielded)
            self._wake_task()
            return
        finally:
            if not inside:
                asyncio._leave_task(self._loop, task)
        self._answer(response)

    async def _run(self) -> None:
        """The connection's task: continues suspended handlers, sends long bodies, then serves what was pipelined."""
        try:
            while True:
                while self._suspended is None and self._plan is None:
                    self._wake = self._loop.create_future()
                    try:
                        await self._wake
                    except asyncio.CancelledError:
                        if self._suspended is None:
                            raise
                        self._cancel_resumed = True  # the handler's own time-out, or the peer left: it is told
                    finally:
                        self._wake = None
                if self._suspended is not None:
                    handler, yielded = self._suspended
                    self._suspended = None
                    try:
                        response = await _resume(handler, yielded, self._cancel_resumed)
                    except Exception as error:
                        assert self._request is not None
                        response = self._server.failure(self._request, error)
                    self._cancel_resumed = False
                    self._answer(response)
                if self._plan is not None:
                    await self._send()
                if self._lost:
                    return
                self._pump(inside=True)
        except BrokenAnswer as error:
            request = self._request
            what = f"{request.method} {request.raw_path}" if request is not None else "a request"
            log.error("answer to %s of %s cut off: %s", what, self.peer or "a client", error)
        except ConnectionError as error:
            log.info("answer to %s cut off: %s", self.peer or "a client", error)
        except asyncio.CancelledError:
            # The peer is gone, or the server stops; 499 is what nginx logs for it.
            if self._busy and self._response is None:
                self._response = Response(499)
                self._observe(0, False)
        except Exception:
            log.exception("connection of %s failed; this is a bug, please report it", self.peer or "a client")
        finally:
            if not self._lost:
                self._transport.abort()

    def _cancel(self) -> None:
        """Cancel what the handler does. Not at once: a task cancelled before its first step would never run, and the
        handler it was to carry on would miss its clean-up."""
        if self._task is not None:
            self._loop.call_soon(self._task.cancel)

    def _wake_task(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    # ---- answers

    def _answer(self, response: Response) -> None:
        """Write a small answer, or leave a long one to the task."""
        if self._lost:
            return
        head = self._head
        assert head is not None
        server = self._server
        close = response.close or not head.keep_alive or server.closing or self._must_close()
        no_body = head.method == "HEAD"
        try:
            answer = plan(response, no_body=no_body, http11=head.http11, close=close, common=server.common_headers)
        except (ValueError, TypeError) as error:
            assert self._request is not None
            response = server.failure(self._request, error)
            answer = plan(response, no_body=no_body, http11=head.http11, close=close, common=server.common_headers)
        head.keep_alive = not close and (head.http11 or answer.length is not None)
        self._response = response
        if answer.parts is None:
            self._transport.write(answer.head)
            self._finish(answer.length or 0)
        else:
            self._plan = answer
            self._sending = True
            self._wake_task()

    def _must_close(self) -> bool:
        """So much of the body is unread (or it was never asked for) that the connection can't go on."""
        if self._input_over:
            return True
        return self._body is not None and (self._expect or self._eof or self._left > DRAIN_BYTES)

    async def _send(self) -> None:
        answer, self._plan = self._plan, None
        assert answer is not None and self._request is not None and self._response is not None
        try:
            sent = await send(self, answer)
        except (BrokenAnswer, ConnectionError):
            self._observe(0, False)
            raise
        except Exception as error:  # before the first byte went out
            self._response = self._server.failure(self._request, error)
            answer = plan(self._response, no_body=False, http11=True, close=True, common=self._server.common_headers)
            assert self._head is not None
            self._head.keep_alive = False
            self._transport.write(answer.head)
            sent = answer.length or 0
        finally:
            self._sending = False
        self._finish(sent)

    def _observe(self, sent: int, complete: bool) -> None:
        observer = self._server.observer
        if observer is not None and self._request is not None and self._response is not None:
            observer(self._request, self._response, sent, self._loop.time() - self._started, complete)

    def _finish(self, sent: int) -> None:
        """The answer is written: make ready for the next request, or end."""
        if self._server.observer is not None:
            self._observe(sent, True)
        head = self._head
        assert head is not None
        self._head = None
        self._request = self._response = None
        self._busy = False
        body = self._body
        if body is not None:
            body.drop()
            if head.keep_alive:
                self.deadline = self._loop.time() + self._server.limits.body_timeout_s
        elif head.keep_alive:
            self.deadline = self._loop.time() + self._server.limits.keepalive_timeout_s
        if not head.keep_alive:
            self._end()
        elif self._read_paused:
            self._resume()

    def _refuse(self, error: BadRequest) -> None:
        """Answer what never became a request, and end."""
        response = self._server.refusal(error)
        answer = plan(response, no_body=False, http11=True, close=True, common=self._server.common_headers)
        self._transport.write(answer.head)
        self._body = None
        self._end(rude=True)

    def _end(self, *, rude: bool = False) -> None:
        """Close after what is written. If the peer may still be sending, shut down our side first and swallow some:
        closing a socket with unread bytes resets it, and the reset can overtake the answer."""
        unread = rude or self._body is not None or bool(self._tail)
        self._input_over = True
        self._tail = b""
        if self._lost:
            return
        if unread and not self._eof and self._transport.can_write_eof():
            self._lingering = True
            self.deadline = self._loop.time() + self._server.limits.linger_s
            self._transport.write_eof()
            self._resume()
        else:
            self._transport.close()

    # ---- time-outs and shutdown (called by the server)

    def check(self, now: float) -> None:
        """Act if the deadline of the present state has passed."""
        if now < self.deadline or self._lost:
            return
        limits = self._server.limits
        if self._drain_waiter is not None:
            self._check_progress(now)
        elif self._busy:
            self.deadline = math.inf
            if self._body is not None and self._body.waiting:
                self._body.fail(SlowBody(f"No byte of the body came for {limits.body_timeout_s:g} s."))
        elif self._lingering:
            self._transport.abort()
        elif self._missing:
            self._refuse(BadRequest("No byte of the body came in time.", code="RequestTimeout"))
        elif self._tail:
            self._refuse(BadRequest("The request head took too long.", status=408, code="RequestTimeout"))
        else:
            self._input_over = True
            self._transport.close()

    @property
    def busy(self) -> bool:
        return self._busy or bool(self._missing)

    def stop(self) -> None:
        """The server stops: close now if nothing is going on; a running request gets `Connection: close`."""
        if not self.busy and not self._lost and not self._lingering:
            self._end()

    def abort(self) -> None:
        """The server's patience is over."""
        if not self._lost:
            self._transport.abort()

    @property
    def task(self) -> asyncio.Task[None] | None:
        return self._task


@types.coroutine
def _resume(handler: Handler, yielded: Any, cancelled: bool) -> Generator[Any, Any, Response]:
    """Carry on a coroutine whose first step yielded `yielded` outside of a task's own stepping."""
    if cancelled:
        try:
            yielded = handler.throw(asyncio.CancelledError())
        except StopIteration as stop:
            done: Response = stop.value
            return done
    while True:
        try:
            yield yielded
        except BaseException as error:
            try:
                yielded = handler.throw(error)
            except StopIteration as stop:
                done = stop.value
                return done
        else:
            done = yield from handler
            return done
