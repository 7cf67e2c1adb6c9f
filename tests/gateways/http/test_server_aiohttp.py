# SPDX-License-Identifier: Apache-2.0
"""The same application behind aiohttp: the rules that both servers share."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.chunk.api import FileRange
from core.object.api import Buffer
from gateways.http.aiohttp_server import AiohttpServer
from gateways.http.messages import Request, Response
from gateways.http.server import Limits
from tests.gateways.http.kit import Client, Paths, digest


@pytest.fixture
def app(tmp_path: Path) -> Paths:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 10_000)

    async def iterate() -> AsyncIterator[Buffer | FileRange]:
        yield b"ab"
        yield memoryview(b"cd")
        yield FileRange(str(path), 5, 2_000_000)

    async def mixed(request: Request) -> Response:
        return Response(200, [], [b"ab", memoryview(b"cd"), FileRange(str(path), 5, 2_000_000)])

    async def stream(request: Request) -> Response:
        return Response(200, [("ETag", '"e"')], iterate(), length=2_000_004 if request.query_string else None)

    async def empty(request: Request) -> Response:
        return Response(int(request.query_string))

    return Paths(mixed=mixed, stream=stream, empty=empty)


@pytest.fixture
def port(app: Paths) -> Iterator[int]:
    box: list[int] = []
    started = threading.Event()
    over: list[asyncio.Event] = []
    loop = asyncio.new_event_loop()

    async def main() -> None:
        server = AiohttpServer(app, limits=Limits(body_timeout_s=0.5))
        await server.start()
        box.append(server.port)
        over.append(asyncio.Event())
        started.set()
        await over[0].wait()
        await server.stop(0)

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert started.wait(20)
    yield box[0]
    loop.call_soon_threadsafe(over[0].set)
    thread.join(20)
    loop.close()


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with Client(port) as it:
        yield it


def test_bodies_and_targets_arrive_unchanged(client: Client) -> None:
    client.request("GET", "/hello/a%2Fb//c?x=%20&acl")
    answer = client.answer()
    assert answer.headers["x-target"] == "/hello/a%2Fb//c?x=%20&acl"
    assert answer.headers["server"] == "SluiceFS"
    packed = gzip.compress(b"stay as you are")
    client.request("PUT", "/echo", packed, Content_Encoding="gzip")
    assert client.answer().body == digest(packed)
    client.request("PUT", "/echo", b"x" * 3_000_000)
    assert client.answer().body == digest(b"x" * 3_000_000)
    client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert client.answer().body == digest(b"abc")


def test_answers_of_every_kind(client: Client) -> None:
    data = b"abcd" + (bytes(range(256)) * 10_000)[5:2_000_005]
    for path in ("/mixed", "/stream", "/stream?length"):
        client.request("GET", path)
        assert client.answer().body == data
    client.request("HEAD", "/stream?length")
    assert client.answer(head_only=True).headers["content-length"] == "2000004"
    for status in (204, 304):
        client.request("GET", f"/empty?{status}")
        answer = client.answer()
        assert answer.status == status
        assert "content-length" not in answer.headers
    client.request("GET", "/hello")
    assert client.answer().body == b"hello"


def test_100_continue_waits_for_the_first_read(client: Client) -> None:
    head = b"PUT /%s HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    client.send(head % b"echo")
    assert client.answer().status == 100
    client.send(b"abc")
    assert client.answer().body == digest(b"abc")
    client.send(head % b"ignore")
    assert client.answer().status == 403


def test_repeated_authorization_is_refused(client: Client) -> None:
    client.send(b"GET /hello HTTP/1.1\r\nHost: t\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n")
    assert client.answer().status == 400
    assert client.at_end()


def test_slow_bodies_end(client: Client) -> None:
    client.send(b"PUT /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\nabc")
    assert client.answer().body == b"SlowBody"
