# SPDX-License-Identifier: Apache-2.0
"""A mount whose processes stand still: what the kernel can do by itself, and what not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gateways.fuse.mounts import Mount


def processes(mount: Mount) -> list[int]:
    """Whoever serves the mount: the process that was started and its children."""
    assert mount.process
    found = [mount.process.pid]
    for pid in found:  # grows while we go
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(text) for text in children.read_text().split()]
    return found


def open_files(mount: Mount) -> int:
    """Nameless files of the mount's processes: copies for passthrough and nothing else."""
    count = 0
    for pid in processes(mount):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(link)
            count += target.endswith("(deleted)") and "memfd" not in target
    return count


@contextmanager
def standing_still(mount: Mount) -> Iterator[None]:
    pids = processes(mount)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def answers_alone(mount: Mount, call: Callable[[], object], timeout_s: float = 2) -> bool:
    """Does the kernel do this without the mount's processes? If not, they go on after the time and it ends."""
    worker = threading.Thread(target=call, daemon=True)
    with standing_still(mount):
        worker.start()
        worker.join(timeout_s)
        alone = not worker.is_alive()
    worker.join()
    return alone
