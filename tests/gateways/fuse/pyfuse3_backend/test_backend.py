# SPDX-License-Identifier: Apache-2.0
"""The pyfuse3 backend: the POSIX suite through it, device numbers, and errors that say what to do."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import subprocess
import sys

import pytest

from gateways.fuse.pyfuse3_backend import MISSING
from tests.gateways.fuse.mounts import ROOT, mounted
from tests.gateways.fuse.pyfuse3_backend.suite import NEEDS
from tests.gateways.fuse.two_mounts.content import Pattern
from tests.servers.process import missing

#: Modules of the suite that a fast run takes; a heavy one takes all.
FAST = ("test_rename", "test_open", "test_times", "test_readdir", "test_xattr")


@pytest.fixture
def needs_pyfuse3() -> None:
    if importlib.util.find_spec("pyfuse3") is None:
        missing("pyfuse3", "apt-get install libfuse3-dev pkg-config gcc python3-dev && pip install pyfuse3")


def run_suite(*chosen: str, timeout_s: float) -> str:
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-p", "tests.gateways.fuse.pyfuse3_backend.suite",
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=timeout_s,
        env={**os.environ, "SUITE_PLACES": "sqlite"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_the_posix_suite_through_pyfuse3(needs_pyfuse3: None) -> None:
    report = run_suite(*(f"tests/gateways/fuse/posix/{name}.py" for name in FAST), timeout_s=280)
    assert re.search(r"\d+ passed", report)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_the_whole_posix_suite_through_pyfuse3(needs_pyfuse3: None) -> None:
    report = run_suite("tests/gateways/fuse/posix", timeout_s=1700)
    skipped = set(re.findall(r"pyfuse3: (.*)", report))
    assert {MISSING[name] for _, name in NEEDS} == skipped, "what is skipped has its reason"


def test_bytes_names_and_times_through_pyfuse3(needs_pyfuse3: None, rng: random.Random) -> None:
    pattern = Pattern(3)
    with mounted("sqlite", "--fuse-backend", "pyfuse3") as mount:
        path = mount.point / "file"
        with open(path, "wb") as file:
            for at in range(0, 9_000_000, 1_000_000):
                file.write(pattern.at(at, 1_000_000))
        with open(path, "rb", buffering=0) as file:
            for _ in range(50):
                at = rng.randrange(9_000_000)
                data = os.pread(file.fileno(), 200_000, at)
                assert len(data) == min(200_000, 9_000_000 - at) and not pattern.wrong(at, data)
        folder = mount.point / "folder"
        folder.mkdir()
        names = {f"{n} {'x' * rng.randrange(200)}" for n in range(700)}
        for name in names:
            (folder / name).touch()
        assert set(os.listdir(folder)) == names
        os.utime(path, ns=(-1_500_000_001, 1_234_567_890_123_456_789))
        about = path.stat()
        assert (about.st_atime_ns, about.st_mtime_ns) == (-1_500_000_001, 1_234_567_890_123_456_789)
        with mount.second("--fuse-backend", "builtin") as other:
            assert not pattern.wrong(0, (other.point / "file").read_bytes())
        mount.check()


@pytest.mark.parametrize("device", [(1, 3), (8, 255), (259, 70_000), (4095, 1 << 19)])
def test_device_numbers_go_both_ways(needs_pyfuse3: None, device: tuple[int, int]) -> None:
    from gateways.fuse.pyfuse3_backend.adapter import kernel_device, user_device

    number = os.makedev(*device)
    assert user_device(kernel_device(number)) == number
    assert kernel_device(number) < 1 << 32


def test_without_pyfuse3_the_error_says_how_to_get_it() -> None:
    script = (
        "import sys; sys.modules['pyfuse3'] = None\n"
        "from gateways.fuse.pyfuse3_backend import require_pyfuse3\n"
        "require_pyfuse3()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "is not installed" in last and "pip install" in last and "libfuse3-dev" in last


async def test_a_running_mount_is_neither_taken_over_nor_handed_over(needs_pyfuse3: None) -> None:
    from core.errors import ConfigError
    from gateways.fuse.operations import Operations
    from gateways.fuse.pyfuse3_backend.server import Pyfuse3Server
    from gateways.fuse.session import Negotiated

    server = Pyfuse3Server(Operations())
    read, write = os.pipe()
    os.close(write)
    agreed = Negotiated(minor=38, flags=0, max_write=1 << 20, max_pages=256, max_readahead=1 << 20)
    with pytest.raises(ConfigError, match="unmount and mount again"):
        await server.start(read, agreed)
    with pytest.raises(ConfigError, match="unmount and mount again"):
        await server.stop(keep_fd=True)
    with pytest.raises(OSError):
        os.fstat(read)  # the descriptor was the server's
