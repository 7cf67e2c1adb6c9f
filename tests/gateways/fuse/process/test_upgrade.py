# SPDX-License-Identifier: Apache-2.0
"""`sluice mount` again on a running mount: the next worker goes on where the last one stopped."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.gateways.fuse.mounts import ROOT, Mount, mounted
from tests.gateways.fuse.process.running import load, log_of, serving_worker, status
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


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_upgrades_under_load_cost_a_pause_and_nothing_else(engine: str) -> None:
    many(engine, 3)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["sqlite", "redis", "postgres"])
def test_twenty_upgrades(engine: str) -> None:
    many(engine, 20)


def many(engine: str, times: int) -> None:
    with mounted(engine, "--enable-xattr") as mount:
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
    with mounted("sqlite") as mount:
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
    with mounted("sqlite") as mount:
        before = serving_worker(mount)
        os.kill(status(mount)["holder"], signal.SIGHUP)
        after = serving_worker(mount, other_than=before)
        assert after != before
        wait_for(lambda: not Path(f"/proc/{before}").exists(), 30, "the end of the old worker")


def test_a_new_worker_that_fails_leaves_the_old_one_at_work(tmp_path: Path) -> None:
    with mounted("sqlite") as mount:
        before = serving_worker(mount)
        folder = tmp_path / "file"
        folder.write_text("in the way of a cache folder")
        done = mount_again(mount, "--cache-dir", str(folder / "cache"), "--cache-size", "1G")
        if done.returncode == 0:
            pytest.fail("a cache in a file is no cache")
        assert "goes on with the worker it has" in done.stderr, done.stderr
        assert serving_worker(mount) == before
        (mount.point / "still").write_text("here")


def test_other_options_for_the_kernel_are_refused_with_their_name() -> None:
    with mounted("sqlite") as mount:
        before = serving_worker(mount)
        done = mount_again(mount, "--max-fuse-io", "128K")
        assert done.returncode == 1
        assert "another session" in done.stderr
        assert serving_worker(mount) == before
