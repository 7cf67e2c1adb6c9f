# SPDX-License-Identifier: Apache-2.0
"""The HTTP/2 codec of the etcd client: whole conversations, byte by byte, and servers that behave badly.

Source: RFC 9113, RFC 7541, gRPC over HTTP/2. The server's side is written out by hand here.
"""

from __future__ import annotations

import asyncio
import random
import struct

import hpack
import pytest

from core.meta.stores.etcd import http2
from core.meta.stores.etcd.channel import Channel, Lost
from core.meta.stores.etcd.http2 import Answer, Http2Client, ProtocolError, frame, header_block

REQUEST = header_block([(b":method", b"POST"), (b":path", b"/x"), (b"token", b"t" * 300)])


def headers(*pairs: tuple[str, str]) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(pairs)


START = headers((":status", "200"), ("content-type", "application/grpc"))
DONE = headers(("grpc-status", "0"), ("grpc-message", ""))


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def answer(stream: int, body: bytes) -> bytes:
    return (
        frame(http2.HEADERS, http2.END_HEADERS, stream, START)
        + frame(http2.DATA, 0, stream, message(body))
        + frame(http2.HEADERS, http2.END_HEADERS | http2.END_STREAM, stream, DONE)
    )


def sent(client: Http2Client) -> list[tuple[int, int, int, bytes]]:
    """Frames that the client wants to send: kind, flags, stream, payload."""
    raw, client.to_send = b"".join(client.to_send).removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), []
    found = []
    while raw:
        size = int.from_bytes(raw[:3], "big")
        found.append((raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9 : 9 + size]))
        raw = raw[9 + size :]
    return found


@pytest.fixture
def client() -> Http2Client:
    client = Http2Client()
    settings = sent(client)[0]
    assert settings[:3] == (http2.SETTINGS, 0, 0)
    assert struct.unpack_from(">HI", settings[3]) == (1, 0)  # no dynamic table
    client.receive(frame(http2.SETTINGS, 0, 0))
    assert sent(client) == [(http2.SETTINGS, http2.ACK, 0, b"")]
    return client


def test_a_call_and_its_answer(client: Http2Client) -> None:
    stream = client.call(REQUEST, b"question")
    first, second = sent(client)
    assert first == (http2.HEADERS, http2.END_HEADERS, stream, REQUEST)
    assert dict(hpack.Decoder().decode(REQUEST)) == {":method": "POST", ":path": "/x", "token": "t" * 300}
    assert second == (http2.DATA, http2.END_STREAM, stream, message(b"question"))
    assert client.receive(answer(stream, b"reply")) == [Answer(stream, 0, "", b"reply")]
    assert client.active == 0


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_matter_how_the_bytes_are_cut(client: Http2Client, seed: int) -> None:
    streams = [client.call(REQUEST, b"q%d" % i) for i in range(4)]
    raw = b"".join(answer(s, b"a%d" % s * 100) for s in streams) + frame(http2.PING, 0, 0, b"12345678")
    rng, found, at = random.Random(seed), list[Answer](), 0
    sent(client)
    while at < len(raw):
        step = rng.choice((1, 2, 7, 30, 200))
        found += client.receive(raw[at : at + step])
        at += step
    assert found == [Answer(s, 0, "", b"a%d" % s * 100) for s in streams]
    assert sent(client) == [(http2.PING, http2.ACK, 0, b"12345678")]


def test_headers_in_pieces_padding_and_priorities(client: Http2Client) -> None:
    stream = client.call(REQUEST, b"")
    raw = frame(http2.HEADERS, http2.PADDED | http2.PRIORITY, stream, b"\x03" + bytes(5) + START[:2] + bytes(3))
    raw += frame(http2.CONTINUATION, 0, stream, START[2:4]) + frame(
        http2.CONTINUATION, http2.END_HEADERS, stream, START[4:]
    )
    body = message(b"padded")
    raw += frame(http2.DATA, http2.PADDED, stream, b"\x04" + body[:6] + bytes(4)) + frame(
        http2.DATA, 0, stream, body[6:]
    )
    raw += frame(0xFA, 0xFF, stream, b"unknown") + frame(http2.HEADERS, 5, stream, DONE)
    assert client.receive(raw) == [Answer(stream, 0, "", b"padded")]


def test_errors_come_with_their_text(client: Http2Client) -> None:
    stream = client.call(REQUEST, b"")
    only = headers((":status", "200"), ("grpc-status", "14"), ("grpc-message", "no leader%3A 50%25 \u00e9"))
    assert client.receive(frame(http2.HEADERS, 5, stream, only)) == [Answer(stream, 14, "no leader: 50% é", b"")]
    stream = client.call(REQUEST, b"")
    proxy = headers((":status", "502"))
    (found,) = client.receive(frame(http2.HEADERS, 5, stream, proxy))
    assert (found.status, found.processed) == (http2.UNAVAILABLE, True) and "HTTP status 502" in found.message


