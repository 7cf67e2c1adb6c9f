# SPDX-License-Identifier: Apache-2.0
"""Mounted volumes for tests: a real database, a folder as object store, the real program, a real mount point.

    with mounted("redis", "--enable-xattr") as mount:
        (mount.point / "file").write_text("…")
        with mount.second() as other:      # another process, the same volume
            ...

The program is `sluice mount` in the foreground, or with SUITE_PROGRAM=bare the door's own process without a holder.
Databases start once per test process and are shared; every volume is fresh and has no trash. A mount that doesn't
answer is aborted, so that a test fails instead of hanging.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from core.meta.format import new_format
from core.volume import format_volume
from tests.servers.engines import Engine, engine
from tests.servers.process import missing, wait_for

ROOT: Final = Path(__file__).parents[3]
#: Engines of the suites; others (mariadb, etcd, tikv) work as well where their server is there.
ENGINES: Final = ("sqlite", "redis", "postgres")

_MNT_FORCE: Final = 1
_MNT_DETACH: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)

_servers = ExitStack()
_engines: dict[str, Engine] = {}
_numbers = itertools.count(1)


def require_fuse() -> None:
    """Skip, or fail in CI, where nothing can be mounted."""
    if not os.access("/dev/fuse", os.W_OK):
        missing("/dev/fuse", "load the fuse module, or give the container the device")
    if os.geteuid() != 0:
        missing("root", "the suites become other users; run them as root")


def shared_engine(name: str) -> Engine:
    """The database of that kind which this test process shares."""
    if name not in _engines:
        _engines[name] = _servers.enter_context(engine(name))
    return _engines[name]


def stop_engines() -> None:
    _engines.clear()
    _servers.close()


def fast_folder(prefix: str) -> Path:
    """A temporary folder in memory where there is room: thousands of fsyncs prove nothing here."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 4 << 30 else None
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    folder.chmod(0o755)
    return folder


def mount_type(point: Path) -> str | None:
    """Type of what is mounted there, without asking the file system itself; None if nothing is."""
    found = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if left.split()[4].replace("\\040", " ") == str(point):
            found = right.split()[0]
    return found


def umount2(point: Path, flags: int) -> int:
    return 0 if _libc.umount2(os.fsencode(point), flags) == 0 else ctypes.get_errno()


