# SPDX-License-Identifier: Apache-2.0
"""Memory stays inside its stated budget: 64 streams write and then read much more than fits, in a real process.

The promise: resident memory of the process ≤ budget + 100 MiB (interpreter, libraries, metadata, sockets), measured as
the kernel's own peak (VmHWM) so that no sample misses it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from core.meta.format import new_format
from core.volume import format_volume
from tests.servers.process import Server
from tests.servers.versitygw import ACCESS_KEY, SECRET_KEY, endpoint, versitygw

BUDGET = 300
ALLOWED = BUDGET + 100


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with versitygw("--keep-alive") as running:
        (running.folder / "data" / "bucket").mkdir()
        yield running


def rsa_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


async def run(server: Server, folder: Path, name: str, mib: int, *options: str, **settings: Any) -> dict[str, Any]:
    meta_url = f"sqlite3://{folder}/{name}.db"
    fmt = new_format(
        name, storage="s3", bucket=f"{endpoint(server)}/bucket", access_key=ACCESS_KEY, secret_key=SECRET_KEY,
        trash_days=0, **settings,
    )  # fmt: skip
    await format_volume(meta_url, fmt)
    done = subprocess.run(
        [sys.executable, "-m", "tests.perf.streams", meta_url, "both", "--mib", str(mib), "--budget", str(BUDGET),
         *options],
        capture_output=True, text=True, timeout=280, env={**os.environ, "JFS_NO_UPDATE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    print(name, result)
    return result


@pytest.mark.heavy
async def test_10_gib_through_64_streams_stay_inside_the_budget(server: Server, tmp_path: Path) -> None:
    result = await run(server, tmp_path, "plain", 5 << 10)
    assert result["peak_mib"] <= ALLOWED
    assert result["budget_left_used"] == 0


@pytest.mark.heavy
@pytest.mark.parametrize("how", ["lz4", "zstd", "encrypted", "encrypted-zstd"])
async def test_encodings_stay_inside_the_budget(server: Server, tmp_path: Path, how: str) -> None:
    settings: dict[str, Any] = {}
    if "encrypted" in how:
        settings["encrypt_key"] = rsa_key()
    if not how.startswith("encrypted") or "-" in how:
        settings["compression"] = how.removeprefix("encrypted-")
    result = await run(server, tmp_path, how, 2 << 10, "--compressible", **settings)
    assert result["peak_mib"] <= ALLOWED


@pytest.mark.heavy
async def test_small_reads_of_many_streams_stay_inside_the_budget(server: Server, tmp_path: Path) -> None:
    result = await run(server, tmp_path, "steps", 2 << 10, "--step", "128", "--streams", "128")
    assert result["peak_mib"] <= ALLOWED
