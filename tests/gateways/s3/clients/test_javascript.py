# SPDX-License-Identifier: Apache-2.0
"""AWS SDK for JavaScript 3 on Node against the gateway; `javascript.cjs` is the program. Source: spec s3 §6, §20."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import CommandClient
from tests.gateways.s3.clients.files import MIB, SIZES, Files, digest_of
from tests.gateways.s3.clients.suite import ClientSuite
from tests.gateways.s3.gateway_process import GatewayProcess
from tests.servers.process import CACHE, missing, require

MODULES = CACHE / "npm" / "node_modules"


class JavaScript(CommandClient):
    def __init__(self, url: str, home: Path) -> None:
        super().__init__(url, home)
        self.program = require("node", "apt-get install nodejs")
        if not (MODULES / "@aws-sdk" / "client-s3").is_dir():
            missing("@aws-sdk/client-s3", "tests/tools/install-needs.sh installs it")

    @property
    def env(self) -> dict[str, str]:
        return {"NODE_PATH": str(MODULES)}

    def do(self, name: str, bucket: str, **arguments: Any) -> Any:
        job = {"url": self.url, "do": name, "bucket": bucket, **arguments}
        return json.loads(self.run(Path(__file__).with_name("javascript.cjs"), json.dumps(job, default=str)))

    def put(self, path: Path, bucket: str, key: str) -> None:
        self.do("put", bucket, key=key, path=path, stream=path.stat().st_size > MIB)

    def get(self, bucket: str, key: str, path: Path) -> None:
        self.do("get", bucket, key=key, path=path)

    def put_described(self, path: Path, bucket: str, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        self.do("put", bucket, key=key, path=path, more={"ContentType": content_type, "Metadata": dict(metadata)})

    def put_multipart(self, path: Path, bucket: str, key: str) -> None:
        self.do("multipart", bucket, key=key, path=path, part=20 * MIB)

    def copy(self, bucket: str, key: str, target: str) -> None:
        self.do("copy", bucket, key=key, target=target)

    def names(self, bucket: str, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self.do("names", bucket, prefix=prefix)]

    def delete_tree(self, bucket: str, prefix: str) -> None:
        self.do("remove", bucket, prefix=prefix)

    def put_tree(self, folder: Path, bucket: str, prefix: str) -> None:
        self.do("putTree", bucket, path=folder, prefix=prefix)

    def get_tree(self, bucket: str, prefix: str, folder: Path) -> None:
        self.do("getTree", bucket, path=folder, prefix=prefix)


class TestJavaScript(ClientSuite):
    @pytest.fixture
    def client(self, gateway_process: GatewayProcess, tmp_path: Path) -> JavaScript:
        return JavaScript(gateway_process.url, tmp_path)

    @pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
    @pytest.mark.parametrize("stream", [False, True], ids=["buffer", "stream"])
    def test_checksums_in_headers_and_trailers(
        self, client: JavaScript, files: Files, bucket: str, workplace: Path, algorithm: str, stream: bool
    ) -> None:
        if algorithm == "CRC64NVME":
            pytest.skip("the SDK computes CRC64NVME only with a package of native code, which nothing else needs")
        source, back = files.sized(SIZES["4MiB+1"]), workplace / "back.bin"
        more = {"ChecksumAlgorithm": algorithm}
        answer = client.do("put", bucket, key="k", path=source, stream=stream, more=more)
        assert answer["ETag"] == f'"{hashlib.md5(source.read_bytes()).hexdigest()}"'
        client.get(bucket, "k", back)  # and the SDK verifies the checksum
        assert digest_of(back) == files.digest(source)

    def test_a_conditional_write(self, client: JavaScript, bucket: str) -> None:
        answer = client.do("conditional", bucket, key="once")
        assert answer["second"] == "PreconditionFailed"
        assert answer["first"] == answer["head"]
