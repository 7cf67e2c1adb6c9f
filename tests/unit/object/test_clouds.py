# SPDX-License-Identifier: Apache-2.0
"""OpenDAL's errors in our words, without secrets; folder trees as sorted lists; WebDAV answers; logins of B2 and IBM.

What a real server of ours can answer is in tests/conformance/objectstore; here is what has to be provoked.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.object.clouds.azure import Container, shared_key
from core.object.clouds.bucket_url import split_url
from core.object.clouds.dav_answers import parse_members
from core.object.clouds.dav_store import WebDavStore
from core.object.clouds.failures import failure_of, scrub
from core.object.clouds.folders import Child, walk
from core.object.clouds.opendal_store import OpendalStore
from core.object.open import open_store
from core.object.s3.address import Address
from core.object.s3.b2 import B2Store
from core.object.s3.credentials import Credentials
from core.object.s3.ibm import IbmStore, TokenOf
from core.object.walk import Walk

# ---- errors


class PermissionDenied(Exception): ...


class NotFound(Exception): ...


class Unexpected(Exception): ...


PAGE = """{head}

Context:
   uri: http://h/c/a?sv=2020&sig=SECRETSIG%3D
   response: Parts {{ status: {status}, version: HTTP/1.1, headers: {{"x-ms-error-code": "{code}"}} }}
   service: azblob

Source:
   error sending request: Connection refused (os error 111)

Backtrace:
   0: <unknown>
"""


@pytest.mark.parametrize(
    "kind, head, status, code, found, retryable, told",
    [
        (NotFound, 'NotFound (permanent) at read => E { code: "BlobNotFound", message: "gone" }', 404, "BlobNotFound",
         ObjectNotFound, False, "no object 'k'"),
        (NotFound, 'NotFound (permanent) at read => E { code: "ContainerNotFound", message: "no" }', 404,
         "ContainerNotFound", ObjectError, False, "create the container"),
        (PermissionDenied, 'PermissionDenied (permanent) at read => E { code: "AuthenticationFailed", message: "bad" }',
         403, "AuthenticationFailed", ObjectError, False, "check the account's key"),
        (Unexpected, 'Unexpected (temporary) at read => E { code: "ServerBusy", message: "busy" }', 503, "ServerBusy",
         ObjectError, True, "503 ServerBusy: busy"),
        (Unexpected, "Unexpected (temporary) at read => send http request", 0, "", ObjectError, True,
         "Connection refused"),
        (Unexpected, "Unexpected (permanent) at read => odd", 418, "", ObjectError, False, "with 418: odd"),
    ],
)  # fmt: skip
def test_failures(
    kind: type[Exception], head: str, status: int, code: str, found: type[Exception], retryable: bool, told: str
) -> None:
    page = PAGE.format(head=head, status=status or "none", code=code)
    error = failure_of("wasb://a/c", "get", "k", kind(page), ["topsecret"])
    assert type(error) is found
    assert isinstance(error, ObjectError)
    assert error.retryable is retryable
    assert told in str(error)
    assert "SECRETSIG" not in str(error)
    assert "Backtrace" not in str(error)


def test_what_looks_like_a_secret_is_struck_out() -> None:
    text = scrub("url http://h/?sig=abc%3D&sv=1 authorization: Bearer eyJ0 key=topsecret token=t0", ["topsecret"])
    assert not any(word in text for word in ("abc", "eyJ0", "topsecret", "t0"))
    assert "sv=1" in text


async def test_an_unreachable_service_is_told_without_the_token() -> None:
    settings = {"container": "cont", "endpoint": "http://127.0.0.1:1/a", "account_name": "a", "sas_token": "sig=SECRET"}
    store = OpendalStore("wasb://a/cont", "azblob", settings)
    with pytest.raises(ObjectError, match=r"get of 'k' failed.*refused") as caught:
        await store.get("k")
    assert caught.value.retryable
    assert caught.value.__cause__ is None  # the original has the token in it
    assert caught.value.__suppress_context__
    assert "SECRET" not in str(caught.value)


async def test_a_service_that_never_answers_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {"container": "cont", "endpoint": endpoint, "account_name": "a", "account_key": "a2V5"}
    store = OpendalStore("wasb://a/cont", "azblob", settings, timeout_s=0.2, io_timeout_s=0.2)
    for call in (store.get("k"), store.put("k", b"1"), store.head("k"), store.delete("k"), anext(store.list())):
        with pytest.raises(ObjectError, match="timeout") as caught:
            await call
        assert caught.value.retryable
    server.close()


@pytest.mark.parametrize("storage, bucket, told", [("oss", "http://b1x.oss.x", "set ALICLOUD_ACCESS_KEY_ID"),
                                                   ("cos", "http://b1x-1.cos.x", "set COS_SECRETID"),
                                                   ("obs", "http://b1x.obs.x", "set HWCLOUD_ACCESS_KEY")])  # fmt: skip
async def test_where_no_credentials_are_found_it_is_said_how_to_give_them(storage: str, bucket: str, told: str) -> None:
    with pytest.raises(ObjectError, match=f"no credentials were found; .*{told}") as caught:
        await open_store(storage, bucket, volume="v").put("k", b"1")
    assert not caught.value.retryable


def test_settings_that_make_no_sense_are_told() -> None:
    with pytest.raises(ConfigError, match=r"wasb://x: these settings can't be used: .*base64") as caught:
        OpendalStore("wasb://x", "azblob", {"container": "c", "endpoint": "http://h", "account_name": "a",
                                            "account_key": "not base64!"})  # fmt: skip
    assert "not base64!" not in str(caught.value)
    with pytest.raises(ConfigError):
        OpendalStore("x://", "no-such-service", {})


@pytest.mark.parametrize("key", [" k", "k ", "/k", "a//b"])
async def test_keys_that_opendal_would_rename_are_refused(key: str) -> None:
    store = OpendalStore("mem", "memory", {})
    for call in (store.put(key, b""), store.get(key), store.head(key), store.delete(key)):
        with pytest.raises(ObjectError, match="can't be used with this client") as caught:
            await call
        assert not caught.value.retryable


CLIENT = """
import asyncio, sys
from core.object.clouds.signed import open_signed

