# SPDX-License-Identifier: Apache-2.0
"""Framing and connection rules of the HTTP server on the wire. Source: RFC 9112, spec s3 §2.4 and §19."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from gateways.http.messages import Request, Response
from gateways.http.server import Limits
from tests.gateways.http.kit import LOOPS, Client, Paths, Running, digest, echo, read_all, running
from tests.servers.process import wait_for

FAST = Limits(
    header_timeout_s=0.3, body_timeout_s=0.3, send_timeout_s=0.3, keepalive_timeout_s=0.3, linger_s=0.2
)  # fmt: skip


@pytest.fixture(params=list(LOOPS))
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(loop=request.param) as run:
        yield run


@pytest.fixture
def client(server: Running) -> Iterator[Client]:
    with server.connect() as it:
        yield it


def test_requests_follow_each_other_on_one_connection(client: Client) -> None:
    for path in ("/hello", "/slow", "/hello?x"):
        client.request("GET", path)
        answer = client.answer()
        assert answer.status == 200
        assert "connection" not in answer.headers
        assert answer.headers["server"] == "SluiceFS"
        assert answer.headers["date"].endswith("GMT")


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    client.send(
        b"GET /hello?1 HTTP/1.1\r\nHost: t\r\n\r\n"
        b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n"
        b"PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"
        b"PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n"
        b"\r\nGET /hello?2 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
        b"GET /hello?3 HTTP/1.1\r\nHost: t\r\n\r\n"
    )
    assert client.answer().headers["x-target"] == "/hello?1"
    assert client.answer().body == b"slow"
    assert client.answer().body == digest(b"abc")
    assert client.answer().body == digest(b"de")
    last = client.answer()
    assert last.headers["x-target"] == "/hello?2"
    assert last.headers["connection"] == "close"
    assert client.at_end()


def test_a_flood_of_pipelined_requests_is_answered_completely(server: Running) -> None:
    # More than the server keeps in memory at once: it must stop reading and go on, with answers that suspend.
    with server.connect() as client:
        one = b"GET /slow HTTP/1.1\r\nHost: t\r\nX-Fill: " + b"f" * 1000 + b"\r\n\r\n"
        client.send(one * 400)
        for _ in range(400):
            assert client.answer().body == b"slow"


def test_input_may_come_byte_by_byte(client: Client) -> None:
    data = (
        b"\r\nPUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello"
        b"PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: 1\r\n\r\n"
        b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n"
    )
    for i in range(len(data)):
        client.send(data[i : i + 1])
    assert client.answer().body == digest(b"hello")
    assert client.answer().body == digest(b"abcd")
    assert client.answer().body == b"hello"


@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 300_000, 9_000_000])
@pytest.mark.parametrize("way", ["length", "chunked"])
def test_bodies_of_all_sizes_arrive_whole(client: Client, size: int, way: str) -> None:
    data = bytes(i * 7 % 251 for i in range(min(size, 5021))) * (size // 5021 + 1)
    data = data[:size]
    for _ in range(2):
        if way == "length":
            client.request("PUT", "/echo", data)
        else:
            client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
            step = max(1, size // 7)
            for at in range(0, size, step):
                part = data[at : at + step]
                client.send(b"%X\r\n%s\r\n" % (len(part), part))
            client.send(b"0\r\n\r\n")
        assert client.answer().body == digest(data)


def test_a_complete_small_body_is_read_without_suspending(server: Running) -> None:
    # The handler runs to its end inside the socket callback, also when head and body come in two segments.
    turns: list[int] = []

    async def count(request: Request) -> Response:
        turn = [0]
        asyncio.get_running_loop().call_soon(turn.__setitem__, 0, 1)
        data = await read_all(request)
        turns.append(turn[0])
        return Response(200, [], digest(data))

    server.server.application.handlers["count"] = count  # type: ignore[attr-defined]
    with server.connect() as client:
        client.request("PUT", "/count", b"x" * 1024)
        assert client.answer().body == digest(b"x" * 1024)
        client.send(b"PUT /count HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n")
        client.send(b"ab")
        client.send(b"cd")
        assert client.answer().body == digest(b"abcd")
    assert turns == [0, 0]


def test_100_continue_is_sent_only_when_the_body_is_wanted(client: Client) -> None:
    head = b"PUT /%s HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    client.send(head % b"echo")
    assert client.answer().status == 100
    client.send(b"abc")
    assert client.answer().body == digest(b"abc")
    client.send(head % b"ignore")
    refused = client.answer()
    assert refused.status == 403
    # Nobody can know whether the body still comes, so the connection ends.
    assert refused.headers["connection"] == "close"
    assert client.at_end()


def test_100_continue_is_left_out_if_the_body_came_anyway(client: Client) -> None:
    client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    assert client.answer().body == digest(b"abc")


def test_100_continue_with_a_chunked_body(client: Client) -> None:
    client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
    assert client.answer().status == 100
    client.send(b"3\r\nabc\r\n0\r\n\r\n")
    assert client.answer().body == digest(b"abc")


def test_a_little_unread_body_keeps_the_connection(client: Client) -> None:
    client.request("PUT", "/ignore", b"x" * 900_000)
    refused = client.answer()
    assert refused.status == 403
    assert "connection" not in refused.headers
    client.request("GET", "/hello")
    assert client.answer().body == b"hello"


@pytest.mark.parametrize("way", ["length", "chunked"])
def test_much_unread_body_closes_the_connection_after_the_answer(client: Client, way: str) -> None:
    if way == "length":
        client.send(b"PUT /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: 50000000\r\n\r\n")
    else:
        client.send(b"PUT /ignore HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
    answer = client.answer()
    assert answer.status == 403
    assert ("connection" in answer.headers) is (way == "length")
    with pytest.raises(OSError):
        for _ in range(500):
            client.send(b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20)))


def test_the_answer_to_a_refused_upload_is_readable_while_the_client_still_sends(client: Client) -> None:
    # A close with unread bytes would reset the connection, and the reset would overtake the answer.
    client.send(b"PUT /ignore HTTP/1.1\r\nHost: t\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 500_000)
    assert client.answer().status == 403
    assert client.at_end()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\nHost: h",
        b"GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n folded\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 20_000,
        b"GET /" + b"y" * 20_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_bad_requests_get_400_and_the_end_of_the_connection(client: Client, data: bytes) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n" + data)
    assert client.answer().status == 200
    answer = client.answer()
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.body.endswith((b".\n", b"?\n"))
    assert client.at_end()


@pytest.mark.parametrize("framing", [b"zz\r\n", b"3\r\nabcd\r\n", b"3\nabc\r\n"])
def test_broken_chunk_framing_fails_the_body_and_ends_the_connection(client: Client, framing: bytes) -> None:
    client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n" + framing)
    answer = client.answer()
    assert (answer.status, answer.body) == (400, b"IncompleteBody")
    assert answer.headers["connection"] == "close"
    assert client.at_end()


@pytest.mark.parametrize("declared", [100, 10_000_000])
def test_a_body_cut_short_is_answered_in_the_handlers_words(client: Client, declared: int) -> None:
    client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\nabc" % declared)
    client.sock.shutdown(socket.SHUT_WR)
    answer = client.answer()
    assert (answer.status, answer.body) == (400, b"IncompleteBody")
    assert client.at_end()


def test_a_client_may_shut_down_its_side_after_its_requests(client: Client) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: t\r\n\r\n" * 2)
    client.sock.shutdown(socket.SHUT_WR)
    assert client.answer().body == b"hello"
    assert client.answer().body == b"hello"
    assert client.at_end()


def test_http_1_0_gets_no_keep_alive_unless_asked_and_no_chunks(server: Running) -> None:
    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"ab"
            yield b"cd"

        return Response(200, [], parts())

    server.server.application.handlers["stream"] = stream  # type: ignore[attr-defined]
    with server.connect() as client:
        client.send(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert client.answer().headers["connection"] == "keep-alive"
        client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        answer = client.answer()
        assert answer.body == b"abcd"
        assert answer.headers["connection"] == "close"
        assert "transfer-encoding" not in answer.headers
    with server.connect() as client:
        client.send(b"GET /hello HTTP/1.0\r\n\r\n")
        assert client.answer().body == b"hello"
        assert client.at_end()


def test_the_first_step_of_a_handler_has_a_task_to_time_out(server: Running) -> None:
    async def timed(request: Request) -> Response:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            return Response(200, [], b"timed out")
        return Response(500)

    server.server.application.handlers["timed"] = timed  # type: ignore[attr-defined]
    with server.connect() as client:
        for _ in range(3):
            client.request("GET", "/timed")
            assert client.answer().body == b"timed out"


def test_a_time_out_that_is_due_at_once_belongs_to_the_handler(server: Running) -> None:
    async def due(request: Request) -> Response:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return Response(200, [], b"due")
        return Response(500)

    server.server.application.handlers["due"] = due  # type: ignore[attr-defined]
    with server.connect() as client:
        for _ in range(3):
            client.request("GET", "/due")
            assert client.answer().body == b"due"


@pytest.mark.parametrize("where", ["first step", "later", "bad header"])
def test_a_handler_that_raises_costs_500_and_the_connection(server: Running, where: str) -> None:
    async def broken(request: Request) -> Response:
        if where == "later":
            await asyncio.sleep(0)
        if where == "bad header":
            return Response(200, [("X", "a\r\nSet-Cookie: evil")], b"")
        raise RuntimeError("secret detail")

    server.server.application.handlers["broken"] = broken  # type: ignore[attr-defined]
    with server.connect() as client:
        client.request("GET", "/broken")
        answer = client.answer()
        assert answer.status == 500
        assert b"secret" not in answer.body
        assert "set-cookie" not in answer.headers


def test_a_peer_that_leaves_cancels_the_handler(server: Running) -> None:
    events: list[str] = []

    async def forever(request: Request) -> Response:
        events.append("started")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # cleaning up may wait
            events.append("cleaned")
            raise
        return Response(200)

    server.server.application.handlers["forever"] = forever  # type: ignore[attr-defined]
    for method, body in (("GET", b""), ("PUT", b"x" * 100)):
        events.clear()
        client = server.connect()
        client.request(method, "/forever", body)
        wait_for(lambda: events == ["started"], what="the handler")
        client.close()
        wait_for(lambda: events == ["started", "cleaned"], what="cancellation")
    wait_for(lambda: server.server.connections == 0, what="no connection left")


def test_a_peer_that_leaves_during_its_body_ends_the_handler(server: Running) -> None:
    events: list[str] = []

    async def upload(request: Request) -> Response:
        events.append("started")
        try:
            return await echo(request)
        finally:
            events.append("over")

    server.server.application.handlers["upload"] = upload  # type: ignore[attr-defined]
    client = server.connect()
    client.send(b"PUT /upload HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 300_000)
    wait_for(lambda: events == ["started"], what="the handler")
    client.close()
    wait_for(lambda: events == ["started", "over"], what="the end of the handler")
    wait_for(lambda: server.server.connections == 0, what="no connection left")


def test_slow_heads_and_idle_connections_end() -> None:
    with running(limits=FAST) as fast:
        with fast.connect() as silent:
            assert silent.at_end()
        with fast.connect() as slow:
            slow.send(b"GET / HTT")
            answer = slow.answer()
            assert answer.status == 408
            assert slow.at_end()
        with fast.connect() as dripping:
            # Each byte comes in time, the whole doesn't.
            begin = time.monotonic()
            with pytest.raises(OSError):
                for byte in b"GET /hello HTTP/1.1\r\nHost: " + b"h" * 100_000:
                    dripping.send(bytes([byte]))
                    time.sleep(0.02)
            assert time.monotonic() - begin < 20
        with fast.connect() as idle:
            idle.request("GET", "/hello")
            assert idle.answer().status == 200
            assert idle.at_end()


@pytest.mark.parametrize("declared", [100, 1_000_000])
def test_slow_bodies_end(declared: int) -> None:
    with running(limits=FAST) as fast, fast.connect() as client:
        client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\nabc" % declared)
        answer = client.answer()
        assert answer.status == 400
        # A small body is collected by the server, a large one is read by the handler.
        expected = b"No byte of the body came in time.\n" if declared == 100 else b"SlowBody"
        assert answer.body == expected
        assert client.at_end()


def test_a_slow_handler_is_no_slow_body() -> None:
    async def pause(request: Request) -> Response:
        await asyncio.sleep(1)
        return await echo(request)

    with running(Paths(pause=pause), limits=FAST) as fast, fast.connect() as client:
        client.request("PUT", "/pause", b"x" * 3_000_000)
        assert client.answer().body == digest(b"x" * 3_000_000)


def test_a_peer_that_does_not_read_is_cut_off() -> None:
    async def big(request: Request) -> Response:
        return Response(200, [], [bytes(1 << 20)] * 64)

    with running(Paths(big=big), limits=FAST) as fast, fast.connect() as client:
        client.request("GET", "/big")
        wait_for(lambda: fast.server.connections == 0, what="the cut")


def test_connections_are_limited_in_total_and_per_peer() -> None:
    for limits in (Limits(max_connections=2), Limits(max_connections_per_peer=2)):
        with running(limits=limits) as run:
            first, second = run.connect(), run.connect()
            for client in (first, second):
                client.request("GET", "/hello")
                assert client.answer().status == 200
            with run.connect() as third:
                assert third.answer().status == 503
                assert third.at_end()
            first.close()
            wait_for(lambda run=run: run.server.connections == 1, what="a free place")  # type: ignore[misc]
            with run.connect() as fourth:
                fourth.request("GET", "/hello")
                assert fourth.answer().status == 200
            second.close()


@pytest.mark.parametrize("loop", list(LOOPS))
def test_shutdown_lets_running_requests_finish_and_cuts_off_the_rest(loop: str) -> None:
    release: list[asyncio.Event] = []
    cancelled: list[bool] = []

    async def held(request: Request) -> Response:
        release.append(asyncio.Event())
        try:
            await release[-1].wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        return Response(200, [], b"finished")

    with running(Paths(held=held), loop=loop) as run:
        idle, busy, stuck = run.connect(), run.connect(), run.connect()
        idle.request("GET", "/hello")
        assert idle.answer().status == 200
        busy.request("GET", "/held")
        wait_for(lambda: len(release) == 1)
        stuck.request("GET", "/held")
        wait_for(lambda: len(release) == 2)
        stopping = asyncio.run_coroutine_threadsafe(run.server.stop(1.0), run.loop)
        assert idle.at_end()
        with pytest.raises(OSError):
            run.connect().answer()
        run.loop.call_soon_threadsafe(release[0].set)
        answer = busy.answer()
        assert answer.body == b"finished"
        assert answer.headers["connection"] == "close"
        stopping.result(20)
        assert stuck.at_end()
        assert cancelled == [True]
        for client in (idle, busy, stuck):
            client.close()
