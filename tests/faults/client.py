# SPDX-License-Identifier: Apache-2.0
"""A small S3 client for fault tests: asyncio sockets, its own signatures, no retries and no opinions.

Ordinary clients hide what these tests look for: they retry, pool, refuse to send nonsense and turn cut answers into
successes. `request` signs and sends one request on a connection of its own; `exchange` sends raw bytes.
Source: AWS Signature Version 4 (spec s3 §5.2).
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote

ACCESS_KEY = "testadmin"
SECRET_KEY = "testsecret-0123456789"
REGION = "us-east-1"
UNSIGNED = "UNSIGNED-PAYLOAD"


class Answer(NamedTuple):
    """status 0: the connection ended before a complete answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Code of an S3 error document, "" if there is none."""
        match = re.search(rb"<Code>([^<]*)</Code>", self.body)
        return match[1].decode() if match else ""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


CUT = Answer(0, {}, b"")


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def sign(
    method: str, path: str, query: str, headers: Mapping[str, str], payload_hash: str, *, access_key: str = ACCESS_KEY,
    secret_key: str = SECRET_KEY, when: datetime.datetime | None = None,
) -> dict[str, str]:  # fmt: skip
    """All headers with date, payload hash and Authorization. path and query as they are sent (encoded)."""
    stamp = (when or now()).strftime("%Y%m%dT%H%M%SZ")
    signed = {name.lower(): value.strip() for name, value in headers.items()}
    signed |= {"x-amz-date": stamp, "x-amz-content-sha256": payload_hash}
    names = ";".join(sorted(signed))
    canonical_query = "&".join(sorted(part if "=" in part else part + "=" for part in query.split("&") if part))
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    canonical = f"{method}\n{path}\n{canonical_query}\n{lines}\n{names}\n{payload_hash}"
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signature = hmac.new(signing_key(stamp[:8], secret_key), text.encode(), hashlib.sha256).hexdigest()
    signed["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return signed


def signing_key(date: str, secret_key: str = SECRET_KEY) -> bytes:
    key = b"AWS4" + secret_key.encode()
    for part in (date, REGION, "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def head_bytes(method: str, target: str, headers: Mapping[str, str] | Iterable[tuple[str, str]]) -> bytes:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return "".join([f"{method} {target} HTTP/1.1\r\n", *(f"{n}: {v}\r\n" for n, v in pairs), "\r\n"]).encode("latin-1")


def signed_request(
    method: str, path: str, body: bytes = b"", *, port: int, query: str = "", headers: Mapping[str, str] | None = None,
    payload_hash: str = UNSIGNED, **options: object,
) -> bytes:  # fmt: skip
    """The bytes of one request. options: of `sign`."""
    plain = {"host": f"127.0.0.1:{port}", **(headers or {})}
    signed = sign(method, path, query, plain, payload_hash, **options)  # type: ignore[arg-type]
    if body or method in ("PUT", "POST"):
        signed.setdefault("content-length", str(len(body)))
    return head_bytes(method, path + (f"?{query}" if query else ""), signed) + body


async def request(
    port: int, method: str, path: str, body: bytes = b"", *, query: str = "", headers: Mapping[str, str] | None = None,
    timeout_s: float = 60,
) -> Answer:  # fmt: skip
    """One signed request; path is quoted here. CUT if the connection failed before the whole answer was there."""
    raw = signed_request(method, quote(path), body, port=port, query=query, headers=headers)
    return await exchange(port, raw, head_only=method == "HEAD", timeout_s=timeout_s)


async def exchange(
    port: int, raw: bytes, *, head_only: bool = False, then_close: bool = False, timeout_s: float = 60
) -> Answer:
    """Send bytes, read one answer. then_close: shut down our side after sending, as a client that dies does."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
            try:
                sending = asyncio.ensure_future(_send(writer, raw, then_close))
                try:
                    return await read_answer(reader, head_only=head_only)
                finally:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return CUT


async def _send(writer: asyncio.StreamWriter, raw: bytes, then_close: bool) -> None:
    writer.write(raw)
    await writer.drain()
    if then_close:
        writer.write_eof()


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Answer:
    """One HTTP answer; raises IncompleteReadError if it is cut."""
    while True:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(head[0].split(" ")[1])
        if status != 100:
            break
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    if head_only or status in (204, 304):
        return Answer(status, headers, b"")
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return Answer(status, headers, body)
    return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", "0"))))
