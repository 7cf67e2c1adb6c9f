# SPDX-License-Identifier: Apache-2.0
"""Requests that mean harm: paths, headers, documents, names. Nothing leaks, nothing outside changes, all is answered.

Source: spec webdav §2, §13, §20, §24.8.
"""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

import pytest

from tests.gateways.webdav.door import BASIC, Door

D = "{DAV:}"
HIDDEN = (".sys", ".trash", ".stats", ".config", ".accesslog", ".control", ".minio.sys", ".jfs.sys")


def raw(door: Door, text: str | bytes, timeout_s: float = 20) -> bytes:
    """What comes back for these bytes, up to the end of the connection."""
    data = text.encode("latin-1") if isinstance(text, str) else text
    with socket.create_connection(("127.0.0.1", door.port), timeout=timeout_s) as connection:
        connection.sendall(data)
        parts = []
        try:
            while piece := connection.recv(1 << 16):
                parts.append(piece)
        except (TimeoutError, ConnectionResetError):
            pass
        return b"".join(parts)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


ENCODINGS = [
    "/../x", "/./x", "/%2e%2e/x", "/%2E%2e/x", "/.%2e/x", "/a/../../x", "/a%2f..%2f..%2fx", "/..%2fx", "/%2e/x",
    "/a/%2e%2e", "/x%00y", "/%00", "/%", "/%4", "/%zz", "/%u002e", "/a%2fb",
]  # fmt: skip


@pytest.mark.parametrize("path", ENCODINGS)
def test_paths_that_lead_elsewhere_are_refused_wherever_they_stand(door: Door, path: str) -> None:
    door.put("/plain", b"p")
    for method in ("GET", "PUT", "DELETE", "PROPFIND", "PROPPATCH", "LOCK", "PATCH", "MKCOL", "COPY", "MOVE"):
        assert door.ask(method, path, {"Depth": "0", "Destination": "/y"}, b"").status == 400, method
    for destination in (path, door.url + path):
        for method in ("COPY", "MOVE"):
            assert door.ask(method, "/plain", {"Destination": destination}).status == 400, destination
    assert door.ask("GET", "/plain", {"If": f"<{path}> (Not <urn:x>)"}).status in (200, 412), "judged, not followed"
    assert door.ask("GET", "/plain").body == b"p"


def test_a_path_is_decoded_once(door: Door) -> None:
    for path in ("/%252e%252e/x", "/%252fetc", "/a%25zz"):
        assert door.ask("GET", path).status == 404, path
    for path in ("/..;/x", "/a\\..\\b", "/%c0%ae%c0%ae/x", "/%ef%bc%8e%ef%bc%8e/x", "/...", "/ ".replace(" ", "%20")):
        assert door.ask("GET", path).status == 404, path


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("http://other.example/x", 502), ("https://127.0.0.1.evil.example/x", 502), ("//other.example/x", 400),
        ("ftp://HERE/x", 400), ("x", 400), ("", 400), ("\\\\host\\share", 400), ("http:/x", 400), ("/x\\y", 400),
        ("http://HERE@other.example/x", 502), ("http://other.example:80@HERE/ok", 201), ("http://HERE/ok?a=b", 201),
        ("https://HERE/ok", 201), ("/.sys/x", 403), ("/.trash/x", 403), ("http://HERE/%2esys/tmp/x", 403),
        ("/.sys", 403), ("/", 403),
    ],
)  # fmt: skip
def test_destinations(door: Door, destination: str, expected: int) -> None:
    door.put("/source", b"s")
    door.ask("DELETE", "/ok")
    text = destination.replace("HERE", f"127.0.0.1:{door.port}")
    headers = {"Destination": text, "Host": f"127.0.0.1:{door.port}"}
    assert door.ask("COPY", "/source", headers).status == expected
    assert door.ask("GET", "/source").body == b"s"


