# SPDX-License-Identifier: Apache-2.0
"""The life of a mount that pyfuse3 serves: no other process can follow its worker, and everybody is told so."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess

import pytest

from tests.gateways.fuse.process.running import log_of, restless, serving_worker, status
from tests.gateways.fuse.process.test_upgrade import mount_again
from tests.servers.process import missing, wait_for


@pytest.fixture(autouse=True)
def needs_pyfuse3() -> None:
    if importlib.util.find_spec("pyfuse3") is None:
        missing("pyfuse3", "apt-get install libfuse3-dev pkg-config gcc python3-dev && pip install pyfuse3")


FLAGS = ("--fuse-backend", "pyfuse3")


def test_a_second_mount_on_its_point_is_refused_and_changes_nothing() -> None:
    with restless("sqlite", *FLAGS) as mount:
        before = serving_worker(mount)
        with open(mount.point / "f", "w+b", buffering=0) as file:
            file.write(b"before ")
            done = mount_again(mount)
            assert done.returncode == 1
            assert "pyfuse3" in done.stderr and f"sluice umount {mount.point}" in done.stderr
            os.kill(status(mount)["holder"], signal.SIGHUP)
            wait_for(lambda: "unmount it first" in log_of(mount), 20, "the holder's refusal")
            file.write(b"after")
            assert (mount.point / "f").read_bytes() == b"before after"
        assert serving_worker(mount) == before


def test_a_worker_that_dies_ends_the_mount_instead_of_hanging_it() -> None:
    with restless("sqlite", *FLAGS) as mount:
        (mount.point / "f").write_text("stored")
        os.kill(serving_worker(mount), signal.SIGKILL)
        assert mount.process is not None
        assert mount.process.wait(30) != 0
        # In a program of its own: a call that hangs must not take the test with it.
        asked = subprocess.run(["stat", mount.point / "f"], capture_output=True, text=True, timeout=20)
        assert os.strerror(errno.ENOTCONN) in asked.stderr
        assert "no other can follow pyfuse3" in log_of(mount)
        mount.kill()
        mount.start()
        assert (mount.point / "f").read_text() == "stored"
