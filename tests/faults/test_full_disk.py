# SPDX-License-Identifier: Apache-2.0
"""The disk under a SQLite volume fills up: a clear error, nothing acknowledged is lost, and it goes on with room again.

A real full file system: a small tmpfs, which needs root.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import FsError
from core.meta.format import new_format
from core.meta.meta import Meta, init_format
from core.volume import open_record_store
from tests.conformance.volume.invariants import check_invariants


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a file system of 1 MiB needs root and mount(8)")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"this machine forbids mounting a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def opened(path: Path, *, fresh: bool) -> Meta:
    store = open_record_store(f"sqlite3://{path}")
    await store.open()
    fmt = new_format("full", bucket="/nowhere/").changed(trash_days=0)
    if fresh:
        await init_format(store, fmt, time.time_ns())
    meta = Meta(store, fmt)
    await meta.new_session("full", heartbeat_s=0)
    return meta


async def test_a_full_disk_is_an_error_and_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "meta.db"
    meta = await opened(path, fresh=True)
    made: list[bytes] = []
    errors: list[FsError] = []
    for at in range(20_000):
        name = b"%05d" % at + b"x" * 200
        try:
            await meta.create(1, name)
            made.append(name)
        except FsError as e:
            errors.append(e)
            if len(errors) == 20:
                break
    assert len(errors) == 20, f"the disk never filled up in {len(made)} files"
    assert {e.errno for e in errors} == {errno.ENOSPC}
    assert "full" in str(errors[0].strerror) and str(path) in str(errors[0].strerror)
    # Reading goes on, and everything acknowledged is there.
    assert await names(meta) == made
    # Room again: the same client goes on.
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    await meta.create(1, b"again")
    await check_invariants(meta)
    await meta.close()
    meta = await opened(path, fresh=False)
    assert await names(meta) == [*made, b"again"]
    await check_invariants(meta)
    await meta.close()


async def names(meta: Meta) -> list[bytes]:
    found: list[bytes] = []
    while page := await meta.readdir(1, found[-1] if found else b"", 1000):
        found += [e.name for e in page]
    return found
