# SPDX-License-Identifier: Apache-2.0
"""What every client must be able to do with the gateway, on every kind of volume.

A new client is a `Client` and a subclass of `ClientSuite` with one fixture. What came back is compared by SHA-256,
and boto3 looks at each object from the other side. Source: spec s3 §20, §22 point 2.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import Client
from tests.gateways.s3.clients.conftest import keys_of
from tests.gateways.s3.clients.files import MULTIPART, ODD_NAMES, SIZES, Files, digest_of, snapshot
from tests.gateways.s3.gateway_process import GatewayProcess

LONG = "n" * 251 + ".bin"  # 255 bytes: the longest segment there is


class ClientSuite:
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> Client:
        raise NotImplementedError

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
    def test_an_object_comes_back_as_it_was_sent(
        self, client: Client, files: Files, bucket: str, eye: Any, workplace: Path, size: int
    ) -> None:
        source, back = files.sized(size), workplace / "back.bin"
        client.put(source, bucket, "folder/object.bin")
        seen = eye.head_object(Bucket=bucket, Key="folder/object.bin")
        assert seen["ContentLength"] == size
        client.get(bucket, "folder/object.bin", back)
        assert back.stat().st_size == size
        assert digest_of(back) == files.digest(source)

    def test_an_upload_in_parts_comes_back_as_it_was_sent(
        self, client: Client, files: Files, bucket: str, eye: Any, workplace: Path
    ) -> None:
        source, back = files.sized(MULTIPART), workplace / "back.bin"
        client.put_multipart(source, bucket, "multi.bin")
        seen = eye.head_object(Bucket=bucket, Key="multi.bin")
        assert seen["ContentLength"] == MULTIPART
        parts = int(seen["ETag"].strip('"').split("-")[1])
        assert parts >= 3
        assert not eye.list_multipart_uploads(Bucket=bucket).get("Uploads")
        client.get(bucket, "multi.bin", back)
        assert digest_of(back) == files.digest(source)

    def test_an_overwritten_object_has_only_the_new_content(
        self, client: Client, files: Files, bucket: str, workplace: Path
    ) -> None:
        big, small, back = files.sized(SIZES["4MiB+1"]), files.sized(1), workplace / "back.bin"
        client.put(big, bucket, "again")
        client.put(small, bucket, "again")
        client.get(bucket, "again", back)
        assert digest_of(back) == files.digest(small)

    def test_odd_names_survive_a_round_trip(
        self, client: Client, odd_tree: Path, bucket: str, eye: Any, workplace: Path
    ) -> None:
        client.put_tree(odd_tree, bucket, "odd")
        assert sorted(keys_of(eye, bucket)) == sorted(f"odd/{name}" for name in ODD_NAMES)
        back = workplace / "back"
        client.get_tree(bucket, "odd", back)
        assert snapshot(back) == snapshot(odd_tree)

    def test_a_name_of_255_bytes(self, client: Client, files: Files, bucket: str, eye: Any, workplace: Path) -> None:
        source, back = files.sized(1), workplace / "back.bin"
        client.put(source, bucket, f"deep/{LONG}")
        assert keys_of(eye, bucket) == [f"deep/{LONG}"]
        client.get(bucket, f"deep/{LONG}", back)
        assert digest_of(back) == files.digest(source)

    def test_content_type_and_metadata_are_kept(self, client: Client, bucket: str, eye: Any, workplace: Path) -> None:
        source = workplace / "page.bin"
        source.write_bytes(b"<p>hello")
        client.put_described(source, bucket, "page", "text/html; charset=utf-8", {"colour": "dark blue", "n": "1"})
        seen = eye.head_object(Bucket=bucket, Key="page")
        assert seen["ContentType"] == "text/html; charset=utf-8"
        assert {name: seen["Metadata"].get(name) for name in ("colour", "n")} == {"colour": "dark blue", "n": "1"}
        assert seen["ETag"] == f'"{hashlib.md5(b"<p>hello").hexdigest()}"'

    def test_listing_shows_objects_and_folders(self, client: Client, bucket: str, eye: Any) -> None:
        for key in ("top.txt", "a/one", "a/two words", "a/b/deep", "a+b/plus", "ä/umlaut"):
            eye.put_object(Bucket=bucket, Key=key, Body=key.encode())
        assert sorted(client.names(bucket, "")) == sorted(["top.txt", "a/", "a+b/", "ä/"])
        assert sorted(client.names(bucket, "a/")) == ["b/", "one", "two words"]
        assert client.names(bucket, "a+b/") == ["plus"]
        assert client.names(bucket, "ä/") == ["umlaut"]

    def test_copy_on_the_server(self, client: Client, files: Files, bucket: str, eye: Any, workplace: Path) -> None:
        source, back = files.sized(SIZES["4MiB+1"]), workplace / "back.bin"
        eye.put_object(
            Bucket=bucket, Key="from/ö +%25.bin", Body=source.read_bytes(), Metadata={"colour": "red"},
            ContentType="image/x-test",
        )  # fmt: skip
        client.copy(bucket, "from/ö +%25.bin", "to/copy ü.bin")
        seen = eye.head_object(Bucket=bucket, Key="to/copy ü.bin")
        assert seen["Metadata"]["colour"] == "red"
        assert seen["ContentType"] == "image/x-test"
        client.get(bucket, "to/copy ü.bin", back)
        assert digest_of(back) == files.digest(source)

    def test_delete_of_a_tree_leaves_the_rest(self, client: Client, bucket: str, eye: Any) -> None:
        for number in range(30):
            eye.put_object(Bucket=bucket, Key=f"gone/{number % 3}/{number} +%.txt", Body=b"x")
        eye.put_object(Bucket=bucket, Key="kept", Body=b"x")
        client.delete_tree(bucket, "gone/")
        assert keys_of(eye, bucket) == ["kept"]
