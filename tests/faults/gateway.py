# SPDX-License-Identifier: Apache-2.0
"""A real gateway process over a real volume, to be killed: `python -m sluicefs gateway …`.

The volume is formatted in this process; every gateway that is started on it is a process of its own, whose workers can
be found and killed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from core.meta.format import new_format
from core.volume import Volume, format_volume, open_volume
from tests.faults.client import ACCESS_KEY, SECRET_KEY, Answer, request
from tests.servers.process import accepts, free_port, wait_for


class TestVolume:
    """A volume in a temporary folder; `url` may name another database, `bucket` and `keys` another object store."""

    __test__ = False

    def __init__(self, url: str = "", *, trash_days: int = 0, folder: Path | None = None, **settings: Any) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="sluice-fault-"))
        self.url = url or f"sqlite3://{self.folder}/meta.db"
        self.objects = self.folder / "objects"
        settings.setdefault("bucket", f"{self.objects}/")
        fmt = new_format("faults", trash_days=trash_days, **settings)
        asyncio.run(format_volume(self.url, fmt, force=True))

    async def open(self, **options: Any) -> Volume:
        return await open_volume(self.url, **{"session": False, "jobs": False, **options})

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class GatewayProcess:
    """`sluice gateway` over a volume. Use as a context manager; the port stays the same over restarts."""

    def __init__(
        self, volume: TestVolume, *options: str, workers: int = 2, failpoints: str = "", heartbeat: str = "5s",
        env: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.volume = volume
        self.port = free_port()
        self.log = volume.folder / f"gateway-{self.port}.log"
        self._options = ("--multi-buckets", "--workers", str(workers), "--heartbeat", heartbeat, *options)
        self._env = {"SLUICE_ACCESS_KEY": ACCESS_KEY, "SLUICE_SECRET_KEY": SECRET_KEY, **(env or {})}
        if failpoints:
            self._env["SLUICE_FAILPOINTS"] = failpoints
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "sluicefs", "gateway", self.volume.url, f"127.0.0.1:{self.port}"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._options, "--no-banner"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env={**os.environ, **self._env}, cwd=Path(__file__).parents[2],
            )  # fmt: skip

        def ready() -> bool:
            assert self.process
            if self.process.poll() is not None:
                raise RuntimeError(f"the gateway ended at start:\n{self.log_text()}")
            return accepts(self.port)

        wait_for(ready, timeout_s=60, what="the gateway")

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        assert self.process
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in text.split()]

    def kill_worker(self, index: int) -> None:
        workers = self.workers()
        os.kill(workers[index % len(workers)], signal.SIGKILL)

    def kill(self) -> None:
        """All processes, at once."""
        if self.process:
            for pid in [*self.workers(), self.process.pid]:
                os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def wait_killed(self) -> int:
        """A one-worker gateway that kills itself: its exit status."""
        assert self.process
        status = self.process.wait(60)
        self.process = None
        return status

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    async def request(self, method: str, path: str, body: bytes = b"", **options: Any) -> Answer:
        return await request(self.port, method, path, body, **options)

    def __enter__(self) -> GatewayProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
