# SPDX-License-Identifier: Apache-2.0
"""The file store beyond the contract: layout, temporary files, full disks, keys that want out."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from core.errors import ObjectError, ObjectNotFound
from core.object.file import INLINE_PUT_BYTES, FileStore
from tests.servers.process import missing


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileStore]:
    store = FileStore(str(tmp_path / "bucket"))
    yield store
    await store.close()


async def test_a_key_is_a_path_below_the_folder(store: FileStore, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        await store.put("vol/chunks/0/0/1_0_5", b"12345")
    finally:
        os.umask(old)
    path = tmp_path / "bucket/vol/chunks/0/0/1_0_5"
    assert path.read_bytes() == b"12345"
    assert path.stat().st_mode & 0o777 == 0o640  # 0666 & ~umask
    assert path.parent.stat().st_mode & 0o777 == 0o750  # 0777 & ~umask
    assert store.local_path("vol/chunks/0/0/1_0_5") == str(path)
    await store.delete("vol/chunks/0/0/1_0_5")
    assert path.parent.is_dir()  # folders stay


OUTSIDE = ["", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "./a", "a/.", "a//b", "a/", "/", "a\0b"]


@pytest.mark.parametrize("key", OUTSIDE)
async def test_keys_that_leave_the_folder_are_refused(store: FileStore, key: str) -> None:
    for call in (store.put(key, b"x"), store.get(key), store.head(key)):
        with pytest.raises(ObjectError, match="can't be a file below") as caught:
            await call
        assert not caught.value.retryable
    with pytest.raises(ObjectError):
        store.local_path(key)
    assert [info async for info in store.list("../")] == []
    assert [info async for info in store.list("/")] == []


async def test_temporary_files_are_not_listed_and_not_left(store: FileStore, tmp_path: Path) -> None:
    await store.put("v/k", b"x")
    (tmp_path / "bucket/v/.jfs.k.tmp.12345").write_bytes(b"half")
    assert [info.key async for info in store.list()] == ["v/k"]
    with pytest.raises(ObjectError, match="a part of the key is an object already"):
        await store.put("v/k/below", b"x")
    (tmp_path / "bucket/v/folder").mkdir()
    with pytest.raises(ObjectError, match="a folder of that name"):
        await store.put("v/folder", b"x")
    with pytest.raises(ObjectError, match="255 bytes"):
        await store.put("v/" + "n" * 256, b"x")
    assert [path.name for path in (tmp_path / "bucket").rglob(".jfs.*")] == [".jfs.k.tmp.12345"]


async def test_special_files_and_links(store: FileStore, tmp_path: Path) -> None:
    root = tmp_path / "bucket"
    await store.put("real/file", b"12")
    os.mkfifo(root / "fifo")
    (root / "dangling").symlink_to("nowhere")
    (root / "link").symlink_to("real/file")
    (root / "real/loop").symlink_to(root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far").write_bytes(b"123")
    (root / "disk2").symlink_to(elsewhere)
    found = [(info.key, info.size) async for info in store.list()]
    assert found == [("disk2/far", 3), ("link", 2), ("real/file", 2)]
    with pytest.raises(ObjectNotFound):
        await store.head("fifo")


async def test_delete_of_a_folder_key_removes_it_if_empty(store: FileStore, tmp_path: Path) -> None:
    await store.put("testing/x", b"")
    await store.delete("testing/")
    assert (tmp_path / "bucket/testing").is_dir()
    await store.delete("testing/x")
    await store.delete("testing/")
    assert not (tmp_path / "bucket/testing").exists()


async def test_a_removed_folder_comes_back(store: FileStore, tmp_path: Path) -> None:
    await store.put("a/b/1", b"x")
    await store.delete("a/b/1")
    (tmp_path / "bucket/a/b").rmdir()
    await store.put("a/b/2", b"y")
    assert bytes(await store.get("a/b/2")) == b"y"


async def test_a_missing_bucket_folder_is_an_empty_store(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path / "not/yet"))
    assert [info async for info in store.list()] == []
    with pytest.raises(ObjectNotFound):
        await store.get("k")
    await store.put("k", b"made")
    assert bytes(await store.get("k")) == b"made"
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)], capture_output=True)
    if done.returncode:
        missing("a disk of 256 KiB", "mounting a tmpfs needs root and CAP_SYS_ADMIN")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("size", [INLINE_PUT_BYTES, 1 << 20])
async def test_a_full_disk_says_what_to_do(small_disk: Path, size: int) -> None:
    store = FileStore(str(small_disk))
    with pytest.raises(ObjectError, match=r"No space left.*free space") as caught:
        for i in range(20):
            await store.put(f"k/{i}", b"x" * size)
    assert not caught.value.retryable
    assert str(small_disk) in str(caught.value)
    assert list(small_disk.rglob(".jfs.*")) == []
    for info in [info async for info in store.list()]:
        assert info.size == size
        await store.delete(info.key)
    await store.put("k/0", b"fits again")
    await store.close()


@pytest.mark.parametrize(
    ("code", "retryable"), [(errno.EIO, True), (errno.EROFS, False), (errno.EACCES, False), (errno.EMFILE, True)]
)
def test_errors_tell_what_happened_and_what_next(tmp_path: Path, code: int, retryable: bool) -> None:
    error = FileStore(str(tmp_path))._explain(OSError(code, "x"), "put", "some/key")
    assert os.strerror(code) in str(error)
    assert "; " in str(error)
    assert error.retryable is retryable


async def test_a_slow_call_sends_the_following_ones_to_threads(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("k", b"x")
    assert store._fast()
    now = 1000.0
    monkeypatch.setattr("core.object.file.time.monotonic", lambda: now)

    def slow() -> None:
        nonlocal now
        now += 1

    store._timed(slow)
    assert not store._fast()
    assert bytes(await store.get("k")) == b"x"
    now += 60
    assert store._fast()
