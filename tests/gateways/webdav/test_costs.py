# SPDX-License-Identifier: Apache-2.0
"""What WebDAV requests cost: metadata round trips, counted on real stores; and that nothing is bought with safety.

A plain PUT asks nothing before: its commit proves folder, name and locks. So a lock that another server has granted a
moment ago, unknown to this one, must still refuse it. Source: spec webdav §8, §12.2, §19.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from core.meta.format import new_format
from core.volume import Volume, format_volume, open_volume
from gateways.http.body import NO_BODY, WholeBody
from gateways.http.messages import Request, Response
from gateways.webdav.app import WebDavApplication
from gateways.webdav.config import WebDavConfig
from gateways.webdav.locks.records import LockRecords
from gateways.webdav.locks.service import LockService
from tests.servers.redis import RedisServer

Call = Callable[..., Awaitable[Response]]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture(params=["sqlite", "redis"])
async def volume(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Volume]:
    if request.param == "sqlite":
        url = f"sqlite3://{tmp_path}/meta.db"
    else:
        url = request.getfixturevalue("redis").url(6)
    await format_volume(url, new_format("vol", bucket=f"{tmp_path}/o/"), force=True)
    volume = await open_volume(url, heartbeat_s=0)
    for entry in await volume.fs.list_dir(1):
        await volume.fs.remove_tree(b"/" + entry.name)
    yield volume
    await volume.close()


class Door:
    """One server's application, called without a socket."""

    def __init__(self, volume: Volume, **options: object) -> None:
        self.locks = LockService(LockRecords(volume.fs))
        self.app = WebDavApplication(volume.fs, WebDavConfig(**options), locks=self.locks)  # type: ignore[arg-type]

    async def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        sent = {"host": "dav", **{name.replace("_", "-"): value for name, value in headers.items()}}
        return await self.app(Request(method, path, sent, WholeBody(body) if body else NO_BODY))

    async def lock(self, path: str) -> Response:
        body = b'<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>'
        return await self("LOCK", path, body)


@pytest.fixture
async def door(volume: Volume) -> AsyncIterator[Door]:
    door = Door(volume)
    assert (await door("MKCOL", "/d")).status == 201
    assert (await door("PUT", "/d/warm", b"1")).status == 201  # takes the first ids, makes the folder of locks
    assert (await door("PUT", "/d/warm", b"2")).status == 204  # makes this hour's trash directory
    await asyncio.gather(*volume.meta._background)
    yield door
    door.app.close()


@pytest.fixture
async def other(volume: Volume) -> AsyncIterator[Door]:
    door = Door(volume)
    yield door
    door.app.close()


async def content(volume: Volume, path: bytes) -> bytes:
    found = await volume.fs.lookup(path, chunk=True)
    return bytes(await volume.fs.read(found, 0, found.attr.length))


async def test_a_put_is_one_trip_and_a_get_too(volume: Volume, door: Door) -> None:
    trips = volume.meta.store.round_trips
    for path, status, most in (("/d/new", 201, 1), ("/d/other", 201, 1), ("/d/new", 204, 2)):
        with trips() as n:
            assert (await door("PUT", path, b"x" * 1024)).status == status
        assert n.count <= most, (path, status, n.count)
    for method in ("GET", "HEAD"):
        with trips() as n:
            assert (await door(method, "/d/new")).status == 200
        assert n.count == 1


async def test_a_lock_of_another_server_refuses_the_very_next_put(volume: Volume, door: Door, other: Door) -> None:
    assert (await other.lock("/d/warm")).status == 200
    assert (await door("PUT", "/d/warm", b"3")).status == 423
    assert await content(volume, b"/d/warm") == b"2"
    assert (await other.lock("/d")).status == 423
    unlocked = await other("UNLOCK", "/d/warm", lock_token=f"<{next(iter(other.locks.table)).urn}>")
    assert unlocked.status == 204
    assert (await door("PUT", "/d/warm", b"3")).status == 204


