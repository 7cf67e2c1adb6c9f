# SPDX-License-Identifier: Apache-2.0
"""A volume filled by JuiceFS's S3 gateway and WebDAV server: theirs is served, ours they can read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from core.volume import open_volume
from gateways.webdav.properties import dead
from tests.gateways.webdav.door import BASIC, Door
from tests.golden.volumes import GoldenVolume, golden

Z = "http://example.com/z/"


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoldenVolume]:
    with golden("sqlite-doors", tmp_path_factory.mktemp("doors")) as found:
        yield found


@pytest.fixture(scope="module")
def served(volume: GoldenVolume) -> Iterator[Door]:
    with Door(volume.meta_url, "--bucket", volume.bucket) as door:
        yield door


def test_dead_properties_of_juicefs_are_shown(served: Door) -> None:
    found = served.ask("PROPFIND", "/davdir/a.txt", {"Depth": "0"})
    (author,) = found.xml.iter(f"{{{Z}}}Author")
    assert "".join(author.itertext()) == "Ada Lovelace"
    assert found.texts(f"{{{Z}}}n") == ["3"]


def test_files_of_the_s3_gateway_have_its_etags_and_bytes(served: Door, volume: GoldenVolume) -> None:
    heads = volume.json("s3.json")["heads"]
    assert heads
    for key, head in heads.items():
        if key.endswith("/"):
            continue
        found = served.ask("GET", "/" + quote(key))
        assert found.status == 200, key
        assert found.etag == head["ETag"], key
        assert hashlib.sha256(found.body).hexdigest() == head["sha256"], key


async def test_properties_that_we_add_stand_beside_theirs_in_their_spelling(served: Door, volume: GoldenVolume) -> None:
    body = (
        '<propertyupdate xmlns="DAV:"><set><prop><o:own xmlns:o="urn:o" xml:lang="de">Grüße &amp; <b/></o:own></prop>'
        f'</set><remove><prop><n xmlns="{Z}"/></prop></remove></propertyupdate>'
    )
    assert served.ask("PROPPATCH", "/davdir/a.txt", body=body.encode()).texts("{DAV:}status") == ["HTTP/1.1 200 OK"]
    opened = await open_volume(volume.meta_url, bucket=volume.bucket, session=False, jobs=False)
    try:
        found = await opened.fs.lookup(b"/davdir/a.txt", xattrs=True)
        assert found.xattrs is not None
        kept = dead.decode(found.xattrs[b"webdav-dead-props"])
        assert set(kept) == {(Z, "Author"), ("urn:o", "own")}
        assert kept["urn:o", "own"] == dead.Dead('Grüße &amp; <b xmlns="DAV:"/>', "de")
    finally:
        await opened.close()


def test_a_server_killed_in_the_middle_of_a_put_leaves_the_old_file(volume: GoldenVolume, tmp_path: Path) -> None:
    with Door(volume.meta_url, "--bucket", volume.bucket) as door:
        door.put("/davdir/kept", b"old")
        connection = door.connect()
        connection.putrequest("PUT", "/davdir/kept")
        connection.putheader("Authorization", BASIC)
        connection.putheader("Content-Length", str(20 << 20))
        connection.endheaders(b"n" * (10 << 20))
        door.kill()
        connection.close()
        door.start()
        assert door.ask("GET", "/davdir/kept").body == b"old"
