# SPDX-License-Identifier: Apache-2.0
"""The application over a real volume: SQLite and a folder, several gateways, and a volume that JuiceFS wrote."""

from __future__ import annotations

import functools
import hashlib
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from core.meta.format import Format
from core.volume import format_volume, open_volume
from tests.gateways.s3.test_app_objects import code_of
from tests.golden.volumes import golden

MIB = 1 << 20


@pytest.fixture
async def meta_url(tmp_path):
    url = f"sqlite3://{tmp_path}/meta.db"
    await format_volume(url, Format(name="vol", uuid=str(uuid.uuid4()), bucket=f"{tmp_path}/objects/", trash_days=0))
    return url


@pytest.fixture
def real(make_gateway, meta_url):
    return make_gateway(open_volume=functools.partial(open_volume, meta_url))


@pytest.fixture
def client(real):
    s3 = real.client()
    s3.create_bucket(Bucket="bkt")
    return s3


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, MIB, MIB + 1, 4 * MIB, 4 * MIB + 1, 9_000_001])
def test_bodies_around_every_limit_survive(client, size):
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    put = client.put_object(Bucket="bkt", Key="a/b", Body=body)
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert client.get_object(Bucket="bkt", Key="a/b")["Body"].read() == body
    if size > 10:
        got = client.get_object(Bucket="bkt", Key="a/b", Range=f"bytes=3-{size - 2}")["Body"].read()
        assert got == body[3 : size - 1]


def test_multipart_copy_rename_delete(client, real):
    parts = []
    bodies = [b"a" * 5 * MIB, b"b" * (5 * MIB + 7), b"c"]
    ident = client.create_multipart_upload(Bucket="bkt", Key="m/k")["UploadId"]
    for n, body in enumerate(bodies, 1):
        put = client.upload_part(Bucket="bkt", Key="m/k", UploadId=ident, PartNumber=n, Body=body)
        parts.append({"PartNumber": n, "ETag": put["ETag"]})
    done = {"Bucket": "bkt", "Key": "m/k", "UploadId": ident, "MultipartUpload": {"Parts": parts}}
    etag = client.complete_multipart_upload(**done)["ETag"]
    assert client.complete_multipart_upload(**done)["ETag"] == etag
    whole = b"".join(bodies)
    assert client.get_object(Bucket="bkt", Key="m/k")["Body"].read() == whole
    client.copy_object(Bucket="bkt", Key="deep/er/copy", CopySource="bkt/m/k")
    client.rename_object(Bucket="bkt", Key="x/y", RenameSource="deep/er/copy")
    client.delete_object(Bucket="bkt", Key="m/k")
    got = client.get_object(Bucket="bkt", Key="x/y")
    assert got["Body"].read() == whole and got["ETag"] == etag
    assert [c["Key"] for c in client.list_objects_v2(Bucket="bkt")["Contents"]] == ["x/y"]
    client.delete_object(Bucket="bkt", Key="x/y")
    client.delete_bucket(Bucket="bkt")
    assert client.list_buckets()["Buckets"] == []


def test_directories_links_to_parents_and_conflicts(client):
    put = client.put_object
    put(Bucket="bkt", Key="a/marker/", Body=b"")
    assert client.head_object(Bucket="bkt", Key="a/marker/")["ContentLength"] == 0
    put(Bucket="bkt", Key="f", Body=b"x")
    assert code_of(put, Bucket="bkt", Key="f/g", Body=b"x") == ("ObjectParentIsFile", 409)
    assert code_of(put, Bucket="bkt", Key="f/", Body=b"") == ("ExistingObjectIsDirectory", 409)
    assert code_of(put, Bucket="bkt", Key="a", Body=b"x") == ("ExistingObjectIsDirectory", 409)
    assert code_of(put, Bucket="bkt", Key="a/marker", Body=b"x") == ("ExistingObjectIsDirectory", 409)
    assert code_of(put, Bucket="none", Key="a/b/c", Body=b"x") == ("NoSuchBucket", 404)
    client.delete_object(Bucket="bkt", Key="a/marker/")
    client.delete_object(Bucket="bkt", Key="f")
    assert "Contents" not in client.list_objects_v2(Bucket="bkt")
    put(Bucket="bkt", Key="a", Body=b"the implicit directory gave way")


