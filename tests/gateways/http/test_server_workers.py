# SPDX-License-Identifier: Apache-2.0
"""Worker processes on one port: start, balance, death of one, stop. Each test runs a real parent process.

`python -m tests.gateways.http.test_server_workers WORKERS [HTTP]` is that parent.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from gateways.http.admin import AdminApplication
from gateways.http.messages import Application, Request, Response
from gateways.http.workers import Options, Worker, serve
from tests.gateways.http.kit import Client, Paths
from tests.servers.process import wait_for


class App(Paths):
    """Says who it is; counts itself."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(pid=self.pid, held=self.held)
        self.count = worker.metrics.operation("Pid")

    async def pid(self, request: Request) -> Response:
        self.count.observe(200, 0.001)
        return Response(200, [], str(os.getpid()).encode())

    async def held(self, request: Request) -> Response:
        await asyncio.sleep(1)
        return Response(200, [], b"finished")


@asynccontextmanager
async def build(worker: Worker) -> AsyncIterator[Application]:
    if os.environ.get("TEST_FAIL_START"):
        raise OSError("the volume can't be reached")
    yield App(worker)
    os.write(1, json.dumps({"closed": worker.number}).encode() + b"\n")  # in one piece: workers share the pipe


def admin(worker: Worker, app: Application) -> Application:
    async def ready() -> bool:
        return True

    return AdminApplication(worker.all_metrics, ready)


def main() -> int:
    options = Options(http=sys.argv[2] if len(sys.argv) > 2 else "own", admin=("127.0.0.1", 0), grace_s=10)
    return serve(
        build, "127.0.0.1", 0, int(sys.argv[1]), options,
        build_admin=admin, on_ready=lambda port: print(json.dumps({"port": port, "pid": os.getpid()}), flush=True),
    )  # fmt: skip


@contextmanager
def gateway(workers: int, http: str = "own", **env: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.gateways.http.test_server_workers", str(workers), http],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **env},
    )  # fmt: skip
    assert process.stdout
    try:
        line = process.stdout.readline()
        yield process, json.loads(line)["port"] if line else 0
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)
        process.stdout.close()
        assert process.stderr
        process.stderr.close()


def children(pid: int) -> set[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return {int(text) for text in file.read().split()}


def pid_behind(client: Client) -> int:
    client.request("GET", "/pid")
    return int(client.answer().body)


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def finish(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, list[Any]]:
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    return process.returncode, [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize("http", ["own", "aiohttp"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_worker_runs_in_place_and_stops_cleanly(http: str, number: int) -> None:
    with gateway(1, http) as (process, port):
        with Client(port) as client:
            assert pid_behind(client) == process.pid
        assert not children(process.pid)
        assert finish(process, number) == (0, [{"closed": 0}])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_workers_stop_cleanly_and_finish_what_runs(number: int) -> None:
    with gateway(2) as (process, port), Client(port) as busy:
        workers = children(process.pid)
        assert len(workers) == 2
        busy.request("GET", "/held")
        process.send_signal(number)
        assert busy.answer().body == b"finished"
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        assert sorted(json.loads(line)["closed"] for line in out.splitlines()) == [0, 1]
        assert all(gone(pid) for pid in workers)


def test_a_signal_to_every_process_of_the_group_lets_requests_finish() -> None:
    """As systemd does it: each worker hears it twice, from outside and from its parent."""
    with gateway(2) as (process, port), Client(port) as busy:
        workers = children(process.pid)
        busy.request("GET", "/held")
        with Client(port) as other:
            pid_behind(other)
        for pid in (process.pid, *workers):
            os.kill(pid, signal.SIGTERM)
        assert busy.answer().body == b"finished"
        assert process.wait(30) == 0


def test_connections_are_dealt_out_evenly() -> None:
    with gateway(2) as (_, port):
        clients = [Client(port) for _ in range(20)]
        pids = [pid_behind(client) for client in clients]
        # A worker that is too busy to step in leaves one more to the other; a hash would often make it 14 to 6.
        assert min(pids.count(pid) for pid in set(pids)) >= 8
        for client, pid in zip(clients, pids, strict=True):
            if pid == pids[0]:
                client.close()
        # The emptier one gets the new ones.
        for client in [Client(port) for _ in range(10)]:
            with client:
                pid_behind(client)
        for client in clients:
            client.close()


def test_a_killed_worker_takes_only_its_own_connections_along_and_is_replaced() -> None:
    with gateway(2) as (process, port):
        workers = children(process.pid)
        clients: dict[int, Client] = {}
        while len(clients) < 2:
            client = Client(port)
            clients[pid_behind(client)] = client
        assert set(clients) == workers
        victim, survivor = workers
        os.kill(victim, signal.SIGKILL)
        assert clients[victim].at_end()
        # Nobody notices on the other worker, and new connections are served all the time.
        for _ in range(50):
            assert pid_behind(clients[survivor]) == survivor
            with Client(port) as client:
                assert pid_behind(client) != victim
        wait_for(lambda: len(children(process.pid)) == 2 and victim not in children(process.pid), what="a new worker")
        (fresh,) = children(process.pid) - {survivor}

        def served_by_fresh() -> bool:
            with Client(port) as client:
                return pid_behind(client) == fresh

        wait_for(served_by_fresh, what="the new worker's turn")
        clients[victim].close()
        clients[survivor].close()
        code, lines = finish(process)
        assert code == 0
        assert sorted(line["closed"] for line in lines) == [0, 1]


def test_workers_stop_when_their_parent_is_killed() -> None:
    with gateway(2) as (process, _):
        workers = children(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: all(gone(pid) for pid in workers), what="the end of the workers")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_gateway_that_cannot_start_says_why_and_ends(workers: int) -> None:
    with gateway(workers, TEST_FAIL_START="1") as (process, port):
        assert port == 0
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "the volume can't be reached" in errors


@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_signal_cuts_off_what_runs(workers: int) -> None:
    with gateway(workers) as (process, port), Client(port) as busy:
        busy.request("GET", "/held")
        # The answer to this one proves that the request above has begun.
        with Client(port) as other:
            pid_behind(other)
        process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                Client(port).close()
            except OSError:
                return True
            return False

        wait_for(refused, what="the end of accepting")

        def ended_when_asked_again() -> bool:
            process.send_signal(signal.SIGTERM)  # those right after the first one count as the same
            return process.poll() is not None

        wait_for(ended_when_asked_again, what="the end")
        assert busy.at_end()
        # The last of so many signals may come when its handler has been put away already.
        assert process.returncode in (0, -signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
