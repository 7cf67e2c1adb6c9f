# SPDX-License-Identifier: Apache-2.0
"""MKCOL, DELETE, COPY, MOVE and PROPFIND: status, members, names of every kind, hidden ones."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest

from tests.gateways.webdav.door import Door

D = "{DAV:}"


def hrefs(door: Door, path: str, depth: str = "1") -> list[str]:
    found = door.ask("PROPFIND", path, {"Depth": depth})
    assert found.status == 207, found.body
    return found.texts(D + "href")


def test_collections_come_and_go(door: Door) -> None:
    assert door.ask("MKCOL", "/m").status == 201
    assert door.ask("MKCOL", "/m").status == 405
    assert door.ask("MKCOL", "/x/y").status == 409
    assert door.ask("MKCOL", "/m2", body=b"<x/>").status == 415
    door.put("/m/a")
    assert door.ask("DELETE", "/m", {"Depth": "0"}).status == 400
    assert door.ask("DELETE", "/m").status == 204
    assert door.ask("GET", "/m/a").status == 404
    assert door.ask("DELETE", "/m").status == 404
    assert door.ask("DELETE", "/").status == 403


def test_copy_and_move_follow_overwrite_and_keep_the_bytes(door: Door) -> None:
    door.ask("MKCOL", "/s")
    door.put("/s/one", b"1" * 5000)
    door.ask("MKCOL", "/s/deep")
    door.put("/s/deep/two", b"2")
    to = lambda path, **more: {"Destination": door.url + path, **more}  # noqa: E731
    assert door.ask("COPY", "/s", to("/c")).status == 201
    assert door.ask("COPY", "/s", to("/c", Overwrite="F")).status == 412
    assert door.ask("DELETE", "/s/one").status == 204
    assert door.ask("COPY", "/s", to("/c")).status == 204
    assert hrefs(door, "/c/") == ["/c/", "/c/deep/"], "overwriting a collection does not merge"
    assert door.ask("COPY", "/s", to("/flat", Depth="0")).status == 201
    assert hrefs(door, "/flat/") == ["/flat/"]
    assert door.ask("MOVE", "/c", to("/moved")).status == 201
    assert door.ask("GET", "/moved/deep/two").body == b"2"
    assert door.ask("MOVE", "/moved", to("/moved/deep/in")).status == 403
    assert door.ask("COPY", "/s", to("/s")).status == 403
    assert door.ask("COPY", "/s", to("/no/where")).status == 409
    assert door.ask("COPY", "/s", {"Destination": "http://elsewhere.example/x"}).status == 502
    assert door.ask("COPY", "/s").status == 400
    assert door.ask("MOVE", "/moved", to("/s")).status == 204
    assert hrefs(door, "/s/") == ["/s/", "/s/deep/"]


def test_the_date_of_a_copy_is_that_of_its_source(door: Door) -> None:
    door.ask("PUT", "/dated", {"X-OC-Mtime": "1000000000"}, b"x")
    door.ask("COPY", "/dated", {"Destination": "/dated-copy"})
    assert door.ask("HEAD", "/dated-copy").headers["last-modified"] == "Sun, 09 Sep 2001 01:46:40 GMT"


NAMES = [
    b"plain", b"with space", b"100%", b"a+b", b"a&b'c", b"a;b=c", b"a?b#c", b"(paren)", b"\xc3\xa4\xe2\x82\xac",
    b"\xff\xfe", b"new\nline", b"quote\"<x>", b"back\\slash", b".dot", b"trailing.", b"=3D", b"e\xcc\x81", b"x" * 255,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=[repr(name)[:20] for name in NAMES])
def test_names_of_any_bytes(door: Door, name: bytes) -> None:
    path = "/names/" + quote_from_bytes(name, "")
    door.ask("MKCOL", "/names")
    assert door.put(path, b"content").status in (201, 204)
    assert door.ask("GET", path).body == b"content"
    shown = hrefs(door, "/names/")
    assert len(shown) == 2
    assert door.ask("GET", shown[1]).body == b"content"
    assert door.ask("MOVE", path, {"Destination": "/names/other"}).status == 201
    assert door.ask("COPY", "/names/other", {"Destination": path}).status == 201
    assert door.ask("DELETE", path).status == 204
    assert door.ask("DELETE", "/names/other").status == 204


@pytest.mark.parametrize("path", ["/../x", "/a/..%2f..%2fetc", "/%2e%2e/x", "/a%00b", "/bad%zz", "/a/./b", "/f#g"])
def test_paths_that_are_none(door: Door, path: str) -> None:
    for method in ("GET", "PUT", "PROPFIND", "DELETE", "MKCOL"):
        assert door.ask(method, path, {"Depth": "0"}).status == 400


def test_too_long_names(door: Door) -> None:
    assert door.put("/" + "n" * 256).status == 414


@pytest.mark.parametrize("name", [".sys", ".trash", ".stats", ".config", ".accesslog", ".minio.sys"])
def test_hidden_names_do_not_exist_and_take_nothing(door: Door, name: str) -> None:
    for path in (f"/{name}", f"/{name}/x", f"/%2e{name[1:]}/tmp"):
        assert door.ask("GET", path).status == 404
        assert door.ask("PROPFIND", path, {"Depth": "0"}).status == 404
        for method in ("PUT", "MKCOL", "DELETE", "LOCK", "PROPPATCH"):
            assert door.ask(method, path, body=None if method == "DELETE" else b"").status == 403
        door.put("/visible")
        for method in ("COPY", "MOVE"):
            assert door.ask(method, "/visible", {"Destination": path}).status == 403
            assert door.ask(method, path, {"Destination": "/stolen"}).status == 403
    assert f"/{name}/" not in hrefs(door, "/")


def test_propfind_answers(door: Door) -> None:
    door.put("/q", b"12345")
    asked = '<propfind xmlns="DAV:"><prop><getcontentlength/><x:none xmlns:x="urn:x"/></prop></propfind>'
    found = door.ask("PROPFIND", "/q", {"Depth": "0"}, asked)
    assert found.texts(D + "status") == ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"]
    assert found.texts(D + "getcontentlength") == ["5"]
    brief = door.ask("PROPFIND", "/q", {"Depth": "0", "Prefer": "return=minimal"}, asked)
    assert brief.texts(D + "status") == ["HTTP/1.1 200 OK"]
    assert brief.headers["preference-applied"] == "return=minimal"
    assert door.ask("PROPFIND", "/", {"Depth": "infinity"}).status == 403
    assert b"propfind-finite-depth" in door.ask("PROPFIND", "/").body
    assert door.ask("PROPFIND", "/gone", {"Depth": "0"}).status == 404
    assert door.ask("PROPFIND", "/q", {"Depth": "2"}).status == 400
    quota = '<propfind xmlns="DAV:"><prop><quota-available-bytes/><quota-used-bytes/></prop></propfind>'
    values = door.ask("PROPFIND", "/", {"Depth": "0"}, quota)
    assert int(values.texts(D + "quota-available-bytes")[0]) > 1 << 40
    names = door.ask("PROPFIND", "/q", {"Depth": "0"}, '<propfind xmlns="DAV:"><propname/></propfind>')
    assert names.texts(D + "getetag") == [""]


def test_a_large_directory_is_complete_and_in_order(door: Door, meta_url: str) -> None:
    door.ask("MKCOL", "/many")
    for number in range(1250):
        door.put(f"/many/{number:04d}", b"")
    shown = hrefs(door, "/many")
    assert shown == ["/many/"] + [f"/many/{number:04d}" for number in range(1250)]


def test_browsers_get_a_page_that_escapes_names(door: Door) -> None:
    door.ask("MKCOL", "/page")
    door.put("/page/%3Cb%3E&'", b"")
    found = door.ask("GET", "/page/", {"Accept": "text/html"})
    assert found.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert b"<b>&" not in found.body and b"&lt;b&gt;&amp;" in found.body
    assert door.ask("GET", "/page/").status == 207
