# SPDX-License-Identifier: Apache-2.0
"""The SFTP store keeps the object-store contract on an OpenSSH server.

Source: core/object/sftp; spec data-path §4.2.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.errors import ConfigError
from core.object.api import ObjectStore
from core.object.open import normalise_bucket, open_store
from core.object.sftp import SFTPStore
from core.object.sftp.address import parse
from tests.conformance.objectstore.suite import ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, survives, volume_works
from tests.servers.sshd import SSHServer


@pytest.fixture(scope="module")
def server() -> Iterator[SSHServer]:
    with SSHServer() as server:
        yield server


@pytest.fixture(autouse=True)
def keys(server: SSHServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_PRIVATE_KEY_PATH", server.key)
    monkeypatch.setenv("SSH_KNOWN_HOSTS", server.known_hosts)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


class TestSFTP(ObjectStoreSuite):
    remote = True

    @pytest.fixture
    async def store(self, server: SSHServer) -> AsyncIterator[ObjectStore]:
        name = uuid4().hex
        store = open_store("sftp", server.bucket(name), volume="vol")
        await store.create()
        yield store
        await store.close()
        left = list((server.folder / "data" / name).rglob(".jfs.*"))
        assert left == []

    async def test_objects_are_plain_files(self, server: SSHServer) -> None:
        store = open_store("sftp", server.bucket("plain"), volume="vol")
        await store.put("chunks/0/0/1_0_3", b"abc")
        assert (server.folder / "data/plain/vol/chunks/0/0/1_0_3").read_bytes() == b"abc"
        await store.close()

    async def test_a_connection_that_breaks_is_made_again(self, server: SSHServer) -> None:
        store = SFTPStore(server.bucket("breaks"))
        await store.create()
        await store.put("k", b"v")
        store._link._connection.abort()
        assert bytes(await store.get("k")) == b"v"
        data = os.urandom(4 << 20)
        calls = [asyncio.ensure_future(store.put(f"b{i}", data)) for i in range(8)]
        await asyncio.sleep(0)
        store._link._connection.abort()
        await asyncio.gather(*calls)
        assert bytes(await store.get("b7")) == data
        await store.close()

    async def test_refusals_say_what_to_do(self, server: SSHServer, monkeypatch: pytest.MonkeyPatch) -> None:
        bucket = server.bucket("refused")
        monkeypatch.setenv("SSH_PRIVATE_KEY_PATH", server.other_key)
        text = await refused(open_store("sftp", bucket, volume="v", secret_key=MARK), MARK)
        assert "SSH_PRIVATE_KEY_PATH" in text
        monkeypatch.setenv("SSH_PRIVATE_KEY_PATH", "/no/key")
        assert "/no/key" in await refused(open_store("sftp", bucket, volume="v"))
        monkeypatch.setenv("SSH_PRIVATE_KEY_PATH", server.known_hosts)
        assert "SSH_PRIVATE_KEY_PATH" in await refused(open_store("sftp", bucket, volume="v"))
        monkeypatch.setenv("SSH_PRIVATE_KEY_PATH", server.key)
        known = server.folder / "others"
        known.write_text(f"[127.0.0.1]:{server.port} {Path(server.other_key + '.pub').read_text()}")
        monkeypatch.setenv("SSH_KNOWN_HOSTS", str(known))
        assert "SSH_KNOWN_HOSTS" in await refused(open_store("sftp", bucket, volume="v"))

    async def test_server_may_be_killed_in_the_middle(self, server: SSHServer) -> None:
        store = open_store("sftp", server.bucket("killed"), volume="v")
        await store.create()
        await survives(store, server.kill, server.start)
        await store.close()

    def test_a_volume_lives_in_it(self, server: SSHServer, tmp_path: Path) -> None:
        volume_works(tmp_path, "sftp", server.bucket("volume"))


def test_forms_of_the_bucket() -> None:
    assert normalise_bucket("sftp", "host:/data") == "host:/data/"
    assert normalise_bucket("sftp", "host:22:jfs/") == "host:22:jfs/"
    found = parse("[::1]:2222:/a b/", "me", "p%40ss", {"SSH_KNOWN_HOSTS": "/k"})
    assert (found.host, found.port, found.path, found.user) == ("::1", 2222, "/a b/", "me")
    assert (found.password, found.known_hosts, found.where) == ("p@ss", "/k", "sftp://[::1]:2222//a b/")
    assert parse("h:22", "u", "", {}).path == "22"  # a relative path
    for bad in ("", "host", "host/path", ":/path", "host:99999:/p", f"me:{MARK}@host:/p"):
        with pytest.raises(ConfigError) as caught:
            normalise_bucket("sftp", bad)
        assert MARK not in str(caught.value)