def test_a_destination_outside_the_prefix_is_refused(meta_url: str) -> None:
    with Door(meta_url, "--prefix", "/dav") as below:
        below.put("/dav/in-prefix", b"1")
        for target in ("/in-prefix2", "/other/x", "/da/x", "/davx/y", "/"):
            assert below.ask("COPY", "/dav/in-prefix", {"Destination": target}).status == 403, target
        assert below.ask("COPY", "/dav/in-prefix", {"Destination": "/dav/in-prefix2"}).status in (201, 204)
        assert below.ask("GET", "/dav/in-prefix", {"If": '</in-prefix> (["x"])'}).status == 412
        for path in ("/in-prefix", "/davx", "/dav/../in-prefix", "/"):
            assert below.ask("GET", path).status in (400, 404), path


def test_nothing_tells_whether_a_hidden_name_exists(door: Door) -> None:
    token = door.lock("/taken").headers["lock-token"]  # now there is something below .sys
    listed = door.ask("PROPFIND", "/", {"Depth": "1"})
    page = door.ask("GET", "/", {"Accept": "text/html"})
    for name in HIDDEN:
        assert name.encode() not in page.body and f"/{name}/" not in listed.texts(D + "href")
        for path in (f"/{name}", f"/{name}/", f"/{name}/no-such", f"/{name}/.webdav/locks", f"//{name}"):
            for method in ("GET", "HEAD", "PROPFIND"):
                found = door.ask(method, path, {"Depth": "0"})
                assert found.status == 404, (method, path)
            for method in ("PUT", "DELETE", "MKCOL", "LOCK", "UNLOCK", "PROPPATCH", "PATCH", "COPY", "MOVE"):
                found = door.ask(method, path, {"Destination": "/y", "Lock-Token": token}, b"")
                assert found.status == 403, (method, path)
            assert door.ask("OPTIONS", path).headers["allow"] == door.ask("OPTIONS", "/no-such").headers["allow"]
            assert door.ask("GET", "/", {"If": f'<{path}> (Not ["x"])'}).status in (200, 207)
    assert door.ask("GET", "/sub/.sys").status == 404
    assert door.ask("MKCOL", "/sub-h").status in (201, 405)
    assert door.put("/sub-h/.sys", b"an ordinary name elsewhere").status in (201, 204)
    assert door.ask("UNLOCK", "/taken", {"Lock-Token": token}).status == 204


def test_who_is_not_logged_in_learns_nothing(door: Door) -> None:
    door.put("/exists", b"1")
    answers = {
        (found.status, found.body, found.headers.get("allow"))
        for path in ("/exists", "/missing", "/.sys/x")
        for found in [door.ask("GET", path, login=None), door.ask("PROPFIND", path, {"Depth": "0"}, login=None)]
    }
    assert len(answers) == 1 and next(iter(answers))[0] == 401
    assert (
        door.ask("OPTIONS", "/exists", login=None).headers["allow"]
        == door.ask("OPTIONS", "/missing", login=None).headers["allow"]
    )