def test_of_many_conditional_creates_on_several_gateways_one_wins(make_gateway, meta_url, client):
    clients = [client, make_gateway(open_volume=functools.partial(open_volume, meta_url)).client()]

    def create(i: int) -> str:
        try:
            clients[i % 2].put_object(Bucket="bkt", Key="dir/once", Body=b"%d" % i, IfNoneMatch="*")
        except ClientError as e:
            return e.response["Error"]["Code"]
        return f"won {i}"

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(create, range(16)))
    winners = [r for r in results if r.startswith("won")]
    assert len(winners) == 1 and set(results) - set(winners) <= {"PreconditionFailed", "ConditionalRequestConflict"}
    assert client.get_object(Bucket="bkt", Key="dir/once")["Body"].read() == winners[0][4:].encode()


def test_parents_pruned_while_others_publish_below_them_lose_nothing(client):
    def work(i: int) -> None:
        for n in range(10):
            client.put_object(Bucket="bkt", Key=f"p/q/k{i}", Body=b"%d" % n)
            client.delete_object(Bucket="bkt", Key=f"p/q/k{i}")
        client.put_object(Bucket="bkt", Key=f"p/q/k{i}", Body=b"last")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert [c["Key"] for c in client.list_objects_v2(Bucket="bkt")["Contents"]] == [f"p/q/k{i}" for i in range(6)]


def test_volume_filled_by_a_juicefs_gateway_reads_the_same(make_gateway, tmp_path):
    import json

    with golden("sqlite-doors", tmp_path) as volume:
        expected = json.loads((volume.folder / "s3.json").read_text())
        opener = functools.partial(open_volume, volume.meta_url, bucket=volume.bucket, storage="file")
        s3 = make_gateway(open_volume=opener).client()
        buckets = [b["Name"] for b in s3.list_buckets()["Buckets"]]
        assert set(expected["buckets"]) <= set(buckets)
        created = {b["Name"]: b["CreationDate"] for b in s3.list_buckets()["Buckets"]}
        assert str(created["alpha"]).startswith("2026-11-21 12:43:31")
        for name, head in expected["heads"].items():
            bucket, _, key = name.partition("/")
            got = s3.get_object(Bucket=bucket, Key=key)
            assert hashlib.sha256(got["Body"].read()).hexdigest() == head["sha256"], name
            if "ETag" in head:
                assert got["ETag"] == head["ETag"], name
                assert got["ContentType"] == head["ContentType"], name
            assert got["Metadata"] == head["Metadata"] and got["ContentLength"] == head["ContentLength"]
            assert str(got["LastModified"]) == head["LastModified"]
            for field in ("CacheControl", "ContentDisposition", "TagCount"):
                assert got.get(field) == head.get(field), (name, field)
            listed = s3.list_objects_v2(Bucket=bucket, Prefix=key)["Contents"][0]
            if head["ListETag"]:
                assert listed["ETag"] == head["ListETag"]
        for name, tags in expected["tags"].items():
            bucket, _, key = name.partition("/")
            assert s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] == tags
        left = expected["expected_unfinished"]
        uploads = s3.list_multipart_uploads(Bucket=left["bucket"])["Uploads"]
        assert [(u["Key"], u["UploadId"]) for u in uploads] == [(left["key"], left["upload_id"])]
        where = {"Bucket": left["bucket"], "Key": left["key"], "UploadId": left["upload_id"]}
        (part,) = s3.list_parts(**where)["Parts"]
        assert part["ETag"] == expected["parts"][0]["ETag"] and part["Size"] == expected["parts"][0]["Size"]
        s3.complete_multipart_upload(
            **where, MultipartUpload={"Parts": [{"PartNumber": part["PartNumber"], "ETag": part["ETag"]}]}
        )
        assert s3.head_object(Bucket=left["bucket"], Key=left["key"])["Metadata"] == {"left": "over"}
