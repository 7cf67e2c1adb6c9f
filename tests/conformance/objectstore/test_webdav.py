# SPDX-License-Identifier: Apache-2.0
"""A folder of a WebDAV server keeps the object-store contract: on Apache's mod_dav, with a password."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.errors import ObjectError
from core.object.api import ObjectStore
from core.object.open import open_store
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, survives, volume_works
from tests.servers import apache
from tests.servers.process import Server
from tests.unit.object import test_tls as tls

certificate = tls.certificate  # a fixture


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with apache.apache() as server:
        yield server


class TestApache(ObjectStoreSuite):
    remote = True
    loops = "both"

    @pytest.fixture
    async def store(self, server: Server) -> AsyncIterator[ObjectStore]:
        url = f"{apache.endpoint(server)}/base/{uuid4().hex[:12]}"
        store = open_store("webdav", url, volume="vol", access_key=apache.USER, secret_key=apache.PASSWORD)
        await store.create()
        yield store
        await store.close()


async def test_a_wrong_password_is_told_without_it(server: Server) -> None:
    store = open_store("webdav", f"{apache.endpoint(server)}/base", volume="v", access_key="x", secret_key=MARK)
    assert "check the user" in await refused(store, MARK)


async def test_the_server_may_die_and_come_back() -> None:
    server = apache.apache()
    with server:
        store = open_store(
            "webdav", f"{apache.endpoint(server)}/a", volume="v", access_key=apache.USER, secret_key=apache.PASSWORD
        )
        # Apache's children outlive a killed parent and keep the port: it is told to end.
        await survives(store, server.stop, server.start)
        await store.close()


async def test_folders_that_somebody_removes_are_made_again(server: Server) -> None:
    name = uuid4().hex[:12]
    store = open_store(
        "webdav", f"{apache.endpoint(server)}/{name}", volume="v", access_key=apache.USER, secret_key=apache.PASSWORD
    )
    for turn in range(3):
        await asyncio.gather(*(store.put(f"a/{i % 3}/b/{i}", b"x") for i in range(20)))
        assert len([info async for info in store.list()]) == 20
        shutil.rmtree(server.folder / "data" / name / "v" / ("a" if turn else "a/1"))
    await store.close()


async def test_over_tls_with_certificates_of_ones_own(certificate: tuple[str, str]) -> None:
    with apache.apache(certificate=certificate) as server:
        url = apache.endpoint(server, "https")
        keys = {"access_key": apache.USER, "secret_key": apache.PASSWORD}
        trusting = f"?ca-certs={certificate[0]}&ssl-cert={certificate[0]}&ssl-key={certificate[1]}"
        store = open_store("webdav", f"{url}/a{trusting}", volume="v", **keys)
        await store.put("a/b", b"data")
        assert bytes(await store.get("a/b", 1, 2)) == b"at"
        await store.close()
        store = open_store("webdav", url, volume="v", **keys)
        with pytest.raises(ObjectError, match="not trusted") as caught:
            await store.get("a/b")
        assert not caught.value.retryable
        await store.close()


def test_a_volume_through_the_command_line(server: Server, tmp_path: Path) -> None:
    bucket = f"{apache.endpoint(server)}/{uuid4().hex[:12]}/base"
    volume_works(tmp_path, "webdav", bucket, apache.USER, apache.PASSWORD)
