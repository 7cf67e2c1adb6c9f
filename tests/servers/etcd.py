# SPDX-License-Identifier: Apache-2.0
"""A real etcd for tests, of one member: plain, with users, or over TLS with a certificate made on the spot.

Debian: etcd-server (3.4). Nothing is synced to disk, so it survives `kill` (SIGKILL) but no power cut.
"""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.servers.process import Server, free_port, require, wait_for
from tests.servers.redis import make_certificates

USER = "ann"
PASSWORD = "p:w/@?% s"
PASSWORD_IN_URL = "p%3Aw%2F%40%3F%25%20s"
HINT = "apt-get install etcd-server"


class EtcdServer(Server):
    """`url(prefix)` is a metadata URL. users: log-in is asked for (root, and USER who may use keys below /jfs)."""

    def __init__(self, *options: str, tls: bool = False, users: bool = False, token_ttl_s: int = 300) -> None:
        program = require("etcd", HINT)
        self.tls = tls
        self.users = users
        self._peer_port = free_port()

        def command(port: int, folder: Path) -> Sequence[str]:
            scheme, secret = "http", list[str]()
            if tls:
                _, key, cert = make_certificates(folder)
                scheme, secret = "https", ["--cert-file", str(cert), "--key-file", str(key)]
            here = f"{scheme}://127.0.0.1:{port}"
            peer = f"http://127.0.0.1:{self._peer_port}"
            return [
                program, "--data-dir", str(folder / "data"), "--listen-client-urls", here, "--advertise-client-urls",
                here, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster",
                f"default={peer}", "--auth-token-ttl", str(token_ttl_s), "--logger", "zap", *secret, *options,
            ]  # fmt: skip

        super().__init__(command, env={"ETCD_UNSAFE_NO_FSYNC": "true"}, name="etcd")

    def start(self) -> None:
        super().start()
        # The port is open before there is a leader; a first read tells.
        wait_for(self._serves, what="a leader of the one-member etcd")
        if self.users and not (self.folder / "users").exists():
            self.make_users()

    def _serves(self) -> bool:
        try:
            self.call("kv/range", {"key": b64(b"x")})
        except urllib.error.HTTPError as e:
            return b"user name is empty" in e.read()
        except OSError:
            return False
        return True

    def make_users(self) -> None:
        for name, password in (("root", "root-secret"), (USER, PASSWORD)):
            self.call("auth/user/add", {"name": name, "password": password})
        for role in ("root", "jfs"):
            self.call("auth/role/add", {"name": role})
        allowed = {"permType": "READWRITE", "key": b64(b"/jfs"), "range_end": b64(b"/jft")}
        self.call("auth/role/grant", {"name": "jfs", "perm": allowed})
        self.call("auth/user/grant", {"user": "root", "role": "root"})
        self.call("auth/user/grant", {"user": USER, "role": "jfs"})
        self.call("auth/enable", {})
        (self.folder / "users").touch()

    def call(self, path: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
        """One request to etcd's JSON gateway; HTTPError if it is refused. Keys and values are base64 (`b64`)."""
        request = urllib.request.Request(
            f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/v3/{path}",
            json.dumps(body).encode(),
            {"Authorization": token} if token else {},
        )
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem")) if self.tls else None
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def url(self, prefix: str = "/jfs", options: str = "") -> str:
        user = f"{USER}:{PASSWORD_IN_URL}@" if self.users else ""
        if self.tls and "cacert" not in options and "verify" not in options:
            options = f"?cacert={self.folder}/ca.pem"
        return f"etcd://{user}127.0.0.1:{self.port}{prefix}{options}"


class EtcdMember(Server):
    """One of several members; `EtcdCluster` makes them."""

    def __init__(self, name: str, peer_port: int, cluster: str) -> None:
        program = require("etcd", HINT)

        def command(port: int, folder: Path) -> Sequence[str]:
            here, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
            return [
                program, "--name", name, "--data-dir", str(folder / "data"), "--listen-client-urls", here,
                "--advertise-client-urls", here, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--heartbeat-interval", "50", "--election-timeout", "300",
            ]  # fmt: skip

        super().__init__(command, env={"ETCD_UNSAFE_NO_FSYNC": "true"}, name=f"etcd {name}")

    def status(self) -> dict[str, Any]:
        """member_id in the header, leader, revision."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v3/maintenance/status", b"{}")
        with urllib.request.urlopen(request, timeout=2) as answer:
            found: dict[str, Any] = json.load(answer)
            return found


class EtcdCluster:
    """Three members on one machine. `url` names all of them."""

    def __init__(self) -> None:
        ports = [free_port() for _ in range(3)]
        cluster = ",".join(f"m{i}=http://127.0.0.1:{port}" for i, port in enumerate(ports))
        self.members = [EtcdMember(f"m{i}", port, cluster) for i, port in enumerate(ports)]

    def __enter__(self) -> EtcdCluster:
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda member: member.start(), self.members))
        wait_for(lambda: self.leader() is not None, what="a leader of three etcds")
        return self

    def __exit__(self, *exc: object) -> None:
        for member in self.members:
            member.__exit__()

    def leader(self) -> EtcdMember | None:
        for member in self.members:
            try:
                status = member.status()
            except OSError:
                continue
            if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                return member
        return None

    def url(self, prefix: str = "/jfs") -> str:
        return f"etcd://{','.join(f'127.0.0.1:{member.port}' for member in self.members)}{prefix}"


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
