# SPDX-License-Identifier: Apache-2.0
"""boto3 with its current defaults (checksums on) against the gateway. Source: spec s3 §6, §11.3, §11.6, §20."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import Client
from tests.gateways.s3.clients.conftest import boto3_client, keys_of
from tests.gateways.s3.clients.files import MIB, ODD_NAMES, SIZES, Files
from tests.gateways.s3.clients.suite import ClientSuite
from tests.gateways.s3.gateway_process import GatewayProcess
from tests.servers.process import wait_for

#: Keys that a local folder or a command line can't hold, or that are patterns to other clients.
API_KEYS = (*ODD_NAMES, "star*question?.txt", "[brackets]", "back\\slash", "tab\tinside", "trailing/.hidden", "~tilde")


class Boto3(Client):
    def __init__(self, url: str, home: Path, **options: Any) -> None:
        super().__init__(url, home)
        self.s3 = boto3_client(url, **options)

    def put(self, path: Path, bucket: str, key: str) -> None:
        self.s3.upload_file(str(path), bucket, key)

    def get(self, bucket: str, key: str, path: Path) -> None:
        self.s3.download_file(bucket, key, str(path))

    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        extra = {"ContentType": content_type, "Metadata": dict(metadata)}
        self.s3.upload_file(str(path), bucket, key, ExtraArgs=extra)

    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        self.put(path, bucket, key)  # parts of 8 MiB

    def copy(self, bucket: str, key: str, target: str) -> None:
        self.s3.copy({"Bucket": bucket, "Key": key}, bucket, target)

    def names(self, bucket: str, prefix: str) -> list[str]:
        answer = self.s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/")
        found = [entry["Key"] for entry in answer.get("Contents", [])]
        found += [entry["Prefix"] for entry in answer.get("CommonPrefixes", [])]
        return [name.removeprefix(prefix) for name in found]

    def delete_tree(self, bucket: str, prefix: str) -> None:
        keys = [{"Key": key} for key in keys_of(self.s3, bucket, prefix)]
        assert "Errors" not in self.s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})

    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda path: self.put(path, bucket, f"{prefix}/{path.relative_to(folder)}"), paths))

    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None:
        for key in keys_of(self.s3, bucket, f"{prefix}/"):
            target = folder / key.removeprefix(f"{prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.get(bucket, key, target)


class TestBoto3(ClientSuite):
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> Boto3:
        return Boto3(gateway_process.url, tmp_path)

    def test_every_key_that_the_volume_can_hold(self, eye: Any, bucket: str) -> None:
        for key in API_KEYS:
            eye.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert keys_of(eye, bucket) == sorted(API_KEYS, key=lambda key: key.encode())
        for key in API_KEYS:
            assert eye.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
            assert keys_of(eye, bucket, key)[0] == key
        v1 = [entry["Key"] for entry in eye.list_objects(Bucket=bucket)["Contents"]]
        assert v1 == keys_of(eye, bucket)
        answer = eye.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in API_KEYS]})
        assert len(answer["Deleted"]) == len(API_KEYS)
        assert keys_of(eye, bucket) == []

    @pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
    def test_checksums_are_kept_and_answered(self, eye: Any, bucket: str, algorithm: str) -> None:
        try:
            put = eye.put_object(Bucket=bucket, Key="summed", Body=b"x" * 100_000, ChecksumAlgorithm=algorithm)
        except Exception as error:
            if "awscrt" not in str(error):
                raise
            pytest.skip(f"boto3 computes {algorithm} only with awscrt: pip install awscrt")
        head = eye.head_object(Bucket=bucket, Key="summed", ChecksumMode="ENABLED")
        name = f"Checksum{algorithm}"
        assert put[name] == head[name]
        assert eye.get_object(Bucket=bucket, Key="summed")["Body"].read() == b"x" * 100_000

    def test_ranges(self, eye: Any, files: Files, bucket: str) -> None:
        source = files.sized(SIZES["64MiB+1"])
        eye.upload_file(str(source), bucket, "object")
        data, size = source.read_bytes(), SIZES["64MiB+1"]
        for first, last in ((0, 0), (4 * MIB - 1, 4 * MIB), (size - 1, size - 1), (64 * MIB - 2, size + 10), (7, 9999)):
            answer = eye.get_object(Bucket=bucket, Key="object", Range=f"bytes={first}-{last}")
            assert answer["ContentRange"] == f"bytes {first}-{min(last, size - 1)}/{size}"
            assert answer["Body"].read() == data[first : last + 1]
        assert eye.get_object(Bucket=bucket, Key="object", Range="bytes=-5")["Body"].read() == data[-5:]
        with pytest.raises(eye.exceptions.ClientError, match="InvalidRange"):
            eye.get_object(Bucket=bucket, Key="object", Range=f"bytes={size}-")

    def test_only_one_of_many_conditional_writers_wins(self, gateway_process: GatewayProcess, bucket: str) -> None:
        """If-None-Match: * across connections, and so across workers."""

        own = [boto3_client(gateway_process.url) for _ in range(8)]

        def write(number: int) -> int:
            try:
                own[number].put_object(Bucket=bucket, Key="once", Body=b"%d" % number, IfNoneMatch="*")
            except own[number].exceptions.ClientError as error:
                assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")
                return -1
            return number

        with ThreadPoolExecutor(8) as pool:
            won = [number for number in pool.map(write, range(8)) if number >= 0]
        assert len(won) == 1
        body = own[0].get_object(Bucket=bucket, Key="once")["Body"].read()
        assert body == b"%d" % won[0]

    def test_conditional_replacement(self, eye: Any, bucket: str) -> None:
        etag = eye.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
        assert eye.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=etag)["ETag"] != etag
        with pytest.raises(eye.exceptions.ClientError, match="PreconditionFailed"):
            eye.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=etag)
        with pytest.raises(eye.exceptions.ClientError, match="304"):
            eye.get_object(Bucket=bucket, Key="k", IfNoneMatch=f'"{hashlib.md5(b"2").hexdigest()}"')

    @pytest.mark.parametrize("version", ["s3", "s3v4"])
    def test_presigned_addresses(self, gateway_process: GatewayProcess, bucket: str, version: str) -> None:
        client = boto3_client(gateway_process.url, signature_version=version)
        place = {"Bucket": bucket, "Key": "dir/ö +%25 & =?.txt"}
        put = client.generate_presigned_url("put_object", place | {"ContentType": "text/x-test"}, ExpiresIn=60)
        assert ("X-Amz-Signature" in put) == (version == "s3v4")
        request = urllib.request.Request(put, b"through a link", {"Content-Type": "text/x-test"}, method="PUT")
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 200
        named = place | {"ResponseContentDisposition": 'attachment; filename="a b.txt"'}
        with urllib.request.urlopen(client.generate_presigned_url("get_object", named, ExpiresIn=60)) as answer:
            assert answer.read() == b"through a link"
            assert answer.headers["Content-Type"] == "text/x-test"
            assert answer.headers["Content-Disposition"] == 'attachment; filename="a b.txt"'
        get = client.generate_presigned_url("get_object", place, ExpiresIn=60)
        with urllib.request.urlopen(urllib.request.Request(get, headers={"Range": "bytes=0-6"})) as answer:
            assert (answer.status, answer.read()) == (206, b"through")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(get.replace("Signature=", "Signature=A"))
        assert refused.value.code == 403
        head = client.generate_presigned_url("head_object", place, ExpiresIn=60)
        with urllib.request.urlopen(urllib.request.Request(head, method="HEAD")) as answer:
            assert answer.headers["Content-Length"] == "14"
        delete = client.generate_presigned_url("delete_object", place, ExpiresIn=60)
        with urllib.request.urlopen(urllib.request.Request(delete, method="DELETE")) as answer:
            assert answer.status == 204

    def test_an_expired_address_is_refused(self, gateway_process: GatewayProcess, bucket: str) -> None:
        for version in ("s3", "s3v4"):
            client = boto3_client(gateway_process.url, signature_version=version)
            client.put_object(Bucket=bucket, Key="k", Body=b"x")
            address = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"}, ExpiresIn=1)
            wait_for(lambda address=address: status_of(address) == 403, what="the end of a second")

    def test_listing_in_pages_with_a_delimiter(self, eye: Any, bucket: str) -> None:
        keys = sorted([f"d{n:02}/{m}" for n in range(9) for m in range(2)] + [f"k{n:02}" for n in range(9)])
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda key: eye.put_object(Bucket=bucket, Key=key, Body=b""), keys))
        for operation in ("list_objects", "list_objects_v2"):
            pages = eye.get_paginator(operation).paginate(
                Bucket=bucket, Delimiter="/", PaginationConfig={"PageSize": 4}
            )
            seen: list[str] = []
            for page in pages:
                assert len(page.get("Contents", [])) + len(page.get("CommonPrefixes", [])) <= 4
                found = [entry["Key"] for entry in page.get("Contents", [])]
                found += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
                seen += sorted(found)
            assert seen == [f"d{n:02}/" for n in range(9)] + [f"k{n:02}" for n in range(9)]

    def test_parts_of_odd_sizes_and_an_abort(self, eye: Any, files: Files, bucket: str) -> None:
        data = files.sized(SIZES["64MiB+1"]).read_bytes()
        upload = eye.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
        cuts = [0, 5 * MIB, 11 * MIB + 17, 40 * MIB - 1, len(data)]
        parts = []
        # Numbers with gaps, sent backwards; one of them twice.
        for number, (start, end) in reversed(list(zip((1, 5, 7, 9000), pairwise(cuts), strict=True))):
            where = {"Bucket": bucket, "Key": "parts", "UploadId": upload, "PartNumber": number}
            if number == 5:
                eye.upload_part(**where, Body=b"replaced")
            etag = eye.upload_part(**where, Body=data[start:end])["ETag"]
            parts.insert(0, {"PartNumber": number, "ETag": etag})
        listed = eye.list_parts(Bucket=bucket, Key="parts", UploadId=upload)["Parts"]
        assert [part["PartNumber"] for part in listed] == [1, 5, 7, 9000]
        eye.complete_multipart_upload(
            Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": parts}
        )  # fmt: skip
        assert eye.get_object(Bucket=bucket, Key="parts")["Body"].read() == data
        second = eye.get_object(Bucket=bucket, Key="parts", PartNumber=2)
        assert second["PartsCount"] == 4
        assert second["Body"].read() == data[cuts[1] : cuts[2]]

        aborted = eye.create_multipart_upload(Bucket=bucket, Key="aborted")["UploadId"]
        eye.upload_part(Bucket=bucket, Key="aborted", UploadId=aborted, PartNumber=1, Body=b"gone")
        eye.abort_multipart_upload(Bucket=bucket, Key="aborted", UploadId=aborted)
        with pytest.raises(eye.exceptions.NoSuchUpload):
            eye.list_parts(Bucket=bucket, Key="aborted", UploadId=aborted)
        assert keys_of(eye, bucket) == ["parts"]

    def test_tags_and_headers_of_an_object(self, eye: Any, bucket: str) -> None:
        eye.put_object(
            Bucket=bucket, Key="k", Body=b"x", Tagging="team=a%20b&x=%C3%A4", CacheControl="max-age=60",
            ContentDisposition="inline", ContentEncoding="gzip", ContentLanguage="de", Metadata={"Mixed-Case": "v"},
        )  # fmt: skip
        head = eye.head_object(Bucket=bucket, Key="k")
        assert head["CacheControl"] == "max-age=60"
        assert (head["ContentEncoding"], head["ContentLanguage"]) == ("gzip", "de")
        assert head["Metadata"] == {"mixed-case": "v"}
        tags = eye.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"team": "a b", "x": "ä"}


def status_of(address: str) -> int:
    try:
        with urllib.request.urlopen(address) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
