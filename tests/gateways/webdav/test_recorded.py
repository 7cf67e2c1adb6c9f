# SPDX-License-Identifier: Apache-2.0
"""What Finder, Windows, GNOME and rclone send, in the order in which they send it, and what they need to hear.

Source: spec webdav §18 (observed sequences).
"""

from __future__ import annotations

import time

from tests.gateways.webdav.door import BASIC, Door, token_of

D = "{DAV:}"
MS = "urn:schemas-microsoft-com:"


def test_windows_copies_a_file_in(door: Door) -> None:
    agent = {"User-Agent": "Microsoft-WebDAV-MiniRedir/10.0.19045", "Translate": "f"}
    for path in ("/", "/win"):
        options = door.ask("OPTIONS", path, agent, login=None)
        assert options.status == 200 and options.headers["ms-author-via"] == "DAV" and "2" in options.headers["dav"]
    assert door.ask("PROPFIND", "/win.txt", {**agent, "Depth": "0"}, b"").status == 404
    assert door.ask("PUT", "/win.txt", agent, b"").status == 201
    assert door.ask("PROPFIND", "/win.txt", {**agent, "Depth": "0"}, b"").texts(D + "getcontentlength") == ["0"]
    lock = (
        '<?xml version="1.0" encoding="utf-8" ?><D:lockinfo xmlns:D="DAV:"><D:lockscope><D:exclusive/></D:lockscope>'
        "<D:locktype><D:write/></D:locktype><D:owner><D:href>PC\\user</D:href></D:owner></D:lockinfo>"
    )
    answer = door.ask("LOCK", "/win.txt", {**agent, "Timeout": "Second-3600", "Depth": "0"}, lock)
    assert answer.status == 200 and answer.texts(D + "timeout")[0] in ("Second-3600", "Second-3599")
    held = {**agent, "If": f"(<{token_of(answer)}>)"}
    patch = (
        f'<?xml version="1.0" encoding="utf-8" ?><D:propertyupdate xmlns:D="DAV:" xmlns:Z="{MS}"><D:set><D:prop>'
        "<Z:Win32CreationTime>Sun, 09 Sep 2001 01:46:40 GMT</Z:Win32CreationTime>"
        "<Z:Win32LastAccessTime>no date at all</Z:Win32LastAccessTime>"
        "<Z:Win32LastModifiedTime>Sun, 09 Sep 2001 01:46:41 GMT</Z:Win32LastModifiedTime>"
        "<Z:Win32FileAttributes>00000020</Z:Win32FileAttributes></D:prop></D:set></D:propertyupdate>"
    )
    assert door.ask("PROPPATCH", "/win.txt", held, patch).texts(D + "status") == ["HTTP/1.1 200 OK"]
    assert door.ask("HEAD", "/win.txt", agent).status == 200
    assert door.ask("PUT", "/win.txt", held, b"content").status == 204
    assert door.ask("PROPPATCH", "/win.txt", held, patch).status == 207
    gone = {**agent, "Lock-Token": f"<{token_of(answer)}>"}
    assert door.ask("UNLOCK", "/win.txt", gone).status == 204
    shown = door.ask("PROPFIND", "/win.txt", {**agent, "Depth": "0"}, b"")
    assert shown.texts(D + "creationdate") == ["2001-09-09T01:46:40Z"]
    assert shown.texts(D + "getlastmodified") == ["Sun, 09 Sep 2001 01:46:41 GMT"]
    assert shown.texts("{" + MS + "}Win32FileAttributes") == ["00000020"]
    assert shown.texts(D + "supportedlock") == [], "the answer has a size limit there"


def test_finder_copies_a_file_in(door: Door) -> None:
    agent = {"User-Agent": "WebDAVFS/3.0.0 (03008000) Darwin/23.0.0 (arm64)"}
    assert door.ask("OPTIONS", "/", agent).status == 200
    quota = (
        '<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:quota-available-bytes/>'
        "<D:quota-used-bytes/><D:quota/><D:quotaused/></D:prop></D:propfind>"
    )
    found = door.ask("PROPFIND", "/", {**agent, "Depth": "0"}, quota)
    assert found.texts(D + "status") == ["HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"]
    assert door.ask("GET", "/.metadata_never_index", agent).status == 200
    assert door.ask("PROPFIND", "/._fin.txt", {**agent, "Depth": "0"}, b"").status == 404
    assert door.ask("PUT", "/fin.txt", agent, b"").status == 201
    answer = door.lock("/fin.txt", depth="0", **agent)
    connection = door.connect()
    held = {"If": f"(<{token_of(answer)}>)", "Authorization": BASIC, "X-Expected-Entity-Length": "200000"}
    connection.request("PUT", "/fin.txt", iter([b"x" * 100_000] * 2), {**agent, **held}, encode_chunked=True)
    assert connection.getresponse().status == 204
    connection.close()
    assert door.ask("UNLOCK", "/fin.txt", {"Lock-Token": f"<{token_of(answer)}>"}).status == 204
    assert door.ask("HEAD", "/fin.txt").headers["content-length"] == "200000"
    renamed = {"Destination": door.url + "/fin2.txt", "Overwrite": "T"}
    assert door.ask("MOVE", "/fin.txt", {**agent, **renamed}).status == 201


def test_gnome_asks_the_parents_of_a_prefix(meta_url: str, door: Door) -> None:
    with Door(meta_url, "--prefix", "/remote/dav") as below:
        for path, shown in (("/", "/"), ("/remote", "/remote/"), ("/remote/dav", "/remote/dav/")):
            found = below.ask("PROPFIND", path, {"Depth": "0"}, b"")
            assert found.status == 207 and found.texts(D + "href") == [shown]
        assert below.ask("PROPFIND", "/", {"Depth": "1"}, b"").texts(D + "href") == ["/", "/remote/"]
        assert below.ask("GET", "/elsewhere").status == 404
        below.put("/remote/dav/(a%20b)")
        assert "/remote/dav/(a%20b)" in below.ask("PROPFIND", "/remote/dav", {"Depth": "1"}).texts(D + "href")
        assert below.ask("DELETE", "/remote/dav/(a%20b)").status in (204, 404)


def test_rclone_sets_times(door: Door) -> None:
    assert door.ask("PUT", "/rc", {"X-OC-Mtime": "1600000000"}, b"r").headers["x-oc-mtime"] == "accepted"
    patch = (
        '<?xml version="1.0"?><d:propertyupdate xmlns:d="DAV:"><d:set><d:prop>'
        '<lastmodified xmlns="DAV:">1500000000</lastmodified></d:prop></d:set></d:propertyupdate>'
    )
    assert door.ask("PROPPATCH", "/rc", body=patch).texts(D + "status") == ["HTTP/1.1 200 OK"]
    head = door.ask("HEAD", "/rc")
    assert head.headers["last-modified"] == time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(1500000000))


def test_proppatch_is_all_or_nothing(door: Door) -> None:
    door.put("/pp")
    body = (
        '<propertyupdate xmlns="DAV:"><set><prop><x:a xmlns:x="urn:x">1</x:a><getetag>"no"</getetag></prop></set>'
        "</propertyupdate>"
    )
    found = door.ask("PROPPATCH", "/pp", body=body)
    assert sorted(text.split(" ")[1] for text in found.texts(D + "status")) == ["403", "424"]
    assert door.ask("PROPFIND", "/pp", {"Depth": "0"}, b"").texts("{urn:x}a") == []
