# SPDX-License-Identifier: Apache-2.0
"""One mount for the tests of its special files, and `sluice` as it is used on a mount."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.gateways.fuse.mounts import ROOT, Mount, mounted


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def sluice(*args: object, cwd: Path | None = None) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "sluicefs", *map(str, args)], capture_output=True, text=True, timeout=120, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    with mounted("sqlite", trash_days=1) as found:
        yield found


@pytest.fixture
def folder(mount: Mount, request: pytest.FixtureRequest) -> Path:
    """A folder of this test's own on the mount."""
    path = mount.point / request.node.name
    path.mkdir()
    return path


def as_user(uid: int, work: Callable[[], int]) -> int:
    """What `work` returns (0 to 255) in a child process of that user."""
    pid = os.fork()
    if not pid:
        code = 255
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
