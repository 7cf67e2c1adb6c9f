# SPDX-License-Identifier: Apache-2.0
"""rclone 1.75 against the gateway, as provider "Other". Source: spec s3 §20; rclone's S3 page."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import CommandClient
from tests.gateways.s3.clients.conftest import keys_of
from tests.gateways.s3.clients.files import digest_of, snapshot
from tests.gateways.s3.clients.suite import ClientSuite
from tests.gateways.s3.clients.test_awscli import sparse_file
from tests.gateways.s3.gateway_process import ACCESS_KEY, REGION, SECRET_KEY, GatewayProcess
from tests.servers.process import require

HINT = "tests/tools/install-needs.sh installs rclone"


class Rclone(CommandClient):
    def __init__(self, url: str, home: Path) -> None:
        super().__init__(url, home)
        self.program = require("rclone", HINT)

    @property
    def env(self) -> dict[str, str]:
        return {
            "RCLONE_CONFIG": str(self.home / "rclone.conf"),
            "RCLONE_CONFIG_S_TYPE": "s3",
            "RCLONE_CONFIG_S_PROVIDER": "Other",
            "RCLONE_CONFIG_S_ENDPOINT": self.url,
            "RCLONE_CONFIG_S_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": SECRET_KEY,
            "RCLONE_CONFIG_S_REGION": REGION,
            # A failure must be seen, not repeated three times until it goes away.
            "RCLONE_RETRIES": "1",
        }

    def put(self, path: Path, bucket: str, key: str) -> None:
        self.run("copyto", path, f"s:{bucket}/{key}")

    def get(self, bucket: str, key: str, path: Path) -> None:
        self.run("copyto", f"s:{bucket}/{key}", path)

    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        pairs = {"content-type": content_type, **metadata}
        options = [text for name, value in pairs.items() for text in ("--metadata-set", f"{name}={value}")]
        self.run("copyto", "--metadata", *options, path, f"s:{bucket}/{key}")

    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        self.run("copyto", "--s3-upload-cutoff", "16M", "--s3-chunk-size", "16M", path, f"s:{bucket}/{key}")

    def copy(self, bucket: str, key: str, target: str) -> None:
        self.run("copyto", f"s:{bucket}/{key}", f"s:{bucket}/{target}")

    def names(self, bucket: str, prefix: str) -> list[str]:
        return self.run("lsf", f"s:{bucket}/{prefix}").splitlines()

    def delete_tree(self, bucket: str, prefix: str) -> None:
        self.run("purge", f"s:{bucket}/{prefix}")

    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None:
        self.run("copy", folder, f"s:{bucket}/{prefix}")

    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None:
        self.run("copy", f"s:{bucket}/{prefix}", folder)


class TestRclone(ClientSuite):
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> Rclone:
        return Rclone(gateway_process.url, tmp_path)

    def test_check_finds_no_difference_and_times_are_kept(self, client: Rclone, odd_tree: Path, bucket: str) -> None:
        client.run("sync", odd_tree, f"s:{bucket}/tree")
        client.run("check", odd_tree, f"s:{bucket}/tree")
        client.run("check", "--download", odd_tree, f"s:{bucket}/tree")
        # Modification times travel as metadata: nothing is left to do, and that is asked of rclone itself.
        assert "There was nothing to transfer" in said(client, "sync", "-v", odd_tree, f"s:{bucket}/tree")

    def test_a_changed_time_is_written_by_a_copy_onto_itself(
        self, client: Rclone, bucket: str, eye: Any, workplace: Path
    ) -> None:
        source = workplace / "file"
        source.write_bytes(b"same content")
        client.put(source, bucket, "file")
        os.utime(source, (1_600_000_000, 1_600_000_000))
        client.put(source, bucket, "file")
        assert eye.head_object(Bucket=bucket, Key="file")["Metadata"]["mtime"].startswith("1600000000")
        assert client.run("cat", f"s:{bucket}/file") == "same content"

    def test_a_stream_of_unknown_length(self, client: Rclone, bucket: str, eye: Any) -> None:
        bash = require("bash", "apt-get install bash")
        script = f"head -c 20000000 /dev/zero | '{client.program}' rcat s:{bucket}/piped --s3-chunk-size 5M"
        client.program = bash
        client.run("-o", "pipefail", "-c", script)
        assert eye.head_object(Bucket=bucket, Key="piped")["ContentLength"] == 20_000_000

    def test_sync_mirrors_deletions_and_moves(self, client: Rclone, bucket: str, eye: Any, workplace: Path) -> None:
        tree = workplace / "tree"
        for name in ("a", "b/c"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(name)
        client.run("sync", tree, f"s:{bucket}")
        (tree / "a").unlink()
        client.run("sync", tree, f"s:{bucket}")
        client.run("moveto", f"s:{bucket}/b/c", f"s:{bucket}/d/e")
        assert keys_of(eye, bucket) == ["d/e"]

    def test_a_signed_address_needs_no_keys(self, client: Rclone, bucket: str, eye: Any) -> None:
        eye.put_object(Bucket=bucket, Key="ö +%25 file.txt", Body=b"shared")
        address = client.run("link", "--expire", "1m", f"s:{bucket}/ö +%25 file.txt").strip()
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"shared"

    def test_a_directory_marker_is_kept(self, client: Rclone, bucket: str, eye: Any) -> None:
        client.run("mkdir", "--s3-directory-markers", f"s:{bucket}/empty")
        assert keys_of(eye, bucket) == ["empty/"]
        assert client.names(bucket, "") == ["empty/"]
        client.run("rmdirs", "--leave-root", "--s3-directory-markers", f"s:{bucket}")
        assert keys_of(eye, bucket) == []

    @pytest.mark.heavy
    @pytest.mark.timeout(1800)
    def test_a_very_large_object(self, client: Rclone, bucket: str, eye: Any, workplace: Path) -> None:
        source, back = sparse_file(workplace / "large.bin", 1 << 30), workplace / "back.bin"
        wanted = digest_of(source)
        client.run("copyto", source, f"s:{bucket}/large", timeout_s=900)
        os.unlink(source)
        client.run("copyto", f"s:{bucket}/large", back, timeout_s=900)
        assert digest_of(back) == wanted
        eye.delete_object(Bucket=bucket, Key="large")

    @pytest.mark.heavy
    @pytest.mark.timeout(1800)
    def test_a_tree_of_ten_thousand(self, client: Rclone, tree_10000: Path, bucket: str, workplace: Path) -> None:
        client.run("copy", "--transfers", "16", tree_10000, f"s:{bucket}/tree", timeout_s=900)
        client.run("copy", "--transfers", "16", f"s:{bucket}/tree", workplace / "back", timeout_s=900)
        assert snapshot(workplace / "back") == snapshot(tree_10000)


def said(client: Rclone, *arguments: str | Path) -> str:
    """rclone's log, which goes to a file so that it doesn't depend on the terminal."""
    log = client.home / "rclone.log"
    client.run(*arguments, "--log-file", log)
    return log.read_text()
