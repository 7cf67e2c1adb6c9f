# SPDX-License-Identifier: Apache-2.0
"""One HTTP/1.1 request head: bytes in, checked values out. No IO, no state between heads.

llhttp (through httptools) is the grammar: it refuses bare LF, folded lines, control characters, spaces before the
colon, unknown codings and a second length. A fresh parser sees exactly one head (0.5 µs), so that nothing which a
request leaves behind can shift the next one; bodies never pass through it, which saves their copy.
What llhttp lets through and we don't: repeated Host, Authorization and Transfer-Encoding, a missing Host, versions
other than 1.0 and 1.1.
Source: RFC 9112 sections 2, 3, 6 and 11.2; spec s3 §2.4 and §19.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import httptools

from gateways.http.messages import BadRequest

#: A head of AWS limits is 8 KiB (headers) plus 8 KiB (a presigned target); nothing legitimate is longer.
MAX_HEAD_BYTES = 16 * 1024
#: Two of these never mean anything good: either a smuggling attempt or a broken proxy.
SINGLE_HEADERS = ("host", "content-length", "authorization", "transfer-encoding", "destination", "depth")

_BARE_LF = re.compile(rb"(?:^|[^\r])\n")


class Head:
    """What a request head says. length: Content-Length (0 if there is no body), None for chunked coding."""

    __slots__ = ("expect_continue", "headers", "http11", "keep_alive", "length", "method", "target")

    method: str
    target: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    expect_continue: bool
    http11: bool


class _Names(dict[bytes, str]):
    """Header names as clients spell them → lower case. Bounded: a flood of invented names is not remembered."""

    def __missing__(self, raw: bytes) -> str:
        name = raw.lower().decode("latin-1")
        if len(self) < 1024:
            self[raw] = name
        return name


_NAMES = _Names()


class _Methods(dict[bytes, str]):
    """Only llhttp's own method names reach this, so it can't grow."""

    def __missing__(self, raw: bytes) -> str:
        name = self[raw] = raw.decode("ascii")
        return name


_METHODS = _Methods()


class _Fast:
    """Parser callbacks without a Python frame per header: the callback is a dictionary's own `__setitem__`."""

    __slots__ = ("on_header", "raw", "url")

    def __init__(self) -> None:
        self.raw: dict[bytes, bytes] = {}
        self.on_header: Callable[[bytes, bytes], None] = self.raw.__setitem__
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url


class _Repeated:
    """Parser callbacks for a head in which a header comes more than once."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    def on_header(self, raw: bytes, value: bytes) -> None:
        name = _NAMES[raw]
        seen = self.headers.get(name)
        if seen is None:
            self.headers[name] = value.decode("latin-1")
        elif name in SINGLE_HEADERS:
            raise BadRequest(f"The header {name} may come only once.")
        else:
            self.headers[name] = f"{seen},{value.decode('latin-1')}"


def check_partial(data: bytes | bytearray) -> None:
    """Refuse early what can't become a head: too long, or lines that end in a bare LF."""
    if len(data) > MAX_HEAD_BYTES:
        raise _too_large()
    if _BARE_LF.search(data):
        raise BadRequest("A line of the request head ends in LF without CR.")


def parse_head(data: bytes) -> Head:
    """Parse one head, from the request line to the empty line, both included. Raises `BadRequest`."""
    if len(data) > MAX_HEAD_BYTES:
        raise _too_large()
    fast = _Fast()
    parser = httptools.HttpRequestParser(fast)
    _feed(parser, data)
    raw = fast.raw
    headers = {_NAMES[name]: value.decode("latin-1") for name, value in raw.items()}
    # Request line + one line per header + the empty line; otherwise a header was repeated.
    if data.count(b"\r\n") != len(headers) + 2:
        headers = _parse_repeated(data)
    if b" \r\n" in data or b"\t\r\n" in data:  # llhttp leaves blanks at the end of values
        headers = {name: value.rstrip(" \t") for name, value in headers.items()}

    line_end = data.find(b"\r\n")
    version = data[line_end - 8 : line_end]
    http11 = version == b"HTTP/1.1"
    if not http11 and version != b"HTTP/1.0":
        raise BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.", status=505, code="HttpVersionNotSupported")

    head = Head()
    head.method = _METHODS[parser.get_method()]
    target = fast.url.decode("latin-1")
    if not target.startswith("/"):
        target = _origin_form(head.method, target)
    head.target = target
    head.headers = headers
    head.http11 = http11
    if http11 and "host" not in headers:
        raise BadRequest("The header Host is missing.")

    head.length = _body_length(headers, http11)
    connection = headers.get("connection")
    if connection is None:
        head.keep_alive = http11
    else:
        tokens = [token.strip() for token in connection.lower().split(",")]
        head.keep_alive = "close" not in tokens and (http11 or "keep-alive" in tokens)
    head.expect_continue = False
    expect = headers.get("expect")
    if expect is not None and http11:  # RFC 9110 §10.1.1: ignore it from an HTTP/1.0 client
        if expect.lower() != "100-continue":
            raise BadRequest("The only expectation known is 100-continue.", status=417, code="ExpectationFailed")
        head.expect_continue = head.length != 0
    return head


def _body_length(headers: dict[str, str], http11: bool) -> int | None:
    coding = headers.get("transfer-encoding")
    declared = headers.get("content-length")
    if coding is None:
        if declared is None:
            return 0
        # llhttp has refused signs and overflow; this keeps the rule if its leniency ever changes.
        if not (declared.isascii() and declared.isdigit() and len(declared) < 20):
            raise BadRequest("Content-Length is not a number.")
        return int(declared)
    if declared is not None:
        raise BadRequest("Content-Length and Transfer-Encoding exclude each other.")
    if not http11 or coding.lower() != "chunked":
        raise BadRequest("The only transfer coding known is chunked.", status=501, code="NotImplemented")
    return None


def _feed(parser: httptools.HttpRequestParser, data: bytes) -> None:
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # `Upgrade: h2c` (Java) and the like are an offer, which we ignore; CONNECT fails by its target
    except httptools.HttpParserInvalidMethodError:
        if data.partition(b" ")[0].isalpha():
            raise BadRequest("The method is unknown.", status=405, code="MethodNotAllowed") from None
        raise BadRequest("This is not HTTP; is the client using TLS on a port without it?") from None
    except httptools.HttpParserError as error:
        if isinstance(error.__context__, BadRequest):
            raise error.__context__ from None
        raise BadRequest(f"The request head is malformed: {error}.") from None


def _parse_repeated(data: bytes) -> dict[str, str]:
    collector = _Repeated()
    _feed(httptools.HttpRequestParser(collector), data)
    return collector.headers


def _origin_form(method: str, target: str) -> str:
    if target == "*" and method == "OPTIONS":
        return target
    if target.lower().startswith(("http://", "https://")):  # RFC 9112 §3.2.2: accept what proxies are sent
        parts = urlsplit(target)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query or target.endswith("?") else "")
    raise BadRequest("The request target must be a path.")


def _too_large() -> BadRequest:
    return BadRequest(f"The request head is longer than {MAX_HEAD_BYTES} bytes.", code="RequestHeaderSectionTooLarge")
