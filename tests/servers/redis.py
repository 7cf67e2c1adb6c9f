# SPDX-License-Identifier: Apache-2.0
"""A real redis-server for tests: TCP with a password, a Unix socket, or TLS with a certificate made on the spot.

Debian: redis-server (7.0). Nothing is saved to disk unless a test asks for it.
"""

from __future__ import annotations

import datetime
import ipaddress
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.servers.process import Server, free_port, missing, require, wait_for

PASSWORD = "p:w/@?% s"
PASSWORD_IN_URL = "p%3Aw%2F%40%3F%25%20s"
HINT = "apt-get install redis-server"


class RedisServer(Server):
    """`url(db)` is a metadata URL, `unix_url(db)` and `tls_url(db)` too; `cli` runs redis-cli."""

    def __init__(
        self, *options: str, tls: bool = False, save: bool = False, cluster: bool = False, password: str = PASSWORD
    ) -> None:
        program = require("redis-server", HINT)
        self.password = password
        self.tls = tls
        self.cluster = cluster

        def command(port: int, folder: Path) -> Sequence[str]:
            ports = ["--port", str(port)]
            if tls:
                ca, key, cert = make_certificates(folder)
                ports = ["--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", str(ca)]
                ports += ["--tls-key-file", str(key), "--tls-cert-file", str(cert), "--tls-auth-clients", "no"]
            secret = ["--requirepass", password] if password else []
            keep = ["--appendonly", "yes", "--appendfsync", "always"] if save else []
            socket = ["--unixsocket", str(folder / "s")]
            # The bus port is chosen too: the usual one, port + 10000, may lie above 65535.
            nodes = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())] if cluster else []
            return [
                program, *ports, "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *secret, *socket, *keep,
                *nodes, *options,
            ]  # fmt: skip

        super().__init__(command, name="redis-server")

    def start(self) -> None:
        super().start()
        if self.cluster:  # one node that serves every slot
            if "cluster_slots_assigned:16384" not in self.cli("CLUSTER", "INFO"):
                self.cli("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            wait_for(lambda: "cluster_state:ok" in self.cli("CLUSTER", "INFO"), what="the one-node cluster")

    @property
    def _user(self) -> str:
        return f":{PASSWORD_IN_URL if self.password == PASSWORD else self.password}@" if self.password else ""

    def url(self, db: int = 0) -> str:
        return f"redis://{self._user}127.0.0.1:{self.port}/{db}"

    def unix_url(self, db: int = 0) -> str:
        return f"unix://{self._user}{self.folder}/s?db={db}"

    def tls_url(self, db: int = 0, options: str = "") -> str:
        return f"rediss://{self._user}localhost:{self.port}/{db}?tls-ca-cert-file={self.folder}/ca.pem{options}"

    def cli(self, *args: str) -> str:
        """Answer of redis-cli over the Unix socket."""
        command = [require("redis-cli", HINT), "-s", str(self.folder / "s")]
        if self.password:
            command += ["-a", self.password, "--no-auth-warning"]
        return subprocess.run([*command, *args], check=True, capture_output=True, text=True).stdout.strip()


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """A self-signed authority that is also the server's certificate (localhost, 127.0.0.1): CA, key, certificate."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError:
        missing("cryptography", "pip install cryptography")
        raise
    ca, key_file = folder / "ca.pem", folder / "key.pem"
    if not ca.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return ca, key_file, ca


class Sentinel(Server):
    """One Sentinel that watches `master` under the name "vol"."""

    def __init__(self, master: RedisServer) -> None:
        program = require("redis-server", HINT)

        def command(port: int, folder: Path) -> Sequence[str]:
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {folder}",
                f"sentinel monitor vol 127.0.0.1 {master.port} 1",
            ]
            if master.password:
                lines.append(f'sentinel auth-pass vol "{master.password}"')
            (folder / "conf").write_text("\n".join(lines) + "\n")
            return [program, str(folder / "conf"), "--sentinel"]

        super().__init__(command, name="redis-sentinel")
