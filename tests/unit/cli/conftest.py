# SPDX-License-Identifier: Apache-2.0
"""Running the `sluice` command as a user does: a process of its own, with pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.servers.process import Server

ROOT = Path(__file__).parents[3]


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Sluice = Callable[..., Ran]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **extra}


@pytest.fixture
def sluice() -> Sluice:
    """`sluice("ls", url)`; arguments become text. Input is bytes or text."""

    def run(*args: object, input: str | bytes = b"", env: dict[str, str] | None = None) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "sluicefs", *map(str, args)],
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            env=environment(**(env or {})),
            timeout=120,
        )
        return Ran(done.returncode, done.stdout.decode("utf-8", "surrogateescape"), done.stderr.decode())

    return run


@pytest.fixture
def meta(tmp_path: Path) -> str:
    """Address of a database that doesn't exist yet."""
    return f"sqlite3://{tmp_path}/meta.db"


@pytest.fixture
def volume(sluice: Sluice, meta: str, tmp_path: Path) -> str:
    """Address of a fresh volume with small blocks."""
    done = sluice("format", meta, "demo", "--bucket", tmp_path / "data", "--block-size", "64K")
    assert done.code == 0, done.err
    return meta


class Process(Server):
    """A `sluice` service; its port is the `{port}` in the arguments."""

    def __init__(self, *args: object, env: dict[str, str] | None = None) -> None:
        super().__init__(
            lambda port, _: [sys.executable, "-m", "sluicefs", *(str(a).replace("{port}", str(port)) for a in args)],
            env=environment(**(env or {})),
            name="sluice",
        )
