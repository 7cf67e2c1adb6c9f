# SPDX-License-Identifier: Apache-2.0
"""`sluice debug MOUNTPOINT`: everything that somebody needs who shall find out what is wrong with a mount, in one zip.

System, mount table, configuration, two samples of the statistics, a piece of the access log, the client's stacks where
they can be had, the end of its log. Secrets are taken out of every text. Source: cli §3 (`debug`).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from core.errors import SluiceError
from core.log import mask
from core.meta.version import CLIENT_VERSION
from sluicefs.cli import command
from sluicefs.mounts import internal_file, require_root
from sluicefs.options import DURATION, option
from sluicefs.output import note, show

_SYSTEM_COMMANDS = {
    "uname": ("uname", "-a"),
    "memory": ("free", "-m"),
    "disks": ("df", "-h"),
    "inodes": ("df", "-i"),
    "top": ("top", "-b", "-n", "1"),
    "processes": ("ps", "-eo", "pid,ppid,user,stat,etime,rss,comm"),
    "kernel-log": ("dmesg", "--ctime"),
}
_KERNEL_LINES = 500
_LOG_FOLDERS = ("/var/log", "~/.sluicefs", "~/.juicefs")


@command("debug")
@click.argument("mountpoint")
@option("--out-dir", default="./debug", metavar="PATH", help="Folder for what is collected.")
@option("--limit", type=click.IntRange(0), default=5000, help="Lines of the client's log.")
@option("--stats-sec", type=DURATION, default="5s", help="Between two samples of the statistics.")
@option("--trace-sec", type=DURATION, default="5s", help="How long the access log is followed; 0 is not at all.")
@option("--profile-sec", type=DURATION, default="30s", help="How long py-spy, where it is installed, samples stacks.")
def debug_command(
    mountpoint: str, out_dir: str, limit: int, stats_sec: float, trace_sec: float, profile_sec: float
) -> None:
    """Collect system information, the mount's configuration, statistics, access log and log into a folder and a zip.
    Best run as root, who may read all of it. Look through it before you send it: file names are in the access log."""
    root = require_root(mountpoint)
    name = root.strip("/").replace("/", "-") or "root"
    folder = Path(out_dir) / f"{name}-{time.strftime('%Y%m%d%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=False)
    collected = _Collector(folder)
    _system(collected)
    config = _config(collected, root)
    _statistics(collected, root, stats_sec, trace_sec)
    _process(collected, config, profile_sec)
    _log(collected, config, limit)
    archive = _zip(folder)
    note(f"collected {len(collected.files)} files in {folder} and {archive}")
    document = {"folder": str(folder), "archive": str(archive), "files": sorted(collected.files)}
    show({**document, "missing": collected.missing}, str(archive))


class _Collector:
    """Writes texts into the folder, masked; what can't be had is remembered with its reason."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: list[str] = []
        self.missing: dict[str, str] = {}

    def add(self, name: str, make: Callable[[], str]) -> str:
        try:
            text = mask(make())
        except (OSError, SluiceError, subprocess.SubprocessError, ValueError) as error:
            self.missing[name] = reason = mask(str(error))
            note(f"{name} is left out: {reason}")
            return ""
        path = self._folder / name
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        self.files.append(name)
        return text


def _output(*arguments: str, timeout_s: float = 20) -> str:
    done = subprocess.run(arguments, capture_output=True, timeout=timeout_s, check=False)  # noqa: S603 - fixed
    if done.returncode and not done.stdout:
        raise OSError(done.stderr.decode(errors="replace").strip() or f"{arguments[0]} ended with {done.returncode}")
    return done.stdout.decode("utf-8", "surrogateescape")


def _system(collected: _Collector) -> None:
    def system() -> str:
        fields = {
            "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "client": CLIENT_VERSION, "python": sys.version,
            "platform": platform.platform(), "processors": os.cpu_count(), "user": os.geteuid(),
        }  # fmt: skip
        return "".join(f"{key}: {value}\n" for key, value in fields.items())

    collected.add("system.txt", system)
    for name, arguments in _SYSTEM_COMMANDS.items():
        if shutil.which(arguments[0]) is None:
            continue
        if name == "kernel-log":
            collected.add(f"{name}.txt", lambda: "\n".join(_output("dmesg", "--ctime").splitlines()[-_KERNEL_LINES:]))
        else:
            collected.add(f"{name}.txt", lambda arguments=arguments: _output(*arguments))  # type: ignore[misc]
    for path in ("/etc/os-release", "/proc/mounts", "/proc/meminfo", "/proc/cpuinfo", "/proc/sys/fs/file-nr"):
        collected.add(path.strip("/").replace("/", "-") + ".txt", Path(path).read_text)


