# SPDX-License-Identifier: Apache-2.0
"""`sluice mount` again on a running mount: the next worker goes on where the last one stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateways.fuse import mount as mounting
from gateways.fuse.holder import messages, runtime
from gateways.fuse.holder.spec import Program
from tests.gateways.fuse.mounts import ROOT, Mount
from tests.gateways.fuse.process.running import load, log_of, restless, serving_worker, status
from tests.servers.process import wait_for


def mount_again(mount: Mount, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*mount.command(), *flags], cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def upgrade(mount: Mount) -> int:
    before = serving_worker(mount)
    done = mount_again(mount)
    assert done.returncode == 0, done.stderr + log_of(mount)[-3000:]
    now = serving_worker(mount)
    assert now != before
    return now


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("redis", marks=pytest.mark.heavy)])
def test_upgrades_under_load_cost_a_pause_and_nothing_else(engine: str) -> None:
    many(engine, 3)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["sqlite", "redis", "postgres"])
def test_twenty_upgrades(engine: str) -> None:
    many(engine, 20)


def many(engine: str, times: int) -> None:
    with restless(engine, "--enable-xattr") as mount:
        with load(mount, most_s=60 + 20 * times) as working:
            for _ in range(times):
                time.sleep(0.3)
                upgrade(mount)
                working.require_alive()
            print(working.finish())
        assert log_of(mount).count("from the worker before") == times
        assert "after a crash" not in log_of(mount)
        mount.check()


def test_handles_and_locks_go_on_and_waiters_wait_on() -> None:
    with restless("sqlite") as mount:
        path = mount.point / "file"
        with open(path, "w+b", buffering=0) as file, open(path, "rb") as second:
            file.write(b"before ")
            fcntl.flock(file, fcntl.LOCK_EX)
            gone = os.open(mount.point / "gone", os.O_RDWR | os.O_CREAT)
            os.write(gone, b"no name")
            os.unlink(mount.point / "gone")
            granted = threading.Event()

            def wait() -> None:
                fcntl.flock(second, fcntl.LOCK_EX)
                granted.set()

            waiter = threading.Thread(target=wait)
            waiter.start()
            session = mount.sluice("status").stdout
            upgrade(mount)
            os.kill(serving_worker(mount), signal.SIGKILL)
            file.write(b"after")
            assert path.read_bytes() == b"before after"
            assert os.pread(gone, 100, 0) == b"no name"
            with open(path, "rb") as third, pytest.raises(BlockingIOError):
                fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert not granted.is_set()
            fcntl.flock(file, fcntl.LOCK_UN)
            assert granted.wait(20)
            waiter.join()
            os.close(gone)
            import json

            before, now = json.loads(session)["Sessions"], json.loads(mount.sluice("status").stdout)["Sessions"]
            assert [s["Sid"] for s in before] == [s["Sid"] for s in now]


def test_hup_starts_a_fresh_worker() -> None:
    with restless("sqlite") as mount:
        before = serving_worker(mount)
        os.kill(status(mount)["holder"], signal.SIGHUP)
        after = serving_worker(mount, other_than=before)
        assert after != before
        wait_for(lambda: not Path(f"/proc/{before}").exists(), 30, "the end of the old worker")


def replace(mount: Mount, *argv: str) -> dict[str, object]:
    """Ask the holder for a worker that is another program."""
    found = mounting.find_mount(str(mount.point))
    assert found is not None
    sock = runtime.connect(found.device, timeout_s=60)
    assert sock is not None
    with sock:
        program = Program([sys.executable, *argv], dict(os.environ), "/")
        messages.send(sock, {"do": "replace", "program": program._asdict()})
        answer = messages.receive(sock)
    assert answer is not None
    return answer


def test_a_new_worker_that_fails_leaves_the_old_one_at_work() -> None:
    with restless("sqlite") as mount:
        before = serving_worker(mount)
        answer = replace(mount, "-c", "raise SystemExit(3)")
        assert answer == {"is": "failed", "text": "the new worker ended with status 3"}
        assert serving_worker(mount) == before
        (mount.point / "still").write_text("here")


#: Says that it is prepared, and dies when it should serve.
BAD_PROGRAM = """
import os, socket
line = socket.socket(fileno=int(os.environ["SLUICE_FUSE_WORKER"].split(",")[0]))
line.send(b'{"is": "prepared"}')
line.recv(1000)
"""


def test_a_new_program_that_can_not_serve_is_taken_back() -> None:
    with restless("sqlite") as mount:
        before = serving_worker(mount)
        with open(mount.point / "f", "w+b", buffering=0) as file:
            file.write(b"one ")
            answer = replace(mount, "-c", BAD_PROGRAM)
            assert answer["is"] == "failed"
            file.write(b"two")
            assert (mount.point / "f").read_bytes() == b"one two"
        assert serving_worker(mount) != before
        assert "back to the one before" in log_of(mount)


def test_other_options_for_the_kernel_are_refused_with_their_name() -> None:
    with restless("sqlite") as mount:
        before = serving_worker(mount)
        done = mount_again(mount, "--max-fuse-io", "128K")
        assert done.returncode == 1
        assert "another max io" in done.stderr
        assert serving_worker(mount) == before