async def main(storage, url):
    store = open_signed(storage, url, "id", "secret-key", "")
    await store.put("k", b"123456789")
    print((await store.get("k")).decode())
    try:
        await store.get("k")
    except Exception as error:
        print(type(error).__name__, error)
    print((await open_signed(storage, url + "?disable-checksum=true", "id", "secret-key", "").get("k")).decode())

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("storage, field", [("oss", "x-oss-meta-crc32c"), ("cos", "x-cos-meta-crc32c")])
async def test_oss_and_cos_keep_the_checksum(storage: str, field: str) -> None:
    # The services can't be had; a proxy sees what would go to them. OpenDAL reads the proxy once per process.
    head = f"{field}: 3808858755\r\nlast-modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    right, wrong = (200, head, b"123456789"), (200, head, b"123456780")
    url = {"oss": "http://b1x.oss-cn-x.aliyuncs.com", "cos": "http://b1x-12.cos.ap-x.myqcloud.com"}[storage]
    async with serving((200, "", b""), right, right, wrong) as (port, asked):
        environ = {**os.environ, "http_proxy": f"http://127.0.0.1:{port}", "PYTHONPATH": "."}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, storage, url, env=environ, stdout=subprocess.PIPE
        )
        told = (await process.communicate())[0].decode().splitlines()
    assert told[0] == "123456789"
    assert told[1].startswith("DataCorrupt")
    assert "stored with 3808858755" in told[1]
    assert told[2] == "123456780"
    assert asked[0].startswith(f"PUT {url}/k ")
    assert f"{field}: 3808858755\r\n" in asked[0].lower()
    assert not any("secret-key" in request for request in asked)
    assert sorted(request.split()[0] for request in asked[1:]) == ["GET", "GET", "GET", "HEAD", "HEAD"]


