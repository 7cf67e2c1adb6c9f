# SPDX-License-Identifier: Apache-2.0
"""litmus: all 104 of its checks, without a warning, over transports, engines, numbers of processes and logins.

litmus 0.13 leaves one check out when it is given an https URL (`expect100`: "skipping for SSL server", it opens a
plain socket of its own): over TLS it makes 103, and that one is made through a tunnel to the same server.
Source: spec webdav §24.
"""

from __future__ import annotations

import datetime
import itertools
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.gateways.webdav.door import PASSWORD, USER, Door, make_volume
from tests.gateways.webdav.programs import tool
from tests.servers.engines import engine
from tests.servers.http_recorder import HttpRecorder

ALL = 104
_GROUPS = {"basic": 16, "copymove": 13, "props": 30, "locks": 41, "http": 4}
_SUMMARY = re.compile(r"summary for `(\w+)': of (\d+) tests run: (\d+) passed, (\d+) failed")
_SKIPPED = re.compile(r"\d+\. (\w+)\.+ SKIPPED \(([^)]*)\)")


def run_litmus(url: str, folder: Path, *, groups: str = "", skipped: dict[str, str] | None = None) -> int:
    """How many checks passed; every other outcome than the named skips fails, and so does a warning."""
    env = {**os.environ, **({"TESTS": groups} if groups else {})}
    done = subprocess.run(
        [tool("litmus"), "-k", url, USER, PASSWORD], cwd=folder, env=env, capture_output=True, text=True, timeout=200
    )
    # A line is written first without and, after a carriage return, with its outcome.
    text = done.stdout.replace("\r", "\n")
    counts = {name: (int(ran), int(failed)) for name, ran, _, failed in _SUMMARY.findall(text)}
    assert done.returncode == 0 and "WARNING" not in text, text + done.stderr
    assert dict(_SKIPPED.findall(text)) == (skipped or {}), text
    assert list(counts) == (groups.split() or list(_GROUPS)), text
    assert all(failed == 0 for _, failed in counts.values()), text
    return sum(ran for ran, _ in counts.values())


def run_everything(door: Door, folder: Path, prefix: str = "/") -> int:
    if not door.tls:
        return run_litmus(door.url + prefix, folder)
    skipped = {"expect100": "skipping for SSL server"}
    passed = run_litmus(f"https://localhost:{door.port}{prefix}", folder, skipped=skipped)
    with HttpRecorder(door.port, tls=True) as tunnel:
        assert run_litmus(tunnel.url + prefix, folder, groups="http") == _GROUPS["http"]
        (asked,) = [each for each in tunnel.exchanges if each.headers.get("expect") == "100-continue"]
        assert asked.status == 401  # it sends no login and is content with any answer that comes before the body
    return passed + len(skipped)


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def volume(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with engine(request.param) as running:
        folder = tmp_path_factory.mktemp("litmus")
        yield make_volume(folder, running.fresh_url())


#: Each transport, engine, number of processes and login appears in the three that always run.
_QUICK = {("sqlite", "http", 1, "digest"), ("sqlite", "http", 2, "basic"), ("redis", "https", 2, "digest")}
_MATRIX = [
    pytest.param(
        engine_name, transport, workers, login, id=f"{engine_name}-{transport}-{workers}-{login}",
        marks=[] if (engine_name, transport, workers, login) in _QUICK else pytest.mark.heavy,
    )
    for engine_name, transport, workers, login in itertools.product(
        ("sqlite", "redis"), ("http", "https"), (1, 2), ("basic", "digest")
    )
]  # fmt: skip


@pytest.mark.parametrize(("volume", "transport", "workers", "login"), _MATRIX, indirect=["volume"])
def test_litmus_passes_completely(volume: str, transport: str, workers: int, login: str, tmp_path: Path) -> None:
    tls = certificate(tmp_path) if transport == "https" else None
    with Door(volume, "--auth", login, workers=workers, certificate=tls) as door:
        answer = door.ask("GET", "/", login=None)
        offered = answer.headers["www-authenticate"].lower()
        assert answer.status == 401 and login in offered
        assert ({"basic", "digest"} - {login}).pop() not in offered, "the other login would be used"
        assert run_everything(door, tmp_path) == ALL


@pytest.mark.heavy
@pytest.mark.parametrize("workers", [1, 2])
def test_litmus_passes_below_a_prefix(meta_url: str, tmp_path: Path, workers: int) -> None:
    with Door(meta_url, "--prefix", "/remote.php/dav", workers=workers) as door:
        assert run_everything(door, tmp_path, "/remote.php/dav/") == ALL


@pytest.mark.heavy
def test_litmus_passes_with_locks_in_memory(meta_url: str, tmp_path: Path) -> None:
    with Door(meta_url, "--locks", "memory", certificate=certificate(tmp_path)) as door:
        assert run_everything(door, tmp_path) == ALL


@pytest.mark.heavy
def test_litmus_passes_without_a_login(meta_url: str, tmp_path: Path) -> None:
    with Door(meta_url, users=False) as door:
        assert run_everything(door, tmp_path) == ALL
