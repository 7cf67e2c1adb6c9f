# SPDX-License-Identifier: Apache-2.0
"""TLS: over it botocore sends streamed bodies without a length and with the checksum in a trailer.

Source: spec s3 §2.4, §5.4 (STREAMING-UNSIGNED-PAYLOAD-TRAILER), §20.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.conftest import boto3_client, keys_of, scratch
from tests.gateways.s3.clients.files import MIB, SIZES, Files, digest_of
from tests.gateways.s3.clients.test_awscli import AwsCli
from tests.gateways.s3.gateway_process import VOLUMES, GatewayProcess
from tests.servers.redis import make_certificates


@pytest.fixture(scope="module", params=list(VOLUMES))
def secure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(gateway, certificate)"""
    with scratch(tmp_path_factory, "tls") as folder:
        authority, key, certificate = make_certificates(folder)
        with (
            VOLUMES[request.param](folder) as volume,
            GatewayProcess(volume.meta_url, certificate=(certificate, key), workers=1) as gateway,
        ):
            yield gateway, authority
            assert "Traceback" not in gateway.log_text()


@pytest.fixture
def s3(secure: tuple[GatewayProcess, Path]) -> Any:
    client = boto3_client(secure[0].url, verify=str(secure[1]))
    client.create_bucket(Bucket="secure")
    yield client
    for key in keys_of(client, "secure"):
        client.delete_object(Bucket="secure", Key=key)


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, SIZES["4MiB+1"], SIZES["64MiB+1"]])
def test_boto3_streams_with_a_trailer(s3: Any, files: Files, size: int) -> None:
    sent: list[dict[str, Any]] = []
    s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request.headers))
    source = files.sized(size)
    with open(source, "rb") as body:
        s3.put_object(Bucket="secure", Key="streamed", Body=body)
    assert sent[0]["x-amz-content-sha256"] == b"STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    answer = s3.get_object(Bucket="secure", Key="streamed")
    assert answer["Body"].read() == source.read_bytes()
    head = s3.head_object(Bucket="secure", Key="streamed", ChecksumMode="ENABLED")
    assert "ChecksumCRC32" in head
    assert "ContentEncoding" not in head  # aws-chunked was the wire's, not the object's


def test_boto3_multipart(s3: Any, files: Files, workplace: Path) -> None:
    source, back = files.sized(SIZES["64MiB+1"]), workplace / "back.bin"
    s3.upload_file(str(source), "secure", "multi")
    s3.download_file("secure", "multi", str(back))
    assert digest_of(back) == files.digest(source)


def test_boto3_without_seeking(s3: Any) -> None:
    """A body that can be read once: its size isn't known before its end, and neither is its checksum."""
    data = bytes(range(256)) * 4096 * 20
    s3.upload_fileobj(io.BufferedReader(io.BytesIO(data)), "secure", "piped")
    assert s3.get_object(Bucket="secure", Key="piped")["Body"].read() == data


def test_a_body_that_does_not_fit_its_digest_is_not_stored(secure: tuple[GatewayProcess, Path], s3: Any) -> None:
    s3 = boto3_client(secure[0].url, verify=str(secure[1]), retries={"max_attempts": 0})
    with pytest.raises(s3.exceptions.ClientError, match="BadDigest"):
        s3.put_object(Bucket="secure", Key="wrong", Body=b"x" * MIB, ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert keys_of(s3, "secure") == []


def test_awscli(secure: tuple[GatewayProcess, Path], s3: Any, files: Files, workplace: Path) -> None:
    client = AwsCli(secure[0].url, workplace, certificate=secure[1])
    for number, size in enumerate((1, SIZES["4MiB+1"], SIZES["64MiB+1"])):
        source, back = files.sized(size), workplace / f"back-{number}"
        client.put(source, "secure", f"file {number}")
        client.get("secure", f"file {number}", back)
        assert digest_of(back) == files.digest(source)
    assert sorted(client.names("secure", "")) == ["file 0", "file 1", "file 2"]


def test_a_client_that_does_not_trust_the_certificate_gets_nothing(secure: tuple[GatewayProcess, Path]) -> None:
    from botocore.exceptions import SSLError

    with pytest.raises(SSLError):
        boto3_client(secure[0].url, retries={"max_attempts": 0}).list_buckets()
