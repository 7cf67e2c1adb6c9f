# SPDX-License-Identifier: Apache-2.0
"""litmus: all 104 of its checks, without a warning, on one and two server processes, plain and with TLS."""

from __future__ import annotations

import datetime
import re
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.servers.process import require

_SUMMARY = re.compile(r"summary for `\w+': of (\d+) tests run: (\d+) passed, (\d+) failed")


def run_litmus(url: str, folder: Path, expected: int = 104) -> None:
    litmus = require("litmus", "apt-get install litmus")
    done = subprocess.run([litmus, "-k", url, USER, PASSWORD], cwd=folder, capture_output=True, text=True, timeout=200)
    text = done.stdout.replace("\r", "\n")
    counts = [tuple(map(int, found)) for found in _SUMMARY.findall(text)]
    assert [each for each in counts if each[2]] == [], text
    assert sum(ran for ran, _, _ in counts) == expected, text
    assert "WARNING" not in text, text


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


def test_litmus_passes_completely(door: Door, tmp_path: Path) -> None:
    run_litmus(door.url + "/", tmp_path)


def test_litmus_passes_with_two_processes_below_a_prefix(meta_url: str, tmp_path: Path) -> None:
    with Door(meta_url, "--prefix", "/dav", workers=2) as door:
        run_litmus(door.url + "/dav/", tmp_path)


def test_litmus_passes_over_tls_with_locks_in_memory(meta_url: str, tmp_path: Path) -> None:
    with Door(meta_url, "--locks", "memory", certificate=certificate(tmp_path)) as door:
        run_litmus(f"https://localhost:{door.port}/", tmp_path, 103)  # litmus leaves `expect100` out over TLS


def test_litmus_passes_with_digest(meta_url: str, tmp_path: Path) -> None:
    with Door(meta_url, "--auth", "digest", workers=2) as door:
        run_litmus(door.url + "/", tmp_path)
