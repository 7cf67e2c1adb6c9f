# SPDX-License-Identifier: Apache-2.0
"""The file systems that `bench/fuse.py` compares, each mounted in a folder of its own.

All of them keep their data in folders below one place, so that the disk is the same for all; metadata lives in servers
that the bench started. What can't be mounted here says why and is left out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.s3_servers import ROOT, Unavailable, install_juicefs, run
from tests.servers.process import CACHE, free_port, wait_for

SOURCE = ROOT / "bench" / "fuse_load.c"
_TICKS = os.sysconf("SC_CLK_TCK")


def build_load() -> str:
    """Compile the load program if its source is newer."""
    program = CACHE / "bin" / "sluicefs-fuse-load"
    if not program.exists() or program.stat().st_mtime < SOURCE.stat().st_mtime:
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise Unavailable("a C compiler is missing: install gcc")
        program.parent.mkdir(parents=True, exist_ok=True)
        partial = program.with_suffix(f".{os.getpid()}")
        run([compiler, "-O2", "-o", str(partial), str(SOURCE), "-lpthread"])
        partial.rename(program)
    return str(program)


class Mount:
    """One contestant. `with` mounts and unmounts it; `point` is where files go."""

    name = "?"

    def __init__(self, folder: Path, meta: str = "", options: Sequence[str] = ()) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name.split()[0]}-", dir=folder))
        self.meta = meta
        self.options = list(options)
        self.point = self.folder / "mnt"
        self.point.mkdir()
        self._children: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        raise NotImplementedError

    def down(self) -> None:
        subprocess.run(["umount", "-l", str(self.point)], capture_output=True)

    def __enter__(self) -> Mount:
        try:
            self.up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()
        for child in self._children:
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def spawn(self, command: Sequence[str], **env: str) -> None:
        """A process that serves the mount point; returns when it is mounted."""
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        child = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, **env}
        )
        log.close()
        self._children.append(child)

        def ready() -> bool:
            if child.poll() is not None:
                raise Unavailable(f"`{' '.join(command)}` ended with status {child.returncode}:\n{self.log()}")
            return os.path.ismount(self.point)

        wait_for(ready, 30, f"mount of {self.name}")

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace")[-2000:] if path.exists() else "(no output)"

    def pids(self) -> list[int]:
        """The processes that serve it, children included."""
        found = [child.pid for child in self._children if child.poll() is None]
        for pid in found:  # grows while we go
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as file:
                        found += [int(text) for text in file.read().split()]
            except FileNotFoundError:
                continue
        return found

    def cpu_s(self) -> float:
        return (
            sum(_per_process(self.pids(), "stat", lambda text: sum(map(int, text.rsplit(")", 1)[1].split()[11:13]))))
            / _TICKS
        )

    def rss_mib(self) -> float:
        """Of the largest process, now."""
        return max(_per_process(self.pids(), "status", lambda text: _field(text, "VmRSS")), default=0) / 1024

    def peak_mib(self) -> float:
        return max(_per_process(self.pids(), "status", lambda text: _field(text, "VmHWM")), default=0) / 1024


class Tmpfs(Mount):
    """Memory: what the kernel and the load program cost."""

    name = "tmpfs"

    def up(self) -> None:
        try:
            run(["mount", "-t", "tmpfs", "-o", "size=4g", "bench", str(self.point)])
        except Unavailable:  # not root: most machines have one
            self.point = Path(tempfile.mkdtemp(prefix="sluice-bench-", dir="/dev/shm"))

    def down(self) -> None:
        if self.point.parent == self.folder:
            super().down()
        else:
            shutil.rmtree(self.point, ignore_errors=True)


class Juicefs(Mount):
    """JuiceFS 0.14.2 on Redis and a folder store. No trash, no statistics of directories: it does less than 1.4."""

    name = "juicefs 0.14"

    def up(self) -> None:
        program = install_juicefs()
        store = self.folder / "store"
        store.mkdir()
        run([program, "format", "--storage", "file", "--bucket", f"{store}/", self.meta, "bench"])
        self.spawn(
            [program, "mount", "--no-usage-report", "--no-syslog", "--metrics", f"127.0.0.1:{free_port()}",
             "--cache-dir", str(self.folder / "cache"), "--cache-size", "4096", *self.options, self.meta,
             str(self.point)]
        )  # fmt: skip


class Sluice(Mount):
    """SluiceFS on any engine and a folder store, as `sluice mount` does it."""

    name = "sluicefs"

    def up(self) -> None:
        store = self.folder / "store"
        store.mkdir()
        sluice = [sys.executable, "-m", "sluicefs"]
        run([*sluice, "format", "--storage", "file", "--bucket", f"{store}/", self.meta, "bench"], cwd=ROOT)
        self.serve(sluice)

    def serve(self, sluice: Sequence[str]) -> None:
        self.spawn(
            [*sluice, "mount", "--cache-dir", str(self.folder / "cache"), "--cache-size", "4096",
             *self.options, self.meta, str(self.point)]
        )  # fmt: skip


class Plain(Sluice):
    """The same served by one process, without the holder: `python -m gateways.fuse`."""

    name = "plain"

    def serve(self, sluice: Sequence[str]) -> None:
        self.spawn([sys.executable, "-m", "gateways.fuse", *self.options, self.meta, str(self.point)])


def settle(mount: Mount, seconds: float = 0.3) -> None:
    """Until the processes of a mount rest (deferred work of one phase isn't measured with the next)."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        before = mount.cpu_s()
        time.sleep(seconds)
        if mount.cpu_s() - before < seconds / 10:
            return


def _per_process(pids: Sequence[int], name: str, read: Callable[[str], int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/{name}") as file:
                found.append(read(file.read()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _field(text: str, name: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name + ":")), 0)
