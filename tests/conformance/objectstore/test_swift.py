# SPDX-License-Identifier: Apache-2.0
"""Swift keeps the object-store contract: through its own API (storage `swift`) and through its S3 API.

Source: core/object/swift.py; spec data-path §4.2.
"""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.errors import ConfigError, DataCorrupt, ObjectError
from core.object.api import ObjectStore
from core.object.open import normalise_bucket, open_store
from core.object.swift import parse
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, survives, volume_works
from tests.servers.swift import KEY, USER, SwiftServer


@pytest.fixture(scope="module")
def server() -> Iterator[SwiftServer]:
    with SwiftServer() as server:
        yield server


def opened(server: SwiftServer, container: str = "", **credentials: str) -> ObjectStore:
    who = credentials or {"access_key": USER, "secret_key": KEY}
    return open_store("swift", server.bucket(container or f"c{uuid4().hex[:12]}"), volume="vol", **who)  # type: ignore[arg-type]


def token_of(server: SwiftServer) -> str:
    request = urllib.request.Request(f"{server.endpoint}/auth/v1.0", headers={"X-Auth-User": USER, "X-Auth-Key": KEY})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.headers["X-Auth-Token"])


@pytest.mark.heavy
class TestSwift(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, server: SwiftServer) -> AsyncIterator[ObjectStore]:
        store = opened(server)
        await store.create()
        yield store
        await store.close()

    async def test_a_token_that_is_forgotten_is_renewed(self, server: SwiftServer, store: ObjectStore) -> None:
        await store.put("k", b"v")
        server.forget_tokens()
        assert bytes(await store.get("k")) == b"v"

    async def test_a_token_may_be_given(self, server: SwiftServer) -> None:
        container = "tokens"
        store = opened(server, container)
        await store.create()
        await store.put("k", b"v")
        await store.close()
        by_name = opened(server, container, access_key=USER, session_token=token_of(server))
        assert bytes(await by_name.get("k")) == b"v"
        await by_name.close()
        bucket = f"{server.bucket(container)}?storage-url={server.endpoint}/v1/AUTH_test"
        by_url = open_store("swift", bucket, volume="vol", session_token=token_of(server))
        assert bytes(await by_url.get("k")) == b"v"
        server.forget_tokens()
        with pytest.raises(ObjectError, match="--session-token") as caught:
            await by_url.get("k")
        assert not caught.value.retryable
        await by_url.close()

    async def test_damage_is_noticed(self, server: SwiftServer) -> None:
        store = opened(server, "damaged")
        await store.create()
        await store.put("k", b"right")
        url = f"{server.endpoint}/v1/AUTH_test/damaged/vol/k"
        headers = {"X-Auth-Token": token_of(server), "X-Object-Meta-Crc32c": "1"}
        request = urllib.request.Request(url, b"wrong", headers, method="PUT")
        urllib.request.urlopen(request, timeout=30).close()
        with pytest.raises(DataCorrupt):
            await store.get("k")
        await store.close()

    async def test_refusals_say_what_to_do(self, server: SwiftServer) -> None:
        wrong = f"wrong-{MARK}"
        assert "--secret-key" in await refused(opened(server, access_key=USER, secret_key=wrong), wrong)
        text = await refused(opened(server, access_key=USER, session_token=wrong), wrong)
        assert "--session-token" in text
        assert "container does not exist" in await refused(opened(server, "nowhere"), KEY)
        await refused(opened(server, access_key=USER))

    async def test_server_may_be_killed_in_the_middle(self, server: SwiftServer) -> None:
        store = opened(server)
        await store.create()
        await survives(store, server.kill, server.start_proxy)
        await store.close()

    def test_a_volume_lives_in_it(self, server: SwiftServer, tmp_path: Path) -> None:
        volume_works(tmp_path, "swift", server.bucket("volume"), USER, KEY)


@pytest.mark.heavy
class TestThroughS3(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, server: SwiftServer) -> AsyncIterator[ObjectStore]:
        url = f"{server.endpoint}/b{uuid4().hex[:12]}"
        store = open_store("s3", url, volume="vol", access_key=USER, secret_key=KEY)
        await store.create()
        yield store
        await store.close()


def test_forms_of_the_bucket() -> None:
    found = parse("https://box.swift.example.com")
    assert (found.scheme, found.host, found.port, found.container) == ("https", "swift.example.com", 443, "box")
    found = parse("http://box.127.0.0.1:8080?storage-url=http://h/v1/A")
    assert (found.host, found.port, dict(found.options)) == ("127.0.0.1", 8080, {"storage-url": "http://h/v1/A"})
    for bad in ("", "http://host", "ftp://c.host", "http://c.host/path", f"http://u:{MARK}@c.host", "http://c.h:x"):
        with pytest.raises(ConfigError) as caught:
            normalise_bucket("swift", bad)
        assert MARK not in str(caught.value)
