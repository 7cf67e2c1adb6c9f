# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL cluster with data checksums on a mount: initdb, pgbench, kill -9 of the whole server, recovery."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import Place, sizes
from tests.gateways.fuse.programs.run import run
from tests.servers.postgres import NOBODY, as_server, program
from tests.servers.process import free_port, wait_for


class Cluster:
    """One server whose data lies in `data`; socket and log in `folder`, elsewhere."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder, self.port = data, folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)

    def initdb(self) -> None:
        self.data.mkdir()
        if os.geteuid() == 0:
            os.chown(self.data, NOBODY, NOBODY)
        options = ["--data-checksums", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8", "--wal-segsize=4"]
        run(*as_server(program("initdb"), "-D", str(self.data), "-U", "bench", *options), cwd=self.folder)

    def start(self) -> None:
        settings = [
            f"port={self.port}", "listen_addresses=", f"unix_socket_directories={self.folder}", "shared_buffers=16MB",
            "min_wal_size=16MB", "max_wal_size=32MB", "checkpoint_timeout=30s", "wal_recycle=off",
            "log_checkpoints=off", "checkpoint_warning=0",
        ]  # fmt: skip
        chosen = [part for setting in settings for part in ("-c", setting)]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                as_server(program("postgres"), "-D", str(self.data), *chosen), stdout=log, stderr=log, cwd=self.folder
            )
        ready = [program("pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port), "-U", "bench"]

        def answers() -> bool:
            assert self.process and self.process.poll() is None, self.log()
            return subprocess.run(ready, check=False).returncode == 0

        wait_for(answers, timeout_s=120, what="postgres answering")

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def kill(self) -> None:
        """Every process of the server at once, as in a power cut."""
        assert self.process
        children = run("ps", "-o", "pid=", "--ppid", str(self.process.pid), allowed=(0, 1)).stdout.split()
        for pid in (self.process.pid, *map(int, children)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        wait_for(lambda: not any(Path("/proc", pid).exists() for pid in children), what="the end of its children")
        self.process = None
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)
            assert self.process.wait(120) == 0, self.log()
            self.process = None

    def client(self, name: str, *arguments: str, **kwargs: object) -> str:
        connect = ["-h", str(self.folder), "-p", str(self.port), "-U", "bench"]
        return run(program(name), *connect, *arguments, cwd=self.folder, **kwargs).stdout  # type: ignore[arg-type]

    def sql(self, text: str) -> str:
        return self.client("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text, "postgres").strip()


@pytest.fixture
def cluster(place: Place) -> Iterator[Cluster]:
    # pytest's own folders are root's alone; uid 65534 has to reach its socket.
    with tempfile.TemporaryDirectory(prefix="sluice-test-") as folder:
        cluster = Cluster(place.folder / "data", Path(folder))
        try:
            yield cluster
        finally:
            if cluster.process:
                cluster.kill()


def balances(cluster: Cluster) -> None:
    """What pgbench keeps equal, whatever happened."""
    sums = cluster.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
        " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)"
    ).split("|")
    assert len(set(sums)) == 1, sums


@pytest.mark.heavy
@sizes(fast=(1, 8, 1), heavy=(10, 60, 5))
def test_pgbench_survives_kills_of_the_server(place: Place, size: tuple[int, int, int], cluster: Cluster) -> None:
    scale, seconds, kills = size
    cluster.initdb()
    cluster.start()
    cluster.client("pgbench", "--initialize", "--quiet", f"--scale={scale}", "postgres")
    report = cluster.client("pgbench", "-n", "-c", "4", "-j", "2", "-T", str(seconds), "postgres")
    assert "number of failed transactions: 0 " in report, report
    balances(cluster)

    answered = int(cluster.sql("SELECT count(*) FROM pgbench_history"))
    for number in range(kills):
        answered += _killed_under_load(cluster, f"run{number}")
        cluster.start()
        balances(cluster)
        # Each client may have had one transaction committed and not yet answered.
        there = int(cluster.sql("SELECT count(*) FROM pgbench_history"))
        assert answered <= there <= answered + 4, f"{answered} answered, {there} there\n{cluster.log()}"
        answered = there
    cluster.sql("CREATE EXTENSION amcheck")
    cluster.client("pg_amcheck", "--heapallindexed", "postgres", timeout_s=600)
    cluster.stop()
    run(*as_server(program("pg_checksums"), "--check", "-D", str(cluster.data)), cwd=cluster.folder)

    # A new mount knows only what is on the volume.
    place.remount()
    cluster.start()
    balances(cluster)
    assert int(cluster.sql("SELECT count(*) FROM pgbench_history")) == answered
    cluster.stop()


def _killed_under_load(cluster: Cluster, name: str) -> int:
    """Transactions that were answered before the server was killed."""
    command = [
        program("pgbench"), "-h", str(cluster.folder), "-p", str(cluster.port), "-U", "bench", "-n",
        "-c", "4", "-j", "2", "-T", "60", "--log", f"--log-prefix={cluster.folder}/{name}", "postgres",
    ]  # fmt: skip
    with open(cluster.folder / "pgbench.out", "wb") as out:
        load = subprocess.Popen(command, stdout=out, stderr=out, cwd=cluster.folder)

    def logs() -> list[Path]:
        return list(cluster.folder.glob(f"{name}.*"))

    # A few hundred transactions, so that the kill falls between two checkpoints or into one.
    wait_for(lambda: sum(path.stat().st_size for path in logs()) > 20_000, timeout_s=60, what="some transactions")
    cluster.kill()
    load.wait(60)
    return sum(len(path.read_text().splitlines()) for path in logs())