BILLION = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "lol">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{("&" + chr(97 + n) + ";") * 10}">' for n in range(9))
    + ']><propfind xmlns="DAV:"><prop><x>&j;</x></prop></propfind>'
)
DOCUMENTS = {
    "entities": BILLION,
    "parameter": '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:9/">%p;]><propfind xmlns="DAV:"/>',
    "file": '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><propfind xmlns="DAV:"><prop>&f;</prop></propfind>',
    "dtd": '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><propfind xmlns="DAV:"><allprop/></propfind>',
    "deep": "<a>" * 5000,
    "wide": '<propfind xmlns="DAV:"><prop>' + "<a/>" * 5000 + "</prop></propfind>",
    "attributes": '<propfind xmlns="DAV:"' + "".join(f' a{n}="{n}"' for n in range(20_000)) + "><allprop/></propfind",
    "xinclude": '<propfind xmlns="DAV:" xmlns:x="http://www.w3.org/2001/XInclude"><x:include href="file:///etc/passwd"/>',
    "unbound": '<propfind xmlns="DAV:"><prop><y:a/></prop></propfind>',
    "empty prefix": '<D:propfind xmlns:D="DAV:"><D:prop><b:a xmlns:b=""/></D:prop></D:propfind>',
    "two roots": '<propfind xmlns="DAV:"><allprop/></propfind><x/>',
    "nul": '<propfind xmlns="DAV:"><allprop/>\0</propfind>',
    "latin": "<?xml version='1.0' encoding='no-such'?><propfind xmlns='DAV:'><allprop/></propfind>",
}  # fmt: skip


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_that_mean_harm(door: Door, kind: str) -> None:
    door.put("/doc", b"")
    for method in ("PROPFIND", "PROPPATCH", "LOCK"):
        started = time.monotonic()
        found = door.ask(method, "/doc", {"Depth": "0"}, DOCUMENTS[kind])
        assert found.status == 400, (method, found.body[:200])
        assert b"root:" not in found.body and b"lol" not in found.body
        assert time.monotonic() - started < 15
    assert door.ask("PROPFIND", "/doc", {"Depth": "0"}).status == 207


def test_documents_in_utf_16_and_with_a_mark_are_read(door: Door) -> None:
    door.put("/utf", b"")
    asked = '<?xml version="1.0" encoding="{}"?><propfind xmlns="DAV:"><prop><getetag/></prop></propfind>'
    for name, data in (
        ("utf-16", asked.format("utf-16").encode("utf-16")),
        ("utf-8", b"\xef\xbb\xbf" + asked.format("utf-8").encode()),
    ):  # fmt: skip
        assert door.ask("PROPFIND", "/utf", {"Depth": "0"}, data).texts(D + "getetag"), name


def test_a_document_of_any_size_is_refused_without_being_kept(door: Door) -> None:
    head = f"PROPFIND / HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\nDepth: 0\r\n"
    announced = raw(door, head + "Content-Length: 1073741824\r\n\r\n" + "<x>")
    assert status(announced) == 413
    chunk = "10000\r\n" + "x" * 65536 + "\r\n"
    unannounced = raw(door, head + "Transfer-Encoding: chunked\r\n\r\n" + chunk * 20)
    assert status(unannounced) == 413


def test_properties_of_one_client_are_no_markup_for_another(door: Door) -> None:
    door.put("/evil", b"")
    inner = (
        "<![CDATA[</D:prop><script>alert(1)</script>]]><a xmlns='urn:a' b='\"&lt;>'>&#38;#60;</a><?php x?><!-- c -->"
    )
    body = f'<propertyupdate xmlns="DAV:"><set><prop><x:p xmlns:x="urn:&quot;&gt;&lt;x">{inner}</x:p></prop></set>'
    assert door.ask("PROPPATCH", "/evil", body=body + "</propertyupdate>").status == 207
    found = door.ask("PROPFIND", "/evil", {"Depth": "0"})
    (value,) = found.xml.iter('{urn:"><x}p')
    assert "".join(value.itertext()) == "</D:prop><script>alert(1)</script>&#60;"
    assert b"<script" not in found.body and b"<?php" not in found.body and b"<!--" not in found.body


def test_an_owner_of_a_lock_is_no_markup_either(door: Door) -> None:
    body = (
        '<lockinfo xmlns="DAV:"><lockscope><shared/></lockscope><locktype><write/></locktype>'
        "<owner>&lt;/D:owner&gt;<href>x</href><!-- y --></owner></lockinfo>"
    )
    locked = door.ask("LOCK", "/owned", {"Depth": "0"}, body)
    assert locked.status in (200, 201)
    (owner,) = locked.xml.iter(D + "owner")
    assert owner.text == "</D:owner>" and owner[0].tag == D + "href"
    large = body.replace("&lt;/D:owner&gt;", "y" * 5000)
    assert door.ask("LOCK", "/owned2", {"Depth": "0"}, large).status in (400, 507)
    token = locked.headers["lock-token"]
    assert door.ask("UNLOCK", "/owned", {"Lock-Token": token}).status == 204


