# SPDX-License-Identifier: Apache-2.0
"""`sluice mount`, `umount` and `serve --mount` as their users meet them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.gateways.fuse.mounts import ROOT, Mount, fast_folder, make_volume, mount_type, require_fuse, umount2
from tests.gateways.fuse.process.running import log_of, restless, serving_worker, status
from tests.servers.process import require, wait_for


def sluice(*args: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluicefs", *map(str, args)], cwd=ROOT, text=True, timeout=120,
        stdin=subprocess.DEVNULL, capture_output=True, env={**os.environ, **(env or {})},
    )  # fmt: skip


class Place:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite3://{folder}/meta.db"
        self.point = folder / "mnt"
        self.log = folder / "log" / "sluice.log"
        self.log.parent.mkdir()
        make_volume(self.url, folder)

    def mount(self, *flags: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return sluice("mount", "-d", "--log", self.log, "--no-syslog", "--metrics", "off", *flags, self.url, self.point,
                      env=env)  # fmt: skip

    def type(self) -> str | None:
        return mount_type(self.point)


@pytest.fixture
def place() -> Iterator[Place]:
    require_fuse()
    folder = fast_folder("sluice-commands-")
    place = Place(folder)
    try:
        yield place
        ended = sluice("umount", place.point) if place.type() else None
        assert ended is None or ended.returncode == 0, ended.stderr
    finally:
        if place.type():
            umount2(place.point, 1)
            umount2(place.point, 2)
        shutil.rmtree(folder, ignore_errors=True)


def test_in_the_background_it_returns_when_the_mount_answers(place: Place) -> None:
    done = place.mount()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"OK, suite is ready at {place.point}\n"
    assert place.point.stat().st_ino == 1
    (place.point / "f").write_text("x")
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(place.point) in line)
    assert line.startswith(f"SluiceFS:suite {place.point} fuse.sluicefs rw,")
    assert line.endswith(",user_id=0,group_id=0,default_permissions,allow_other 0 0")
    assert "is ready" in place.log.read_text()
    ended = sluice("umount", place.point)
    assert (ended.returncode, ended.stdout) == (0, f"{place.point} is unmounted\n"), ended.stderr
    assert place.type() is None
    assert sluice("ls", place.url, "/").stdout.split() == ["f"]  # stored when umount returned
    assert json.loads(sluice("status", place.url).stdout)["Sessions"] == []


def test_it_may_look_like_a_mount_that_scripts_know(place: Place) -> None:
    assert place.mount("-o", "subtype=juicefs,noatime").returncode == 0
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if str(place.point) in line)
    assert line.startswith(f"JuiceFS:suite {place.point} fuse.juicefs rw,noatime,")


def test_the_helper_of_mount_takes_an_fstab_line(place: Place) -> None:
    command = [sys.executable, "-m", "sluicefs.fstab", place.url, str(place.point), "-o"]
    options = f"rw,_netdev,cache-size=64M,attrcacheto=3,no-syslog,metrics=off,log={place.log}"
    done = subprocess.run([*command, options], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    document = json.loads((place.point / ".config").read_text())
    assert document["Options"]["attr_cache"] == 3.0
    assert document["Options"]["cache_size"] == 64 << 20


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--subdir", "/nowhere"], ["--subdir", "/nowhere"]),
        (["--writeback", "--cache-dir", "memory"], ["--writeback", "--cache-dir"]),
        (["-o", "bogus"], ["-o bogus"]),
        (["--umask", "9"], ["--umask"]),
        (["--max-fuse-io", "1G"], ["--max-fuse-io"]),
    ],
)
def test_errors_reach_the_terminal_and_leave_no_mount(place: Place, flags: list[str], words: list[str]) -> None:
    done = place.mount(*flags)
    assert done.returncode == 1
    assert all(word in done.stderr for word in words), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert place.type() is None


def test_a_volume_that_is_not_there_is_told_before_anything_is_mounted(place: Place, tmp_path: Path) -> None:
    done = sluice("mount", f"sqlite3://{tmp_path}/none.db", place.point)
    assert done.returncode == 1
    assert "volume" in done.stderr
    assert place.type() is None


def test_a_mount_whose_server_is_gone_is_replaced(place: Place) -> None:
    require("kill", "apt install procps")
    assert place.mount().returncode == 0
    with Place_holder(place) as pids:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not answers(place.point), 10, "a broken mount")
    assert place.mount().returncode == 0
    assert answers(place.point)


def answers(point: Path) -> bool:
    try:
        return point.stat().st_ino == 1
    except OSError:
        return False


class Place_holder:
    """Pids of the holder and its worker."""

    def __init__(self, place: Place) -> None:
        self._mount = Mount(place.url, place.folder)
        self._mount.point = place.point

    def __enter__(self) -> list[int]:
        said = status(self._mount)
        return [said["holder"], said["worker"]]

    def __exit__(self, *exc: object) -> None: ...


def test_secrets_are_in_no_command_line(place: Place) -> None:
    redis = require("redis-server", "apt install redis-server")
    from tests.servers.process import Server

    with Server(lambda port, folder: [redis, "--port", str(port), "--dir", str(folder), "--requirepass", "topsecret7",
                                      "--save", ""]) as server:  # fmt: skip
        url = f"redis://:topsecret7@127.0.0.1:{server.port}/1"
        second = place.folder / "second"
        second.mkdir()
        make_volume(url, second)
        done = sluice("mount", "-d", "--log", place.log, "--no-syslog", "--metrics", "off", url, place.point)
        assert done.returncode == 0, done.stderr
        with Place_holder(place) as pids:
            for pid in pids:
                assert b"topsecret7" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            os.kill(pids[1], signal.SIGKILL)
        (place.point / "f").write_text("the next worker knows the password, too")
        with Place_holder(place) as pids:
            assert b"topsecret7" not in Path(f"/proc/{pids[1]}/cmdline").read_bytes()
        assert "topsecret7" not in place.log.read_text()
        assert "topsecret7" not in (place.point / ".config").read_text()
        assert sluice("umount", place.point).returncode == 0


def test_umount_says_what_is_wrong(place: Place, tmp_path: Path) -> None:
    done = sluice("umount", tmp_path)
    assert (done.returncode, "nothing is mounted" in done.stderr) == (1, True)
    assert place.mount().returncode == 0
    fd = os.open(place.point / "f", os.O_RDWR | os.O_CREAT)
    try:
        busy = sluice("umount", place.point)
        assert busy.returncode == 1
        assert "uses it" in busy.stderr
        assert sluice("umount", "-f", place.point).returncode == 0
        with pytest.raises(OSError):
            os.write(fd, b"x")
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    assert place.type() is None


def test_a_long_log_is_rotated(place: Place) -> None:
    assert place.mount("--log-size", "2000B", "--log-keep", "2", "--trace").returncode == 0
    for n in range(30):
        (place.point / f"f{n}").write_text("x")
    with Place_holder(place) as pids:
        os.kill(pids[1], signal.SIGKILL)
    wait_for(lambda: "another one takes over" in everything(place), 20, "a line of the holder")
    assert answers(place.point)
    assert not place.log.with_name("sluice.log.3").exists()


def everything(place: Place) -> str:
    return "".join(p.read_text() for p in place.log.parent.iterdir())


def test_metrics_are_served_with_their_labels(place: Place) -> None:
    done = sluice("mount", "-d", "--log", place.log, "--no-syslog", "--metrics", "127.0.0.1:0", "--custom-labels",
                  "team:blue", place.url, place.point)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (place.point / "f").write_text("x")
    address = json.loads((place.point / ".config").read_text())["Port"]["PrometheusAgent"]
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=10).read().decode()
    assert 'team="blue"' in text
    assert f'mp="{place.point}"' in text
    assert "juicefs_fuse_ops_total" in text


def test_in_the_foreground_ctrl_c_unmounts_and_stores(place: Place) -> None:
    working = subprocess.Popen(
        [sys.executable, "-m", "sluicefs", "mount", "--metrics", "off", place.url, str(place.point)], cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    wait_for(lambda: place.type() is not None and answers(place.point), 30, "the mount")
    (place.point / "f").write_text("stored")
    working.send_signal(signal.SIGINT)
    out, _ = working.communicate(timeout=40)
    assert working.returncode == 0, out
    assert place.type() is None
    assert sluice("ls", place.url, "/").stdout.split() == ["f"]


def test_the_holder_is_small() -> None:
    with restless("sqlite") as mount:
        said = status(mount)
        lines = Path(f"/proc/{said['holder']}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        print("holder:", {name: sizes[name] for name in ("Rss", "Pss", "Private_Dirty")})
        assert sizes["Rss"] < 20 << 10
        assert serving_worker(mount) == said["worker"]


def test_when_the_holder_dies_the_mount_goes_on_and_says_so() -> None:
    with restless("sqlite") as mount:
        said = status(mount)
        os.kill(said["holder"], signal.SIGKILL)
        assert mount.process is not None
        mount.process.wait()
        (mount.point / "f").write_text("still served")
        wait_for(lambda: "holder process is gone" in log_of(mount), 10, "a line in the log")
        assert umount2(mount.point, 0) == 0
        wait_for(lambda: not Path(f"/proc/{said['worker']}").exists(), 30, "the end of the worker")
        mount.process = None


def test_serve_mounts_several_folders(place: Place) -> None:
    other = place.folder / "other"
    command = [sys.executable, "-m", "sluicefs", "serve", place.url, "--mount", str(place.point), "--mount",
               f"{other},ro"]  # fmt: skip
    working = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert working.stdout is not None
    line = working.stdout.readline()
    assert line == f"volume suite: mounted at {place.point}, {other}\n", working.communicate()[1]
    (place.point / "f").write_text("x")
    assert (other / "f").read_text() == "x"
    with pytest.raises(OSError, match="Read-only"):
        (other / "g").write_text("x")
    working.terminate()
    working.communicate(timeout=40)
    assert (working.returncode, place.type(), mount_type(other)) == (0, None, None)


def test_a_stuck_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP is the purest kind of being stuck. The holder's patience is in its specification."""
    monkeypatch.setenv("SLUICE_HANG_TIMEOUT", "1")
    with restless("sqlite") as mount:
        worker = serving_worker(mount)
        os.kill(worker, signal.SIGSTOP)
        start = time.monotonic()
        (mount.point / "f").write_text("x")
        print(f"{time.monotonic() - start:.1f} s")
        assert serving_worker(mount) != worker
        assert "is stuck for" in log_of(mount)