# ---- storage classes


async def test_storage_class_and_tag_go_with_each_put(caplog: pytest.LogCaptureFixture) -> None:
    async with serving((200, "", b"")) as (port, asked):
        url = f"http://127.0.0.1:{port}/b"
        store = open_store(
            "s3", url, volume="v", access_key="a", secret_key="b", storage_class="STANDARD_IA", tag="a=b c"
        )
        await store.put("k", b"1")
        assert "x-amz-storage-class: STANDARD_IA\r\n" in asked[0]
        assert "x-amz-tagging: a=b%20c\r\n" in asked[0]
        assert not caplog.records
        store = open_store("s3", url, volume="v", access_key="a", secret_key="b", storage_class="X", tag="no tag")
        await store.put("k", b"1")
        assert "x-amz-tagging" not in asked[1]
        assert "not of the form name=value" in caplog.text
        caplog.clear()
        store = open_store("wasabi", url, volume="v", access_key="a", secret_key="b", storage_class="X")
        await store.put("k", b"1")
        assert "x-amz-storage-class" not in asked[2]
        assert "can't set the storage class 'X'" in caplog.text


async def test_google_is_told_the_storage_class(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answer = b'{"name": "v/k", "size": "1", "updated": "2026-01-01T00:00:00Z"}'
    async with serving((200, "content-type: application/json\r\n", answer)) as (port, asked):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"127.0.0.1:{port}")
        store = open_store("gs", "gs://bucket", volume="v", storage_class="NEARLINE", tag="a=b")
        await store.put("k", b"1")
        assert "NEARLINE" in asked[0]
        assert "can't set the" in caplog.text


# ---- folders


def tree(keys: list[str]) -> Callable[[str], Awaitable[list[Child]]]:
    from core.object.api import ObjectInfo

    async def children(base: str) -> list[Child]:
        await asyncio.sleep(0)
        found: dict[str, Child] = {}
        for key in keys:
            if key.startswith(base):
                name, slash, _ = key[len(base) :].partition("/")
                found[name + slash] = Child(name + slash, None if slash else ObjectInfo(key, 1, 1.0))
        shuffled = list(found.values())
        random.Random(len(base)).shuffle(shuffled)
        return shuffled

    return children


async def test_a_walk_is_sorted_like_the_folder_store(tmp_path: Path) -> None:
    rng = random.Random(3)
    keys = sorted({"/".join(rng.choice(["a", "b-", "b", "b.c", "c0"]) for _ in range(rng.randint(1, 5))) + f"/{i}"
                   for i in range(300)})  # fmt: skip
    for key in keys:
        path = tmp_path / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
    children = tree(keys)
    for prefix in ["", "b", "b/", "b-", "b.c/a", "zz", "a/b/", "../x"]:
        for after in ["", keys[50], keys[150], "b", "b/", "b.c/zz", "zz"]:
            oracle = Walk(f"{tmp_path}/", prefix, after)
            wanted = []
            while page := oracle.page():
                wanted += [info.key for info in page]
            assert [info.key async for info in walk(children, prefix, after)] == wanted, (prefix, after)


async def test_folders_are_listed_ahead_and_an_early_end_leaves_nothing_behind() -> None:
    asked: list[str] = []
    under_way = 0
    children = tree([f"f{i:02}/k" for i in range(50)])

    async def counted(base: str) -> list[Child]:
        nonlocal under_way
        asked.append(base)
        under_way += 1
        try:
            return await children(base)
        finally:
            under_way -= 1

    source = walk(counted, "", "", ahead=4)
    assert (await anext(source)).key == "f00/k"
    assert len(asked) <= 6  # the root, the first, and four ahead
    await source.aclose()  # type: ignore[attr-defined]
    assert under_way == 0


# ---- a scripted HTTP server


