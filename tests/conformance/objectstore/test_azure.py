# SPDX-License-Identifier: Apache-2.0
"""Azure Blob Storage keeps the object-store contract: on azurite, with the account's key and with a SAS token."""

from __future__ import annotations

import base64
import hmac
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import unquote, urlencode
from uuid import uuid4

import pytest

from core.errors import DataCorrupt, ObjectError, ObjectNotFound
from core.object.api import ObjectStore
from core.object.clouds.azure import Container, make_container
from core.object.clouds.opendal_store import OpendalStore
from core.object.open import open_store, prove
from tests.conformance.objectstore.suite import HOSTILE, ObjectStoreSuite
from tests.conformance.objectstore.volumes import MARK, refused, volume_works
from tests.servers import azurite
from tests.servers.process import Server

VARIABLE = "AZURE_STORAGE_CONNECTION_STRING"
# OpenDAL takes white space off a path's ends; the store refuses such a key instead of giving it another name.
KEYS = [key for key in HOSTILE if key == key.strip()]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with azurite.azurite() as server:
        yield server


class TestAzurite(ObjectStoreSuite):
    remote = True
    hostile_keys = KEYS

    @pytest.fixture
    async def store(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ObjectStore]:
        monkeypatch.setenv(VARIABLE, azurite.connection_string(server))
        store = open_store("wasb", f"https://c{uuid4().hex[:12]}", volume="vol")
        await store.create()
        yield store
        await store.close()


def sas_token(server: Server, permissions: str = "rwdlc") -> str:
    """An account SAS for blobs. Source: Azure documentation, "Create an account SAS" (string to sign)."""
    fields = {"sp": permissions, "ss": "b", "srt": "sco", "st": "", "se": "2099-01-01T00:00:00Z", "sip": "", "spr": "",
              "sv": "2020-08-04"}  # fmt: skip
    text = "\n".join([azurite.ACCOUNT, *fields.values(), ""])
    digest = hmac.digest(base64.b64decode(azurite.KEY), text.encode(), "sha256")
    given = {name: value for name, value in fields.items() if value}
    return urlencode({**given, "sig": base64.b64encode(digest).decode()})


def connection(server: Server, **more: str) -> str:
    text = "".join(f";{name}={value}" for name, value in more.items())
    return f"AccountName={azurite.ACCOUNT};BlobEndpoint={azurite.endpoint(server)}{text}"


async def test_a_sas_token_is_enough(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, connection(server, SharedAccessSignature=sas_token(server)))
    store = open_store("wasb", f"https://c{uuid4().hex[:12]}", volume="vol")
    await prove(store)
    await store.create()  # again
    await store.put("a/k", b"data")
    assert bytes(await store.get("a/k", 1, 2)) == b"at"
    assert [info.key async for info in store.list()] == ["a/k"]
    await store.delete("a/k")
    await store.close()


async def test_what_azure_refuses_is_told_without_the_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    key = base64.b64encode(b"another key " + MARK.encode()).decode()
    monkeypatch.setenv(VARIABLE, connection(server, AccountKey=key))
    text = await refused(open_store("wasb", "https://container", volume="vol"), key, MARK)
    assert "403 AuthorizationFailure" in text or "403 AuthenticationFailed" in text
    assert "check the account's key" in text
    store = open_store("wasb", "https://container", volume="vol")
    with pytest.raises(ObjectError, match="refused with 403"):
        await store.create()

    token = sas_token(server, "r")
    monkeypatch.setenv(VARIABLE, connection(server, SharedAccessSignature=token))
    signature = token.rpartition("sig=")[2]
    text = await refused(open_store("wasb", "https://container", volume="vol"), signature, unquote(signature))
    assert "403" in text


async def test_a_missing_container_is_no_missing_object(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, azurite.connection_string(server))
    store = open_store("wasb", f"https://c{uuid4().hex[:12]}", volume="vol")
    for call in (store.get("k"), store.put("k", b""), anext(store.list())):
        with pytest.raises(ObjectError, match="create the container") as caught:
            await call
        assert not isinstance(caught.value, ObjectNotFound)
        assert not caught.value.retryable
    await store.close()


async def test_checksums_in_the_metadata_are_written_and_verified(server: Server) -> None:
    # OSS and COS, which keep one, can't be run here; azurite keeps any metadata that OpenDAL sends.
    name = f"c{uuid4().hex[:12]}"
    container = Container(azurite.endpoint(server), name, azurite.ACCOUNT, azurite.KEY)
    await make_container("wasb://x", container)
    settings = {"container": name, "endpoint": azurite.endpoint(server), "account_name": azurite.ACCOUNT,
                "account_key": azurite.KEY}  # fmt: skip
    plain, store = OpendalStore("x", "azblob", settings), OpendalStore("x", "azblob", settings, checksum=True)
    await store.put("k", b"123456789")
    assert bytes(await store.get("k")) == b"123456789"
    assert (await store._operator.stat("k")).user_metadata == {"crc32c": "3808858755"}
    await plain.put("unchecked", b"12345")
    assert bytes(await store.get("unchecked")) == b"12345"
    await store._operator.write("k", b"123456780", user_metadata={"crc32c": "3808858755"})
    with pytest.raises(DataCorrupt, match="stored with 3808858755"):
        await store.get("k")
    with pytest.raises(ObjectNotFound):
        await store.get("gone")


def test_a_volume_through_the_command_line(server: Server, tmp_path: Path) -> None:
    environ = {VARIABLE: azurite.connection_string(server)}
    volume_works(tmp_path, "wasb", f"https://c{uuid4().hex[:12]}", env=environ)
