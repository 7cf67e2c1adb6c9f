# SPDX-License-Identifier: Apache-2.0
"""tar in and out: every name, byte, time, permission and link."""

from __future__ import annotations

import random
from pathlib import Path

from tests.gateways.fuse.programs.place import Place, sizes
from tests.gateways.fuse.programs.run import run
from tests.gateways.fuse.programs.trees import assert_same, describe, make_tree
from tests.servers.process import require


@sizes(fast=1500, heavy=30_000)
def test_tar_carries_a_tree_in_and_out(place: Place, size: int, tmp_path: Path, rng: random.Random) -> None:
    require("tar", "apt-get install tar")
    source, archive, again = tmp_path / "source", tmp_path / "a.tar", tmp_path / "b.tar"
    make_tree(source, size, rng, largest=100_000)
    expected = describe(source)
    assert len(expected) >= size
    # pax keeps nanoseconds and times before 1970.
    run("tar", "--create", "--format=pax", "--file", archive, "--directory", tmp_path, "source")

    run("tar", "--extract", "--same-permissions", "--file", archive, "--directory", place.folder)
    assert_same(describe(place.folder / "source"), expected)
    run("tar", "--compare", "--file", archive, "--directory", place.folder)
    place.remount()
    assert_same(describe(place.folder / "source"), expected)

    run("tar", "--create", "--format=pax", "--file", again, "--directory", place.folder, "source")
    (tmp_path / "out").mkdir()
    run("tar", "--extract", "--same-permissions", "--file", again, "--directory", tmp_path / "out")
    assert_same(describe(tmp_path / "out" / "source"), expected)
    run("rm", "-r", place.folder / "source")
    assert not (place.folder / "source").exists()
