# SPDX-License-Identifier: Apache-2.0
"""One gateway per kind of volume for all client tests, files shared by all of them, and boto3 as the impartial eye.

pytest orders tests by the session's parameter, so the two gateways live one after the other, not side by side.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import seed_value
from tests.gateways.s3.clients.files import Files, make_odd_tree, make_tree
from tests.gateways.s3.gateway_process import ACCESS_KEY, REGION, SECRET_KEY, VOLUMES, GatewayProcess


@pytest.fixture(scope="session", params=list(VOLUMES))
def gateway_process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with (
        scratch(tmp_path_factory, "volume") as folder,
        VOLUMES[request.param](folder) as volume,
        GatewayProcess(volume.meta_url) as gateway,
    ):
        yield gateway
        log = gateway.log_text()
        assert gateway.process
        assert gateway.process.poll() is None, f"the gateway ended with status {gateway.process.poll()}:\n{log}"
        peaks = ", ".join(f"{p.peak_mib} MiB" for p in gateway.processes())
        print(f"\ngateway over {volume.kind}: peak memory of its processes {peaks}")
        # A traceback behind an answer that a client retried would otherwise go unseen.
        assert "Traceback" not in log, log


#: A command of theirs takes a second to start. What they ask for is the same on every volume; boto3 and s5cmd show the
#: rest on the second one.
SLOW_CLIENTS = ("test_awscli", "test_javascript", "test_rclone", "test_s3cmd", "test_tls")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow clients on further volumes are among the heavy tests."""
    first = next(iter(VOLUMES))
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if item.path.stem in SLOW_CLIENTS and params.get("gateway_process", first) != first:
            item.add_marker(pytest.mark.heavy)


@contextmanager
def scratch(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that goes away with its fixture: pytest would keep these gigabytes for three sessions."""
    folder = tmp_path_factory.mktemp(name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    with scratch(tmp_path_factory, "files") as folder:
        yield Files(folder, seed_value())


@pytest.fixture(scope="session")
def tree_1000(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with scratch(tmp_path_factory, "tree") as folder:
        yield make_tree(folder, 1000, seed_value())


@pytest.fixture(scope="session")
def tree_10000(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with scratch(tmp_path_factory, "tree") as folder:
        yield make_tree(folder, 10_000, seed_value())


@pytest.fixture(scope="session")
def odd_tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with scratch(tmp_path_factory, "odd") as folder:
        yield make_odd_tree(folder)


def boto3_client(url: str, **options: Any) -> Any:
    """boto3 with its defaults; options of `Config` by name, `verify` for the certificate."""
    import boto3
    from botocore.config import Config

    verify = options.pop("verify", None)
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY, region_name=REGION,
        verify=verify, config=Config(**options),
    )  # fmt: skip


@pytest.fixture(scope="session")
def eye(gateway_process: GatewayProcess) -> Any:
    """Looks at what other clients have done."""
    return boto3_client(gateway_process.url)


@pytest.fixture
def bucket(gateway_process: GatewayProcess, eye: Any) -> str:
    """A new bucket. If the gateway is gone, the rest of the session says so at once instead of waiting for retries."""
    assert gateway_process.process
    status = gateway_process.process.poll()
    if status is not None:
        pytest.exit(f"the gateway ended with status {status}:\n{gateway_process.log_text()}", returncode=1)
    name = f"b-{uuid.uuid4().hex[:10]}"
    eye.create_bucket(Bucket=name)
    return name


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Path]:
    """A folder whose files are gone when the test ends: hundreds of MiB are not kept for three sessions."""
    yield tmp_path
    for folder, _, names in os.walk(tmp_path):
        for name in names:
            os.unlink(os.path.join(folder, name))


def keys_of(eye: Any, bucket: str, prefix: str = "") -> list[str]:
    pages = eye.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
