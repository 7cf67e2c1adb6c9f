# SPDX-License-Identifier: Apache-2.0
"""What options change: the trash, Unicode forms, MD5 as ETag, content types, gzip, whole trees, no locks."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.gateways.webdav.door import ROOT, Door, make_volume

D = "{DAV:}"
MS = "urn:schemas-microsoft-com:"


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Everything on, over a volume of its own that has a trash."""
    url = make_volume(tmp_path_factory.mktemp("rich"))
    sluice = [sys.executable, "-m", "sluicefs", "config", url, "--trash-days", "1"]
    subprocess.run(sluice, check=True, capture_output=True, timeout=60, cwd=ROOT)
    options = ["--show-trash", "--normalize", "nfc", "--etag", "md5", "--store-content-type", "--gzip"]
    with Door(url, *options, "--depth-infinity", "--depth-infinity-limit", "6") as running:
        yield running


@pytest.fixture(scope="module")
def bare(meta_url: str) -> Iterator[Door]:
    """Everything off."""
    with Door(meta_url, "--locks", "off", "--no-dead-props", "--no-mac-files", "--disallowList") as running:
        yield running


def hrefs(door: Door, path: str, depth: str = "1") -> list[str]:
    return door.ask("PROPFIND", path, {"Depth": depth}).texts(D + "href")


def test_what_was_removed_can_be_looked_at_and_moved_back(rich: Door) -> None:
    rich.ask("MKCOL", "/t")
    rich.put("/t/lost", b"found again")
    assert rich.ask("DELETE", "/t/lost").status == 204
    assert "/.trash/" in hrefs(rich, "/")
    (hour,) = hrefs(rich, "/.trash/")[1:]
    (lost,) = [href for href in hrefs(rich, hour) if href.endswith("-lost")]
    assert rich.ask("GET", lost).body == b"found again"
    rich.put("/t/copy", b"stands here")
    assert rich.ask("COPY", lost, {"Destination": "/t/other"}).status == 403
    for method in ("DELETE", "PUT", "PROPPATCH", "LOCK", "PATCH"):
        assert rich.ask(method, lost, body=b"" if method != "DELETE" else None).status == 403, method
    for method in ("MOVE", "COPY"):
        assert rich.ask(method, hour, {"Destination": "/t/hour"}).status == 403
        assert rich.ask(method, "/t/copy", {"Destination": hour + "x"}).status == 403
    assert rich.ask("MKCOL", hour + "new").status == 403
    assert rich.ask("MOVE", lost, {"Destination": "/t/copy"}).status == 409, "what stands there stays"
    assert rich.ask("GET", "/t/copy").body == b"stands here"
    assert rich.ask("MOVE", lost, {"Destination": "/t/lost"}).status == 201
    assert rich.ask("GET", "/t/lost").body == b"found again"
    assert rich.ask("GET", lost).status == 404


