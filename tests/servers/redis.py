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

    #: What runs, what talks to it, and where they come from; Valkey replaces them.
    server_program, cli_program, hint = "redis-server", "redis-cli", HINT

    def __init__(
        self,
        *options: str,
        tls: bool = False,
        client_certificates: bool = False,
        save: bool = False,
        cluster: bool = False,
        password: str = PASSWORD,
    ) -> None:
        program = require(self.server_program, self.hint)
        self.password = password
        self.tls = tls
        self.cluster = cluster

        def command(port: int, folder: Path) -> Sequence[str]:
            ports = ["--port", str(port)]
            if tls:
                ca, key, cert = make_certificates(folder)
                ports = ["--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", str(ca)]
                ports += [
                    "--tls-key-file",
                    str(key),
                    "--tls-cert-file",
                    str(cert),
                    "--tls-auth-clients",
                    "yes" if client_certificates else "no",
                ]
            secret = ["--requirepass", password] if password else []
            # A replica needn't wait for others to come (5 s).
            keep = ["--repl-diskless-sync-delay", "0"]
            keep += ["--appendonly", "yes", "--appendfsync", "always"] if save else []
            socket = ["--unixsocket", str(folder / "s")]
            # The bus port is chosen too: the usual one, port + 10000, may lie above 65535.
            nodes = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())] if cluster else []
            return [
                program, *ports, "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *secret, *socket, *keep,
                *nodes, *options,
            ]  # fmt: skip

        super().__init__(command, name=self.server_program)

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

    @property
    def own_certificate(self) -> str:
        """Options for `tls_url`: a certificate of the client. The server's own serves for both."""
        return f"&tls-cert-file={self.folder}/ca.pem&tls-key-file={self.folder}/key.pem"

    def cli(self, *args: str) -> str:
        """Answer of redis-cli over the Unix socket."""
        command = [require(self.cli_program, self.hint), "-s", str(self.folder / "s")]
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
    """One Sentinel that watches `master` under the name "vol". It calls a server dead after `down_ms`."""

    def __init__(self, master: RedisServer, *, quorum: int = 1, down_ms: int = 30_000, password: str = "") -> None:
        program = require("redis-server", HINT)

        def command(port: int, folder: Path) -> Sequence[str]:
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {folder}",
                f"sentinel monitor vol 127.0.0.1 {master.port} {quorum}",
                f"sentinel down-after-milliseconds vol {down_ms}",
                f"sentinel failover-timeout vol {down_ms * 3}",
            ]
            if master.password:
                lines.append(f'sentinel auth-pass vol "{master.password}"')
            if password:
                lines.append(f"requirepass {password}")
            if master.tls:  # the master's authority and certificate serve for all; who asks must show one as well
                lines[0] = "port 0"
                lines += [f"tls-port {port}", "tls-replication yes", f"tls-ca-cert-file {master.folder}/ca.pem"]
                lines += [f"tls-cert-file {master.folder}/ca.pem", f"tls-key-file {master.folder}/key.pem"]
            (folder / "conf").write_text("\n".join(lines) + "\n")
            return [program, str(folder / "conf"), "--sentinel"]

        super().__init__(command, name="redis-sentinel")

    def knows_replicas(self, count: int) -> bool:
        """A Sentinel finds replicas by asking the master every ten seconds; without one it can't replace it."""
        cli = [require("redis-cli", HINT), "-p", str(self.port), "SENTINEL", "REPLICAS", "vol"]
        return (
            subprocess.run(cli, check=True, capture_output=True, text=True).stdout.count("master-link-status") >= count
        )


def replica_of(master: RedisServer) -> RedisServer:
    """A server, not yet started, that copies `master` and may take its place."""
    secret = ["--masterauth", master.password] if master.password else []
    return RedisServer("--replicaof", "127.0.0.1", str(master.port), *secret)


def linked(replica: RedisServer) -> bool:
    """Has a replica copied its master and follows it?"""
    return "master_link_status:up" in replica.cli("INFO", "replication")
