# SPDX-License-Identifier: Apache-2.0
"""Reads of objects that are files of this machine: answered at once where the kernel has their bytes in memory."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.meta.format import new_format
from core.meta.records import ROOT
from core.vfs.handles import Handle
from core.vfs.vfs import VFS
from core.volume import format_volume, open_volume

MIB = 1 << 20
SIZE = 6 * MIB + 12_345  # one whole block and a part of another
DATA = random.Random(7).randbytes(SIZE)


@pytest.fixture
async def vfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[VFS]:
    # A busy machine may stop us for longer than a look at a local disk may take.
    monkeypatch.setattr("core.chunk.reader.SLOW_LOOK_S", 60)
    url = f"sqlite3://{tmp_path}/meta.db"
    await format_volume(url, new_format("local", bucket=f"{tmp_path}/objects/"))
    volume = await open_volume(url, jobs=False)
    vfs = VFS(volume.meta, volume.slices)
    yield vfs
    await vfs.close()
    await volume.close()


@pytest.fixture
async def file(vfs: VFS) -> Handle:
    async with await vfs.create(ROOT, b"f") as made:
        for at in range(0, SIZE, MIB):
            await made.write(at, DATA[at : at + MIB])
        await made.flush()
        ino = made.ino
    handle = await vfs.open(ino)
    await handle.file.state.records(0)  # as after an open by the kernel
    return handle


async def test_reads_anywhere_answer_at_once_with_the_right_bytes(file: Handle) -> None:
    draw = random.Random(8)
    at_once = 0
    for _ in range(300):
        length = draw.choice([1, 4096, 65_536, MIB])
        offset = draw.randrange(SIZE)
        found = file.read_nowait(offset, length)
        if found is not None:
            at_once += 1
            assert bytes(found) == DATA[offset : offset + length]
        else:
            assert bytes(await file.read(offset, length)) == DATA[offset : offset + length]
    assert at_once > 200  # the rest crosses a border of blocks, or comes where a stream stands
    await file.release()


async def test_what_the_kernel_can_ask_of_a_whole_file_answers_at_once(file: Handle) -> None:
    parts = [file.read_nowait(at, 128 << 10) for at in range(0, SIZE, 128 << 10)]
    assert None not in parts and b"".join(map(bytes, filter(None, parts))) == DATA
    await file.release()


async def test_a_read_over_the_border_of_two_objects_answers_at_once(file: Handle) -> None:
    for offset in (4 * MIB - 1, 4 * MIB - 65_536, 4 * MIB - MIB + 1):
        found = file.read_nowait(offset, MIB)
        assert found is not None and bytes(found) == DATA[offset : offset + MIB]
    await file.release()


async def test_a_stream_that_reads_ahead_is_read_on(file: Handle) -> None:
    assert bytes(await file.read(0, 300_000)) == DATA[:300_000]
    assert file.read_nowait(300_000, 300_000) is None
    assert file.read_nowait(3 * MIB, 4096) is not None, "elsewhere nobody reads ahead"
    await file.release()


async def test_an_object_that_is_gone_is_left_to_the_ordinary_way(file: Handle, tmp_path: Path) -> None:
    for path in (tmp_path / "objects").rglob("*_4194304"):
        path.unlink()
    assert file.read_nowait(0, 4096) is None
    with pytest.raises(OSError, match="missing"):
        await file.read(0, 4096)
    await file.release()


async def test_an_object_that_is_too_short_is_not_believed(file: Handle, tmp_path: Path) -> None:
    for path in (tmp_path / "objects").rglob("*_4194304"):
        os.truncate(path, MIB)
    assert file.read_nowait(2 * MIB, 4096) is None
    await file.release()


async def test_a_slow_look_is_not_repeated(vfs: VFS, file: Handle, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("core.chunk.reader.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("core.chunk.reader.SLOW_LOOK_S", 0.02)
    objects = vfs.slices.reader._transfer.objects
    path_of, seconds = objects.local_path, 0.5

    def local_path(key: str) -> str | None:
        now[0] += seconds
        return path_of(key)

    monkeypatch.setattr(objects, "local_path", local_path)
    assert file.read_nowait(0, 4096) is not None
    assert file.read_nowait(0, 4096) is None, "everybody waited for the first look"
    assert bytes(await file.read(0, 4096)) == DATA[:4096]
    seconds = 0.0
    now[0] += 10
    assert file.read_nowait(2 * MIB, 4096) is not None
    await file.release()
