# SPDX-License-Identifier: Apache-2.0
"""AWS's command line (version 1, from pip) against the gateway. Source: spec s3 §20; `aws s3 help`."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import ClientFailed, CommandClient
from tests.gateways.s3.clients.conftest import keys_of
from tests.gateways.s3.clients.files import MIB, SIZES, Files, digest_of, snapshot
from tests.gateways.s3.clients.suite import ClientSuite
from tests.gateways.s3.gateway_process import GatewayProcess
from tests.servers.process import require

HINT = "tests/tools/install-needs.sh installs awscli"


class AwsCli(CommandClient):
    def __init__(self, url: str, home: Path, certificate: Path | None = None) -> None:
        super().__init__(url, home)
        self.program = require("aws", HINT)
        self._certificate = certificate

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_CA_BUNDLE": str(self._certificate)} if self._certificate else {}

    def s3(self, *arguments: str | Path, timeout_s: float = 240) -> str:
        return self.run("--endpoint-url", self.url, "s3", *arguments, timeout_s=timeout_s)

    def api(self, *arguments: str | Path) -> Any:
        text = self.run("--endpoint-url", self.url, "--output", "json", "s3api", *arguments)
        return json.loads(text) if text.strip() else None

    def put(self, path: Path, bucket: str, key: str) -> None:
        self.s3("cp", "--no-progress", path, f"s3://{bucket}/{key}")

    def get(self, bucket: str, key: str, path: Path) -> None:
        self.s3("cp", "--no-progress", f"s3://{bucket}/{key}", path)

    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        self.s3(
            "cp", "--no-progress", path, f"s3://{bucket}/{key}", "--content-type", content_type, "--metadata",
            json.dumps(dict(metadata)),
        )  # fmt: skip

    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        self.put(path, bucket, key)  # parts of 8 MiB from 8 MiB on

    def copy(self, bucket: str, key: str, target: str) -> None:
        self.s3("cp", "--no-progress", f"s3://{bucket}/{key}", f"s3://{bucket}/{target}")

    def names(self, bucket: str, prefix: str) -> list[str]:
        lines = self.s3("ls", f"s3://{bucket}/{prefix}").splitlines()
        # "                           PRE a/" and "2026-11-21 15:23:49          7 two words"
        return [line.split("PRE ", 1)[1] if " PRE " in line[:31] else line[31:] for line in lines]

    def delete_tree(self, bucket: str, prefix: str) -> None:
        self.s3("rm", "--recursive", "--only-show-errors", f"s3://{bucket}/{prefix}")

    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None:
        self.s3("sync", "--only-show-errors", folder, f"s3://{bucket}/{prefix}")

    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None:
        self.s3("sync", "--only-show-errors", f"s3://{bucket}/{prefix}", folder)


class TestAwsCli(ClientSuite):
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> AwsCli:
        return AwsCli(gateway_process.url, tmp_path)

    def test_buckets_are_made_listed_and_removed(self, client: AwsCli, bucket: str) -> None:
        name = f"{bucket}-made"
        client.s3("mb", f"s3://{name}")
        assert name in [line.split()[-1] for line in client.s3("ls").splitlines()]
        client.s3("rb", f"s3://{name}")
        assert name not in client.s3("ls")

    def test_a_full_bucket_is_removed_only_by_force(self, client: AwsCli, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="a/b", Body=b"x")
        with pytest.raises(ClientFailed, match="BucketNotEmpty"):
            client.s3("rb", f"s3://{bucket}")
        client.s3("rb", "--force", f"s3://{bucket}")
        assert bucket not in client.s3("ls")

    def test_a_second_sync_moves_nothing(self, client: AwsCli, odd_tree: Path, bucket: str) -> None:
        client.s3("sync", odd_tree, f"s3://{bucket}/tree")
        assert client.s3("sync", odd_tree, f"s3://{bucket}/tree") == ""

    def test_sync_with_delete_mirrors(self, client: AwsCli, bucket: str, eye: Any, workplace: Path) -> None:
        tree = workplace / "tree"
        for name in ("a", "b", "c/d"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name)
        client.s3("sync", tree, f"s3://{bucket}")
        (tree / "c" / "d").unlink()
        (tree / "a").write_text("longer than before")
        client.s3("sync", "--delete", tree, f"s3://{bucket}")
        assert keys_of(eye, bucket) == ["a", "b"]
        assert eye.get_object(Bucket=bucket, Key="a")["Body"].read() == b"longer than before"

    def test_a_stream_of_unknown_length(self, client: AwsCli, files: Files, bucket: str, workplace: Path) -> None:
        """`aws s3 cp - s3://…` and back through a pipe, with a shell as users have it."""
        source, back = files.sized(SIZES["64MiB+1"]), workplace / "back.bin"
        aws = f"{client.program} --endpoint-url {client.url} s3 cp --no-progress"
        script = f"cat '{source}' | {aws} - s3://{bucket}/piped && {aws} s3://{bucket}/piped - > '{back}'"
        shell = CommandClient.__new__(AwsCli)
        shell.url, shell.home, shell.program = client.url, client.home, require("bash", "apt-get install bash")
        shell._certificate = None
        shell.run("-o", "pipefail", "-c", script)
        assert digest_of(back) == files.digest(source)

    def test_a_large_object_is_copied_in_parts(
        self, client: AwsCli, files: Files, bucket: str, workplace: Path
    ) -> None:
        """UploadPartCopy. Version 1 of the tool doesn't carry metadata over then; that is not the gateway's doing."""
        source, back = files.sized(SIZES["64MiB+1"]), workplace / "back.bin"
        client.put(source, bucket, "from")
        client.copy(bucket, "from", "to")
        client.get(bucket, "to", back)
        assert digest_of(back) == files.digest(source)
        assert "-" in client.api("head-object", "--bucket", bucket, "--key", "to")["ETag"]

    def test_move_leaves_nothing_behind(self, client: AwsCli, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="old/place", Body=b"moved")
        client.s3("mv", f"s3://{bucket}/old/place", f"s3://{bucket}/new/place")
        assert keys_of(eye, bucket) == ["new/place"]

    def test_a_presigned_address_needs_no_keys(self, client: AwsCli, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="ö +%25 file.txt", Body=b"shared")
        address = client.s3("presign", f"s3://{bucket}/ö +%25 file.txt", "--expires-in", "60").strip()
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"shared"

    def test_ranges_and_conditions_of_the_low_level_commands(
        self, client: AwsCli, files: Files, bucket: str, eye: Any, workplace: Path
    ) -> None:
        source, part = files.sized(SIZES["4MiB+1"]), workplace / "part.bin"
        client.put(source, bucket, "object")
        client.api("get-object", "--bucket", bucket, "--key", "object", "--range", f"bytes={4 * MIB - 3}-", part)
        assert part.read_bytes() == source.read_bytes()[-4:]
        arguments = ("put-object", "--bucket", bucket, "--key", "object", "--body", source, "--if-none-match", "*")
        with pytest.raises(ClientFailed, match="PreconditionFailed"):
            client.api(*arguments)

    def test_an_unknown_key_is_refused(self, client: AwsCli, bucket: str) -> None:
        class Stranger(AwsCli):
            @property
            def env(self) -> dict[str, str]:
                return {"AWS_ACCESS_KEY_ID": "nobody"}

        with pytest.raises(ClientFailed, match="InvalidAccessKeyId"):
            Stranger(client.url, client.home).s3("ls", f"s3://{bucket}")

    @pytest.mark.heavy
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("gib", [1, 5])
    def test_a_very_large_object(self, client: AwsCli, bucket: str, eye: Any, workplace: Path, gib: int) -> None:
        source, back = sparse_file(workplace / "large.bin", gib << 30), workplace / "back.bin"
        wanted = digest_of(source)
        client.s3("cp", "--no-progress", source, f"s3://{bucket}/large", timeout_s=900)
        assert eye.head_object(Bucket=bucket, Key="large")["ContentLength"] == gib << 30
        os.unlink(source)
        client.s3("cp", "--no-progress", f"s3://{bucket}/large", back, timeout_s=900)
        assert digest_of(back) == wanted
        eye.delete_object(Bucket=bucket, Key="large")

    @pytest.mark.heavy
    @pytest.mark.timeout(1800)
    def test_a_tree_of_ten_thousand(self, client: AwsCli, tree_10000: Path, bucket: str, workplace: Path) -> None:
        client.s3("sync", "--only-show-errors", tree_10000, f"s3://{bucket}/tree", timeout_s=900)
        client.s3("sync", "--only-show-errors", f"s3://{bucket}/tree", workplace / "back", timeout_s=900)
        assert snapshot(workplace / "back") == snapshot(tree_10000)


def sparse_file(path: Path, size: int) -> Path:
    """Zeros that take no space, with marks at the borders of blocks, chunks and in between."""
    with open(path, "wb") as f:
        f.truncate(size)
        for at in range(0, size, 48 * MIB + 12345):
            f.seek(at)
            f.write(f"mark at {at}".encode())
        f.seek(size - 4)
        f.write(b"last")
    return path
