# SPDX-License-Identifier: Apache-2.0
"""One Redis for all interop tests; each test gets a database of its own and a volume in a temporary folder."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.meta.format import new_format
from core.volume import format_volume
from tests.interop.juicefs import JuiceFS
from tests.servers.redis import RedisServer

_DATABASES = itertools.count(1)


class Place:
    """Where one volume lives: metadata URL, folder of its objects, and the JuiceFS client for it."""

    def __init__(self, meta_url: str, folder: Path) -> None:
        self.meta_url = meta_url
        self.folder = folder
        self.objects = folder / "objects"
        self.juicefs = JuiceFS(meta_url, folder / "juicefs")

    async def format(self, *, compression: str = "none", block_size: int = 4 << 20, name: str = "shared") -> None:
        """With SluiceFS. No trash and no directory statistics: the old client keeps neither."""
        fmt = new_format(
            name, bucket=f"{self.objects}/", compression=compression, block_size=block_size, trash_days=0,
            dir_stats=False,
        )  # fmt: skip
        await format_volume(self.meta_url, fmt)


@pytest.fixture(scope="package")
def redis() -> Iterator[RedisServer]:
    with RedisServer("--databases", "64", password="") as server:
        assert isinstance(server, RedisServer)
        yield server


@pytest.fixture
def new_place(redis: RedisServer) -> Iterator[Callable[[], Place]]:
    made: list[Path] = []

    def make() -> Place:
        # /dev/shm where there is one: thousands of fsyncs prove nothing here.
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free > 2 << 30 else None
        made.append(Path(tempfile.mkdtemp(prefix="sluice-interop-", dir=base)))
        return Place(redis.url(next(_DATABASES)), made[-1])

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()