def test_headers_cannot_be_smuggled_by_names(door: Door) -> None:
    name = "/a%0d%0aSet-Cookie:%20x=1"
    assert door.put(name, b"1").status in (201, 204)
    for method in ("GET", "PROPFIND"):
        found = door.ask(method, name, {"Depth": "0"})
        assert "set-cookie" not in found.headers
    assert any("%0D%0A" in href for href in door.ask("PROPFIND", "/", {"Depth": "1"}).texts(D + "href"))
    folder = "/dir%0d%0aX-Evil:%201"
    door.ask("MKCOL", folder)
    moved = door.ask("GET", folder, {"Accept": "text/html"})
    assert moved.status == 302 and "x-evil" not in moved.headers and moved.headers["location"].endswith("/")
    assert door.ask("DELETE", name).status == door.ask("DELETE", folder).status == 204


@pytest.mark.parametrize(
    "lines",
    [
        "Content-Length: 3\r\nTransfer-Encoding: chunked", "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: -1", "Content-Length: 3x", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: gzip",
    ],
)  # fmt: skip
def test_requests_with_unclear_bodies_end_the_connection(door: Door, lines: str) -> None:
    second = f"GET /smuggled HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\n\r\n"
    first = f"PUT /unclear HTTP/1.1\r\nHost: x\r\nAuthorization: {BASIC}\r\n{lines}\r\n\r\n"
    answer = raw(door, first + "0\r\n\r\n" + second, timeout_s=5)
    assert status(answer) in (400, 411, 501) and answer.count(b"HTTP/1.1 ") == 1, answer[:300]


def test_a_flood_of_headers_is_cut_off(door: Door) -> None:
    many = "".join(f"X-{n}: {'y' * 100}\r\n" for n in range(2000))
    assert status(raw(door, f"GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n", timeout_s=5)) in (400, 431, 0)
    assert door.ask("OPTIONS", "/").status == 200


def test_if_headers_of_any_form_are_answered(door: Door) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    door.put("/fuzz", b"")
    pieces = [
        "(",
        ")",
        "<urn:uuid:1>",
        "<http://x/y>",
        "</fuzz>",
        '["etag"]',
        '[W/"x"]',
        "Not",
        " ",
        "<",
        ">",
        "[",
        '"',
        "\t",
    ]
    connection = door.connect()
    for _ in range(150):
        text = "".join(dice.choice(pieces) for _ in range(dice.randrange(1, 12))).strip() or "("
        connection.request("GET", "/fuzz", headers={"Authorization": BASIC, "If": text})
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 400, 412), (text, answer.status)
    many = "(" + "<urn:uuid:x>" * 900 + ")"
    connection.request("GET", "/fuzz", headers={"Authorization": BASIC, "If": many})
    assert connection.getresponse().status in (400, 412, 431)
    connection.close()


def test_passwords_and_tokens_reach_no_log(meta_url: str, tmp_path: Path) -> None:
    from tests.gateways.webdav.door import PASSWORD, token_of

    with Door(meta_url, "--access-log", str(tmp_path / "access.log"), "--trace") as logged:
        token = token_of(logged.lock("/logged"))
        logged.ask("PUT", "/logged", {"If": f"(<{token}>)"}, b"1")
        logged.ask("UNLOCK", "/logged", {"Lock-Token": f"<{token}>"})
        logged.ask("GET", "/a%0aforged", login="Basic d3Jvbmc6d3JvbmctcGFzcw==")
        log_file = logged.folder / "server.log"
        logged.stop()
        text = log_file.read_text(errors="replace") + (tmp_path / "access.log").read_text(errors="replace")
    for secret in (PASSWORD, BASIC.split()[1], "wrong-pass", "d3Jvbmc6d3JvbmctcGFzcw=="):
        assert secret not in text
    assert "\nforged" not in text
