# SPDX-License-Identifier: Apache-2.0
"""Where a program's test works: a fresh volume that is mounted, or a folder of another file system.

`FUSE_TESTS_ON=/some/folder` runs every test of this package there instead. A test that fails on ext4 or tmpfs too is a
wrong test.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest


class Place(Protocol):
    """`folder` is empty at first and belongs to this test."""

    folder: Path

    def remount(self) -> None:
        """What is not on the volume is forgotten: a new process, no kernel cache. Nothing on other file systems."""


class Elsewhere:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self) -> None:
        pass


@contextmanager
def elsewhere(root: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(dir=root, prefix="programs-") as folder:
        # Servers that refuse to run as root must get through.
        Path(folder).chmod(0o755)
        yield Elsewhere(Path(folder))


def sizes(*, fast: object, heavy: object) -> Callable[[Any], Any]:
    """The test runs twice: with size=fast always, with size=heavy among the heavy tests."""
    return pytest.mark.parametrize(
        "size",
        [
            pytest.param(fast, id="fast"),
            pytest.param(heavy, id="heavy", marks=[pytest.mark.heavy, pytest.mark.timeout(3600)]),
        ],
    )


def first(names: Iterable[str], *fast: str) -> list[Any]:
    """Parameters of which only some are for every day; the others are heavy."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.heavy) for name in names]
