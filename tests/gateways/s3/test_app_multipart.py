# SPDX-License-Identifier: Apache-2.0
"""Multipart uploads, copies, renames, deletes and pruning, listings through boto3 (spec s3 §3.6, §10-§12)."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import zlib

import pytest

from core.meta.records import DIRECTORY
from core.vfs.filesystem import SourceChanged
from core.vfs.temporary import Cleaner
from tests.gateways.s3.test_app_objects import code_of

MIB = 1 << 20


def upload(s3, key: str, bodies: dict[int, bytes], **create):
    made = s3.create_multipart_upload(Bucket="bkt", Key=key, **create)
    parts = []
    for number, body in bodies.items():
        put = s3.upload_part(
            Bucket="bkt", Key=key, UploadId=made["UploadId"], PartNumber=number, Body=body,
            **({"ChecksumAlgorithm": create["ChecksumAlgorithm"]} if "ChecksumAlgorithm" in create else {}),
        )  # fmt: skip
        parts.append(
            {"PartNumber": number, **{k: v for k, v in put.items() if k == "ETag" or k.startswith("Checksum")}}
        )
        parts[-1].pop("ChecksumType", None)
    return made["UploadId"], parts


@pytest.mark.parametrize(
    "create", [{}, {"ChecksumAlgorithm": "CRC32"}, {"ChecksumAlgorithm": "SHA256"},
               {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"}, {"ChecksumAlgorithm": "CRC64NVME"}],
)  # fmt: skip
def test_complete_joins_the_listed_parts(s3, fs, create):
    bodies = {1: b"a" * 5 * MIB, 3: b"b" * (5 * MIB + 1), 7: b"tail"}
    upload_id, parts = upload(s3, "m/x", bodies, Metadata={"parts": "3"}, ContentType="application/multi", **create)
    done = s3.complete_multipart_upload(
        Bucket="bkt", Key="m/x", UploadId=upload_id, MultipartUpload={"Parts": parts}
    )  # fmt: skip
    digest = hashlib.md5(b"".join(hashlib.md5(b).digest() for b in bodies.values())).hexdigest()
    assert done["ETag"] == f'"{digest}-3"'
    whole = b"".join(bodies.values())
    got = s3.get_object(Bucket="bkt", Key="m/x", ChecksumMode="ENABLED")
    assert (
        got["Body"].read() == whole and got["Metadata"] == {"parts": "3"} and got["ContentType"] == "application/multi"
    )
    kind = create.get("ChecksumType")
    if create.get("ChecksumAlgorithm") == "CRC32":
        if kind == "FULL_OBJECT":
            assert got["ChecksumCRC32"] == base64.b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode()
        else:
            assert got["ChecksumCRC32"].endswith("-3") and got["ChecksumType"] == "COMPOSITE"
    second = s3.get_object(Bucket="bkt", Key="m/x", PartNumber=2)
    assert second["Body"].read() == bodies[3] and second["PartsCount"] == 3
    assert code_of(s3.get_object, Bucket="bkt", Key="m/x", PartNumber=4) == ("InvalidPartNumber", 416)
    attributes = s3.get_object_attributes(Bucket="bkt", Key="m/x", ObjectAttributes=["ObjectParts", "ObjectSize"])
    assert attributes["ObjectParts"]["TotalPartsCount"] == 3
    # Said twice: the same answer; and nothing of the upload is left.
    again = s3.complete_multipart_upload(Bucket="bkt", Key="m/x", UploadId=upload_id, MultipartUpload={"Parts": parts})
    assert again["ETag"] == done["ETag"]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="bkt")
    assert fs._walk(b"/.sys/bkt/uploads/" + upload_id[:3].encode()).children == {} and fs.slices == {}


def test_upload_begun_by_a_juicefs_gateway_is_continued(s3, fs):
    ident = "ca4afc31-65bb-4ef0-9e3e-357157fb0ceb"
    folder = fs.add(b"/.sys/bkt/uploads/ca4/" + ident.encode(), DIRECTORY)
    folder.xattrs |= {
        b"s3-object": b"unfinished",
        b"s3-meta": b'{"content-type":"binary/octet-stream","x-amz-meta-left":"over"}',
    }
    body = b"q" * 5000
    part = fs.add(b"/.sys/bkt/uploads/ca4/" + ident.encode() + b"/7", data=body)
    part.xattrs[b"s3-etag"] = hashlib.md5(body).hexdigest().encode()
    part.ctime = part.mtime + 1000
    listed = s3.list_multipart_uploads(Bucket="bkt")["Uploads"]
    assert [(u["Key"], u["UploadId"]) for u in listed] == [("unfinished", ident)]
    (found,) = s3.list_parts(Bucket="bkt", Key="unfinished", UploadId=ident)["Parts"]
    assert (found["PartNumber"], found["Size"]) == (7, 5000)
    put = s3.upload_part(Bucket="bkt", Key="unfinished", UploadId=ident, PartNumber=9, Body=b"end")
    parts = [{"PartNumber": 7, "ETag": found["ETag"]}, {"PartNumber": 9, "ETag": put["ETag"]}]
    args = {"Bucket": "bkt", "Key": "unfinished", "UploadId": ident}
    assert code_of(s3.complete_multipart_upload, **args, MultipartUpload={"Parts": parts}) == ("EntityTooSmall", 400)
    s3.complete_multipart_upload(**args, MultipartUpload={"Parts": parts[:1]})
    got = s3.get_object(Bucket="bkt", Key="unfinished")
    assert got["Body"].read() == body and got["Metadata"] == {"left": "over"}


def test_refusals_of_multipart(s3, fs):
    ident, parts = upload(s3, "k", {1: b"a" * 5 * MIB, 2: b"b"})
    args = {"Bucket": "bkt", "Key": "k", "UploadId": ident}
    complete = s3.complete_multipart_upload
    assert code_of(complete, **args, MultipartUpload={"Parts": []}) == ("MalformedXML", 400)
    assert code_of(complete, **args, MultipartUpload={"Parts": parts[::-1]}) == ("InvalidPartOrder", 400)
    missing = [*parts, {"PartNumber": 5, "ETag": '"x"'}]
    assert code_of(complete, **args, MultipartUpload={"Parts": missing}) == ("InvalidPart", 400)
    wrong = [{**parts[0], "ETag": parts[1]["ETag"]}]
    assert code_of(complete, **args, MultipartUpload={"Parts": wrong}) == ("InvalidPart", 400)
    for bad in ("../../../etc", "0" * 36, "ca4afc31-65bb-4ef0-9e3e-357157fb0ceb", ident.upper(), ident + "/.."):
        assert code_of(s3.upload_part, Bucket="bkt", Key="k", UploadId=bad, PartNumber=1, Body=b"") == (
            "NoSuchUpload", 404,
        )  # fmt: skip
    assert (
        code_of(s3.upload_part, Bucket="bkt", Key="other", UploadId=ident, PartNumber=1, Body=b"")[0] == "NoSuchUpload"
    )
    for number in (0, 10001):
        assert code_of(s3.upload_part, **args, PartNumber=number, Body=b"") == ("InvalidArgument", 400)
    s3.put_object(Bucket="bkt", Key="k", Body=b"there")
    condition = {"MultipartUpload": {"Parts": parts}, "IfNoneMatch": "*"}
    assert code_of(complete, **args, **condition) == ("PreconditionFailed", 412)
    s3.abort_multipart_upload(**args)
    assert code_of(s3.abort_multipart_upload, **args) == ("NoSuchUpload", 404)
    assert code_of(complete, **args, MultipartUpload={"Parts": parts}) == ("NoSuchUpload", 404)
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"there"
    pair = {"ChecksumAlgorithm": "SHA256", "ChecksumType": "FULL_OBJECT"}
    assert code_of(s3.create_multipart_upload, Bucket="bkt", Key="k", **pair) == ("InvalidRequest", 400)


def test_part_is_replaced_and_parts_are_listed_in_pages(s3):
    ident, _ = upload(s3, "k", {2: b"old", 10: b"ten", 1: b"one"})
    s3.upload_part(Bucket="bkt", Key="k", UploadId=ident, PartNumber=2, Body=b"newer")
    page = s3.list_parts(Bucket="bkt", Key="k", UploadId=ident, MaxParts=2)
    assert [(p["PartNumber"], p["Size"]) for p in page["Parts"]] == [(1, 3), (2, 5)] and page["IsTruncated"]
    rest = s3.list_parts(Bucket="bkt", Key="k", UploadId=ident, PartNumberMarker=page["NextPartNumberMarker"])
    assert [p["PartNumber"] for p in rest["Parts"]] == [10] and not rest["IsTruncated"]


def test_uploads_are_listed_by_key_and_grouped(s3):
    for key in ("b/2", "a", "b/1", "c", "a"):
        s3.create_multipart_upload(Bucket="bkt", Key=key)
    keys: list[str] = []
    markers: dict[str, str] = {}
    while True:
        page = s3.list_multipart_uploads(Bucket="bkt", MaxUploads=2, **markers)
        keys += [u["Key"] for u in page.get("Uploads", [])]
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert keys == ["a", "a", "b/1", "b/2", "c"]
    page = s3.list_multipart_uploads(Bucket="bkt", Delimiter="/", Prefix="")
    assert [u["Key"] for u in page["Uploads"]] == ["a", "a", "c"]
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["b/"]


def test_part_copy_clones_and_knows_its_md5(s3):
    body = bytes(range(256)) * 40_000
    s3.put_object(Bucket="bkt", Key="src", Body=body)
    ident = s3.create_multipart_upload(Bucket="bkt", Key="dst")["UploadId"]
    args = {"Bucket": "bkt", "Key": "dst", "UploadId": ident, "CopySource": "bkt/src"}
    one = s3.upload_part_copy(**args, PartNumber=1, CopySourceRange="bytes=0-5242879")["CopyPartResult"]
    two = s3.upload_part_copy(**args, PartNumber=2, CopySourceRange=f"bytes=5242880-{len(body) - 1}")["CopyPartResult"]
    assert one["ETag"] == f'"{hashlib.md5(body[:5242880]).hexdigest()}"'
    parts = [{"PartNumber": 1, "ETag": one["ETag"]}, {"PartNumber": 2, "ETag": two["ETag"]}]
    s3.complete_multipart_upload(Bucket="bkt", Key="dst", UploadId=ident, MultipartUpload={"Parts": parts})
    assert s3.get_object(Bucket="bkt", Key="dst")["Body"].read() == body
    ident = s3.create_multipart_upload(Bucket="bkt", Key="dst")["UploadId"]
    args["UploadId"] = ident
    assert code_of(s3.upload_part_copy, **args, PartNumber=1, CopySourceRange="0-5") == ("InvalidArgument", 400)
    beyond = f"bytes=0-{len(body)}"
    assert code_of(s3.upload_part_copy, **args, PartNumber=1, CopySourceRange=beyond) == ("InvalidRange", 416)


def test_copies_and_joins_begin_again_when_their_source_was_compacted(s3, fs):
    left = 0

    def compacted(path: bytes) -> None:
        nonlocal left
        if left:
            left -= 1
            raise SourceChanged(errno.ESTALE)

    etag = s3.put_object(Bucket="bkt", Key="src", Body=b"x" * 6_000_000)["ETag"]
    fs.before_publish, left = compacted, 5
    s3.copy_object(Bucket="bkt", Key="copy", CopySource="bkt/src", CopySourceIfMatch=etag, IfNoneMatch="*")
    ident = s3.create_multipart_upload(Bucket="bkt", Key="dst")["UploadId"]
    args = {"Bucket": "bkt", "Key": "dst", "UploadId": ident}
    left = 5
    part = s3.upload_part_copy(**args, PartNumber=1, CopySource="bkt/src")["CopyPartResult"]
    left = 5
    s3.complete_multipart_upload(**args, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})
    assert left == 0
    for key in ("copy", "dst"):
        assert s3.get_object(Bucket="bkt", Key=key)["Body"].read() == b"x" * 6_000_000

    def replaced(path: bytes) -> None:
        fs._walk(b"/bkt/src").mtime += 1
        raise SourceChanged(errno.ESTALE)

    fs.before_publish = replaced
    assert code_of(s3.copy_object, Bucket="bkt", Key="copy", CopySource="bkt/src")[1] == 409


def test_transfer_manager_round_trip(s3, tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(bytes(range(256)) * 70_000)
    s3.upload_file(str(source), "bkt", "by/transfer")
    s3.download_file("bkt", "by/transfer", str(target))
    assert target.read_bytes() == source.read_bytes()
    s3.copy({"Bucket": "bkt", "Key": "by/transfer"}, "bkt", "copied")
    assert s3.head_object(Bucket="bkt", Key="copied")["ContentLength"] == 256 * 70_000


# -- copy and rename -----------------------------------------------------------------------------------------------


def test_copy_keeps_or_replaces(s3, fs):
    etag = s3.put_object(
        Bucket="bkt", Key="a b/ü", Body=b"data", Metadata={"m": "1"}, Tagging="t=1", ContentType="text/x"
    )["ETag"]
    source = {"Bucket": "bkt", "Key": "a b/ü"}
    copied = s3.copy_object(Bucket="bkt", Key="new/c", CopySource=source)["CopyObjectResult"]
    assert copied["ETag"] == etag
    head = s3.head_object(Bucket="bkt", Key="new/c")
    assert head["Metadata"] == {"m": "1"} and head["ContentType"] == "text/x" and head["TagCount"] == 1
    s3.copy_object(Bucket="bkt", Key="c2", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"})
    head = s3.head_object(Bucket="bkt", Key="c2")
    assert head["Metadata"] == {"n": "2"} and head["ETag"] == etag and head["TagCount"] == 1
    assert code_of(s3.copy_object, Bucket="bkt", Key="a b/ü", CopySource=source) == ("InvalidRequest", 400)
    ino = fs._walk("/bkt/a b/ü".encode()).ino
    s3.copy_object(Bucket="bkt", Key="a b/ü", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "3"})
    node = fs._walk("/bkt/a b/ü".encode())
    assert node.ino == ino and s3.head_object(**source)["Metadata"] == {"n": "3"}
    assert s3.head_object(**source)["ETag"] == etag
    failed = ("PreconditionFailed", 412)
    assert code_of(s3.copy_object, Bucket="bkt", Key="x", CopySource=source, CopySourceIfNoneMatch=etag) == failed
    assert code_of(s3.copy_object, Bucket="bkt", Key="x", CopySource="bkt/none") == ("NoSuchKey", 404)

    def as_go_writes_it(params, **_):
        params["headers"]["x-amz-copy-source"] = "/bkt/a+b/%C3%BC"

    s3.meta.events.register("before-call.s3.CopyObject", as_go_writes_it)
    s3.copy_object(Bucket="bkt", Key="go", CopySource=source)
    s3.meta.events.unregister("before-call.s3.CopyObject", as_go_writes_it)
    assert s3.head_object(Bucket="bkt", Key="go")["ETag"] == etag
    assert code_of(s3.copy_object, Bucket="bkt", Key="x", CopySource="none-such/x") == ("NoSuchBucket", 404)
    assert code_of(s3.copy_object, Bucket="bkt", Key="x", CopySource="bkt/a/../b") == ("InvalidArgument", 400)
    assert (
        code_of(s3.copy_object, Bucket="bkt", Key="x", CopySource=source, MetadataDirective="X")[0] == "InvalidArgument"
    )
    with_sum = s3.copy_object(Bucket="bkt", Key="s", CopySource=source, ChecksumAlgorithm="SHA256")["CopyObjectResult"]
    assert with_sum["ChecksumSHA256"] == base64.b64encode(hashlib.sha256(b"data").digest()).decode()


def test_copy_of_a_file_from_a_mount_gets_an_etag_of_its_own(s3, fs):
    fs.add(b"/bkt/raw", data=b"raw")
    copied = s3.copy_object(Bucket="bkt", Key="c", CopySource="bkt/raw")["CopyObjectResult"]
    assert copied["ETag"] == s3.head_object(Bucket="bkt", Key="c")["ETag"] and copied["ETag"].endswith('-0"')


def test_rename_object(gateway, s3, fs):
    s3.put_object(Bucket="bkt", Key="old/k", Body=b"x")
    s3.put_object(Bucket="bkt", Key="taken", Body=b"y")
    rename = s3.rename_object
    rename(Bucket="bkt", Key="new/place", RenameSource="old/k", ClientToken="t1")
    rename(Bucket="bkt", Key="new/place", RenameSource="old/k", ClientToken="t1")
    assert s3.get_object(Bucket="bkt", Key="new/place")["Body"].read() == b"x"
    assert code_of(rename, Bucket="bkt", Key="z", RenameSource="old/k", ClientToken="t2") == ("NoSuchKey", 404)
    args = {"Bucket": "bkt", "Key": "taken", "RenameSource": "bkt/new/place"}
    assert code_of(rename, **args, DestinationIfNoneMatch="*") == ("PreconditionFailed", 412)
    rename(**args)
    assert s3.get_object(Bucket="bkt", Key="taken")["Body"].read() == b"x"
    assert "old" not in [name.decode() for name in fs._walk(b"/bkt").children]


# -- delete --------------------------------------------------------------------------------------------------------


def names(fs) -> list[bytes]:
    return list(fs._walk(b"/bkt").children)


def test_pruning_removes_only_what_keys_made(s3, fs):
    s3.put_object(Bucket="bkt", Key="ours/deep/k", Body=b"")
    fs.add(b"/bkt/theirs/k")
    s3.put_object(Bucket="bkt", Key="theirs/sub/k", Body=b"")
    for key in ("ours/deep/k", "theirs/k", "theirs/sub/k"):
        s3.delete_object(Bucket="bkt", Key=key)
    assert names(fs) == [b"theirs"] and list(fs._walk(b"/bkt/theirs").children) == []


@pytest.mark.parametrize(("policy", "left"), [("keep", [b"a", b"theirs"]), ("prune", [])])
def test_pruning_policies(make_gateway, fs, policy, left):
    client = make_gateway(empty_dirs=policy).client()
    client.create_bucket(Bucket="bkt")
    client.put_object(Bucket="bkt", Key="a/b", Body=b"")
    fs.add(b"/bkt/theirs/k")
    client.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "a/b"}, {"Key": "theirs/k"}]})
    assert names(fs) == left


def test_delete_of_directory_objects(s3, fs):
    s3.put_object(Bucket="bkt", Key="d/", Body=b"")
    s3.put_object(Bucket="bkt", Key="d/k", Body=b"")
    s3.delete_object(Bucket="bkt", Key="d/")
    assert code_of(s3.head_object, Bucket="bkt", Key="d/")[1] == 404
    assert [c["Key"] for c in s3.list_objects_v2(Bucket="bkt")["Contents"]] == ["d/k"]
    s3.put_object(Bucket="bkt", Key="e/f/", Body=b"")
    s3.delete_object(Bucket="bkt", Key="e/f/")
    assert names(fs) == [b"d"]


def test_delete_objects(s3, fs):
    for i in range(30):
        s3.put_object(Bucket="bkt", Key=f"d{i % 3}/k{i}", Body=b"")
    s3.put_object(Bucket="bkt", Key="dir/", Body=b"")
    wanted = [{"Key": f"d{i % 3}/k{i}"} for i in range(30)]
    odd = [{"Key": "missing"}, {"Key": "dir/"}, {"Key": "a//b"}, {"Key": "d0/k0"}, {"Key": "x", "VersionId": "null"}]
    result = s3.delete_objects(Bucket="bkt", Delete={"Objects": wanted + odd})
    assert len(result["Deleted"]) == 34 and [(e["Key"], e["Code"]) for e in result["Errors"]] == [
        ("a//b", "InvalidArgument")
    ]
    assert names(fs) == []
    s3.put_object(Bucket="bkt", Key="k", Body=b"")
    quiet = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "k"}], "Quiet": True})
    assert "Deleted" not in quiet and names(fs) == []
    many = {"Objects": [{"Key": str(i)} for i in range(1001)]}
    assert code_of(s3.delete_objects, Bucket="bkt", Delete=many) == ("MalformedXML", 400)


def test_conditional_deletes(s3):
    etag = s3.put_object(Bucket="bkt", Key="k", Body=b"x")["ETag"]
    assert code_of(s3.delete_object, Bucket="bkt", Key="k", IfMatch='"no"') == ("PreconditionFailed", 412)
    result = s3.delete_objects(Bucket="bkt", Delete={"Objects": [{"Key": "k", "ETag": '"no"'}]})
    assert result["Errors"][0]["Code"] == "PreconditionFailed"
    s3.delete_object(Bucket="bkt", Key="k", IfMatch=etag)
    s3.delete_object(Bucket="bkt", Key="k", IfMatch=etag)


# -- listings ------------------------------------------------------------------------------------------------------


def test_listing_documents(s3, fs):
    keys = ["a", "a b/1", "a+b", "c/1", "c/2", "z%"]
    for key in keys:
        s3.put_object(Bucket="bkt", Key=key, Body=key.encode())
    assert [c["Key"] for c in s3.list_objects(Bucket="bkt")["Contents"]] == sorted(keys)
    page = s3.list_objects(Bucket="bkt", Delimiter="/", MaxKeys=2)
    assert page["NextMarker"] == "a b/" and page["IsTruncated"]
    page = s3.list_objects(Bucket="bkt", Delimiter="/", Marker=page["NextMarker"])
    assert [c["Key"] for c in page["Contents"]] == ["a+b", "z%"]
    assert [p["Prefix"] for p in page["CommonPrefixes"]] == ["c/"] and "NextMarker" not in page
    seen = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket="bkt", PaginationConfig={"PageSize": 1}):
        seen += [c["Key"] for c in page.get("Contents", [])]
        assert page["KeyCount"] <= 1
    assert seen == sorted(keys)
    page = s3.list_objects_v2(Bucket="bkt", StartAfter="c/1", FetchOwner=True)
    assert [c["Key"] for c in page["Contents"]] == ["c/2", "z%"] and page["Contents"][0]["Owner"]["DisplayName"]
    assert page["StartAfter"] == "c/1" and page["Contents"][0]["ETag"] == f'"{hashlib.md5(b"c/2").hexdigest()}"'
    assert s3.list_objects_v2(Bucket="bkt", ContinuationToken="")["ContinuationToken"] == ""
    assert code_of(s3.list_objects_v2, Bucket="bkt", ContinuationToken="bad") == ("InvalidArgument", 400)
    assert code_of(s3.list_objects_v2, Bucket="bkt", MaxKeys=-1) == ("InvalidArgument", 400)
    assert s3.list_objects_v2(Bucket="bkt", MaxKeys=5000)["MaxKeys"] == 1000
    empty = s3.list_objects_v2(Bucket="bkt", MaxKeys=0)
    assert empty["KeyCount"] == 0 and not empty["IsTruncated"]
    versions = s3.list_object_versions(Bucket="bkt", MaxKeys=4)
    assert [v["VersionId"] for v in versions["Versions"]] == ["null"] * 4 and versions["IsTruncated"]
    rest = s3.list_object_versions(
        Bucket="bkt", KeyMarker=versions["NextKeyMarker"], VersionIdMarker=versions["NextVersionIdMarker"]
    )
    assert [v["Key"] for v in versions["Versions"] + rest["Versions"]] == sorted(keys)


def test_names_that_are_not_utf8_are_listed_encoded_and_can_be_fetched(s3, fs):
    import urllib.request

    fs.add(b"/bkt/bad\xff", data=b"latin")
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    from tests.gateways.s3.conftest import ACCESS_KEY, SECRET_KEY

    request = AWSRequest("GET", s3.meta.endpoint_url + "/bkt/bad%FF")
    S3SigV4QueryAuth(Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1", expires=60).add_auth(request)
    with urllib.request.urlopen(request.url) as answer:
        assert answer.read() == b"latin"


# -- housekeeping --------------------------------------------------------------------------------------------------


def test_stale_leftovers_go_and_young_ones_stay(gateway, s3, fs):
    old_id, _ = upload(s3, "old", {1: b"x"})
    busy_id, _ = upload(s3, "busy", {1: b"x"})
    tmp = b"/.sys/bkt/tmp/abc/abc00000-0000-4000-8000-000000000000"
    fs.add(tmp)
    fs.add(b"/.sys/bkt/tmp/not-ours")

    def age(path):
        node = fs._walk(path)
        node.mtime = node.ctime = node.mtime - 8 * 86400 * 10**9

    for ident in (old_id, busy_id):
        age(b"/.sys/bkt/uploads/%s/%s" % (ident[:3].encode(), ident.encode()))
    age(b"/.sys/bkt/uploads/%s/%s/1" % (old_id[:3].encode(), old_id.encode()))
    age(tmp)
    age(b"/.sys/bkt/tmp/not-ours")
    assert gateway.run(Cleaner(fs).clean()) == 2
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket="bkt")["Uploads"]] == [busy_id]
    assert list(fs._walk(b"/.sys/bkt/tmp").children) == [b"abc", b"not-ours"]


def test_extension_record_of_a_multipart_object_is_compact(s3, fs):
    ident, parts = upload(s3, "k", dict.fromkeys((1, 2), b"p" * 5 * MIB))
    s3.complete_multipart_upload(Bucket="bkt", Key="k", UploadId=ident, MultipartUpload={"Parts": parts})
    ext = json.loads(fs._walk(b"/bkt/k").xattrs[b"s3-ext"])
    assert ext["parts"] == [[5 * MIB, 2]] and ext["uid"] == ident and ext["len"] == 10 * MIB