@asynccontextmanager
async def serving(*answers: tuple[int, str, bytes]) -> AsyncIterator[tuple[int, list[str]]]:
    """Answers requests one after another; the last answer goes on. Gives the port and what was asked."""
    asked: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode():
            length = next((int(line.split(":")[1]) for line in head.lower().split("\r\n")
                           if line.startswith("content-length:")), 0)  # fmt: skip
            asked.append(head + (await reader.readexactly(length)).decode("latin-1"))
            status, fields, body = answers[min(len(asked), len(answers)) - 1]
            bodiless = head.startswith("HEAD")
            writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: {len(body)}\r\n{fields}\r\n".encode())
            writer.write(b"" if bodiless else body)
            await writer.drain()

    async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handle(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(quiet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


def dav(port: int) -> WebDavStore:
    return WebDavStore(split_url("webdav", f"http://127.0.0.1:{port}/base", ""), "user", "p:ss")


@pytest.mark.parametrize(
    "status, fields, told, retryable",
    [
        (401, 'www-authenticate: Basic realm="x"\r\n', "check the user", False),
        (401, 'www-authenticate: Digest realm="x"\r\n', "asks for Digest", False),
        (403, "", "may do there", False),
        (301, "location: https://other/base/k\r\n", "redirects to https://other/base/k", False),
        (423, "", "423", True),
        (500, "", "500", True),
        (507, "", "free space", False),
    ],
)
async def test_refusals_of_a_webdav_server(status: int, fields: str, told: str, retryable: bool) -> None:
    async with serving((status, fields, b"<html>")) as (port, _):
        store = dav(port)
        with pytest.raises(ObjectError, match=told) as caught:
            await store.get("k")
        assert caught.value.retryable is retryable
        assert "p:ss" not in str(caught.value)
        await store.close()


async def test_a_redirection_to_a_folder_means_that_there_is_no_object() -> None:
    async with serving((301, "location: http://127.0.0.1/base/k/\r\n", b"")) as (port, _):
        store = dav(port)
        for call in (store.get("k"), store.head("k")):
            with pytest.raises(ObjectNotFound):
                await call
        await store.close()


@pytest.mark.parametrize("kind, found", [("<D:collection/>", ObjectNotFound), ("", ObjectError)])
async def test_a_get_that_is_not_allowed_may_mean_a_folder(kind: str, found: type[ObjectError]) -> None:
    answer = f"""<D:multistatus xmlns:D="DAV:"><D:response><D:href>/base/k/</D:href><D:propstat><D:prop><D:resourcetype>
        {kind}</D:resourcetype></D:prop></D:propstat></D:response></D:multistatus>""".encode()
    async with serving((405, "", b"no"), (207, "", answer)) as (port, asked):
        store = dav(port)
        with pytest.raises(ObjectError) as caught:
            await store.get("k")
        assert type(caught.value) is found
        assert [request.split()[0] for request in asked] == ["GET", "PROPFIND"]
        await store.close()


async def test_a_webdav_server_may_ignore_ranges_but_not_answer_another() -> None:
    async with serving((200, "", b"0123456789"), (206, "content-range: bytes 0-3/10\r\n", b"0123")) as (port, asked):
        store = dav(port)
        assert bytes(await store.get("k", 2, 4)) == b"2345"
        with pytest.raises(ObjectError, match="not the range"):
            await store.get("k", 2, 4)
        assert "authorization: Basic dXNlcjpwOnNz" in asked[0]
        await store.close()


async def test_a_folder_that_cannot_be_made_ends_in_an_error() -> None:
    async with serving((409, "", b"")) as (port, asked):
        store = dav(port)
        with pytest.raises(ObjectError, match="making the folder of '/base' was refused with 409"):
            await store.put("a/b/k", b"x")
        assert len(asked) == 4  # PUT, and MKCOL of each folder upwards
        await store.close()


def test_members_of_a_folder() -> None:
    body = b"""<?xml version="1.0"?><a:multistatus xmlns:a="DAV:"><a:response><a:href>http://h:1/b/x%20y</a:href>
      <a:propstat><a:prop><a:getcontentlength>5</a:getcontentlength><a:resourcetype/>
      <a:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</a:getlastmodified></a:prop>
      <a:status>HTTP/1.1 200 OK</a:status></a:propstat><a:propstat><a:prop><a:getcontentlength>9</a:getcontentlength>
      </a:prop><a:status>HTTP/1.1 404 Not Found</a:status></a:propstat></a:response>
      <a:response><a:href>/b/d/</a:href><a:propstat><a:prop><a:resourcetype><a:collection/></a:resourcetype></a:prop>
      <a:status>HTTP/1.1 200 OK</a:status></a:propstat></a:response></a:multistatus>"""
    assert parse_members(body) == [("/b/x y", False, 5, 784111777.0), ("/b/d/", True, 0, 0.0)]
    for wrong in (b"<html/>", b"", b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>'):
        with pytest.raises(ValueError):
            parse_members(wrong)


# ---- logins and signatures


async def test_b2_learns_its_region_from_the_login() -> None:
    keys = Credentials("id", "application-key")
    async with serving((200, "", b"data")) as (port, asked):
        login = json.dumps({"s3ApiUrl": f"http://127.0.0.1:{port}"}).encode()
        async with serving((200, "", login)) as (login_port, logins):
            store = B2Store("bucket", "", keys, login=f"http://127.0.0.1:{login_port}")
            got = await asyncio.gather(*(store.get("k") for _ in range(5)))
            assert [bytes(data) for data in got] == [b"data"] * 5
            assert len(logins) == 1
            assert "authorization: Basic aWQ6YXBwbGljYXRpb24ta2V5" in logins[0]
            assert asked[0].startswith("GET /bucket/k ")
            await store.close()
    async with serving((401, "", b"{}")) as (login_port, _):
        store = B2Store("bucket", "", keys, login=f"http://127.0.0.1:{login_port}")
        with pytest.raises(ObjectError, match="refused with 401; check the id") as caught:
            await store.get("k")
        assert not caught.value.retryable
        assert "application-key" not in str(caught.value)


async def test_ibm_tokens_are_fetched_once_and_renewed_in_time() -> None:
    now = 1000.0
    first = json.dumps({"access_token": "t1", "expiration": 4600}).encode()
    second = json.dumps({"access_token": "t2", "expiration": 8200}).encode()
    async with (
        serving((200, "", first), (200, "", second)) as (login_port, logins),
        serving((200, "", b"x")) as (port, asked),
    ):
        tokens = TokenOf("api-key", login=f"http://127.0.0.1:{login_port}", clock=lambda: now)
        store = IbmStore(Address("http", "127.0.0.1", port, "b", False, "eu-de", True, {}), tokens, "instance-1")
        await asyncio.gather(*(store.get("k") for _ in range(4)))
        assert len(logins) == 1
        assert "apikey=api-key" in logins[0]
        assert "authorization: Bearer t1" in asked[0]
        assert "ibm-service-instance-id: instance-1" in asked[0]
        now = 4400.0
        await store.get("k")
        assert "authorization: Bearer t2" in asked[-1]
        await store.close()


def test_shared_key_signs_as_azure_does() -> None:
    # Azure's own emulator accepts it too (tests/conformance/objectstore/test_azure.py); this pins the text.
    container = Container("http://h/acct", "cont", "acct", "a2V5")
    fields = {"x-ms-date": "Sun, 06 Nov 1994 08:49:37 GMT", "x-ms-version": "2021-12-02"}
    found = shared_key("PUT", "/acct/cont", {"restype": "container"}, fields, container)
    assert found.startswith("SharedKey acct:")
    assert found == shared_key("PUT", "/acct/cont", {"restype": "container"}, dict(reversed(fields.items())), container)
    assert found != shared_key("GET", "/acct/cont", {"restype": "container"}, fields, container)
