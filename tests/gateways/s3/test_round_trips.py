# SPDX-License-Identifier: Apache-2.0
"""What S3 requests cost: metadata round trips, object writes, time; counted on real stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from core.meta.format import new_format
from core.object.api import Buffer
from core.object.file import FileStore
from core.volume import Volume, format_volume, open_volume
from gateways.http.messages import Body, Request, Response
from gateways.s3.app import S3Application
from gateways.s3.config import S3Config
from tests.gateways.s3.conftest import ACCESS_KEY, SECRET_KEY, credentials
from tests.servers.redis import RedisServer


class Bytes(Body):
    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data

    async def read(self) -> Buffer:
        data, self._data = self._data, b""
        return data


def signed(method: str, path: str, body: bytes = b"", **headers: str) -> Request:
    wire = AWSRequest(method, f"http://gateway{path}", data=body, headers=headers)
    S3SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1").add_auth(wire)
    known = {name.lower(): value for name, value in wire.headers.items()}
    return Request(method, path, {**known, "host": "gateway", "content-length": str(len(body))}, Bytes(body))


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
        url = request.getfixturevalue("redis").url(7)
    await format_volume(url, new_format("vol", bucket=f"{tmp_path}/o/"), force=True)
    volume = await open_volume(url, heartbeat_s=0)
    for entry in await volume.fs.list_dir(1):
        await volume.fs.remove_tree(b"/" + entry.name)
    yield volume
    await volume.close()


@pytest.fixture
async def call(volume: Volume):
    app = S3Application(volume.fs, S3Config(multi_buckets=True), credentials())

    async def call(method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        response = await app(signed(method, path, body, **headers))
        assert response.status in (200, 204, 206), (response.status, response.body)
        return response

    await call("PUT", "/bkt")
    await call("PUT", "/bkt/dir/warm", b"x" * 1024)  # takes the first batch of ids, makes the root's statistics
    await call("PUT", "/bkt/dir/warm", b"y" * 1024)  # makes this hour's trash directory
    await asyncio.gather(*volume.meta._background)
    return call


async def test_put_costs_at_most_two_trips_and_get_one(volume: Volume, call) -> None:
    trips = volume.meta.store.round_trips
    for path, most in (("/bkt/dir/new", 1), ("/bkt/dir/new", 2), ("/bkt/other/deep/new", 2), ("/bkt/top", 2)):
        with trips() as n:
            await call("PUT", path, b"z" * 1024)
        assert n.count <= most, path
    for method in ("GET", "HEAD"):
        with trips() as n:
            await call(method, "/bkt/dir/new")
        assert n.count == 1
    with trips() as n:
        await call("DELETE", "/bkt/dir/new")
    assert n.count <= 4  # the entry, and whether its directory is one that goes when it is empty
    with trips() as n:
        await call("GET", "/bkt?list-type=2&prefix=dir%2F&delimiter=%2F")
    assert n.count <= 3


async def test_small_objects_share_puts(volume: Volume, call, monkeypatch: pytest.MonkeyPatch) -> None:
    puts = 0
    original = FileStore.put

    async def counted(self: FileStore, key: str, data: object) -> None:
        nonlocal puts
        puts += 1
        await original(self, key, data)  # type: ignore[arg-type]

    monkeypatch.setattr(FileStore, "put", counted)
    bodies = {f"/bkt/dir/k{i}": b"%d" % i * 200 for i in range(320)}
    with volume.meta.store.round_trips() as n:
        await asyncio.gather(*(call("PUT", path, body) for path, body in bodies.items()))
    assert n.count <= 2 * len(bodies) + 2
    assert puts <= len(bodies) // 10
    for path, body in bodies.items():
        assert (await call("GET", path)).body == body


async def test_a_body_that_takes_too_long_is_refused_and_leaves_nothing(volume: Volume, tmp_path: Path) -> None:
    """Blocks that belong to no file are safe from gc for an hour only, so no body may take that long."""
    await volume.fs.mkdir(b"/bkt")
    app = S3Application(volume.fs, S3Config(multi_buckets=True, max_body_s=-1), credentials())
    response = await app(signed("PUT", "/bkt/slow", b"s" * (5 << 20)))
    assert response.status == 400
    assert b"RequestTimeout" in bytes(response.body)  # type: ignore[arg-type]
    assert await volume.fs.list_dir((await volume.fs.lookup(b"/bkt")).ino) == []
    assert [info.key async for info in volume.objects.list("chunks/")] == []
