# SPDX-License-Identifier: Apache-2.0
"""Requests that must be refused, as raw bytes against a real gateway process: the exact answer, and nothing changed.

After each case the whole metadata database and the list of objects are what they were before, the gateway still serves,
and its log holds no secret. Answers: spec s3 §2.4, §5.6, §6, §16, §19.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.faults.client import (
    CUT,
    REGION,
    SECRET_KEY,
    Answer,
    exchange,
    head_bytes,
    now,
    request,
    sign,
    signed_request,
    signing_key,
)
from tests.faults.gateway import GatewayProcess, TestVolume
from tests.servers.process import wait_for

BODY = b"what is sent " * 100
OLD = b"what was there before " * 50
EMPTY_SHA = hashlib.sha256(b"").hexdigest()


class Door(NamedTuple):
    gateway: GatewayProcess
    upload: str

    @property
    def port(self) -> int:
        return self.gateway.port

    def request(self, method: str, path: str, body: bytes = b"", **options: Any) -> bytes:
        return signed_request(method, path, body, port=self.port, **options)

    def put(self, path: str = "/bkt/old", body: bytes = BODY, **options: Any) -> bytes:
        return self.request("PUT", path, body, **options)

    def post(self, document: bytes, query: str, path: str = "/bkt", **headers: str) -> bytes:
        md5 = base64.b64encode(hashlib.md5(document).digest()).decode()
        return self.request("POST", path, document, query=query, headers={"content-md5": md5, **headers})


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    volume = TestVolume(trash_days=1)
    with GatewayProcess(volume, "--access-log", str(volume.folder / "access.log"), "--strict") as gateway:

        async def prepare() -> str:
            for path, body in (("/bkt", b""), ("/bkt/old", OLD)):
                assert (await request(gateway.port, "PUT", path, body)).ok
            begun = await request(gateway.port, "POST", "/bkt/old", query="uploads=")
            found = re.search(rb"<UploadId>([^<]+)<", begun.body)
            assert found
            upload = found[1].decode()
            query = f"partNumber=1&uploadId={upload}"
            assert (await request(gateway.port, "PUT", "/bkt/old", b"part", query=query)).ok
            return upload

        yield Door(gateway, asyncio.run(prepare()))
    text = gateway.log_text() + (volume.folder / "access.log").read_text()
    assert SECRET_KEY not in text, "the secret key is in a log"
    assert "Signature=" not in text and "Traceback" not in text, text[-3000:]
    volume.remove()


def snapshot(volume: TestVolume) -> dict[str, Any]:
    """Every record but heartbeats and id counters, and the names of all objects."""
    database = sqlite3.connect(f"file:{volume.folder}/meta.db?mode=ro", uri=True)
    try:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        tables = [t for t in tables if "session" not in t and t != "sqlite_sequence"]
        found: dict[str, Any] = {t: sorted(map(repr, database.execute(f"SELECT * FROM {t}"))) for t in tables}
    finally:
        database.close()
    for name, rows in found.items():
        if "counter" in name:
            found[name] = [row for row in rows if "next" not in row and "lastC" not in row]
    found["objects"] = sorted(str(path) for path in volume.objects.rglob("*") if path.is_file())
    return found


def crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def without(raw: bytes, name: str) -> bytes:
    return re.sub(rb"(?im)^" + name.encode() + rb":[^\r]*\r\n", b"", raw, count=1)


def replaced(raw: bytes, name: str, value: str) -> bytes:
    return re.sub(rb"(?im)^" + name.encode() + rb":[^\r]*", f"{name}: {value}".encode(), raw, count=1)


def chunked(door: Door, *, signature: str = "", trailer: bytes = b"", length: int | None = None) -> bytes:
    """A PUT in one signed chunk; signature: instead of the right one; trailer: makes it an unsigned-trailer body."""
    when = now()
    mode = "STREAMING-UNSIGNED-PAYLOAD-TRAILER" if trailer else "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    headers = {
        "host": f"127.0.0.1:{door.port}", "content-encoding": "aws-chunked",
        "x-amz-decoded-content-length": str(len(BODY) if length is None else length),
    }  # fmt: skip
    if trailer:
        headers["x-amz-trailer"] = "x-amz-checksum-crc32"
    signed = sign("PUT", "/bkt/old", "", headers, mode, when=when)
    if trailer:
        body = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(BODY), BODY, trailer)
    else:
        date = when.strftime("%Y%m%d")
        previous = signed["authorization"].rpartition("=")[2]
        body = b""
        for data in (BODY, b""):
            text = "\n".join((
                "AWS4-HMAC-SHA256-PAYLOAD", when.strftime("%Y%m%dT%H%M%SZ"), f"{date}/{REGION}/s3/aws4_request",
                previous, EMPTY_SHA, hashlib.sha256(data).hexdigest(),
            ))  # fmt: skip
            previous = hmac.new(signing_key(date), text.encode(), hashlib.sha256).hexdigest()
            body += b"%x;chunk-signature=%s\r\n%s\r\n" % (len(data), (signature or previous).encode(), data)
    signed["content-length"] = str(len(body))
    return head_bytes("PUT", "/bkt/old", signed) + body


def laughs() -> bytes:
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return f'<?xml version="1.0"?><!DOCTYPE D [<!ENTITY l0 "ha">{entities}]><Delete>&l9;</Delete>'.encode()


EXTERNAL = (
    b'<?xml version="1.0"?><!DOCTYPE D [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b"<Delete><Object><Key>&x;</Key></Object></Delete>"
)
DEEP = b"<Delete>" + b"<a>" * 5000 + b"</a>" * 5000 + b"</Delete>"
XML = {
    "laughs": laughs(),
    "external": EXTERNAL,
    "deep": DEEP,
    "half": b"<Delete><Object>",
    "empty": b"",
    "binary": b"\0\1",
}
A_MINUTE = datetime.timedelta(minutes=1)
LONG_AGO = datetime.timedelta(minutes=20)
SECRET = "another-secret-000"

#: name -> (request, status, code). status 0: the connection may end without an answer.
CASES: dict[str, tuple[Callable[[Door], bytes], int, str]] = {
    # who
    "wrong access key": (lambda d: d.put(access_key="NOBODY"), 403, "InvalidAccessKeyId"),
    "wrong secret": (lambda d: d.put(secret_key=SECRET), 403, "SignatureDoesNotMatch"),
    "date of another day": (
        lambda d: replaced(d.put(), "x-amz-date", "20200101T000000Z"), 400, "AuthorizationHeaderMalformed"),
    "date changed": (
        lambda d: replaced(d.put(), "x-amz-date", f"{now() - A_MINUTE:%Y%m%dT%H%M%SZ}"), 403, "SignatureDoesNotMatch"),
    "clock 20 minutes behind": (lambda d: d.put(when=now() - LONG_AGO), 403, "RequestTimeTooSkewed"),
    "clock 20 minutes ahead": (lambda d: d.put(when=now() + LONG_AGO), 403, "RequestTimeTooSkewed"),
    "no date": (lambda d: without(d.put(), "x-amz-date"), 403, "AccessDenied"),
    "no signature": (lambda d: without(d.put(), "authorization"), 403, "AccessDenied"),
    "malformed authorization": (
        lambda d: replaced(d.put(), "authorization", "AWS4-HMAC-SHA256 nonsense"), 400, "AuthorizationHeaderMalformed"),
    "unsigned amz header": (
        lambda d: d.put().replace(b"\r\nhost:", b"\r\nx-amz-meta-a: b\r\nhost:", 1), 403, "AccessDenied"),
    # how much
    "body over the declared length": (lambda d: d.put() + b"GARBAGE", 200, ""),
    "6 GiB declared": (lambda d: replaced(d.put(), "content-length", str(6 << 30)), 400, "EntityTooLarge"),
    "no length": (lambda d: without(d.put(), "content-length")[:-len(BODY)], 411, "MissingContentLength"),
    "negative length": (lambda d: replaced(d.put(), "content-length", "-1"), 400, "BadRequest"),
    "both lengths": (
        lambda d: d.put().replace(b"\r\nhost:", b"\r\ntransfer-encoding: chunked\r\nhost:", 1), 400, "BadRequest"),
    "two lengths": (lambda d: d.put().replace(b"\r\nhost:", b"\r\ncontent-length: 5\r\nhost:", 1), 400, "BadRequest"),
    # what
    "wrong Content-MD5": (
        lambda d: d.put(headers={"content-md5": base64.b64encode(bytes(16)).decode()}), 400, "BadDigest"),
    "Content-MD5 of 3 bytes": (lambda d: d.put(headers={"content-md5": "AAAA"}), 400, "InvalidDigest"),
    "wrong CRC32": (lambda d: d.put(headers={"x-amz-checksum-crc32": crc32(b"other")}), 400, "BadDigest"),
    "CRC32 that is none": (lambda d: d.put(headers={"x-amz-checksum-crc32": "!!!"}), 400, "InvalidRequest"),
    "wrong SHA-256 checksum": (
        lambda d: d.put(headers={"x-amz-checksum-sha256": base64.b64encode(bytes(32)).decode()}), 400, "BadDigest"),
    "two checksums": (
        lambda d: d.put(headers={"x-amz-checksum-crc32": crc32(BODY), "x-amz-checksum-crc32c": "AAAAAA=="}),
        400, "InvalidRequest"),
    "wrong x-amz-content-sha256": (lambda d: d.put(payload_hash="0" * 64), 400, "XAmzContentSHA256Mismatch"),
    "x-amz-content-sha256 that is none": (lambda d: d.put(payload_hash="nonsense"), 400, "InvalidArgument"),
    "wrong chunk signature": (lambda d: chunked(d, signature="0" * 64), 403, "SignatureDoesNotMatch"),
    "chunks shorter than declared": (lambda d: chunked(d, length=len(BODY) + 1), 400, "IncompleteBody"),
    "chunks longer than declared": (lambda d: chunked(d, length=len(BODY) - 1), 400, "IncompleteBody"),
    "wrong trailer": (
        lambda d: chunked(d, trailer=b"x-amz-checksum-crc32:" + crc32(b"other").encode()), 400, "BadDigest"),
    "another trailer than announced": (
        lambda d: chunked(d, trailer=b"x-amz-checksum-sha1:AAAA"), 400, "MalformedTrailerError"),
    # where
    "dot dot": (lambda d: d.put("/bkt/a/../../../etc/passwd"), 400, "InvalidArgument"),
    "encoded dot dot": (
        lambda d: d.put("/bkt/a/../../x").replace(b"/a/../../x", b"/a/%2e%2e/%2E%2e/x"), 400, "InvalidArgument"),
    "dot dot as bucket": (lambda d: d.put("/../x"), 404, "NoSuchBucket"),
    "empty segment": (lambda d: d.put("/bkt/a//b"), 400, "InvalidArgument"),
    "NUL": (lambda d: d.put("/bkt/a%00b"), 400, "InvalidArgument"),
    "key of 1025 bytes": (lambda d: d.put("/bkt/" + "/".join(["k" * 204] * 5) + "/k"), 400, "KeyTooLongError"),
    "name of 256 bytes": (lambda d: d.put("/bkt/" + "k" * 256), 400, "KeyTooLongError"),
    "broken UTF-8": (lambda d: d.put("/bkt/%FF%FE"), 400, "InvalidArgument"),
    "broken percent": (lambda d: d.put("/bkt/%zz"), 400, "InvalidURI"),
    "hidden name .trash": (lambda d: d.put("/.trash/x"), 403, "AllAccessDisabled"),
    "hidden name .sys": (lambda d: d.request("GET", "/.sys/uploads"), 403, "AllAccessDisabled"),
    "creating a hidden bucket": (lambda d: d.request("PUT", "/.sys"), 403, "AllAccessDisabled"),
    "missing bucket": (lambda d: d.put("/nobody/x"), 404, "NoSuchBucket"),
    "object below an object": (lambda d: d.put("/bkt/old/below"), 409, "ObjectParentIsFile"),
    "upload id with slashes": (
        lambda d: d.put(query=f"partNumber=1&uploadId={quote('../../x', safe='')}"), 404, "NoSuchUpload"),
    "part 0": (lambda d: d.put(query=f"partNumber=0&uploadId={d.upload}"), 400, "InvalidArgument"),
    "part 10001": (lambda d: d.put(query=f"partNumber=10001&uploadId={d.upload}"), 400, "InvalidArgument"),
    "part of another key": (
        lambda d: d.put("/bkt/new", query=f"partNumber=1&uploadId={d.upload}"), 404, "NoSuchUpload"),
    "copy source outside": (
        lambda d: d.put(body=b"", headers={"x-amz-copy-source": "/bkt/../../etc/passwd"}), 400, "InvalidArgument"),
    "copy source hidden": (
        lambda d: d.put(body=b"", headers={"x-amz-copy-source": "/.trash/x"}), 403, "AllAccessDisabled"),
    # the protocol
    "header flood": (
        lambda d: d.put(headers={f"x-amz-meta-h{n}": "v" * 50 for n in range(500)}),
        400, "RequestHeaderSectionTooLarge"),
    "metadata of 3 KiB": (lambda d: d.put(headers={"x-amz-meta-a": "v" * 3000}), 400, "MetadataTooLarge"),
    "bare line feeds": (lambda d: b"GET / HTTP/1.1\nHost: x\n\n", 400, "BadRequest"),
    "folded header": (lambda d: b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "BadRequest"),
    "no host": (lambda d: b"GET / HTTP/1.1\r\n\r\n", 400, "BadRequest"),
    "not HTTP": (lambda d: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "BadRequest"),
    "HTTP/2 preface": (lambda d: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, ""),
    "unknown method": (lambda d: d.request("BREW", "/bkt/old"), 405, "MethodNotAllowed"),
}  # fmt: skip

#: Accepted ones: the extra bytes are another (broken) request on the connection.
_ACCEPTED = {"body over the declared length"}


async def refused(door: Door, raw: bytes, status: int, code: str, **options: Any) -> Answer:
    before = snapshot(door.gateway.volume)
    answer = await exchange(door.port, raw, timeout_s=30, **options)
    if status or answer != CUT:
        assert (answer.status, answer.code) == (status or answer.status, code or answer.code), answer
    wait_for(lambda: snapshot(door.gateway.volume) == before, timeout_s=5, what="a volume as it was before")
    assert (await request(door.port, "GET", "/bkt/old")).body == OLD
    return answer


@pytest.mark.parametrize("name", [name for name in CASES if name not in _ACCEPTED])
async def test_is_refused_and_changes_nothing(door: Door, name: str) -> None:
    build, status, code = CASES[name]
    answer = await refused(door, build(door), status, code)
    assert SECRET_KEY.encode() not in answer.body
    assert b"/tmp/" not in answer.body and b"Errno" not in answer.body


@pytest.mark.parametrize("shape", sorted(XML))
@pytest.mark.parametrize(
    ("query", "path"), [("delete=", "/bkt"), ("tagging=", "/bkt/old"), ("uploadId={}", "/bkt/old")],
    ids=["DeleteObjects", "PutObjectTagging", "CompleteMultipartUpload"],
)  # fmt: skip
async def test_xml_bombs_and_rubbish(door: Door, query: str, path: str, shape: str) -> None:
    document = XML[shape]
    query = query.format(door.upload)
    if query == "tagging=":
        md5 = base64.b64encode(hashlib.md5(document).digest()).decode()
        raw = door.request("PUT", path, document, query=query, headers={"content-md5": md5})
    else:
        raw = door.post(document, query, path)
    code = "MalformedXML" if document or query != "delete=" else ""
    answer = await refused(door, raw, 400, code)
    assert b"root:" not in answer.body


async def test_xml_longer_than_allowed_is_not_read(door: Door) -> None:
    raw = replaced(door.post(b"<Delete/>", "delete="), "content-length", str(1 << 30))
    await refused(door, raw, 400, "")


@pytest.mark.parametrize("size", [1000, 200_000, 5 << 20])
async def test_a_body_that_ends_early(door: Door, size: int) -> None:
    raw = door.put(body=bytes(size))
    answer = await refused(door, raw[: -size // 2], 0, "", then_close=True)
    assert answer == CUT or (answer.status, answer.code) == (400, "IncompleteBody"), answer


async def test_extra_bytes_are_not_part_of_the_object(door: Door) -> None:
    build, status, _ = CASES["body over the declared length"]
    assert (await exchange(door.port, build(door))).status == status
    assert (await request(door.port, "GET", "/bkt/old")).body == BODY
    assert (await request(door.port, "PUT", "/bkt/old", OLD)).ok


async def test_the_access_log_names_request_and_status(door: Door) -> None:
    path = door.gateway.volume.folder / "access.log"
    await exchange(door.port, door.put("/bkt/wanted", secret_key=SECRET))
    wait_for(
        lambda: re.search(r'PUT "/bkt/wanted" 403 ', path.read_text()) is not None, what="a line in the access log"
    )
