# SPDX-License-Identifier: Apache-2.0
"""The temporary area of all doors: what is old goes, what came lately stays whatever its date says."""

from __future__ import annotations

from pathlib import Path

from core.meta.format import new_format
from core.meta.records import ROOT
from core.vfs.filesystem import Content, FileSystem, ImplicitDirs
from core.vfs.temporary import Cleaner, new_temporary
from core.volume import format_volume, open_volume

NS = 1_000_000_000
DAY = 86_400 * NS
PARENTS = ImplicitDirs(mode=0o700)


async def exists(fs: FileSystem, path: bytes) -> bool:
    try:
        await fs.lookup(path, follow=False)
    except OSError:
        return False
    return True


async def test_leftovers_go_after_a_week_and_only_names_of_ours(tmp_path: Path) -> None:
    url = f"sqlite3://{tmp_path}/meta.db"
    await format_volume(url, new_format("tmp", bucket=f"{tmp_path}/o/"))
    volume = await open_volume(url, jobs=False)
    try:
        fs = volume.fs
        left = await new_temporary(fs)
        await fs.publish(left.path, Content(0, {}), mode=0o600)
        tree = await new_temporary(fs)
        await fs.mkdir(tree.path, mode=0o700)
        await fs.publish(tree.path + b"/copy", Content(0, {}), mode=0o600)
        await fs.publish(b"/.sys/tmp/abc/not-ours", Content(0, {}), mode=0o600, parents=PARENTS)
        await fs.publish(b"/.sys/bucket/tmp/" + left.path[-40:], Content(0, {}), mode=0o600, parents=PARENTS)
        now = volume.meta.clock_ns()

        async def clean(days: float) -> int:
            return await Cleaner(fs, clock=lambda: now + int(days * DAY)).clean()

        assert await clean(6.9) == 0
        # A copy keeps the date of its source, however old; it came here only now.
        old = await new_temporary(fs)
        await fs.publish(b"/old", Content(0, {}), mode=0o600, mtime_ns=NS)
        found = await fs.lookup(b"/old")
        await volume.meta.rename(ROOT, b"old", old.folder, old.name, 0)
        assert (await fs.lookup(old.path, follow=False)).attr.mtime_ns == found.attr.mtime_ns == NS
        assert await clean(1) == 0 and await exists(fs, old.path)
        assert await clean(7.1) == 4
        for path in (left.path, tree.path, old.path):
            assert not await exists(fs, path)
        assert await exists(fs, b"/.sys/tmp/abc/not-ours")
        assert await clean(100) == 0
    finally:
        await volume.close()