def _config(collected: _Collector, root: str) -> dict[str, Any]:
    text = collected.add("config.json", lambda: Path(internal_file(root, "config")).read_text(errors="replace"))
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _statistics(collected: _Collector, root: str, stats_sec: float, trace_sec: float) -> None:
    """Two samples; meanwhile the access log is followed."""
    following = threading.Thread(target=_access_log, args=(collected, root, trace_sec), daemon=True)
    following.start()
    path = Path(internal_file(root, "stats"))
    collected.add("stats-1.txt", lambda: path.read_text(errors="replace"))
    time.sleep(stats_sec)
    collected.add("stats-2.txt", lambda: path.read_text(errors="replace"))
    following.join(trace_sec + 30)


def _access_log(collected: _Collector, root: str, seconds: float) -> None:
    if seconds <= 0:
        return

    def follow() -> str:
        fd = os.open(internal_file(root, "accesslog"), os.O_RDONLY | os.O_CLOEXEC)
        parts: list[bytes] = []
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and sum(map(len, parts)) < 64 << 20:
                parts.append(os.read(fd, 1 << 17))
        finally:
            os.close(fd)
        return b"".join(parts).decode("utf-8", "surrogateescape")

    collected.add("accesslog.txt", follow)


def _process(collected: _Collector, config: dict[str, Any], profile_sec: float) -> None:
    """Of the process that serves the mount: limits, memory, threads, open files; its stacks with py-spy."""
    pid = config.get("Pid") or config.get("ProcessID")
    if not isinstance(pid, int):
        return
    base = Path(f"/proc/{pid}")
    if not base.exists():
        collected.missing["process"] = f"process {pid} isn't visible here"
        return
    for name in ("status", "limits", "io", "smaps_rollup"):
        collected.add(f"process-{name}.txt", (base / name).read_text)
    collected.add("process-cmdline.txt", lambda: (base / "cmdline").read_text().replace("\0", " "))
    collected.add("process-threads.txt", lambda: _threads(base))
    collected.add("process-files.txt", lambda: _open_files(base))
    spy = shutil.which("py-spy")
    if spy and profile_sec > 0:
        collected.add("stacks.txt", lambda: _output(spy, "dump", "--pid", str(pid)))
        collected.add(
            "profile.txt",
            lambda: _output(
                spy, "record", "--pid", str(pid), "--duration", str(max(1, round(profile_sec))), "--format", "raw",
                "--output", "/dev/stdout", timeout_s=profile_sec + 30,
            ),
        )  # fmt: skip


def _threads(base: Path) -> str:
    lines = []
    for task in sorted((base / "task").iterdir(), key=lambda p: int(p.name)):
        try:
            lines.append(f"{task.name} {(task / 'comm').read_text().strip()} {(task / 'wchan').read_text().strip()}\n")
        except OSError:
            continue  # it ended
    return "".join(lines)


def _open_files(base: Path) -> str:
    lines = []
    for link in sorted((base / "fd").iterdir(), key=lambda p: int(p.name)):
        try:
            lines.append(f"{link.name} {os.readlink(link)}\n")
        except OSError:
            continue
    return "".join(lines)


def _log(collected: _Collector, config: dict[str, Any], limit: int) -> None:
    """The end of the client's log file, found by its configuration or in the usual places."""
    if not limit:
        return
    named = (config.get("Options") or {}).get("log") or config.get("LogPath")
    candidates = [Path(str(named))] if named else []
    for folder in _LOG_FOLDERS:
        base = Path(folder).expanduser()
        candidates += [base / "sluicefs.log", base / "juicefs.log"]
    for path in candidates:
        if path.is_file():
            collected.add(path.name, lambda path=path: _tail(path, limit))  # type: ignore[misc]
            return
    collected.missing["log"] = "no log file; a mount in the foreground logs to its terminal"


def _tail(path: Path, limit: int) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return "".join(deque(file, limit))


def _zip(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
    return target
