# SPDX-License-Identifier: Apache-2.0
"""The metadata server dies and comes back: requests wait for it, and are done once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateways.fuse.mounts import Mount, fast_folder, make_volume, running
from tests.gateways.fuse.process.running import expect_complaints, load, log_of, serving_worker
from tests.servers.postgres import PostgresServer
from tests.servers.process import Server, require, wait_for


@pytest.fixture
def redis() -> Iterator[Server]:
    """Every change is on disk before it is answered, so that a kill loses nothing."""
    program = require("redis-server", "apt install redis-server")
    with Server(
        lambda port, folder: [
            program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes",
            "--appendfsync", "always", "--save", "", "--daemonize", "no",
        ],
        name="redis-server",
    ) as server:  # fmt: skip
        yield server


@pytest.fixture
def mount(redis: Server) -> Iterator[Mount]:
    with outlasting(f"redis://127.0.0.1:{redis.port}/1") as mount:
        yield mount


@contextmanager
def outlasting(url: str) -> Iterator[Mount]:
    folder = fast_folder("sluice-outage-")
    make_volume(url, folder)
    try:
        with running(Mount(url, folder, "--enable-xattr")) as mount:
            expect_complaints(mount)
            yield mount
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Postgres(PostgresServer):
    def kill(self) -> None:
        """A new server refuses to start while a process of the old one has its memory."""
        super().kill()
        wait_for(lambda: not self._left(), what="the end of the server's processes")

    def _left(self) -> list[str]:
        lines = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
        return [line for line in lines if str(self.folder) in line]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


def restarts(server: Server, mount: Mount, times: int, away_s: float) -> None:
    with load(mount, most_s=100 + times * 30) as working:
        rng = random.Random(working.seed)
        for _ in range(times):
            time.sleep(rng.uniform(0.3, 1.5))
            server.kill()
            time.sleep(rng.uniform(0, away_s))
            server.start()
            working.require_alive()
        print(working.finish())
    mount.check()


def test_requests_wait_for_a_server_that_was_killed(redis: Server, mount: Mount) -> None:
    restarts(redis, mount, 3, 3)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_twenty_restarts_some_longer_than_the_engine_waits(redis: Server, mount: Mount) -> None:
    restarts(redis, mount, 20, 15)


def test_requests_wait_for_a_killed_postgres(postgres: Postgres) -> None:
    with outlasting(postgres.create("outage")) as mount:
        restarts(postgres, mount, 2, 3)


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_twenty_restarts_of_postgres(postgres: Postgres) -> None:
    with outlasting(postgres.create("outage")) as mount:
        restarts(postgres, mount, 20, 15)


@pytest.mark.heavy
def test_longer_than_the_engine_waits_by_itself(redis: Server, mount: Mount) -> None:
    redis.kill()
    script = "import os,sys; os.mkdir(sys.argv[1]); open(sys.argv[1] + '/f', 'w').write('x'); print('done')"
    working = subprocess.Popen(
        [sys.executable, "-c", script, str(mount.point / "d")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        working.wait(13)
    redis.start()
    out, err = working.communicate(timeout=60)
    assert (working.returncode, out.strip()) == (0, "done"), err
    assert (mount.point / "d" / "f").read_text() == "x"


def test_a_worker_that_dies_while_the_server_is_away_is_replaced_when_it_is_back(redis: Server, mount: Mount) -> None:
    (mount.point / "before").write_text("kept")
    # In a program of its own: a child of ours would close the file before it becomes the database, and wait for that.
    script = "import sys; f = open(sys.argv[1], 'w'); print('open', flush=True); input(); f.write('goes on'); f.close()"
    program = [sys.executable, "-c", script, str(mount.point / "open")]
    holding = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holding.stdout is not None
    assert holding.stdout.readline() == "open\n"
    worker = serving_worker(mount)
    redis.kill()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: "trying again" in log_of(mount), 60, "a new worker that waits")
    redis.start()
    holding.communicate("now\n", timeout=60)
    assert holding.returncode == 0
    assert (mount.point / "open").read_text() == "goes on"
    assert serving_worker(mount) != worker


@pytest.mark.heavy
def test_a_killed_program_need_not_wait_for_the_server(redis: Server, mount: Mount) -> None:
    (mount.point / "f").write_text("x")
    # chmod of an open file asks for nothing else before: it is the change itself that waits.
    script = "import os,sys; f = open(sys.argv[1]); print('go', flush=True); input(); os.fchmod(f.fileno(), 0o600)"
    program = [sys.executable, "-c", script, str(mount.point / "f")]
    working = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert working.stdout is not None
    assert working.stdin is not None
    assert working.stdout.readline() == "go\n"
    redis.kill()
    working.stdin.write("\n")
    working.stdin.flush()
    wait_for(lambda: "D" in _state(working.pid) or "S" in _state(working.pid), 10, "a program that waits")
    working.kill()
    working.wait(30)
    redis.start()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