def test_both_forms_of_a_name_are_one_file(rich: Door) -> None:
    composed, decomposed = (quote(unicodedata.normalize(form, "Größe é.txt")) for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert rich.put("/" + decomposed, b"1").status == 201
    assert rich.put("/" + composed, b"2").status == 204
    assert rich.ask("GET", "/" + decomposed).body == b"2"
    assert "/" + composed in hrefs(rich, "/") and "/" + decomposed not in hrefs(rich, "/")
    folder = [quote(unicodedata.normalize(form, "Ö")) for form in ("NFC", "NFD")]
    assert rich.ask("MKCOL", "/" + folder[1]).status == 201
    assert rich.ask("MOVE", "/" + composed, {"Destination": f"/{folder[1]}/{decomposed}"}).status == 201
    assert rich.ask("GET", f"/{folder[0]}/{composed}").body == b"2"
    assert rich.ask("DELETE", "/" + folder[1]).status == 204


def test_md5_is_the_etag_until_the_file_changes_otherwise(rich: Door) -> None:
    for body in (b"", b"small", bytes(range(256)) * 1024):
        wanted = f'"{hashlib.md5(body).hexdigest()}"'
        assert rich.put("/md5", body).etag == wanted
        assert rich.ask("HEAD", "/md5").etag == wanted
        assert rich.ask("PROPFIND", "/md5", {"Depth": "0"}).texts(D + "getetag") == [wanted]
    assert (
        rich.ask("PUT", "/md5", {"X-OC-Mtime": "1500000000"}, b"dated").etag == f'"{hashlib.md5(b"dated").hexdigest()}"'
    )
    kind = {"Content-Type": "application/x-sabredav-partialupdate", "X-Update-Range": "append"}
    patched = rich.ask("PATCH", "/md5", kind, b"+")
    assert patched.etag.endswith('-0"') and rich.ask("HEAD", "/md5").etag == patched.etag


def test_the_content_type_of_an_upload_is_kept(rich: Door) -> None:
    rich.ask("PUT", "/typed", {"Content-Type": "text/x-special; charset=utf-8"}, b"x")
    assert rich.ask("GET", "/typed").headers["content-type"] == "text/x-special; charset=utf-8"
    assert rich.ask("PROPFIND", "/typed", {"Depth": "0"}).texts(D + "getcontenttype") == [
        "text/x-special; charset=utf-8"
    ]
    rich.ask("PUT", "/typed.txt", {}, b"x")
    assert rich.ask("GET", "/typed.txt").headers["content-type"] == "text/plain"


def test_listings_are_compressed_and_files_are_not(rich: Door) -> None:
    rich.ask("MKCOL", "/z")
    for number in range(30):
        rich.put(f"/z/{number}.html", b"<p>" + b"x" * 5000)
    plain = rich.ask("PROPFIND", "/z", {"Depth": "1"})
    packed = rich.ask("PROPFIND", "/z", {"Depth": "1", "Accept-Encoding": "gzip, deflate"})
    assert packed.headers["content-encoding"] == "gzip" and "Accept-Encoding" in packed.headers["vary"]
    assert gzip.decompress(packed.body) == plain.body and len(packed.body) < len(plain.body) / 4
    assert "content-encoding" not in plain.headers and "Accept-Encoding" in plain.headers["vary"]
    refused = rich.ask("PROPFIND", "/z", {"Depth": "1", "Accept-Encoding": "gzip;q=0, br"})
    assert "content-encoding" not in refused.headers
    page = rich.ask("GET", "/z/", {"Accept": "text/html", "Accept-Encoding": "gzip"})
    assert b"29.html" in gzip.decompress(page.body)
    for more in ({}, {"Range": "bytes=0-9"}):
        file = rich.ask("GET", "/z/1.html", {"Accept-Encoding": "gzip", **more})
        assert "content-encoding" not in file.headers and file.body.startswith(b"<p>")


def test_whole_trees_are_listed_up_to_a_limit(rich: Door) -> None:
    rich.ask("MKCOL", "/tree")
    rich.ask("MKCOL", "/tree/a")
    rich.put("/tree/a/1", b"")
    rich.put("/tree/b", b"")
    assert sorted(hrefs(rich, "/tree", "infinity")) == ["/tree/", "/tree/a/", "/tree/a/1", "/tree/b"]
    for number in range(6):
        rich.put(f"/tree/a/x{number}", b"")
    cut = rich.ask("PROPFIND", "/tree", {"Depth": "infinity"})
    assert len(cut.texts(D + "href")) == 7 and cut.texts(D + "href")[-1] == "/tree/"
    assert cut.texts(D + "status")[-1] == "HTTP/1.1 507 Insufficient Storage"


def test_finder_sees_its_hints_in_propfind_but_nobody_in_a_listing(rich: Door) -> None:
    found = rich.ask("PROPFIND", "/.metadata_never_index", {"Depth": "0"})
    assert found.status == 207 and found.texts(D + "getcontentlength") == ["0"]
    assert "/.metadata_never_index" not in hrefs(rich, "/")
    assert rich.ask("PROPFIND", "/t/.metadata_never_index", {"Depth": "0"}).status == 404


def test_without_locks_the_door_is_class_1(bare: Door) -> None:
    options = bare.ask("OPTIONS", "/x")
    assert options.headers["dav"] == "1" and "LOCK" not in options.headers["allow"]
    bare.put("/no-locks")
    assert bare.lock("/no-locks").status == 405
    assert bare.ask("UNLOCK", "/no-locks", {"Lock-Token": "<urn:uuid:x>"}).status == 405


def test_refused_properties_do_not_break_windows(bare: Door) -> None:
    bare.put("/props")

    def patch(space: str, name: str, value: str) -> str:
        body = f'<propertyupdate xmlns="DAV:"><set><prop><x:{name} xmlns:x="{space}">{value}</x:{name}></prop></set>'
        found = bare.ask("PROPPATCH", "/props", body=body + "</propertyupdate>")
        return found.texts(D + "status")[0].split()[1]

    assert patch("urn:other", "colour", "red") == "403"
    assert patch(MS, "Win32FileAttributes", "00000020") == "200"
    assert patch(MS, "Win32LastModifiedTime", "Sun, 09 Sep 2001 01:46:41 GMT") == "200"
    assert bare.ask("HEAD", "/props").headers["last-modified"] == "Sun, 09 Sep 2001 01:46:41 GMT"


def test_refused_listings_and_mac_files(bare: Door) -> None:
    assert bare.ask("GET", "/").status == 403 and bare.ask("PROPFIND", "/", {"Depth": "1"}).status == 207
    assert bare.put("/._x").status == 403 and bare.put("/.DS_Store").status == 403


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--auth", "digest", "--htpasswd", "FILE"], "--htdigest"),
        (["--auth", "basic"], "WEBDAV_USER"),
        (["--auth", "header"], "--trusted-proxy"),
        (["--htpasswd", "/no/such/file"], "/no/such/file"),
        (["--user-map", "FILE"], "--identity map"),
        (["--cert-file", "x.pem"], "--key-file"),
        (["--locks", "memory", "--workers", "2"], "--workers 1"),
        (["--trusted-proxy", "nonsense"], "10.0.0.0/8"),
        (["--umask", "9"], "022"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_options_that_contradict_are_refused_with_a_next_step(
    meta_url: str, tmp_path: Path, options: list[str], text: str
) -> None:
    from click.testing import CliRunner

    from sluicefs.cli import cli

    (tmp_path / "FILE").write_text("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
    filled = [str(tmp_path / "FILE") if word == "FILE" else word for word in options]
    environment = dict.fromkeys(("WEBDAV_USER", "WEBDAV_PASSWORD", "SLUICE_ACCESS_KEY", "SLUICE_SECRET_KEY"), "")
    found = CliRunner().invoke(cli, ["webdav", meta_url, "127.0.0.1:0", *filled], env=environment)
    assert found.exit_code != 0
    assert text in str(found.exception or found.output)
