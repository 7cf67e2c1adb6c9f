# SPDX-License-Identifier: Apache-2.0
"""A thousand small files up, down, listed and removed by the clients that people move trees with.

Ten thousand are in each client's own file, marked heavy; AWS's tool spends 10 ms of processor time per file, so its
thousand is heavy too. Source: spec s3 §10, §18, §22 point 2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.gateways.s3.clients.client import CommandClient
from tests.gateways.s3.clients.conftest import keys_of
from tests.gateways.s3.clients.files import snapshot
from tests.gateways.s3.clients.test_awscli import AwsCli
from tests.gateways.s3.clients.test_rclone import Rclone
from tests.gateways.s3.clients.test_s5cmd import S5cmd
from tests.gateways.s3.gateway_process import GatewayProcess


@pytest.mark.parametrize(
    "client_type", [S5cmd, Rclone, pytest.param(AwsCli, marks=pytest.mark.heavy)], ids=["s5cmd", "rclone", "awscli"]
)
def test_a_thousand_small_files(
    gateway_process: GatewayProcess, client_type: type[CommandClient], tree_1000: Path, bucket: str, eye: Any,
    workplace: Path,
) -> None:  # fmt: skip
    home = workplace / "home"
    home.mkdir()
    client = client_type(gateway_process.url, home)
    client.put_tree(tree_1000, bucket, "tree")
    wanted = snapshot(tree_1000)
    assert keys_of(eye, bucket) == sorted(f"tree/{name}" for name in wanted)
    client.get_tree(bucket, "tree", workplace / "back")
    assert snapshot(workplace / "back") == wanted
    client.delete_tree(bucket, "tree/")
    assert keys_of(eye, bucket) == []
    eye.delete_bucket(Bucket=bucket)
