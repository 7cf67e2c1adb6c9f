# SPDX-License-Identifier: Apache-2.0
"""The sans-IO parsers: request heads and chunked coding. Source: RFC 9112, spec s3 §2.4 and §19."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from gateways.http.chunked import ChunkedDecoder, ChunkError
from gateways.http.head import MAX_HEAD_BYTES, BadRequest, check_partial, parse_head


def head(*lines: str, request: str = "GET / HTTP/1.1", host: bool = True) -> bytes:
    return "\r\n".join([request, *(["Host: h"] if host else []), *lines, "", ""]).encode("latin-1")


def test_names_are_lower_case_and_values_latin1_and_the_target_stays_as_sent() -> None:
    parsed = parse_head(head("X-Amz-Meta-A:  gr\xfcn ", request="PUT /b/a%2Fb//c?x=%20&acl HTTP/1.1"))
    assert parsed.method == "PUT"
    assert parsed.target == "/b/a%2Fb//c?x=%20&acl"
    assert parsed.headers == {"host": "h", "x-amz-meta-a": "gr\xfcn"}
    assert parsed.length == 0
    assert parsed.keep_alive


def test_repeated_ordinary_headers_are_joined_by_a_comma() -> None:
    parsed = parse_head(head("X-A: 1", "x-a: 2", "X-B: 3", "X-A: 4"))
    assert parsed.headers["x-a"] == "1,2,4"
    assert parsed.headers["x-b"] == "3"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (head("Content-Length: 5", "Content-Length: 5"), 400),
        (head("Content-Length: 5", "content-length: 6"), 400),
        (head("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
        (head("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
        (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (head("Transfer-Encoding: chunked, identity"), 400),
        (head("Transfer-Encoding: identity"), 400),
        (head("Transfer-Encoding : chunked"), 400),
        (head("Transfer-Encoding: gzip, chunked"), 501),
        (head("Transfer-Encoding: chunked", request="PUT / HTTP/1.0"), 501),
        (head("Content-Length: +5"), 400),
        (head("Content-Length: -5"), 400),
        (head("Content-Length: 0x10"), 400),
        (head("Content-Length: 5, 5"), 400),
        (head("Content-Length: "), 400),
        (head("Content-Length: 99999999999999999999999"), 400),
        (head("Host: other"), 400),
        (head("Authorization: a", "authorization: b"), 400),
        (head(host=False), 400),
        (head("A: b", " folded"), 400),
        (head("A: b", "\tfolded"), 400),
        (head("A b"), 400),
        (head(": b"), 400),
        (head("A: b\x00c"), 400),
        (head("A: b\rc"), 400),
        (head("A: b\nC: d"), 400),
        (b"GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
        (head(request="GET /a b HTTP/1.1"), 400),
        (head(request="GET /\x01 HTTP/1.1"), 400),
        (head(request="GET example.com:80 HTTP/1.1"), 400),
        (head(request="CONNECT example.com:80 HTTP/1.1"), 400),
        (head(request="GET / HTTP/2.0"), 505),
        (head(request="GET / HTTP/0.9"), 505),
        (head(request="GET /"), 505),
        (head(request="BREW / HTTP/1.1"), 405),
        (head("Expect: 200-ok", "Content-Length: 3"), 417),
        (head("X: " + "y" * MAX_HEAD_BYTES), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS on the plain port
    ],
)  # fmt: skip
def test_a_head_that_could_be_read_in_two_ways_is_refused(data: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_head(data)
    assert refusal.value.status == status


def test_a_head_of_the_longest_length_passes() -> None:
    base = len(head("X: "))
    data = head("X: " + "y" * (MAX_HEAD_BYTES - base))
    assert len(data) == MAX_HEAD_BYTES
    assert parse_head(data).headers["x"].startswith("y")


def test_an_offer_to_upgrade_is_ignored() -> None:
    parsed = parse_head(head("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"))
    assert parsed.keep_alive
    assert parsed.length == 0


def test_absolute_targets_become_paths() -> None:
    assert parse_head(head(request="GET http://proxy.example/b/k?acl HTTP/1.1")).target == "/b/k?acl"
    assert parse_head(head(request="GET http://proxy.example HTTP/1.1")).target == "/"
    assert parse_head(head(request="OPTIONS * HTTP/1.1")).target == "*"


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [("1.1", None, True), ("1.1", "close", False), ("1.1", "Keep-Alive", True), ("1.1", "foo, Close", False),
     ("1.0", None, False), ("1.0", "keep-alive", True)],
)  # fmt: skip
def test_keep_alive(version: str, connection: str | None, expected: bool) -> None:
    lines = [f"Connection: {connection}"] if connection else []
    assert parse_head(head(*lines, request=f"GET / HTTP/{version}")).keep_alive is expected


def test_expectation_counts_only_with_a_body_and_in_http_1_1() -> None:
    assert parse_head(head("Expect: 100-Continue", "Content-Length: 3")).expect_continue
    assert parse_head(head("Expect: 100-continue", "Transfer-Encoding: chunked")).expect_continue
    assert not parse_head(head("Expect: 100-continue", "Content-Length: 0")).expect_continue
    assert not parse_head(head("Expect: 100-continue", "Content-Length: 3", request="PUT / HTTP/1.0")).expect_continue


def test_partial_heads_are_refused_early() -> None:
    check_partial(b"GET / HTTP/1.1\r\nHost: h\r\n")
    with pytest.raises(BadRequest):
        check_partial(b"GET / HTTP/1.1\nHost: h\n\n")
    with pytest.raises(BadRequest):
        check_partial(b"x" * (MAX_HEAD_BYTES + 1))


def chunked(parts: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    return b"".join(b"%x%s\r\n%s\r\n" % (len(p), extension, p) for p in parts) + b"0\r\n" + trailer + b"\r\n"


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=8), st.lists(st.integers(1, 40)), st.binary(max_size=20))
def test_chunked_bodies_decode_however_they_are_cut(parts: list[bytes], cuts: list[int], following: bytes) -> None:
    data = chunked(parts, b";name=value", b"X-Trailer: yes\r\n") + following
    decoder = ChunkedDecoder()
    got = b""
    at = 0
    for cut in [*cuts, len(data)]:
        piece = data[at : at + cut]
        got += b"".join(bytes(view) for view in decoder.feed(piece))
        at += decoder.consumed
        if decoder.ended:
            break
        assert decoder.consumed == len(piece)
    assert decoder.ended
    assert got == b"".join(parts)
    assert data[at:] == following


@pytest.mark.parametrize(
    "data",
    [
        b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhelloX\r\n", b"5\r\nhelloXY\r\n", b"\r\n", b"-5\r\n",
        b"+5\r\n", b"0x5\r\n", b"5 \r\nhello", b" 5\r\nhello", b"g\r\n", b"11111111111111111\r\n", b";a\r\n",
        b"5;\x00\r\n", b"0\r\nbad trailer\r\n\r\n", b"0\r\n" + b"A: b\r\n" * 3000, b"1" * 5000,
        b"0\r\nA: " + b"b" * 2000 + b"\r\n",
    ],
)  # fmt: skip
def test_broken_chunk_framing_is_refused_whole_and_byte_by_byte(data: bytes) -> None:
    with pytest.raises(ChunkError):
        ChunkedDecoder().feed(data)
    decoder = ChunkedDecoder()
    with pytest.raises(ChunkError):
        for i in range(len(data)):
            decoder.feed(data[i : i + 1])


def test_payload_is_not_copied() -> None:
    data = b"5\r\nhello\r\n"
    (view,) = ChunkedDecoder().feed(data)
    assert view.obj is data
