# SPDX-License-Identifier: Apache-2.0
"""A JuiceFS client of 2021 (0.14.2) as tests use it: format, fsck, gc, status, and a mount of its own.

What it can't do, and tests must not ask of it: hash prefixes, `dump`, the trash, directory statistics, ACLs, metadata
other than Redis without a prefix. It registers its sessions under the legacy key `sessions` (metadata-format §4.3).
Its gc looks at objects older than an hour only, so `age` makes objects old. tests/tools/install_juicefs.sh brings it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers.process import CACHE, free_port, missing, require, wait_for

HINT = "tests/tools/install_juicefs.sh"
_TWO_HOURS_S = 7200


def program() -> str:
    """Path of the client. Not simply `juicefs` on PATH: that would be another version."""
    found = CACHE / "bin" / "juicefs-0.14"
    if not os.access(found, os.X_OK):
        missing("the JuiceFS 0.14.2 client", HINT)
    return str(found)


class Gc(NamedTuple):
    slices: int
    leaked: int
    text: str


class JuiceFS:
    """The client's commands on one volume. folder: for its cache, logs and home."""

    def __init__(self, meta_url: str, folder: Path) -> None:
        self.meta_url = meta_url
        self.folder = folder
        self._program = program()
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)}

    def run(self, *args: str, check: bool = True, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self._program, "--no-agent", *args], capture_output=True, text=True, timeout=timeout_s,
            env=self.environment(), cwd=self.folder,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"juicefs {args[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def format(self, name: str, *options: str) -> None:
        self.run("format", *options, self.meta_url, name)

    def fsck(self) -> str:
        """Fails unless every block of every slice is there."""
        text = self.run("fsck", self.meta_url).stderr
        assert "<ERROR>" not in text and "lost" not in text, text
        return text

    def gc(self, *options: str) -> Gc:
        text = self.run("gc", *options, self.meta_url).stderr
        assert "<ERROR>" not in text and "<FATAL>" not in text, text
        slices = re.search(r"using (\d+) slices", text)
        leaked = re.search(r"found (\d+) leaked", text)
        assert slices and (leaked or "no leaked found" in text), text
        return Gc(int(slices[1]), int(leaked[1]) if leaked else 0, text)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.run("status", self.meta_url).stdout)
        return document

    def mount(self, point: Path, *options: str) -> Mount:
        return Mount(self, point, *options)


class Mount:
    """A mount in the foreground, without attribute and entry caches unless asked for. Use as a context manager."""

    def __init__(self, client: JuiceFS, point: Path, *options: str) -> None:
        require_fuse()
        self.point = point
        self._client = client
        self._options = options
        self._log = client.folder / f"mount-{point.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Path:
        self.point.mkdir(parents=True, exist_ok=True)
        uncached = [text for name in ("attr-cache", "entry-cache", "dir-entry-cache") for text in (f"--{name}", "0")]
        command = [
            self._client._program, "--no-agent", "mount", "--no-usage-report", "--no-syslog", "--enable-xattr",
            "--metrics", f"127.0.0.1:{free_port()}", "--cache-dir", str(self._client.folder / "cache"),
            *uncached, *self._options, self._client.meta_url, str(self.point),
        ]  # fmt: skip
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._client.environment()
            )

        def ready() -> bool:
            assert self._process
            if self._process.poll() is not None:
                raise RuntimeError(f"juicefs mount ended at start:\n{self.log_text()}")
            return os.path.ismount(self.point)

        try:
            wait_for(ready, what=f"the mount on {self.point}")
        except BaseException:
            self.kill()
            raise
        return self.point

    def __exit__(self, *exc: object) -> None:
        """An orderly end; a file that is still open would make umount fail, so it becomes a lazy one."""
        if exc[0] is not None:
            print(f"log of the JuiceFS mount:\n{self.log_text()}")  # shown by pytest with the failure
        if self._process is None:
            return
        if subprocess.run(["umount", self.point], capture_output=True).returncode:
            subprocess.run(["umount", "-l", self.point], capture_output=True)
        try:
            self._process.wait(20)
            self._process = None
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as in a crash; the dead mount point is detached."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
        subprocess.run(["umount", "-l", self.point], capture_output=True)

    def log_text(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def errors(self) -> list[str]:
        return [line for line in self.log_text().splitlines() if "<ERROR>" in line or "<FATAL>" in line]


def require_fuse() -> None:
    """Mounting needs /dev/fuse, `umount`, and root (this client would need fusermount otherwise)."""
    require("umount", "apt-get install mount")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        missing("/dev/fuse for root", "run the tests as root on a machine or container with --device /dev/fuse")


def age(folder: Path) -> int:
    """Make every object look two hours old, so that gc looks at it; returns how many there are."""
    then = time.time() - _TWO_HOURS_S
    objects = [p for p in folder.rglob("*") if p.is_file()]
    for path in objects:
        os.utime(path, (then, then))
    return len(objects)