@pytest.mark.parametrize(
    "raw", [b"", b"\0\0\0", message(b"abc")[:-1], message(b"abc") + b"d", b"\1" + message(b"z")[1:]]
)
def test_damaged_answers_are_no_answers(client: Http2Client, raw: bytes) -> None:
    stream = client.call(REQUEST, b"")
    parts = (
        frame(http2.HEADERS, 4, stream, START)
        + frame(http2.DATA, 0, stream, raw)
        + frame(http2.HEADERS, 5, stream, DONE)
    )
    (found,) = client.receive(parts)
    assert found.status == http2.INTERNAL and "damaged" in found.message


def test_what_a_server_that_goes_away_has_not_seen_is_known(client: Http2Client) -> None:
    one, two, three = (client.call(REQUEST, b"") for _ in range(3))
    found = client.receive(frame(http2.GOAWAY, 0, 0, struct.pack(">II", one, 0) + b"bye"))
    assert [(a.stream, a.processed) for a in found] == [(two, False), (three, False)]
    assert not client.usable and client.active == 1
    assert client.receive(answer(one, b"late"))[0].body == b"late"


def test_resets(client: Http2Client) -> None:
    one, two = client.call(REQUEST, b""), client.call(REQUEST, b"")
    raw = frame(http2.RST_STREAM, 0, one, struct.pack(">I", http2.REFUSED_STREAM))
    raw += frame(http2.RST_STREAM, 0, two, struct.pack(">I", 2))
    assert [(a.status, a.processed) for a in client.receive(raw)] == [
        (http2.UNAVAILABLE, False),
        (http2.INTERNAL, True),
    ]


def test_large_requests_wait_for_windows(client: Http2Client) -> None:
    client.receive(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 100_000) + struct.pack(">HI", 5, 20_000)))
    sent(client)
    stream = client.call(REQUEST, bytes(150_000))

    def taken() -> int:
        parts = [f for f in sent(client) if f[0] == http2.DATA]
        assert all(len(f[3]) <= 20_000 for f in parts)
        return sum(len(f[3]) for f in parts)

    assert taken() == 65_535  # the connection's window
    client.receive(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 20)))
    assert taken() == 100_000 - 65_535  # the stream's
    client.receive(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", 4, 110_000)))  # changes open streams, too
    assert taken() == 10_000
    client.receive(frame(http2.WINDOW_UPDATE, 0, stream, struct.pack(">I", 1 << 20)))
    assert taken() == 150_005 - 110_000
    assert client.receive(answer(stream, b"ok"))[0].body == b"ok"


def test_a_cancelled_call_is_reset_and_its_answer_ignored(client: Http2Client) -> None:
    stream = client.call(REQUEST, b"")
    sent(client)
    client.cancel(stream)
    assert sent(client) == [(http2.RST_STREAM, 0, stream, struct.pack(">I", http2.CANCEL))]
    assert client.receive(answer(stream, b"late")) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", frame(http2.PUSH_PROMISE, 4, 1, bytes(4)), frame(http2.CONTINUATION, 4, 1),
        frame(http2.HEADERS, 0, 1, START) + frame(http2.PING, 0, 0, bytes(8)),
        frame(http2.HEADERS, 4, 1, b"\xff\xff\xff\xff"),
        frame(http2.HEADERS, 4, 1, b"\xbe"),  # refers to a dynamic table that nobody keeps
    ],
    ids=["HTTP/1", "push", "continuation", "interrupted", "garbage", "table"],
)  # fmt: skip
def test_a_server_that_speaks_something_else(client: Http2Client, raw: bytes) -> None:
    client.call(REQUEST, b"")
    with pytest.raises(ProtocolError):
        client.receive(raw + bytes(20))


def test_any_garbage_is_an_error_or_ignored(client: Http2Client) -> None:
    rng = random.Random(7)
    for _ in range(2000):
        fresh = Http2Client()
        fresh.call(REQUEST, b"")
        raw = answer(1, b"reply")
        at = rng.randrange(len(raw))
        raw = raw[:at] + bytes((rng.randrange(256),)) + raw[at + 1 :]
        try:
            fresh.receive(raw)
        except ProtocolError:
            pass


# -- the channel over real sockets -------------------------------------------------------------------------------


async def test_who_does_not_answer_in_time_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        channel = await Channel.connect("127.0.0.1", port, None, "")
        with pytest.raises(Lost, match="no answer within") as caught:
            await channel.call("/x", b"q", timeout_s=-0.95)
        assert caught.value.sent and not channel.usable
        channel.close()


async def test_another_kind_of_server_is_told_apart() -> None:
    async def http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with await asyncio.start_server(http1, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        channel = await Channel.connect("127.0.0.1", port, None, "")
        with pytest.raises(Lost, match="no HTTP/2"):
            await channel.call("/x", b"q", timeout_s=10)
        assert not channel.usable
        with pytest.raises(Lost) as caught:
            await channel.call("/x", b"q", timeout_s=10)
        assert not caught.value.sent