async def test_a_lock_on_the_collection_refuses_new_members(door: Door, other: Door) -> None:
    assert (await other.lock("/d")).status == 200
    assert (await door("PUT", "/d/fresh", b"x")).status == 423
    token = next(iter(other.locks.table)).urn
    assert (await door("PUT", "/d/fresh", b"x", **{"if": f"</d> (<{token}>)"})).status == 201


async def test_a_lock_that_comes_while_the_body_is_stored_refuses_the_put(
    volume: Volume, door: Door, other: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = volume.fs.content_of

    async def locked_meanwhile(data: bytes) -> object:
        stored = await original(data)
        assert (await other.lock("/d/warm")).status == 200
        return stored

    monkeypatch.setattr(volume.fs, "content_of", locked_meanwhile)
    assert (await door("PUT", "/d/warm", b"3")).status == 423
    monkeypatch.undo()
    assert await content(volume, b"/d/warm") == b"2"


async def test_a_put_keeps_what_belongs_to_the_file(volume: Volume, door: Door) -> None:
    fs = volume.fs
    before = await fs.lookup(b"/d/warm")
    await fs.meta.setattr(before.ino, {"mode": 0o640, "uid": 1001, "gid": 1002})
    kept = {b"webdav-dead-props": b"[]", b"user.mine": b"1"}
    await fs.set_xattrs(before.ino, {**kept, b"s3-etag": b"0" * 32, b"s3-tags": b"a=b"})
    assert (await door("PUT", "/d/warm", b"newer")).status == 204
    after = await fs.lookup(b"/d/warm", xattrs=True)
    assert after.ino != before.ino
    assert (after.attr.mode, after.attr.uid, after.attr.gid) == (0o640, 1001, 1002)
    assert after.xattrs == kept
    assert (await door("PUT", "/d/fresh", b"x")).status == 201
    fresh = await fs.lookup(b"/d/fresh", xattrs=True)
    assert (fresh.attr.mode, fresh.attr.uid, fresh.xattrs) == (0o644, 0, {})


async def test_what_a_quick_put_may_not_decide_goes_the_long_way(volume: Volume, door: Door) -> None:
    fs = volume.fs
    await fs.publish(b"/target", await fs.content_of(b"old"))
    await fs.meta.symlink(1, b"link", b"target")
    await fs.meta.symlink((await fs.lookup(b"/d")).ino, b"out", b"../../elsewhere")
    for path, status in (
        ("/link", 204), ("/d/out", 409), ("/nowhere/f", 409), ("/target/f", 409), ("/d", 405), ("/d/", 405),
        ("/.sys/f", 403),
    ):  # fmt: skip
        assert (await door("PUT", path, b"through")).status == status, path
    assert await content(volume, b"/target") == b"through"
    link = await fs.lookup(b"/link", follow=False)
    assert link.attr.type != (await fs.lookup(b"/target")).attr.type  # it is still a link
    for headers, status in (
        ({"if_none_match": "*"}, 412), ({"overwrite": "F"}, 412), ({"if_match": '"other"'}, 412),
        ({"content_range": "bytes 0-1/9"}, 400), ({"content_encoding": "gzip"}, 415), ({"content_md5": "AAAA"}, 400),
    ):  # fmt: skip
        assert (await door("PUT", "/d/warm", b"no", **headers)).status == status, headers
    assert await content(volume, b"/d/warm") == b"2"


async def test_two_servers_that_put_and_remove_the_same_name_agree(volume: Volume, door: Door, other: Door) -> None:
    """Each believes what it did last; the commits tell them what is there."""
    for number in range(10):
        await asyncio.gather(
            door("PUT", "/d/same", b"a%d" % number),
            other("PUT", "/d/same", b"b%d" % number),
            other("DELETE", "/d/same"),
        )
        answer = await door("PUT", "/d/same", b"last")
        assert answer.status in (201, 204)
        assert await content(volume, b"/d/same") == b"last"
