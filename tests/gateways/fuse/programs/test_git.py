# SPDX-License-Identifier: Apache-2.0
"""git on a mount: clone, fsck, checkout, commit, gc; what comes back is what went in."""

from __future__ import annotations

import random
from pathlib import Path

from tests.gateways.fuse.programs.git_history import make_repository
from tests.gateways.fuse.programs.place import Place, sizes
from tests.gateways.fuse.programs.run import run
from tests.servers.process import require


@sizes(fast=(150, 300), heavy=(4000, 5000))
def test_git_clones_checks_works_and_collects(
    place: Place, size: tuple[int, int], tmp_path: Path, rng: random.Random
) -> None:
    require("git", "apt-get install git")
    commits, files = size
    origin, clone = tmp_path / "origin.git", place.folder / "clone"
    make_repository(origin, commits, files, rng)

    # --no-local: objects travel as a pack, as over a network, instead of being hard-linked.
    run("git", "clone", "--quiet", "--no-local", origin, clone)
    run("git", "fsck", "--strict", "--full", "--no-progress", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""
    assert run("git", "rev-parse", "HEAD", cwd=clone).stdout == run("git", "rev-parse", "main", cwd=origin).stdout

    for ref in ("t9", "origin/branch50", "main"):
        run("git", "checkout", "--quiet", ref, cwd=clone)
        assert run("git", "status", "--porcelain", cwd=clone).stdout == "", ref
    (clone / "part0" / "new.txt").write_text("new\n")
    run("git", "mv", "part1", "moved", cwd=clone)
    run("git", "add", "--all", cwd=clone)
    run("git", "commit", "--quiet", "--message", "work", cwd=clone)
    run("git", "rebase", "--quiet", "--force-rebase", "HEAD~20", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""

    run("git", "gc", "--quiet", "--prune=now", cwd=clone, timeout_s=1200)
    run("git", "fsck", "--strict", "--full", "--no-progress", cwd=clone)
    place.remount()
    run("git", "fsck", "--strict", "--full", "--no-progress", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""

    back = tmp_path / "back"
    run("git", "clone", "--quiet", "--no-local", clone, back)
    assert (
        run("git", "rev-parse", "HEAD^{tree}", cwd=back).stdout
        == run("git", "rev-parse", "HEAD^{tree}", cwd=clone).stdout
    )
    # A worktree and a second clone that share objects by hard links.
    run("git", "worktree", "add", "--quiet", place.folder / "tree", "t9", cwd=clone)
    run("git", "clone", "--quiet", "--local", clone, place.folder / "linked")
    run("git", "fsck", "--full", "--no-progress", cwd=place.folder / "linked")