class Mount:
    """One mount point and the process that serves it. `start` and `stop` as often as wanted."""

    def __init__(self, meta_url: str, folder: Path, *flags: str) -> None:
        self.meta_url = meta_url
        self.folder = folder
        self.flags = flags
        self.number = next(_numbers)
        self.point = folder / f"mnt{self.number}"
        self.log = folder / f"mount{self.number}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        cache = self.folder / f"cache{self.number}"
        if os.environ.get("SUITE_PROGRAM") == "bare":
            program = ["gateways.fuse"]
            flags = [f for f in self.flags if f not in ("--atime-mode", "strictatime")]
        else:
            program = ["sluicefs", "mount"]
            flags = list(self.flags)
        return [sys.executable, "-m", *program, self.meta_url, str(self.point), "--cache-dir", str(cache), *flags]

    def start(self) -> None:
        require_fuse()
        self.point.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip

        def ready() -> bool:
            assert self.process
            if self.process.poll() is not None:
                raise RuntimeError(f"the mount process ended at start:\n{self.log_text()}")
            return mount_type(self.point) is not None

        try:
            wait_for(ready, what=f"the mount on {self.point}")
            if not self.answers():
                raise RuntimeError(f"{self.point} doesn't answer:\n{self.log_text()}")
        except BaseException:
            self.kill()
            raise

    def answers(self, timeout_s: float = 20) -> bool:
        """Whether a stat of the root comes back. Asked in a thread, which an abort frees if need be."""
        asked = threading.Thread(target=lambda: contextlib.suppress(OSError) and os.stat(self.point), daemon=True)
        asked.start()
        asked.join(timeout_s)
        return not asked.is_alive() and mount_type(self.point) is not None and self.process_lives()

    def process_lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def abort(self) -> None:
        """Every waiting call ends with an error now; the mount is gone."""
        umount2(self.point, _MNT_FORCE)
        umount2(self.point, _MNT_DETACH)

    def stop(self) -> None:
        """As a user would: unmount, and the process ends by itself. What doesn't go by itself is an error."""
        if self.process is None:
            return
        error = 0
        for _ in range(100):
            error = umount2(self.point, 0)
            if error != 16:  # EBUSY: closed descriptors of other processes may take a moment
                break
            time.sleep(0.05)
        try:
            if error not in (0, 22):
                raise RuntimeError(f"unmounting {self.point}: {os.strerror(error)}\n{self.log_text()}")
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                raise RuntimeError(
                    f"the process of {self.point} goes on after the unmount:\n{self.log_text()}"
                ) from None
        finally:
            self.kill()
        if complaints := self.complaints():
            raise RuntimeError(f"the process of {self.point} complained:\n{complaints}")

    def complaints(self) -> str:
        """Tracebacks and errors in the log, with what stands around them."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        found = [at for word in ("Traceback", "<ERROR>", "<FATAL>") if (at := text.find(word)) >= 0]
        return text[max(min(found) - 500, 0) :][:4000] if found else ""

    def kill(self) -> None:
        """SIGKILL and a forced unmount, as after a crash."""
        if self.process:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGKILL)
            self.abort()
            self.process.wait()
            self.process = None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    @contextmanager
    def second(self, *flags: str) -> Iterator[Mount]:
        """Another process with another mount point, same volume. Without flags: those of this one."""
        with running(Mount(self.meta_url, self.folder, *(flags or self.flags))) as other:
            yield other

    def sluice(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of ours, with the metadata URL after its name."""
        done = subprocess.run(
            [sys.executable, "-m", "sluicefs", args[0], self.meta_url, *args[1:]],
            capture_output=True, text=True, cwd=ROOT, timeout=240,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"sluice {args[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def check(self, *flags: str) -> str:
        """`sluice check` finds nothing wrong."""
        return self.sluice("check", *flags).stdout


@contextmanager
def running(mount: Mount) -> Iterator[Mount]:
    mount.start()
    try:
        yield mount
    except BaseException:
        mount.kill()
        raise
    mount.stop()


def make_volume(meta_url: str, folder: Path, **settings: Any) -> None:
    """Format it, from wherever: a loop may already be running in this thread."""
    fmt = new_format("suite", bucket=f"{folder}/objects/", **{"trash_days": 0, **settings})

    def run() -> None:
        asyncio.run(format_volume(meta_url, fmt))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()


@contextmanager
def volume(engine_name: str, *flags: str, **settings: Any) -> Iterator[Mount]:
    """A fresh volume and a mount of it that isn't started yet. settings: of `new_format` (enable_acl=True, …)."""
    folder = fast_folder("sluice-fuse-")
    mount = Mount(shared_engine(engine_name).fresh_url(), folder, *flags)
    try:
        make_volume(mount.meta_url, folder, **settings)
        yield mount
    finally:
        mount.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def mounted(engine_name: str, *flags: str, **settings: Any) -> Iterator[Mount]:
    """A fresh volume, mounted."""
    require_fuse()
    with volume(engine_name, *flags, **settings) as mount, running(mount):
        yield mount


class Watchdog:
    """Aborts mounts if the deadline passes, so that whoever waits in the kernel for one of them comes back."""

    def __init__(self) -> None:
        self.fired = False
        self._mounts: list[Mount] = []
        self._deadline: float | None = None
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def guard(self, timeout_s: float, *mounts: Mount) -> None:
        with self._wake:
            self._mounts, self._deadline = list(mounts), time.monotonic() + timeout_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._wake.notify()

    def rest(self) -> None:
        with self._wake:
            self._deadline = None

    def _run(self) -> None:
        with self._wake:
            while True:
                now = time.monotonic()
                if self._deadline is None:
                    self._wake.wait()
                elif now < self._deadline:
                    self._wake.wait(self._deadline - now)
                else:
                    self.fired, self._deadline = True, None
                    for mount in self._mounts:
                        mount.abort()
