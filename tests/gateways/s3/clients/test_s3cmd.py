# SPDX-License-Identifier: Apache-2.0
"""s3cmd 2.4 against the gateway. Source: spec s3 §20; `s3cmd --help`."""

from __future__ import annotations

import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import CommandClient
from tests.gateways.s3.clients.conftest import keys_of
from tests.gateways.s3.clients.suite import ClientSuite
from tests.gateways.s3.gateway_process import ACCESS_KEY, REGION, SECRET_KEY, GatewayProcess
from tests.servers.process import require

HINT = "tests/tools/install-needs.sh installs s3cmd"


class S3cmd(CommandClient):
    def __init__(self, url: str, home: Path) -> None:
        super().__init__(url, home)
        self.program = require("s3cmd", HINT)
        host = url.partition("://")[2]
        # A host_bucket without %(bucket)s means path style.
        settings = {
            "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "host_base": host, "host_bucket": host,
            "use_https": "False", "bucket_location": REGION, "progress_meter": "False",
        }  # fmt: skip
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (home / "s3cfg").write_text(f"[default]\n{text}")

    def s3(self, *arguments: str | Path) -> str:
        return self.run("--config", self.home / "s3cfg", *arguments)

    def put(self, path: Path, bucket: str, key: str) -> None:
        self.s3("put", path, f"s3://{bucket}/{key}")

    def get(self, bucket: str, key: str, path: Path) -> None:
        self.s3("get", "--force", f"s3://{bucket}/{key}", path)

    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        headers = [f"--add-header=x-amz-meta-{name}:{value}" for name, value in metadata.items()]
        self.s3("put", f"--mime-type={content_type}", *headers, path, f"s3://{bucket}/{key}")

    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        self.put(path, bucket, key)  # parts of 15 MiB

    def copy(self, bucket: str, key: str, target: str) -> None:
        self.s3("cp", f"s3://{bucket}/{key}", f"s3://{bucket}/{target}")

    def names(self, bucket: str, prefix: str) -> list[str]:
        start = f"s3://{bucket}/{prefix}"
        lines = self.s3("ls", start).splitlines()
        return [line.partition(start)[2] for line in lines if start in line]

    def delete_tree(self, bucket: str, prefix: str) -> None:
        self.s3("del", "--recursive", "--force", f"s3://{bucket}/{prefix}")

    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None:
        self.s3("sync", f"{folder}/", f"s3://{bucket}/{prefix}/")

    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.s3("sync", f"s3://{bucket}/{prefix}/", f"{folder}/")


class TestS3cmd(ClientSuite):
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> S3cmd:
        return S3cmd(gateway_process.url, tmp_path)

    def test_buckets_are_made_described_and_removed(self, client: S3cmd, bucket: str) -> None:
        client.s3("mb", f"s3://{bucket}-made")
        assert f"s3://{bucket}-made" in client.s3("ls")
        assert "Location" in client.s3("info", f"s3://{bucket}-made")
        client.s3("rb", f"s3://{bucket}-made")
        assert f"s3://{bucket}-made" not in client.s3("ls")

    def test_info_shows_digest_size_and_type(self, client: S3cmd, bucket: str, workplace: Path) -> None:
        source = workplace / "hello.txt"
        source.write_bytes(b"hello")
        client.put(source, bucket, "hello.txt")
        text = client.s3("info", f"s3://{bucket}/hello.txt")
        assert "5d41402abc4b2a76b9719d911017c592" in text
        assert "text/plain" in text

    def test_a_second_sync_moves_nothing(self, client: S3cmd, odd_tree: Path, bucket: str) -> None:
        client.put_tree(odd_tree, bucket, "tree")
        assert "upload:" not in client.s3("sync", f"{odd_tree}/", f"s3://{bucket}/tree/")

    def test_disk_usage_counts_every_object(self, client: S3cmd, bucket: str, eye: Any) -> None:
        for number in range(12):
            eye.put_object(Bucket=bucket, Key=f"{number % 2}/{number}", Body=b"x" * 10)
        fields = client.s3("du", f"s3://{bucket}").split()
        assert (fields[0], fields[1]) == ("120", "12")

    def test_move_and_change_of_metadata(self, client: S3cmd, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="old", Body=b"moved")
        client.s3("mv", f"s3://{bucket}/old", f"s3://{bucket}/new")
        client.s3("modify", "--add-header=x-amz-meta-colour:green", f"s3://{bucket}/new")
        assert keys_of(eye, bucket) == ["new"]
        seen = eye.get_object(Bucket=bucket, Key="new")
        assert (seen["Body"].read(), seen["Metadata"]["colour"]) == (b"moved", "green")

    def test_a_signed_address_needs_no_keys(self, client: S3cmd, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="ö + file.txt", Body=b"shared")
        address = client.s3("signurl", f"s3://{bucket}/ö + file.txt", "+60").strip()
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"shared"

    def test_signature_version_2(self, client: S3cmd, bucket: str, eye: Any, workplace: Path) -> None:
        source = workplace / "two words +.txt"
        source.write_bytes(b"signed the old way")
        client.s3("--signature-v2", "put", source, f"s3://{bucket}/two words +.txt")
        assert eye.get_object(Bucket=bucket, Key="two words +.txt")["Body"].read() == b"signed the old way"
        assert "two words +.txt" in client.s3("--signature-v2", "ls", f"s3://{bucket}/")
