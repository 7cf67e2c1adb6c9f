# SPDX-License-Identifier: Apache-2.0
"""rsync both ways, with hard links, ACLs and extended attributes; a second run by checksums finds nothing to do."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.gateways.fuse.programs.place import Place, sizes
from tests.gateways.fuse.programs.run import run
from tests.gateways.fuse.programs.trees import assert_same, describe, make_tree
from tests.servers.process import require


def sync(source: Path, target: Path, *options: str) -> str:
    """What rsync changed, one line each. Times count to the nanosecond."""
    return run("rsync", "-aHAX", "--modify-window=-1", "--itemize-changes", *options, f"{source}/", f"{target}/").stdout


@pytest.mark.heavy
@sizes(fast=600, heavy=10_000)
def test_rsync_both_ways(place: Place, size: int, tmp_path: Path, rng: random.Random) -> None:
    require("rsync", "apt-get install rsync")
    require("setfacl", "apt-get install acl")
    source, there, back = tmp_path / "source", place.folder / "there", tmp_path / "back"
    make_tree(source, size, rng, xattrs=True)
    expected = describe(source, xattrs=True)

    assert sync(source, there)
    assert sync(source, there) == ""
    assert sync(source, there, "--checksum") == ""
    assert_same(describe(there, xattrs=True), expected)
    place.remount()
    assert sync(there, back, "--checksum")
    assert sync(back, there, "--checksum") == ""
    assert_same(describe(back, xattrs=True), expected)

    # A few changes: only they travel; the delta of a large file is applied in place too.
    files = sorted(p for p in source.rglob("f*") if p.is_file() and not p.is_symlink() and os.access(p, os.W_OK))
    for path in rng.sample(files, 20):
        with open(path, "ab") as file:
            file.write(b"more")
    large = source / "large"
    large.write_bytes(rng.randbytes(3 << 20))
    sync(source, there)
    with open(large, "r+b") as file:
        file.seek(1_500_000)
        file.write(b"changed in the middle")
    assert len(sync(source, there, "--inplace", "--no-whole-file").splitlines()) == 1
    (source / "d0").rename(source / "renamed")
    sync(source, there, "--delete")
    assert sync(source, there, "--checksum", "--delete") == ""
    assert_same(describe(there, xattrs=True), describe(source, xattrs=True))
