# SPDX-License-Identifier: Apache-2.0
"""Objects through boto3 and by hand: put, get, head, ranges, conditions, names, integrity (spec s3 §3, §4, §6, §11)."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError

from core.meta.records import DIRECTORY, FIFO, SYMLINK


def code_of(call, *args, **kwargs) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


@pytest.mark.parametrize(
    "key",
           ["plain", "a/b/c", "with space", "plus+", "per%cent", "per%25cent", "größe/文件.txt", "q?a=b&c#d",
            "back\\slash",
            "a:b'c\"d", "~tilde-._", ".hidden/.x", "emoji-😀", "new\nline", "x" * 255, "/".join(["d" * 200] * 5)],
)  # fmt: skip
def test_every_legal_key_comes_back_from_get_and_list(s3, key):
    s3.put_object(Bucket="bkt", Key=key, Body=key.encode())
    assert s3.get_object(Bucket="bkt", Key=key)["Body"].read() == key.encode()
    assert [c["Key"] for c in s3.list_objects_v2(Bucket="bkt")["Contents"]] == [key]
    s3.delete_object(Bucket="bkt", Key=key)
    assert code_of(s3.get_object, Bucket="bkt", Key=key) == ("NoSuchKey", 404)


@pytest.mark.parametrize(
    ("key", "code"),
    [("a//b", "InvalidArgument"),
     ("a/../b", "InvalidArgument"), ("./a", "InvalidArgument"), ("a/..", "InvalidArgument"),
     ("x" * 256, "KeyTooLongError"), ("a/" * 600, "KeyTooLongError"), ("nul\0", "InvalidArgument")],
)  # fmt: skip
def test_keys_that_have_no_path_are_refused(s3, key, code):
    assert code_of(s3.put_object, Bucket="bkt", Key=key, Body=b"x") == (code, 400)


def test_headers_and_metadata_come_back_and_are_stored_as_juicefs_does(s3, fs):
    s3.put_object(
        Bucket="bkt", Key="k", Body=b"12345", ContentType="text/x-thing", CacheControl="max-age=3",
        ContentLanguage="de",
        ContentDisposition="attachment; filename=x", ContentEncoding="gzip", Metadata={"Color": "red"},
        Tagging="team=core&stage=prod%20x",
    )  # fmt: skip
    head = s3.head_object(Bucket="bkt", Key="k")
    assert head["ContentType"] == "text/x-thing" and head["CacheControl"] == "max-age=3"
    assert head["ContentDisposition"] == "attachment; filename=x" and head["ContentEncoding"] == "gzip"
    assert head["ContentLanguage"] == "de" and head["Metadata"]["color"] == "red" and head["TagCount"] == 2
    node = fs._walk(b"/bkt/k")
    meta = node.xattrs[b"s3-meta"].decode()
    assert meta.startswith('{"cache-control":"max-age=3","content-disposition"') and '"x-amz-meta-color":"red"' in meta
    assert node.xattrs[b"s3-tags"] == b"team=core&stage=prod%20x"
    assert node.xattrs[b"s3-etag"] == hashlib.md5(b"12345").hexdigest().encode()
    ext = json.loads(node.xattrs[b"s3-ext"])
    assert (ext["len"], ext["mt"]) == (5, node.mtime)


def test_object_of_a_juicefs_gateway_keeps_etag_and_headers_until_somebody_writes_into_the_file(s3, fs):
    node = fs.add(b"/bkt/small.txt", data=b"y" * 120)
    node.xattrs |= {
        b"s3-etag": b"0ad30c22d0157ee29b34d6bcfa0bfd22",
        b"s3-meta": b'{"content-type":"text/plain","x-amz-meta-color":"red"}',
    }
    node.ctime = node.mtime + 1_600_000
    head = s3.head_object(Bucket="bkt", Key="small.txt")
    assert head["ETag"] == '"0ad30c22d0157ee29b34d6bcfa0bfd22"' and head["Metadata"] == {"color": "red"}
    node.mtime = node.ctime = node.ctime + 1
    etag = s3.head_object(Bucket="bkt", Key="small.txt")["ETag"]
    assert etag.endswith('-0"') and len(etag) == 36
    assert s3.list_objects(Bucket="bkt")["Contents"][0]["ETag"] == etag


def test_own_object_changed_through_a_mount_loses_etag_and_checksums(s3, fs):
    s3.put_object(Bucket="bkt", Key="k", Body=b"abc")
    node = fs._walk(b"/bkt/k")
    node.mtime += 1
    got = s3.get_object(Bucket="bkt", Key="k")
    assert got["ETag"].endswith('-0"') and "ChecksumCRC32" not in got


def test_file_without_type_is_guessed_and_without_extension_is_binary(s3, fs):
    fs.add(b"/bkt/page.html", data=b"x")
    fs.add(b"/bkt/page", data=b"x")
    assert s3.head_object(Bucket="bkt", Key="page.html")["ContentType"] == "text/html"
    assert s3.head_object(Bucket="bkt", Key="page")["ContentType"] == "binary/octet-stream"


def test_ranges(s3):
    body = bytes(range(256)) * 1000
    s3.put_object(Bucket="bkt", Key="r", Body=body)
    for spec, part in {
        "bytes=0-0": body[:1], "bytes=5-9": body[5:10], "bytes=255990-": body[255990:], "bytes=-7": body[-7:],
        "bytes=100-99999999": body[100:], "bytes=-99999999": body, "bytes=1000-200000": body[1000:200001],
    }.items():  # fmt: skip
        got = s3.get_object(Bucket="bkt", Key="r", Range=spec)
        assert got["Body"].read() == part and got["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert got["ContentRange"].endswith("/256000")
    for ignored in ("bytes=9-5", "bytes=a-b", "bytes=0-1,3-4", "lines=1-2"):
        assert s3.get_object(Bucket="bkt", Key="r", Range=ignored)["ContentLength"] == 256000
    for beyond in ("bytes=256000-", "bytes=-0"):
        assert code_of(s3.get_object, Bucket="bkt", Key="r", Range=beyond) == ("InvalidRange", 416)
    s3.put_object(Bucket="bkt", Key="empty", Body=b"")
    assert code_of(s3.get_object, Bucket="bkt", Key="empty", Range="bytes=0-0") == ("InvalidRange", 416)


def test_read_conditions(s3):
    etag = s3.put_object(Bucket="bkt", Key="c", Body=b"x")["ETag"]
    past, future = datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1)
    get = s3.get_object
    assert get(Bucket="bkt", Key="c", IfMatch=etag)["ETag"] == etag
    assert get(Bucket="bkt", Key="c", IfMatch="*", IfUnmodifiedSince=past)["ETag"] == etag
    assert code_of(get, Bucket="bkt", Key="c", IfMatch='"no"') == ("PreconditionFailed", 412)
    assert code_of(get, Bucket="bkt", Key="c", IfUnmodifiedSince=past) == ("PreconditionFailed", 412)
    assert code_of(get, Bucket="bkt", Key="c", IfNoneMatch=etag)[1] == 304
    assert code_of(get, Bucket="bkt", Key="c", IfModifiedSince=datetime.now(UTC))[1] == 304
    assert get(Bucket="bkt", Key="c", IfModifiedSince=future)["ETag"] == etag
    assert get(Bucket="bkt", Key="c", IfNoneMatch='"no"', IfModifiedSince=datetime.now(UTC))["ETag"] == etag
    with pytest.raises(ClientError) as caught:
        get(Bucket="bkt", Key="c", IfNoneMatch=etag)
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["etag"] == etag and "last-modified" in headers


def test_write_conditions(s3):
    put = s3.put_object
    first = put(Bucket="bkt", Key="d/w", Body=b"1", IfNoneMatch="*")["ETag"]
    assert code_of(put, Bucket="bkt", Key="d/w", Body=b"2", IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert code_of(put, Bucket="bkt", Key="d/w", Body=b"2" * 100_000, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert code_of(put, Bucket="bkt", Key="d/w", Body=b"2", IfMatch='"no"') == ("PreconditionFailed", 412)
    assert code_of(put, Bucket="bkt", Key="none", Body=b"2", IfMatch="*") == ("NoSuchKey", 404)
    assert code_of(put, Bucket="bkt", Key="d/w", Body=b"2", IfNoneMatch=first) == ("PreconditionFailed", 412)
    second = put(Bucket="bkt", Key="d/w", Body=b"3", IfMatch=first)["ETag"]
    assert second != first and s3.get_object(Bucket="bkt", Key="d/w")["Body"].read() == b"3"
    put(Bucket="bkt", Key="d/w", Body=b"4", IfNoneMatch=first)


def test_loser_of_a_race_between_check_and_publish_is_told_and_changes_nothing(s3, fs):
    etag = s3.put_object(Bucket="bkt", Key="k", Body=b"1")["ETag"]

    def interfere(path: bytes) -> None:
        fs.before_publish = None
        fs._walk(b"/bkt/k").mtime += 1

    fs.before_publish = interfere
    assert code_of(s3.put_object, Bucket="bkt", Key="k", Body=b"2", IfMatch=etag) == ("ConditionalRequestConflict", 409)
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"1"
    assert fs.slices == {}


def test_names_shared_by_files_and_directories(s3, fs):
    put = s3.put_object
    put(Bucket="bkt", Key="f", Body=b"x")
    put(Bucket="bkt", Key="dir/inner", Body=b"x")
    assert code_of(put, Bucket="bkt", Key="f/below", Body=b"x") == ("ObjectParentIsFile", 409)
    assert code_of(put, Bucket="bkt", Key="dir", Body=b"x") == ("ExistingObjectIsDirectory", 409)
    assert code_of(put, Bucket="bkt", Key="f/", Body=b"") == ("ExistingObjectIsDirectory", 409)
    assert code_of(put, Bucket="bkt", Key="new/", Body=b"data") == ("DirectoryObjectContainsData", 400)
    for key in ("f/", "dir", "dir/", "f/below", "f/below/more"):
        assert code_of(s3.get_object, Bucket="bkt", Key=key) == ("NoSuchKey", 404)
    fs.add(b"/bkt/emptydir", DIRECTORY)
    put(Bucket="bkt", Key="emptydir", Body=b"now a file")
    put(Bucket="bkt", Key="explicit/", Body=b"")
    assert code_of(put, Bucket="bkt", Key="explicit", Body=b"x") == ("ExistingObjectIsDirectory", 409)
    assert fs.slices == {}


def test_directory_objects(s3, fs):
    s3.put_object(Bucket="bkt", Key="a/marker/", Body=b"", Metadata={"k": "v"})
    node = fs._walk(b"/bkt/a/marker")
    assert node.atime == 0 and b'"dir":true' in node.xattrs[b"s3-ext"]
    head = s3.head_object(Bucket="bkt", Key="a/marker/")
    assert head["ContentLength"] == 0 and head["ETag"] == '"d41d8cd98f00b204e9800998ecf8427e"'
    assert head["Metadata"] == {"k": "v"}
    assert [c["Key"] for c in s3.list_objects_v2(Bucket="bkt")["Contents"]] == ["a/marker/"]
    s3.put_object(Bucket="bkt", Key="plain/", Body=b"")
    assert s3.head_object(Bucket="bkt", Key="plain/")["ContentType"] == "application/x-directory"
    # A mount refreshed atime: our own marker still tells.
    node.atime = 12345
    assert s3.head_object(Bucket="bkt", Key="a/marker/")["ContentLength"] == 0
    # What somebody made with mkdir is no object.
    fs.add(b"/bkt/made", DIRECTORY)
    assert code_of(s3.head_object, Bucket="bkt", Key="made/")[1] == 404
    s3.put_object(Bucket="bkt", Key="made/", Body=b"")
    assert s3.head_object(Bucket="bkt", Key="made/")["ContentLength"] == 0


def test_links_are_followed_and_special_files_are_not_there(s3, fs):
    fs.add(b"/bkt/target", data=b"content")
    fs.add(b"/bkt/link", SYMLINK, target=b"target")
    fs.add(b"/bkt/bad", SYMLINK, target=b"/etc/passwd")
    fs.add(b"/bkt/pipe", FIFO)
    assert s3.get_object(Bucket="bkt", Key="link")["Body"].read() == b"content"
    for key in ("bad", "pipe"):
        assert code_of(s3.get_object, Bucket="bkt", Key=key) == ("NoSuchKey", 404)
    s3.put_object(Bucket="bkt", Key="link", Body=b"new")
    assert s3.get_object(Bucket="bkt", Key="target")["Body"].read() == b"content"


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 1 << 20, 5_000_001])
@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", None])
def test_bodies_of_all_sizes_with_all_checksums(s3, fs, size, algorithm):
    body = bytes(i * 7 & 0xFF for i in range(251)) * (size // 251 + 1)
    body = body[:size]
    extra = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    put = s3.put_object(Bucket="bkt", Key="k", Body=body, **extra)
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = s3.get_object(Bucket="bkt", Key="k", ChecksumMode="ENABLED")
    assert got["Body"].read() == body
    name = f"Checksum{algorithm or 'CRC32'}"
    assert got[name] == put[name] and got["ChecksumType"] == "FULL_OBJECT"
    assert "ChecksumCRC32" not in s3.get_object(Bucket="bkt", Key="k", Range="bytes=0-0") if size else True
    assert fs.slices == {}


@pytest.mark.parametrize(("size", "chunk"), [(0, 65536), (5, 65536), (600_000, 65536), (600_000, 262144)])
def test_unsigned_chunks_with_a_trailer(gateway, s3, fs, size, chunk):
    """What SDKs send over TLS; botocore can only be made to do it by hand over plain HTTP."""
    import http.client
    import zlib

    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials

    from tests.gateways.s3.conftest import ACCESS_KEY, SECRET_KEY

    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    for checksum, answer in ((zlib.crc32(body), 200), (1, 400)):
        request = botocore.awsrequest.AWSRequest(
            "PUT", f"{gateway.url}/bkt/t",
            headers={
                "x-amz-decoded-content-length": str(size), "x-amz-trailer": "x-amz-checksum-crc32",
                "content-encoding": "gzip,aws-chunked",
            },
        )  # fmt: skip
        request.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
        signer = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
        signer.add_auth(request)
        pieces = [body[i : i + chunk] for i in range(0, size, chunk)]
        raw = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\nx-amz-checksum-crc32:"
        raw += base64.b64encode(checksum.to_bytes(4, "big")) + b"\r\n\r\n"
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
        # Chunked transfer coding around aws-chunked, without a length: as botocore does it.
        connection.request("PUT", "/bkt/t", iter([raw[:7], raw[7:]]), dict(request.headers), encode_chunked=True)
        got = connection.getresponse()
        assert got.status == answer, got.read()
        connection.close()
    found = s3.get_object(Bucket="bkt", Key="t")
    assert found["Body"].read() == body and found["ContentEncoding"] == "gzip" and fs.slices == {}


@pytest.mark.parametrize("size", [10, 200_000])
def test_wrong_digests_store_nothing(s3, fs, size):
    body = b"z" * size
    bad_md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert code_of(s3.put_object, Bucket="bkt", Key="k", Body=body, ContentMD5=bad_md5) == ("BadDigest", 400)
    assert code_of(s3.put_object, Bucket="bkt", Key="k", Body=body, ContentMD5="x") == ("InvalidDigest", 400)
    assert code_of(s3.put_object, Bucket="bkt", Key="k", Body=body, ChecksumCRC32="AAAAAA==") == ("BadDigest", 400)
    assert "Contents" not in s3.list_objects_v2(Bucket="bkt")
    assert fs.slices == {}


def test_default_checksum_is_crc64nvme_when_the_client_sends_none(gateway, s3):
    client = gateway.client(request_checksum_calculation="when_required", response_checksum_validation="when_required")
    put = client.put_object(Bucket="bkt", Key="k", Body=b"123456789")
    assert put["ChecksumCRC64NVME"] == base64.b64encode(0xAE8B14860A799888.to_bytes(8, "big")).decode()
    assert client.get_object(Bucket="bkt", Key="k")["Body"].read() == b"123456789"
    assert s3.get_object(Bucket="bkt", Key="k", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == put["ChecksumCRC64NVME"]


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls_of_both_signatures(gateway, s3, version):
    client = gateway.client(signature_version=version)
    put = client.generate_presigned_url("put_object", {"Bucket": "bkt", "Key": "p q"}, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(put, b"by url", {"Content-Type": ""}, method="PUT")) as answer:
        assert answer.status == 200
    get = client.generate_presigned_url(
        "get_object", {"Bucket": "bkt", "Key": "p q", "ResponseContentType": "text/weird"}, ExpiresIn=60
    )
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"by url" and answer.headers["Content-Type"] == "text/weird"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(get.replace("p%20q", "other"))
    assert caught.value.code == 403 and b"SignatureDoesNotMatch" in caught.value.read()


def test_errors_carry_the_request_id_and_hide_paths(gateway, s3):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{gateway.url}/bkt/k")
    body = caught.value.read().decode()
    assert caught.value.code == 403 and "<Code>AccessDenied</Code>" in body
    assert f"<RequestId>{caught.value.headers['x-amz-request-id']}</RequestId>" in body


def test_refused_headers(s3):
    put = s3.put_object
    assert code_of(put, Bucket="bkt", Key="k", Body=b"", ServerSideEncryption="aws:kms") == ("NotImplemented", 501)
    assert code_of(put, Bucket="bkt", Key="k", Body=b"", StorageClass="NOPE") == ("InvalidStorageClass", 400)
    assert code_of(put, Bucket="bkt", Key="k", Body=b"", ACL="public-read") == ("AccessControlListNotSupported", 400)
    assert code_of(put, Bucket="bkt", Key="k", Body=b"", Metadata={"a": "x" * 2048}) == ("MetadataTooLarge", 400)
    assert code_of(put, Bucket="bkt", Key="k", Body=b"", ObjectLockLegalHoldStatus="ON") == ("InvalidRequest", 400)
    put(Bucket="bkt", Key="k", Body=b"", StorageClass="STANDARD_IA", ACL="bucket-owner-full-control")
    assert code_of(s3.get_object, Bucket="bkt", Key="k", VersionId="abc") == ("NoSuchVersion", 404)
    assert s3.get_object(Bucket="bkt", Key="k", VersionId="null")["ContentLength"] == 0


def test_tagging(s3, fs):
    s3.put_object(Bucket="bkt", Key="k", Body=b"")
    assert s3.get_object_tagging(Bucket="bkt", Key="k")["TagSet"] == []
    tags = [{"Key": "a b", "Value": "ü+="}, {"Key": "c", "Value": ""}]
    s3.put_object_tagging(Bucket="bkt", Key="k", Tagging={"TagSet": tags})
    assert s3.get_object_tagging(Bucket="bkt", Key="k")["TagSet"] == tags
    assert s3.head_object(Bucket="bkt", Key="k")["TagCount"] == 2
    twice = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}
    assert code_of(s3.put_object_tagging, Bucket="bkt", Key="k", Tagging=twice) == ("InvalidTag", 400)
    many = {"TagSet": [{"Key": str(i), "Value": ""} for i in range(11)]}
    assert code_of(s3.put_object_tagging, Bucket="bkt", Key="k", Tagging=many) == ("BadRequest", 400)
    s3.delete_object_tagging(Bucket="bkt", Key="k")
    assert s3.get_object_tagging(Bucket="bkt", Key="k")["TagSet"] == [] and b"s3-tags" not in fs._walk(b"/bkt/k").xattrs
    assert code_of(s3.get_object_tagging, Bucket="bkt", Key="none") == ("NoSuchKey", 404)


def test_acl_stubs_and_attributes(s3):
    s3.put_object(Bucket="bkt", Key="k", Body=b"123", ChecksumAlgorithm="SHA256")
    grants = s3.get_object_acl(Bucket="bkt", Key="k")["Grants"]
    assert [g["Permission"] for g in grants] == ["FULL_CONTROL"]
    s3.put_object_acl(Bucket="bkt", Key="k", ACL="private")
    assert code_of(s3.put_object_acl, Bucket="bkt", Key="k", ACL="public-read")[0] == "AccessControlListNotSupported"
    got = s3.get_object_attributes(
        Bucket="bkt", Key="k", ObjectAttributes=["ETag", "Checksum", "ObjectSize", "ObjectParts", "StorageClass"]
    )
    assert got["ObjectSize"] == 3 and got["ETag"] == hashlib.md5(b"123").hexdigest()
    assert got["Checksum"]["ChecksumSHA256"] and "ObjectParts" not in got


def test_unknown_subresources_never_touch_the_object(gateway, s3):
    import botocore.auth
    import botocore.awsrequest
    import botocore.credentials

    from tests.gateways.s3.conftest import ACCESS_KEY, SECRET_KEY

    s3.put_object(Bucket="bkt", Key="k", Body=b"keep")
    signer = botocore.auth.S3SigV4Auth(botocore.credentials.Credentials(ACCESS_KEY, SECRET_KEY), "s3", "us-east-1")
    for method in ("GET", "PUT", "DELETE"):
        for query in ("torrent", "encryption", "newThing", "restore"):
            request = botocore.awsrequest.AWSRequest(method, f"{gateway.url}/bkt/k?{query}", data=b"")
            signer.add_auth(request)
            sent = urllib.request.Request(request.url, method=method, headers=dict(request.headers))
            if method == "PUT":
                sent.data = b""
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(sent)
            assert caught.value.code == 501, (method, query)
    assert s3.get_object(Bucket="bkt", Key="k")["Body"].read() == b"keep"


def test_missing_bucket_and_parents(s3, fs):
    for key in ("k", "a/b"):
        assert code_of(s3.put_object, Bucket="other", Key=key, Body=b"x") == ("NoSuchBucket", 404)
        assert code_of(s3.put_object, Bucket="other", Key=key, Body=b"x" * 100_000) == ("NoSuchBucket", 404)
        assert code_of(s3.get_object, Bucket="other", Key=key) == ("NoSuchBucket", 404)
        assert code_of(s3.delete_object, Bucket="other", Key=key) == ("NoSuchBucket", 404)
    assert fs.slices == {}
    s3.put_object(Bucket="bkt", Key="x/y/z", Body=b"")
    assert fs._walk(b"/bkt/x/y").xattrs == {b"s3-ext": b'{"v":1,"mk":1}'}


def test_costs_of_hot_requests(s3, fs):
    s3.put_object(Bucket="bkt", Key="dir/k", Body=b"0")

    def trips(call, **kwargs) -> int:
        before = fs.trips
        call(Bucket="bkt", **kwargs)
        return fs.trips - before

    assert trips(s3.put_object, Key="k", Body=b"1") == 2
    assert trips(s3.put_object, Key="dir/k", Body=b"1") == 2
    assert trips(s3.put_object, Key="new1/k", Body=b"1") == 2  # the bucket is known, parents in the same transaction
    assert trips(s3.put_object, Key="k2", Body=b"1", IfNoneMatch="*") == 2
    assert trips(s3.get_object, Key="dir/k") == 1
    assert trips(s3.head_object, Key="k") == 1
    assert trips(s3.delete_object, Key="k") == 2
    assert trips(s3.copy_object, Key="k3", CopySource="bkt/k2") == 4
