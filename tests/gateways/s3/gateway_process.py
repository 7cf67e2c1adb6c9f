# SPDX-License-Identifier: Apache-2.0
"""The S3 gateway as users run it: `python -m sluicefs gateway` in a process of its own, over a real volume.

`volume_sqlite` and `volume_redis` make the two volumes that client tests run against: no server at all, and servers
for both halves, where the object store checks every signature. Source: spec cli §2.1 and §5.1; s3 §2.1 (readiness).
"""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.servers import versitygw
from tests.servers.process import Server, wait_for
from tests.servers.redis import RedisServer

ROOT = Path(__file__).resolve().parents[3]
ACCESS_KEY = "testadmin"
SECRET_KEY = "testsecret-0123456789"
REGION = "us-east-1"
VOLUME = "clients"


class Volume(NamedTuple):
    """A formatted volume, and the server whose log explains a failure of its object store."""

    meta_url: str
    kind: str


class Process(NamedTuple):
    pid: int
    peak_mib: int  # of resident memory since it started


class GatewayProcess(Server):
    """A running gateway. Use as a context manager; `url` is what clients are given as the endpoint."""

    def __init__(
        self, meta_url: str, *options: str, certificate: tuple[Path, Path] | None = None, workers: int = 2
    ) -> None:
        """certificate: (certificate, key) as PEM files; then it speaks TLS only."""
        self.tls = certificate is not None
        tls = ["--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1])] if certificate else []

        def command(port: int, folder: Path) -> list[str]:
            return [
                sys.executable, "-m", "sluicefs.__main__", "gateway", meta_url, f"127.0.0.1:{port}", "--multi-buckets",
                "--workers", str(workers), *tls, *options,
            ]  # fmt: skip

        keys = {"SLUICE_ACCESS_KEY": ACCESS_KEY, "SLUICE_SECRET_KEY": SECRET_KEY, "PYTHONPATH": str(ROOT)}
        super().__init__(command, env=keys, name="gateway")

    def start(self) -> None:
        super().start()
        wait_for(self._is_ready, what=f"the gateway's readiness; its log:\n{self.log_text()}")

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    def _is_ready(self) -> bool:
        connection: http.client.HTTPConnection
        if self.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=5, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/minio/health/ready")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def processes(self) -> list[Process]:
        """The parent and its workers, with the peak of their memory."""
        assert self.process
        parent = self.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [Process(pid, _peak_mib(pid)) for pid in (parent, *map(int, children))]


def _peak_mib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return 0


def format_volume(meta_url: str, *options: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(
        [sys.executable, "-m", "sluicefs", "format", meta_url, VOLUME, *options],
        check=True, capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
    )  # fmt: skip


@contextmanager
def volume_sqlite(folder: Path) -> Iterator[Volume]:
    """Metadata in one file, data in a folder."""
    url = f"sqlite3://{folder}/meta.db"
    format_volume(url, "--bucket", f"{folder}/objects", "--trash-days", "0")
    yield Volume(url, "sqlite+file")


@contextmanager
def volume_redis(folder: Path) -> Iterator[Volume]:
    """Metadata in Redis with a password, data in an S3 server that checks signatures."""
    with RedisServer() as redis, versitygw.versitygw("--keep-alive") as store:
        keys = {"ACCESS_KEY": versitygw.ACCESS_KEY, "SECRET_KEY": versitygw.SECRET_KEY}
        bucket = f"{versitygw.endpoint(store)}/blocks"
        format_volume(redis.url(), "--storage", "s3", "--bucket", bucket, "--trash-days", "0", env=keys)
        yield Volume(redis.url(), "redis+s3")


VOLUMES = {"sqlite+file": volume_sqlite, "redis+s3": volume_redis}
