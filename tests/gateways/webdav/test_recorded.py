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


def test_finder_mounts_and_looks_around(door: Door) -> None:
    agent = {"User-Agent": "WebDAVFS/3.0.0 (03008000) Darwin/23.0.0 (arm64)"}
    assert door.ask("PROPFIND", "/", {**agent, "Depth": "0"}, login=None).status == 401
    for probe in (
        ".metadata_never_index_unless_rootfs", ".metadata_never_index", ".ql_disablethumbnails", ".ql_disablecache",
    ):  # fmt: skip
        found = door.ask("PROPFIND", f"/{probe}", {**agent, "Depth": "0"})
        assert found.status == 207 and found.texts(D + "getcontentlength") == ["0"]
        assert door.ask("HEAD", f"/{probe}", agent).status == 200
    for probe in (".Spotlight-V100", "mach_kernel", ".hidden", "Contents", ".localized", "._.", ".DS_Store"):
        assert door.ask("PROPFIND", f"/{probe}", {**agent, "Depth": "0"}).status == 404
    wanted = (
        '<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop><D:getlastmodified/>'
        "<D:getcontentlength/><D:creationdate/><D:resourcetype/></D:prop></D:propfind>"
    )
    assert door.ask("MKCOL", "/Untitled%20Folder", agent).status == 201
    root = door.ask("PROPFIND", "/", {**agent, "Depth": "1"}, wanted)
    assert root.status == 207 and "/Untitled%20Folder/" in root.texts(D + "href")
    moved = {"Destination": door.url + "/Bilder%20a%CC%88/", "Overwrite": "F"}
    assert door.ask("MOVE", "/Untitled%20Folder/", {**agent, **moved}).status == 201, "names come decomposed"
    for name in ("/Bilder%20a%CC%88/._x", "/Bilder%20a%CC%88/.DS_Store"):
        assert door.ask("PUT", name, agent, b"").status == 201
        token = token_of(door.lock(name, depth="0", **agent))
        assert door.ask("PUT", name, {**agent, "If": f"(<{token}>)"}, b"\0\5\x16\7").status == 204
        assert door.ask("UNLOCK", name, {**agent, "Lock-Token": f"<{token}>"}).status == 204
    assert door.ask("DELETE", "/Bilder%20a%CC%88/", agent).status == 204


def test_office_opens_saves_and_closes_a_document(door: Door) -> None:
    agent = {"User-Agent": "Microsoft Office Word 2014", "X-FeatureVersion": "1", "X-MSDAVEXT": "1"}
    door.put("/doc.docx", b"version 1")
    assert door.ask("OPTIONS", "/", agent, login=None).headers["ms-author-via"] == "DAV"
    listing = door.ask("PROPFIND", "/", {**agent, "Depth": "1,noroot"})
    assert listing.status == 207 and "/" not in listing.texts(D + "href") and "/doc.docx" in listing.texts(D + "href")
    answer = door.lock("/doc.docx", depth="0", Timeout="Second-3600", **agent)
    assert answer.status == 200
    held = {**agent, "If": f"(<{token_of(answer)}>)"}
    assert door.ask("HEAD", "/doc.docx", agent).status == 200
    assert door.ask("GET", "/doc.docx", agent).body == b"version 1"
    # Another person opens it: refused the lock, told who has it, may still read.
    second = door.lock("/doc.docx", depth="0", **agent)
    assert second.status == 423
    shown = door.ask("PROPFIND", "/doc.docx", {**agent, "Depth": "0"})
    assert "mailto:a@example.org" in shown.texts(D + "href")
    assert door.ask("GET", "/doc.docx", agent).status == 200
    assert door.ask("PUT", "/doc.docx", held, b"version 2").status == 204
    refreshed = door.ask("LOCK", "/doc.docx", {**held, "Timeout": "Second-3600"})
    assert refreshed.status == 200 and refreshed.texts(D + "timeout")[0] in ("Second-3600", "Second-3599")
    gone = {**agent, "Lock-Token": f"<{token_of(answer)}>"}
    assert door.ask("UNLOCK", "/doc.docx", gone).status == 204
    assert door.ask("GET", "/doc.docx").body == b"version 2"


def test_explorer_makes_renames_and_removes_folders(door: Door) -> None:
    agent = {"User-Agent": "Microsoft-WebDAV-MiniRedir/10.0.19045", "Translate": "f"}
    assert door.ask("PROPFIND", "/Neuer%20Ordner", {**agent, "Depth": "0"}).status == 404
    assert door.ask("MKCOL", "/Neuer%20Ordner", agent).status == 201
    assert door.ask("PROPFIND", "/Neuer%20Ordner", {**agent, "Depth": "0"}).texts(D + "href") == ["/Neuer%20Ordner/"]
    door.put("/Neuer%20Ordner/a.txt", b"")
    moved = {"Destination": f"{door.url}/Fotos%20%28alt%29", "Overwrite": "F"}
    assert door.ask("MOVE", "/Neuer%20Ordner", {**agent, **moved}).status == 201
    found = door.ask("PROPFIND", "/Fotos%20(alt)", {**agent, "Depth": "1"})
    assert found.texts(D + "href") == ["/Fotos%20(alt)/", "/Fotos%20(alt)/a.txt"]
    assert len(found.body) / 2 < 700, "the client reads a million bytes at most"
    assert door.ask("DELETE", "/Fotos%20%28alt%29", agent).status == 204


def test_programs_that_save_by_renaming(door: Door) -> None:
    """KeePass and the like: PUT beside, MOVE over; KDE asks not to overwrite."""
    door.put("/db.kdbx", b"old")
    etag = door.ask("HEAD", "/db.kdbx").etag
    assert door.ask("PUT", "/db.kdbx.tmp", body=b"new").status == 201
    assert door.ask("MOVE", "/db.kdbx.tmp", {"Destination": "/db.kdbx", "Overwrite": "F"}).status == 412
    assert door.ask("MOVE", "/db.kdbx.tmp", {"Destination": "/db.kdbx", "Overwrite": "T"}).status == 204
    found = door.ask("GET", "/db.kdbx")
    assert found.body == b"new" and found.etag != etag
    assert door.ask("GET", "/db.kdbx", {"If-None-Match": found.etag}).status == 304


def test_gnome_asks_the_parents_of_a_prefix(meta_url: str, door: Door) -> None:
    door.ask("MKCOL", "/dav-user")
    with Door(meta_url, "--prefix", "/remote/dav", "--user-root", "/%u-user") as below:
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
