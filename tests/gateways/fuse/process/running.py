# SPDX-License-Identifier: Apache-2.0
"""A mount with its holder and workers, and programs at work on it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateways.fuse import mount as mounting
from gateways.fuse.holder import messages, runtime
from tests.gateways.fuse.mounts import ROOT, Mount, mounted
from tests.gateways.fuse.process.workload import check_shared
from tests.servers.process import wait_for

#: How many of the kills wait for a worker that serves: on a busy machine the others hit starting ones only.
SERVING = 0.8


@contextmanager
def restless(engine: str, *flags: str) -> Iterator[Mount]:
    """A mounted volume whose processes will be killed: errors in its log are what is expected."""
    with mounted(engine, *flags) as mount:
        expect_complaints(mount)
        yield mount


def expect_complaints(mount: Mount) -> None:
    mount.complaints = lambda: ""  # type: ignore[method-assign]


def status(mount: Mount) -> dict[str, Any]:
    """What the holder says."""
    found = mounting.find_mount(str(mount.point))
    assert found is not None, mount.log_text()
    sock = runtime.connect(found.device)
    assert sock is not None, mount.log_text()
    with sock:
        messages.send(sock, {"do": "status"})
        answer = messages.receive(sock)
    assert answer is not None
    return answer


def serving_worker(mount: Mount, other_than: int = 0) -> int:
    """The worker's pid, once it serves."""
    found: list[int] = []

    def serves() -> bool:
        said = status(mount)
        if said["state"] == "serving" and said["worker"] != other_than:
            found.append(said["worker"])
        return bool(found)

    wait_for(serves, 90, "a worker that serves")
    return found[0]


class Load:
    """Actors of workload.py in `point`/load."""

    def __init__(self, mount: Mount, actors: int, seed: int) -> None:
        self.mount = mount
        self.folder = mount.point / "load"
        self.folder.mkdir()
        self.stop_file = mount.point / "stop"
        self.seed = seed
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.gateways.fuse.process.workload", str(self.folder), str(n), str(seed)],
                cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for n in range(actors)
        ]  # fmt: skip

    def require_alive(self) -> None:
        for process in self.processes:
            if process.poll() is not None:
                raise AssertionError(f"seed {self.seed}: {process.communicate()[1][-3000:]}\n{self.mount.log_text()}")

    def finish(self, timeout_s: float = 120) -> list[dict[str, int]]:
        """Stop and check; what each actor did."""
        self.stop_file.touch()
        reports = []
        for process in self.processes:
            out, err = process.communicate(timeout=timeout_s)
            assert process.returncode == 0, f"seed {self.seed}: {err[-3000:]}\n{self.mount.log_text()}"
            reports.append(json.loads(out.splitlines()[-1]))
        check_shared(str(self.folder), reports)
        return reports

    def kill(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def load(mount: Mount, actors: int = 3, seed: int | None = None, *, most_s: float = 270) -> Iterator[Load]:
    """A deadlock in the kernel can't be waited out: the mount is aborted when time is over."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    print("seed", seed)
    working = Load(mount, actors, seed)
    guard = threading.Timer(most_s, mount.abort)
    guard.daemon = True
    guard.start()
    try:
        yield working
    except BaseException:
        mount.abort()
        raise
    finally:
        guard.cancel()
        working.kill()


def kill_worker(mount: Mount, rng: random.Random, most_s: float, before: int) -> int:
    """SIGKILL to a worker, a random time after it began to serve; now and then to one that hasn't come so far. Returns
    its pid; before: of the one that was killed last, whose end may not be known yet."""
    if rng.random() < SERVING:
        serving_worker(mount, other_than=before)
    time.sleep(rng.uniform(0.02, most_s))
    pid: int = status(mount)["worker"]
    if pid:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return pid


def log_of(mount: Mount) -> str:
    return Path(mount.log).read_text(errors="replace")
