# SPDX-License-Identifier: Apache-2.0
"""Volumes made by JuiceFS 1.4.1, on every engine, are changed by us: what we change is right, the rest is untouched.

`core.check` proves all records before and after; what it finds before (JuiceFS flushes usage later than it changes
names) must be all it finds after. Reading them is proven by the files named after the engines.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.check import check
from core.meta.publish import ImplicitDirs
from core.meta.records import ROOT, Slice
from core.volume import Volume, open_volume
from tests.golden.reader import differences
from tests.golden.volumes import golden, names

OURS = b"made by sluice \xff"
BODY = bytes(range(256)) * 1500  # several blocks of every golden volume


async def change(volume: Volume) -> None:
    """Something of everything, below one new directory."""
    meta, fs = volume.meta, volume.fs
    top, _ = await meta.mkdir(ROOT, OURS)
    await fs.publish(b"/" + OURS + b"/a/b/file", await fs.content_of(BODY), parents=ImplicitDirs())
    await fs.publish(b"/" + OURS + b"/small", await fs.content_of(b"12345"))
    found = await fs.lookup(b"/" + OURS + b"/small")
    await meta.link(found.ino, top, b"hard")
    await meta.symlink(top, b"link", b"a/b/file")
    await meta.setxattr(found.ino, b"user.sluice", b"\0\1")
    await meta.rename(top, b"small", top, b"renamed")
    whole = await fs.lookup(b"/" + OURS + b"/a/b/file")
    await meta.clone(whole.ino, top, b"clone")
    target, _ = await meta.create(top, b"copy")
    assert await meta.copy_file_range(whole.ino, 100, target, 0, 1000) == 1000
    await meta.truncate(target, 900)
    await meta.fallocate(target, 3, 10, 20)
    data = await fs.content_of(b"tail")
    (piece,) = data.chunks[0]
    await meta.write_slices(target, 0, [Slice(900, piece.id, piece.size, piece.off, 4)], time.time_ns())
    gone, _ = await meta.mkdir(top, b"gone")
    await meta.create(gone, b"x")
    await meta.remove_tree(top, b"gone", skip_trash=True)
    await meta.flock(target, 1, "W")
    await meta.flock(target, 1, "U")


async def prove(volume: Volume) -> None:
    fs = volume.fs
    for path, expected in (
        (b"/a/b/file", BODY), (b"/clone", BODY), (b"/renamed", b"12345"), (b"/hard", b"12345"),
        (b"/copy", BODY[100:110] + bytes(20) + BODY[130:1000] + b"tail"),
    ):  # fmt: skip
        found = await fs.lookup(b"/" + OURS + path)
        assert bytes(await fs.read(found, 0, found.attr.length)) == expected, path
    renamed = await fs.lookup(b"/" + OURS + b"/renamed")
    assert renamed.attr.nlink == 2
    assert await volume.meta.getxattr(renamed.ino, b"user.sluice") == b"\0\1"


@pytest.mark.parametrize("name", names())
async def test_our_changes_are_right_and_leave_the_rest_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with golden(name, tmp_path) as there:
        if there.passphrase:
            monkeypatch.setenv("JFS_RSA_PASSPHRASE", there.passphrase)
        volume = await open_volume(there.meta_url, bucket=there.bucket, jobs=False)
        try:
            before = {(finding.kind, finding.key) for finding in await check(volume.meta, objects=volume.objects)}
            await change(volume)
            await prove(volume)
        finally:
            await volume.close()
        volume = await open_volume(there.meta_url, bucket=there.bucket, jobs=False)
        try:
            await prove(volume)
            root_ino, _ = await volume.meta.lookup(ROOT, OURS)
            await volume.meta.remove_tree(ROOT, OURS, skip_trash=True)
            root_line = next(there.manifest())
            expected = [line for line in there.manifest() if line.path != root_line.path]
            wrong = [w for w in await differences(volume, [root_line, *expected]) if not w.startswith("b'/' ")]
            assert wrong == []
            found = await check(volume.meta, objects=volume.objects)
            assert [f for f in found if (f.kind, f.key) not in before] == [], root_ino
        finally:
            await volume.close()
