# SPDX-License-Identifier: Apache-2.0
"""`sluice scrub`, and `sluice fsck` over damaged objects, as users run them."""

from __future__ import annotations

from pathlib import Path

from tests.unit.cli.conftest import Sluice


def test_damage_is_found_named_and_mended(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    assert sluice("scrub", volume, "--status").out.strip() == "nothing was ever read back"
    for name in ("a", "b", "c"):
        sluice("cp", volume, "-", f":/d/{name}", input=name * 50_000)
    first = sluice("scrub", volume, "--output", "json")
    assert first.code == 0 and (first.json["newSums"], first.json["finished"]) == (3, True)
    assert sluice("fsck", volume, "--read").code == 0
    victim = next(path for path in tmp_path.rglob("*_0_50000") if path.read_bytes()[:1] == b"b")
    victim.write_bytes(b"x" * 50_000)  # of the right size: nothing but a kept checksum can tell
    again = sluice("scrub", volume)
    assert again.code == 1 and victim.name in again.out and "`sluice fsck --read" in again.err
    status = sluice("scrub", volume, "--status", "--output", "json")
    assert status.code == 1 and next(iter(status.json["state"]["faults"])).endswith(victim.name)
    assert sluice("fsck", volume).code == 0
    found = sluice("fsck", volume, "--read", "--output", "json")
    (broken,) = found.json["brokenFiles"]
    assert found.code == 1 and broken["path"] == "/d/b"
    assert [(r["offset"], r["length"]) for r in broken["ranges"]] == [(0, 50_000)]
    assert "--repair" in sluice("fsck", volume, "--broken", "move").err
    assert "--no-objects" in sluice("fsck", volume, "--no-objects", "--read").err
    moved = sluice("fsck", volume, "--read", "--repair", "--broken", "move")
    assert moved.code == 0, moved.err
    assert "-b" in sluice("ls", volume, "/lost+found").out and "b" not in sluice("ls", volume, "/d").out.split()
    assert sluice("cp", volume, ":/d/c", "-").out == "c" * 50_000


def test_a_scrub_can_be_cut_short_and_goes_on(sluice: Sluice, volume: str) -> None:
    for name in ("a", "b"):
        sluice("cp", volume, "-", f":/{name}", input=name)
    assert sluice("scrub", volume, "--for", "0s").code == 0
    assert sluice("scrub", volume, "--restart", "--no-sums", "--rate", "100M", "--threads", 2).code == 0
    assert "last pass: 2 blocks" in sluice("scrub", volume, "--status").out
