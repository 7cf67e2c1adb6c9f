# SPDX-License-Identifier: Apache-2.0
"""GET, HEAD, PUT and PATCH: status, headers, ranges, conditions, times, checksums, broken uploads."""

from __future__ import annotations

import base64
import hashlib
import os
import socket

from tests.gateways.webdav.door import BASIC, Door


def test_put_says_created_and_then_replaced_and_get_gives_the_bytes(door: Door) -> None:
    first = door.put("/file.txt", b"one")
    assert first.status == 201 and first.headers["etag"].startswith('"')
    second = door.put("/file.txt", b"second")
    assert second.status == 204 and second.etag != first.etag
    found = door.ask("GET", "/file.txt")
    assert (found.status, found.body, found.etag) == (200, b"second", second.etag)
    assert found.headers["content-type"] == "text/plain" and found.headers["accept-ranges"] == "bytes"
    head = door.ask("HEAD", "/file.txt")
    assert head.headers["content-length"] == "6" and head.body == b"" and head.etag == second.etag


def test_large_and_empty_and_chunked_bodies(door: Door) -> None:
    data = os.urandom(9 << 20)
    assert door.put("/large", data).status == 201
    assert door.ask("GET", "/large").body == data
    assert door.put("/empty", b"").status == 201
    assert door.ask("GET", "/empty").body == b""
    connection = door.connect()
    pieces = [b"a" * 70_000, b"b" * 10]
    connection.request("PUT", "/chunked", iter(pieces), {"Authorization": BASIC}, encode_chunked=True)
    assert connection.getresponse().status == 201
    connection.close()
    assert door.ask("GET", "/chunked").body == b"".join(pieces)


def test_ranges(door: Door) -> None:
    door.put("/r", b"0123456789")

    def part(value: str, **more: str) -> tuple[int, bytes, str]:
        found = door.ask("GET", "/r", {"Range": value, **more})
        return found.status, found.body, found.headers.get("content-range", "")

    assert part("bytes=2-4") == (206, b"234", "bytes 2-4/10")
    assert part("bytes=-3") == (206, b"789", "bytes 7-9/10")
    assert part("bytes=0-") == (206, b"0123456789", "bytes 0-9/10")
    assert part("bytes=10-")[0::2] == (416, "bytes */10")
    assert part("lines=1")[:2] == (200, b"0123456789")
    several = door.ask("GET", "/r", {"Range": "bytes=0-0,8-9"})
    assert several.status == 206 and several.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert b"bytes 0-0/10\r\n\r\n0\r\n" in several.body and b"bytes 8-9/10\r\n\r\n89\r\n" in several.body
    etag = door.ask("HEAD", "/r").etag
    assert part("bytes=0-0", **{"If-Range": etag})[0] == 206
    assert part("bytes=0-0", **{"If-Range": '"other"'})[0] == 200


def test_conditions(door: Door) -> None:
    etag = door.put("/c", b"1").etag
    assert door.ask("GET", "/c", {"If-None-Match": etag}).status == 304
    assert door.ask("PUT", "/c", {"If-None-Match": "*"}, b"2").status == 412
    assert door.ask("PUT", "/c", {"If-Match": '"wrong"'}, b"2").status == 412
    assert door.ask("PUT", "/new-c", {"If-Match": "*"}, b"2").status == 412
    assert door.ask("PUT", "/c", {"If-Match": etag}, b"2").status == 204
    assert door.ask("DELETE", "/c", {"If-Match": etag}).status == 412
    assert door.ask("GET", "/c").body == b"2"


def test_times_checksums_and_refusals(door: Door) -> None:
    found = door.ask("PUT", "/t", {"X-OC-Mtime": "1000000000.5"}, b"t")
    assert found.headers["x-oc-mtime"] == "accepted"
    assert door.ask("HEAD", "/t").headers["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"
    assert door.ask("PUT", "/t2", {"X-OC-Mtime": "-5"}, b"t").status == 201
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert door.ask("PUT", "/t", {"Content-MD5": md5}, b"t!").status == 400
    assert door.ask("PUT", "/t", {"OC-Checksum": "SHA1:" + hashlib.sha1(b"t!").hexdigest()}, b"t!").status == 204
    assert door.ask("PUT", "/t", {"Content-Range": "bytes 0-0/1"}, b"x").status == 400
    assert door.ask("PUT", "/none/t", body=b"x").status == 409
    assert door.ask("PUT", "/t/below", body=b"x").status == 409
    assert door.ask("MKCOL", "/t-dir").status == 201
    assert door.ask("PUT", "/t-dir", body=b"x").status == 405
    assert door.ask("GET", "/t").body == b"t!"


def test_a_put_that_breaks_off_leaves_the_old_content(door: Door) -> None:
    door.put("/keep", b"old")
    with socket.create_connection(("127.0.0.1", door.port)) as raw:
        raw.sendall(
            f"PUT /keep HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\nContent-Length: 5000000\r\n\r\n".encode()
            + b"n" * 1_000_000
        )
    assert door.ask("GET", "/keep").body == b"old"
    assert door.ask("PROPFIND", "/keep", {"Depth": "0"}).texts("{DAV:}getcontentlength") == ["3"]


def test_replacing_keeps_dead_properties_and_mode(door: Door) -> None:
    door.put("/p", b"1")
    body = (
        '<propertyupdate xmlns="DAV:"><set><prop><x:colour xmlns:x="urn:x">red</x:colour>'
        '<executable xmlns="http://apache.org/dav/props/">T</executable></prop></set></propertyupdate>'
    )
    assert door.ask("PROPPATCH", "/p", body=body).status == 207
    assert door.put("/p", b"22").status == 204
    found = door.ask("PROPFIND", "/p", {"Depth": "0"})
    assert found.texts("{urn:x}colour") == ["red"]
    assert found.texts("{http://apache.org/dav/props/}executable") == ["T"]


def test_sabredav_partial_update(door: Door) -> None:
    kind = {"Content-Type": "application/x-sabredav-partialupdate"}
    etag = door.put("/u", b"0123456789").etag

    def patch(where: str, body: bytes, **more: str) -> int:
        return door.ask("PATCH", "/u", {**kind, "X-Update-Range": where, **more}, body).status

    assert patch("bytes=2-4", b"abc") == 204
    assert door.ask("GET", "/u").body == b"01abc56789"
    assert patch("append", b"++") == 204
    assert patch("bytes=-1", b"!") == 204
    assert door.ask("GET", "/u").body == b"01abc56789+!"
    assert patch("bytes=14-", b"z") == 204
    assert door.ask("GET", "/u").body == b"01abc56789+!\0\0z"
    assert patch("bytes=0-3", b"xx") == 416
    assert patch("nonsense", b"xx") == 400
    assert patch("append", b"x", **{"If-Match": etag}) == 412
    assert door.ask("PATCH", "/u", {"X-Update-Range": "append", "Content-Type": "text/plain"}, b"x").status == 415
    assert door.ask("PATCH", "/gone", {**kind, "X-Update-Range": "append"}, b"x").status == 404
