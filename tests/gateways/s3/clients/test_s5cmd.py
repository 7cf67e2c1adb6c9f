# SPDX-License-Identifier: Apache-2.0
"""s5cmd 2.3 (AWS SDK for Go, version 1) against the gateway. Source: spec s3 §20; `s5cmd help cp`."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import CommandClient
from tests.gateways.s3.clients.conftest import keys_of
from tests.gateways.s3.clients.files import snapshot
from tests.gateways.s3.clients.suite import ClientSuite
from tests.gateways.s3.gateway_process import GatewayProcess
from tests.servers.process import require

HINT = "tests/tools/install-needs.sh installs s5cmd"


class S5cmd(CommandClient):
    def __init__(self, url: str, home: Path) -> None:
        super().__init__(url, home)
        self.program = require("s5cmd", HINT)

    def s3(self, *arguments: str | Path, timeout_s: float = 240) -> str:
        return self.run("--endpoint-url", self.url, "--json", *arguments, timeout_s=timeout_s)

    def put(self, path: Path, bucket: str, key: str) -> None:
        self.s3("cp", path, f"s3://{bucket}/{key}")

    def get(self, bucket: str, key: str, path: Path) -> None:
        self.s3("cp", "--raw", f"s3://{bucket}/{key}", path)

    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        pairs = [text for name, value in metadata.items() for text in ("--metadata", f"{name}={value}")]
        self.s3("cp", "--content-type", content_type, *pairs, path, f"s3://{bucket}/{key}")

    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        self.s3("cp", "--part-size", "16", path, f"s3://{bucket}/{key}")

    def copy(self, bucket: str, key: str, target: str) -> None:
        # Its own default is REPLACE, which drops metadata.
        self.s3("cp", "--raw", "--metadata-directive", "COPY", f"s3://{bucket}/{key}", f"s3://{bucket}/{target}")

    def names(self, bucket: str, prefix: str) -> list[str]:
        start = f"s3://{bucket}/{prefix}"
        lines = map(json.loads, self.s3("ls", start).splitlines())
        return [line["key"].removeprefix(start) for line in lines]

    def delete_tree(self, bucket: str, prefix: str) -> None:
        self.s3("rm", f"s3://{bucket}/{prefix}*")

    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None:
        self.s3("cp", f"{folder}/", f"s3://{bucket}/{prefix}/")

    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None:
        self.s3("cp", f"s3://{bucket}/{prefix}/*", f"{folder}/")


class TestS5cmd(ClientSuite):
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> S5cmd:
        return S5cmd(gateway_process.url, tmp_path)

    def test_buckets_are_made_listed_and_removed(self, client: S5cmd, bucket: str) -> None:
        client.s3("mb", f"s3://{bucket}-made")
        assert f"{bucket}-made" in client.s3("ls")
        client.s3("rb", f"s3://{bucket}-made")
        assert f"{bucket}-made" not in client.s3("ls")

    def test_sync_moves_only_what_changed(self, client: S5cmd, bucket: str, eye: Any, workplace: Path) -> None:
        tree = workplace / "tree"
        for name in ("a", "b", "c/d"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name)
        client.s3("sync", f"{tree}/", f"s3://{bucket}/")
        (tree / "a").write_text("longer than before")
        (tree / "b").unlink()
        moved = client.s3("sync", "--delete", "--size-only", f"{tree}/", f"s3://{bucket}/").splitlines()
        assert sorted(json.loads(line)["operation"] for line in moved) == ["cp", "rm"]
        assert keys_of(eye, bucket) == ["a", "c/d"]

    def test_wildcards_move_and_cat(self, client: S5cmd, bucket: str, eye: Any) -> None:
        for name in ("x1.log", "x2.log", "y.txt"):
            eye.put_object(Bucket=bucket, Key=f"in/{name}", Body=name.encode())
        client.s3("mv", f"s3://{bucket}/in/*.log", f"s3://{bucket}/out/")
        assert keys_of(eye, bucket) == ["in/y.txt", "out/x1.log", "out/x2.log"]
        assert client.run("--endpoint-url", client.url, "cat", f"s3://{bucket}/out/x2.log") == "x2.log"

    def test_disk_usage_counts_every_object(self, client: S5cmd, bucket: str, eye: Any) -> None:
        for number in range(12):
            eye.put_object(Bucket=bucket, Key=f"{number % 2}/{number}", Body=b"x" * 10)
        line = json.loads(client.s3("du", f"s3://{bucket}/*"))
        assert (line["size"], line["count"]) == (120, 12)

    def test_a_presigned_address_needs_no_keys(self, client: S5cmd, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="ö + file.txt", Body=b"shared")
        text = client.run("--endpoint-url", client.url, "presign", "--expire", "1m", f"s3://{bucket}/ö + file.txt")
        with urllib.request.urlopen(text.strip()) as answer:
            assert answer.read() == b"shared"

    @pytest.mark.heavy
    @pytest.mark.timeout(1800)
    def test_a_tree_of_ten_thousand(self, client: S5cmd, tree_10000: Path, bucket: str, workplace: Path) -> None:
        client.s3("cp", f"{tree_10000}/", f"s3://{bucket}/tree/", timeout_s=900)
        client.s3("cp", f"s3://{bucket}/tree/*", f"{workplace}/back/", timeout_s=900)
        assert snapshot(workplace / "back") == snapshot(tree_10000)
        client.s3("rm", f"s3://{bucket}/tree/*", timeout_s=900)
