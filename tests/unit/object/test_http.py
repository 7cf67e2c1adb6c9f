# SPDX-License-Identifier: Apache-2.0
"""The HTTP client against peers that cut, stall, chunk, close and lie."""

from __future__ import annotations

import asyncio

import pytest

from core.errors import ConfigError
from core.object.http import Client, ExchangeFailed, Response
from core.object.http.client import find_proxy
from core.object.http.codec import BadResponse, ChunkedDecoder, parse_head
from tests.unit.object.scripted import CLOSE, answer, in_turn, serving

loops = "both"  # asyncio and uvloop, see conftest.py


async def fetch(
    port: int, method: str = "GET", *, body: bytes = b"", timeout_s: float = 5, client: Client | None = None
) -> Response:
    client = client or Client("http", "127.0.0.1", port, idle_timeout_s=timeout_s, environ={})
    headers = f"host: x\r\ncontent-length: {len(body)}\r\n"
    return await client.request(method, "/", headers, [memoryview(body)] if body else [], len(body))


def test_heads() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nA: 1\r\na:\t2 \r\nContent-Length: 5")
    assert (head.status, head.headers, head.keep_alive) == (200, {"a": "1, 2", "content-length": "5"}, True)
    assert not parse_head(b"HTTP/1.0 200").keep_alive
    assert parse_head(b"HTTP/1.0 200 OK\r\nConnection: keep-alive").keep_alive
    assert not parse_head(b"HTTP/1.1 200 OK\r\nConnection: Close").keep_alive
    for bad in (
        b"",
        b"HTTP/2 200",
        b"HTTP/1.1 2x0 OK",
        b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\n folded: x",
    ):
        with pytest.raises(BadResponse):
            parse_head(bad)


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_chunks_come_in_any_pieces(step: int) -> None:
    wire = b"4\r\nWiki\r\n5;ext=1\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\n"
    decoder = ChunkedDecoder()
    for at in range(0, len(wire), step):
        decoder.feed(memoryview(wire)[at : at + step])
    assert decoder.done
    assert not decoder.excess
    assert bytes(decoder.body) == b"Wikipedia in\r\n\r\nchunks."


@pytest.mark.parametrize("wire", [b"x\r\n", b"-1\r\n", b"\r\n", b"1\r\nab\r\n", b"1" * 5000, b"F" * 16 + b"\r\n"])
def test_broken_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(BadResponse):
        ChunkedDecoder().feed(memoryview(wire))


async def test_bodies_by_length_by_chunks_and_until_close() -> None:
    big = bytes(range(256)) * 2000
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % len(big) + big + b"\r\n0\r\n\r\n"
    until_close = b"HTTP/1.1 200 OK\r\n\r\n" + big + CLOSE
    continued = b"HTTP/1.1 100 Continue\r\n\r\n" + answer("200 OK", big)
    async with serving(in_turn(answer("200 OK", big), chunked, continued, until_close, answer("200 OK"))) as port:
        client = Client("http", "127.0.0.1", port, environ={})
        for _ in range(4):
            assert bytes((await fetch(port, client=client)).body) == big
        assert bytes((await fetch(port, client=client)).body) == b""
        await client.close()


async def test_answers_byte_by_byte() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for byte in answer("200 OK", b"slowly", "X-A: b"):
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with server:
        found = await fetch(server.sockets[0].getsockname()[1])
    assert (bytes(found.body), found.headers["x-a"]) == (b"slowly", "b")


async def test_a_short_body_is_an_error_never_short_data() -> None:
    for body in (b"x" * 10, b"x" * 100_000):
        cut = answer("200 OK", body)[:-1] + CLOSE
        async with serving(lambda head, cut=cut: cut) as port:
            with pytest.raises(ExchangeFailed, match=f"{len(body) - 1} of {len(body)} bytes"):
                await fetch(port)


async def test_a_stale_kept_connection_is_replaced_unseen() -> None:
    heads: list[bytes] = []
    async with serving(in_turn(answer("200 OK", b"1"), None, answer("200 OK", b"2")), heads) as port:
        client = Client("http", "127.0.0.1", port, environ={})
        assert bytes((await fetch(port, client=client)).body) == b"1"
        assert bytes((await fetch(port, client=client)).body) == b"2"
        assert len(heads) == 3
        await client.close()


async def test_a_fresh_connection_that_closes_is_an_error() -> None:
    async with serving(in_turn(None)) as port:
        with pytest.raises(ExchangeFailed, match="ended before the answer"):
            await fetch(port)


async def test_an_early_refusal_stops_the_upload() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer("403 Forbidden", b"no"))
        await writer.drain()
        # Never reads the body: without an eye on the answer the client would fill the socket and wait.
        await asyncio.Event().wait()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        found = await asyncio.wait_for(fetch(port, "PUT", body=bytes(64 << 20)), 10)
        assert (found.status, bytes(found.body)) == (403, b"no")
    finally:
        server.close()


async def test_a_silent_server_is_a_time_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    try:
        with pytest.raises(ExchangeFailed, match="time-out"):
            await fetch(server.sockets[0].getsockname()[1], timeout_s=0.05)
    finally:
        server.close()


async def test_connections_are_bounded_and_shared() -> None:
    async with serving(lambda head: answer("200 OK", b"x")) as port:
        client = Client("http", "127.0.0.1", port, max_connections=2, environ={})
        found = await asyncio.gather(*(fetch(port, client=client) for _ in range(50)))
        assert len(found) == 50
        assert client._open == 2
        cancelled = [asyncio.ensure_future(fetch(port, client=client)) for _ in range(20)]
        await asyncio.sleep(0)
        for task in cancelled[::2]:
            task.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        assert bytes((await fetch(port, client=client)).body) == b"x"
        assert client._open <= 2
        await client.close()
        assert client._open == 0


@pytest.mark.parametrize("wire", [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", b"x" * 70000])
async def test_other_protocols_are_refused(wire: bytes) -> None:
    async with serving(lambda head: wire + CLOSE) as port:
        with pytest.raises(ExchangeFailed):
            await fetch(port)


def test_proxies_come_from_the_environment() -> None:
    proxies = {"HTTPS_PROXY": "http://u:p%40@proxy:3128", "NO_PROXY": "inside,.local"}
    found = find_proxy("https", "s3.amazonaws.com", 443, proxies)
    assert found is not None
    assert (found.host, found.port) == ("proxy", 3128)
    assert "dTpwQA==" in found.authorization
    assert find_proxy("https", "inside", 443, proxies) is None
    assert find_proxy("https", "a.local", 443, proxies) is None
    assert find_proxy("http", "s3.amazonaws.com", 80, proxies) is None
    with pytest.raises(ConfigError, match="only http://"):
        find_proxy("http", "x", 80, {"ALL_PROXY": "socks5://user:secret@h"})


async def test_a_plain_request_through_a_proxy_names_the_whole_url() -> None:
    heads: list[bytes] = []
    async with serving(lambda head: answer("200 OK", b"via"), heads) as port:
        client = Client("http", "store.example", 80, environ={"http_proxy": f"http://127.0.0.1:{port}"})
        assert bytes((await fetch(port, client=client)).body) == b"via"
        assert heads[0].startswith(b"GET http://store.example/ HTTP/1.1\r\n")
        await client.close()
