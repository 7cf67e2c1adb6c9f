# SPDX-License-Identifier: Apache-2.0
"""Volumes that JuiceFS 0.14.2 formatted and filled: SluiceFS lists, reads and changes them, and JuiceFS goes on.

Such a volume has no trash root, no directory statistics, no tiers in its setting, hard links without parent records,
counts only of slices that are shared, and sessions under the legacy key.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import stat
import time
from pathlib import Path

import pytest

from core.errors import FsError
from core.meta import keys as k
from core.volume import open_volume
from tests.interop.conftest import Place
from tests.interop.content import Tree, digest, mounted_tree, same, some_bytes, store, store_all, tree_of
from tests.interop.juicefs import age
from tests.interop.recount import check_records


def fill(point: Path, rng: random.Random) -> Tree:
    tree: Tree = {}
    for number in range(60):
        folder = point / f"dir {number % 5}" / "é"
        folder.mkdir(parents=True, exist_ok=True)
        data = some_bytes(rng, rng.choice((0, 1, 4096, 70_000, 200_000)))
        (folder / f"file{number}").write_bytes(data)
        tree[os.fsencode(f"/dir {number % 5}/é/file{number}")] = digest(data)
    hole = b"begin" + bytes(70 << 20) + b"end"
    with open(point / "hole", "wb") as f:
        f.write(b"begin")
        f.seek(len(hole) - 3)
        f.write(b"end")
    tree[b"/hole"] = digest(hole)
    os.link(point / "hole", point / "dir 0" / "link")
    tree[b"/dir 0/link"] = tree[b"/hole"]
    os.symlink("dir 1/é/file1", point / "symlink")
    os.mkfifo(point / "fifo")
    os.setxattr(point / "hole", "user.colour", b"green")
    os.chmod(point / "hole", 0o640)
    os.chown(point / "hole", 12, 34)
    return tree


async def test_a_juicefs_volume_is_read_changed_and_handed_back(
    place: Place, rng: random.Random, tmp_path: Path
) -> None:
    place.juicefs.format("shared", "--bucket", str(place.objects), "--block-size", "64", "--compress", "lz4")
    with place.juicefs.mount(tmp_path / "one") as point:
        tree = await asyncio.to_thread(fill, point, rng)
        volume = await open_volume(place.meta_url)
        fs = volume.fs
        try:
            same(await tree_of(fs), tree)
            hole = await fs.lookup(b"/hole", xattrs=True)
            attr = hole.attr
            assert (attr.mode, attr.uid, attr.gid, attr.nlink) == (0o640, 12, 34, 2)
            assert (hole.xattrs or {})[b"user.colour"] == b"green"
            assert (await fs.lookup(b"/symlink")).ino == (await fs.lookup("/dir 1/é/file1".encode())).ino
            assert (await fs.lookup(b"/fifo")).attr.type == 4
            assert stat.S_ISFIFO((point / "fifo").stat().st_mode)

            # Replace, remove, rename, copy; both ends of a hard link; a folder with what it holds.
            names = sorted(path for path in tree if b"/file" in path)
            tree |= await store_all(fs, ((path, some_bytes(rng, 500)) for path in names[::4]))
            tree |= await store_all(fs, ((b"/new/%d" % n, some_bytes(rng, 3000)) for n in range(40)))
            for path in names[1::4]:
                await fs.unlink(path)
                del tree[path]
            await fs.rename(b"/dir 2", b"/new/moved")
            for path in [path for path in tree if path.startswith(b"/dir 2/")]:
                tree[b"/new/moved" + path.removeprefix(b"/dir 2")] = tree.pop(path)
            await fs.publish(b"/copy", await fs.clone_content([(hole.ino, 0, attr.length)]))
            tree[b"/copy"] = tree[b"/hole"]
            await fs.unlink(b"/hole")
            del tree[b"/hole"]
            await fs.remove_tree(b"/dir 3")
            tree = {path: value for path, value in tree.items() if not path.startswith(b"/dir 3/")}
            with pytest.raises(FsError):
                await fs.rmdir(b"/dir 4")
            same(await tree_of(fs), tree)
            same(await asyncio.to_thread(mounted_tree, point), tree)
        finally:
            await volume.close()
    place.juicefs.fsck()
    with place.juicefs.mount(tmp_path / "two") as point:
        same(await asyncio.to_thread(mounted_tree, point), tree)
        (point / "copy").unlink()  # shares its slices with the file that was copied
        del tree[b"/copy"]
        same(await asyncio.to_thread(mounted_tree, point), tree)
    volume = await open_volume(place.meta_url)
    try:
        await check_records(volume)
        age(place.objects)
        assert (await asyncio.to_thread(place.juicefs.gc)).leaked == 0
    finally:
        await volume.close()


async def test_a_juicefs_mount_that_died_leaves_nothing_that_stops_us(
    place: Place, rng: random.Random, tmp_path: Path
) -> None:
    """kill -9 with files that were unlinked while open and with locks held: our clean-up takes its session,
    which stands in the legacy list, when it is due; files that share objects with the open ones stay."""
    await place.format()
    volume = await open_volume(place.meta_url)
    fs = volume.fs
    try:
        tree = await store_all(fs, ((b"/p/%d" % n, some_bytes(rng, 5000)) for n in range(40)))
        mount = place.juicefs.mount(tmp_path / "dies")
        with mount as point:
            files = [os.open(point / "p" / str(n), os.O_RDONLY) for n in range(5)]
            fcntl.flock(files[0], fcntl.LOCK_EX)
            files.append(os.open(point / "p/7", os.O_RDWR))
            fcntl.lockf(files[-1], fcntl.LOCK_EX, 10, 5)
            for n in range(5):
                (point / "p" / str(n)).unlink()
                del tree[b"/p/%d" % n]
            assert len(os.pread(files[0], 9000, 0)) == 5000  # still readable there
            lines = [key async for key, _ in volume.meta.store.scan(k.SUSTAINED)]
            assert len(lines) == 5
            mount.kill()
            for file in files:
                with contextlib.suppress(OSError):  # nobody answers any more
                    os.close(file)
        await volume.meta.clean_stale_sessions()
        await volume.meta.refresh()
        await volume.meta.run_jobs()
        same(await tree_of(fs), tree)
        assert len([key async for key, _ in volume.meta.store.scan(k.SUSTAINED)]) == 5, "its session was not due yet"

        # Five minutes and a bit without a heartbeat: now its files and its locks go.
        volume.meta.clock_ns = lambda: time.time_ns() + 400 * 10**9
        assert await volume.meta.clean_stale_sessions() == 1
        for kind in (k.SUSTAINED, k.FLOCKS, k.PLOCKS):
            assert not [(key, value) async for key, value in volume.meta.store.scan(kind) if value], kind
        assert not place.juicefs.status()["Sessions"]
        volume.meta.clock_ns = time.time_ns
        await volume.meta.clean_deleted_files()
        await check_records(volume)
        same(await tree_of(fs), tree)
        with place.juicefs.mount(tmp_path / "next") as point:
            same(await asyncio.to_thread(mounted_tree, point), tree)
            await store(fs, b"/p/later", b"hello")
            assert (point / "p/later").read_bytes() == b"hello"
            tree[b"/p/later"] = digest(b"hello")
            same(await asyncio.to_thread(mounted_tree, point), tree)
    finally:
        await volume.close()
    place.juicefs.fsck()
