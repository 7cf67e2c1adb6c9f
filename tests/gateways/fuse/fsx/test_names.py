# SPDX-License-Identifier: Apache-2.0
"""Many processes change names in the same few directories, through two mounts; nothing is lost or counted wrong."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateways.fuse.fsx.names import Survey
from tests.gateways.fuse.mounts import ROOT, Watchdog
from tests.gateways.fuse.posix.places import Place
from tests.servers.process import wait_for


def fuzz(place: Place, rng: random.Random, count: int, processes: int) -> None:
    with place.second() as second:
        root, other = place.root / "tree", second / "tree"  # a mount's own root shows special files, too
        for name in (".", "a", "b"):
            (root / name).mkdir()
        watchdog = Watchdog()
        if place.mount:
            watchdog.guard(120 + count * processes / 20, place.mount)
        running = []
        for i in range(processes):
            where = (root, other)[i % 2]
            seed = rng.randrange(1 << 32)
            print(f"names seed {seed} at {where}")
            command = [sys.executable, "-m", "tests.gateways.fuse.fsx.names", str(where), str(seed), str(count)]
            running.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True)
            )
        answers = [(p, *p.communicate()) for p in running]
        watchdog.rest()
        logs = [log.read_text()[-4000:] for log in place.mount.folder.glob("*.log")] if place.mount else []
        said = [err[-1000:] for _, _, err in answers if err]
        assert all(p.returncode == 0 for p, _, _ in answers), "\n".join([*said, *logs])
        assert not watchdog.fired

        def agree() -> bool:
            """Caches of names and attributes are kept for a second."""
            return Survey(root).entries == Survey(other).entries

        wait_for(agree, timeout_s=15, what="the same tree at both mounts")
        assert not Survey(root).wrong
        assert not Survey(other).wrong
    sound(place)


def sound(place: Place) -> None:
    """After the mounts are gone, all counters of the volume fit. A file that one mount removes while the other one
    stores its bytes, together with those of other files, leaves their common object counted once too often; gc finds
    that, here without the hour for which it leaves new objects alone."""
    if place.mount:
        place.mount.stop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JFS_GC_SKIPPEDTIME", "0")
            place.mount.sluice("gc", "--delete")
        place.check()
        place.mount.start()


def test_names_at_two_mounts(place: Place, rng: random.Random) -> None:
    fuzz(place, rng, 300, 4)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_many_names_at_two_mounts(place: Place, rng: random.Random) -> None:
    fuzz(place, rng, 3000, 6)


def test_a_survey_sees_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "x").write_text("1")
    (tmp_path / "y").hardlink_to(tmp_path / "x")
    (tmp_path / "s").symlink_to("x")
    assert not Survey(tmp_path).wrong
    assert set(Survey(tmp_path).entries) == {"a", "x", "y", "s"}
