# SPDX-License-Identifier: Apache-2.0
"""Real servers for tests: started on a free loopback port in a temporary folder, stopped afterwards.

A missing program is a printed skip on a stranger's machine and a failure with CI=true.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

#: Where one-time builds of servers and clients are cached, outside the tree.
CACHE = Path(os.environ.get("SLUICE_TEST_CACHE", Path.home() / ".cache" / "sluicefs-tests"))


def missing(what: str, hint: str) -> None:
    """Skip with a reason, or fail in CI."""
    text = f"{what} is missing: {hint}"
    if os.environ.get("CI") == "true":
        pytest.fail(text)
    pytest.skip(text)


def require(program: str, hint: str) -> str:
    """Path of a program in the cache (`CACHE/bin`) or on PATH, else skip or fail."""
    # What was installed for the tests has the version that they were written for.
    found = shutil.which(program, path=str(CACHE / "bin")) or shutil.which(program)
    if not found:
        missing(program, hint)
    assert found
    return found


def free_port() -> int:
    """A port that nobody listens on, and that no other test process is given while this one lives.

    Below the range from which the kernel takes ports of connections, so that none is gone by the time of the bind.
    """
    folder = Path(tempfile.gettempdir()) / "sluice-test-ports"
    folder.mkdir(exist_ok=True)
    while True:
        port = random.randrange(10_000, 32_000)
        claim = os.open(folder / str(port), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError:
            os.close(claim)
            continue
        _claims.append(claim)
        return port


_claims: list[int] = []  # open as long as the process lives


def accepts(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], timeout_s: float = 30, what: str = "condition") -> None:
    """Poll until true. The deadline only bounds a failure; nothing depends on its length."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {timeout_s} s")
        time.sleep(0.01)


class Server:
    """One child process with a port and a temporary folder. Use as a context manager.

    command: built once the port and the folder are known.
    """

    def __init__(
        self, command: Callable[[int, Path], Sequence[str]], *, env: dict[str, str] | None = None, name: str = ""
    ) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
        self._command = command
        self._env = env or {}
        self.name = name or "server"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = open(self.folder / "server.log", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(
            list(self._command(self.port, self.folder)),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self._env},
        )
        log.close()

        def ready() -> bool:
            assert self.process
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended at start:\n{self.log_text()}")
            return accepts(self.port)

        wait_for(ready, what=f"{self.name} on port {self.port}")

    def log_text(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """SIGKILL, as in a crash; the folder stays, `start` brings it back."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
