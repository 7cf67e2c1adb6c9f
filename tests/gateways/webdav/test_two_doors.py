# SPDX-License-Identifier: Apache-2.0
"""`sluice serve --s3 --webdav`: what one door writes the other serves at once, with the same ETag and metadata."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.webdav.door import ROOT, Door, make_volume
from tests.servers.process import Server, accepts, free_port, wait_for

D = "{DAV:}"
KEY, SECRET = "two-doors", "two-doors-secret"
LOGIN = "Basic " + base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()


class Both(Server):
    """One set of processes with both doors. `dav` asks the second one."""

    def __init__(self, meta_url: str, *options: str, workers: int = 2) -> None:
        self.dav_port = free_port()

        def command(port: int, folder: Path) -> list[str]:
            return [
                sys.executable, "-m", "sluicefs", "serve", meta_url, "--s3", f"127.0.0.1:{port}", "--multi-buckets",
                "--webdav", ",".join((f"127.0.0.1:{self.dav_port}", *options)), "--workers", str(workers),
                "--grace", "1s",
            ]  # fmt: skip

        env = {"PYTHONPATH": str(ROOT), "SLUICE_ACCESS_KEY": KEY, "SLUICE_SECRET_KEY": SECRET}
        super().__init__(command, env=env, name="serve")
        self.dav = Door(meta_url)
        self.dav.port = self.dav_port

    def start(self) -> None:
        super().start()
        wait_for(lambda: accepts(self.dav_port), what="the WebDAV door")

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> Any:
        return self.dav.ask(method, path, headers, body, login=LOGIN)

    def s3(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3", endpoint_url=f"http://127.0.0.1:{self.port}", aws_access_key_id=KEY, aws_secret_access_key=SECRET,
            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
        )  # fmt: skip

    def workers(self) -> list[int]:
        assert self.process
        listed = subprocess.run(["ps", "--ppid", str(self.process.pid), "-o", "pid="], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with Both(make_volume(tmp_path_factory.mktemp("both"))) as running:
        assert isinstance(running, Both)
        running.s3().create_bucket(Bucket="bkt")
        yield running


def etag_by_propfind(both: Both, path: str) -> str:
    (found,) = both.ask("PROPFIND", path, {"Depth": "0"}).texts(D + "getetag")
    return str(found)


@pytest.mark.parametrize("size", [0, 5, 70_000, 6 << 20])
def test_what_s3_wrote_webdav_serves_with_its_etag_and_type(both: Both, size: int) -> None:
    body = os.urandom(size)
    put = both.s3().put_object(
        Bucket="bkt", Key=f"s3/{size}.bin", Body=body, ContentType="text/x-own", Metadata={"who": "s3"},
        ContentLanguage="de",
    )  # fmt: skip
    found = both.ask("GET", f"/bkt/s3/{size}.bin")
    assert found.body == body and found.etag == put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert found.headers["content-type"] == "text/x-own" and found.headers["content-language"] == "de"
    assert etag_by_propfind(both, f"/bkt/s3/{size}.bin") == put["ETag"]


def test_multipart_objects_have_one_etag_in_both_doors(both: Both) -> None:
    s3 = both.s3()
    upload = s3.create_multipart_upload(Bucket="bkt", Key="parts")["UploadId"]
    parts = []
    for number, body in ((1, b"a" * (5 << 20)), (2, b"b")):
        sent = s3.upload_part(Bucket="bkt", Key="parts", UploadId=upload, PartNumber=number, Body=body)
        parts.append({"PartNumber": number, "ETag": sent["ETag"]})
    done = s3.complete_multipart_upload(Bucket="bkt", Key="parts", UploadId=upload, MultipartUpload={"Parts": parts})
    assert both.ask("HEAD", "/bkt/parts").etag == done["ETag"] and done["ETag"].endswith('-2"')


@pytest.mark.parametrize("size", [0, 5, 70_000, 6 << 20])
def test_what_webdav_wrote_s3_serves_with_its_etag(both: Both, size: int) -> None:
    body = os.urandom(size)
    both.ask("MKCOL", "/bkt/dav")
    put = both.ask("PUT", f"/bkt/dav/{size}.txt", {}, body)
    found = both.s3().get_object(Bucket="bkt", Key=f"dav/{size}.txt")
    assert found["Body"].read() == body and found["ETag"] == put.etag == etag_by_propfind(both, f"/bkt/dav/{size}.txt")
    assert found["ContentType"] == "text/plain"
    keys = [o["Key"] for o in both.s3().list_objects_v2(Bucket="bkt", Prefix="dav/")["Contents"]]
    assert f"dav/{size}.txt" in keys


def test_an_overwrite_through_webdav_drops_what_described_the_old_bytes(both: Both) -> None:
    s3 = both.s3()
    old = s3.put_object(Bucket="bkt", Key="over", Body=b"old", ContentType="text/x-old", Metadata={"a": "b"},
                        Tagging="k=v")["ETag"]  # fmt: skip
    new = both.ask("PUT", "/bkt/over", {}, b"newer")
    head = s3.head_object(Bucket="bkt", Key="over")
    assert head["ETag"] == new.etag != old and head["Metadata"] == {} and head["ContentType"] != "text/x-old"
    assert s3.get_object_tagging(Bucket="bkt", Key="over")["TagSet"] == []
    assert (
        s3.put_object(Bucket="bkt", Key="over", Body=b"s3 again", IfMatch=new.etag)["ETag"]
        == both.ask("HEAD", "/bkt/over").etag
    )


def test_copy_and_move_keep_tags_metadata_and_etag(both: Both) -> None:
    s3 = both.s3()
    etag = s3.put_object(Bucket="bkt", Key="src", Body=b"content", Metadata={"a": "b"}, Tagging="k=v")["ETag"]
    assert both.ask("COPY", "/bkt/src", {"Destination": "/bkt/copied"}).status == 201
    assert both.ask("MOVE", "/bkt/src", {"Destination": "/bkt/moved"}).status == 201
    for key in ("copied", "moved"):
        head = s3.head_object(Bucket="bkt", Key=key)
        assert (head["ETag"], head["Metadata"]) == (etag, {"a": "b"}), key
        assert s3.get_object_tagging(Bucket="bkt", Key=key)["TagSet"] == [{"Key": "k", "Value": "v"}]
        assert both.ask("HEAD", f"/bkt/{key}").etag == etag


def test_dead_properties_survive_neither_more_nor_less_than_the_file(both: Both) -> None:
    s3 = both.s3()
    both.ask("PUT", "/bkt/props", {}, b"1")
    patch = b'<propertyupdate xmlns="DAV:"><set><prop><c xmlns="urn:x">red</c></prop></set></propertyupdate>'
    assert both.ask("PROPPATCH", "/bkt/props", {}, patch).status == 207
    s3.copy_object(Bucket="bkt", Key="props2", CopySource="bkt/props")
    assert s3.get_object(Bucket="bkt", Key="props")["Body"].read() == b"1"
    s3.delete_object(Bucket="bkt", Key="props")
    assert both.ask("GET", "/bkt/props").status == 404
    both.ask("PUT", "/bkt/props", {}, b"2")
    assert both.ask("PROPFIND", "/bkt/props", {"Depth": "0"}).texts("{urn:x}c") == []


def test_folders_and_buckets_are_the_same_things(both: Both) -> None:
    assert both.ask("MKCOL", "/made-by-dav").status == 201
    assert "made-by-dav" in [b["Name"] for b in both.s3().list_buckets()["Buckets"]]
    both.s3().put_object(Bucket="bkt", Key="deep/er/file", Body=b"x")
    assert both.ask("PROPFIND", "/bkt/deep", {"Depth": "1"}).texts(D + "href") == ["/bkt/deep/", "/bkt/deep/er/"]


@pytest.mark.parametrize("announced", [20 << 20, None], ids=["length", "chunked"])
def test_a_worker_killed_in_the_middle_of_a_put_leaves_the_old_content(both: Both, announced: int | None) -> None:
    both.ask("PUT", "/bkt/kept", {}, b"old")
    connection = both.dav.connect()
    connection.putrequest("PUT", "/bkt/kept")
    connection.putheader("Authorization", LOGIN)
    if announced:
        connection.putheader("Content-Length", str(announced))
        sent = b"n" * (10 << 20)
    else:
        connection.putheader("Transfer-Encoding", "chunked")
        sent = b"%x\r\n" % (10 << 20) + b"n" * (10 << 20) + b"\r\n"
    connection.endheaders(sent)
    victims = both.workers()
    assert len(victims) == 2
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(Exception):
        connection.getresponse()
    connection.close()
    wait_for(lambda: len(set(both.workers()) - set(victims)) == 2, what="new workers")
    wait_for(lambda: _answers(both), what="an answer")
    assert both.ask("GET", "/bkt/kept").body == b"old"
    assert both.s3().get_object(Bucket="bkt", Key="kept")["Body"].read() == b"old"
    assert both.ask("PUT", "/bkt/kept", {}, b"new").status == 204


def _answers(both: Both) -> bool:
    try:
        return bool(both.ask("OPTIONS", "/").status == 200)
    except OSError:
        return False
