# SPDX-License-Identifier: Apache-2.0
"""rclone, Debian's and a current one, as each vendor that it knows: sync both ways, check, times, streams.

Source: spec webdav §18.5; rclone's WebDAV page.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.gateways.webdav.programs import make_tree, require_same, run, tool, tree
from tests.servers.http_recorder import HttpRecorder
from tests.servers.process import missing

#: Vendor nextcloud only takes URLs of this form.
PREFIX = "/remote.php/dav/files/dav"
FILES = 40


@pytest.fixture(scope="module")
def below(meta_url: str) -> Iterator[Door]:
    with Door(meta_url, "--prefix", PREFIX) as running:
        yield running


class Rclone:
    """One remote `r:`; what runs is named by `release`, "debian" or "current"."""

    def __init__(self, release: str, url: str, vendor: str) -> None:
        self.program = tool("rclone")
        if release == "debian":
            self.program = "/usr/bin/rclone"
            if not os.access(self.program, os.X_OK):
                missing("/usr/bin/rclone", "apt-get install rclone")
        hidden = run([self.program, "obscure", PASSWORD]).strip()
        self.env = {
            "RCLONE_CONFIG": os.devnull, "RCLONE_CONFIG_R_TYPE": "webdav", "RCLONE_CONFIG_R_URL": url,
            "RCLONE_CONFIG_R_VENDOR": vendor, "RCLONE_CONFIG_R_USER": USER, "RCLONE_CONFIG_R_PASS": hidden,
            # A failure must be seen, not repeated until it goes away.
            "RCLONE_RETRIES": "1", "RCLONE_LOW_LEVEL_RETRIES": "1", "RCLONE_STATS": "0",
        }  # fmt: skip

    def __call__(self, *words: str | Path, text: str | None = None) -> str:
        return run([self.program, *map(str, words)], env=self.env, text=text)

    def listed(self, path: str) -> dict[str, dict[str, object]]:
        return {each["Path"]: each for each in json.loads(self("lsjson", "-R", f"r:{path}"))}


_VENDORS = [
    ("current", "other"), ("current", "nextcloud"), ("current", "owncloud"), ("current", "rclone"),
    ("debian", "other"), ("debian", "nextcloud"), ("debian", "owncloud"),
]  # fmt: skip
_QUICK = {("current", "other"), ("current", "nextcloud"), ("debian", "owncloud")}


@pytest.mark.parametrize(
    ("release", "vendor"),
    [pytest.param(*each, marks=[] if each in _QUICK else pytest.mark.heavy, id="-".join(each)) for each in _VENDORS],
)
def test_trees_are_synchronized_both_ways(
    below: Door, tmp_path: Path, rng: random.Random, release: str, vendor: str
) -> None:
    source, name = make_tree(tmp_path / "source", FILES, rng), f"sync {release} {vendor}"
    keeps_times = vendor != "other"
    old = 1_500_000_000
    for number, path in enumerate(sorted(source.rglob("*.bin"))):
        os.utime(path, (old + number, old + number))
    with HttpRecorder(below.port) as recorder:
        rclone = Rclone(release, recorder.url + PREFIX, vendor)
        rclone("sync", "--create-empty-src-dirs", source, f"r:{name}")
        rclone("check", "--download", source, f"r:{name}")
        rclone("check", source, f"r:{name}")
        sent = len([each for each in recorder.exchanges if each.method == "PUT"])
        assert sent == FILES and all(each.status < 500 for each in recorder.exchanges)
        if keeps_times:
            found = rclone.listed(name)
            for number, path in enumerate(sorted(source.rglob("*.bin"))):
                stamp = str(found[str(path.relative_to(source))]["ModTime"])
                assert stamp.startswith("2017-07-14T") and stamp[14:19] == f"{40 + number // 60:02}:{number % 60:02}"
        rclone("sync", source, f"r:{name}")
        assert len([each for each in recorder.exchanges if each.method == "PUT"]) == sent, "nothing had changed"
    changed = sorted(source.rglob("*.bin"))
    changed[3].unlink()
    changed[4].write_bytes(b"longer than it was" * 100_000)
    shutil.move(changed[5], source / "d0" / "moved.bin")
    rclone = Rclone(release, below.url + PREFIX, vendor)
    rclone("sync", "--create-empty-src-dirs", source, f"r:{name}")
    rclone("sync", "--create-empty-src-dirs", f"r:{name}", tmp_path / "back")
    require_same(tree(tmp_path / "back"), tree(source))
    rclone("purge", f"r:{name}")


def test_the_other_commands_work(door: Door, tmp_path: Path, rng: random.Random) -> None:
    rclone = Rclone("current", door.url, "owncloud")
    data = rng.randbytes(3_000_000)
    (tmp_path / "data").write_bytes(data)
    rclone("copyto", tmp_path / "data", "r:rc/one/data.bin")
    rclone("copyto", "r:rc/one/data.bin", "r:rc/two/copy.bin")  # the server copies
    rclone("moveto", "r:rc/two", "r:rc/three")
    rclone("rcat", "r:rc/streamed.txt", text="of unknown length " * 100_000)  # chunked
    assert rclone("cat", "--offset", "5", "--count", "10", "r:rc/streamed.txt") == "known leng"
    rclone("touch", "--timestamp", "2001-02-03T04:05:06", "r:rc/one/data.bin")
    found = rclone.listed("rc")
    assert set(found) == {"one", "one/data.bin", "three", "three/copy.bin", "streamed.txt"}
    assert str(found["one/data.bin"]["ModTime"]).startswith("2001-02-03T04:05:06")
    about = json.loads(rclone("about", "--json", "r:"))
    assert about["free"] > 1 << 30 and about["used"] >= 0
    rclone("copyto", "r:rc/three/copy.bin", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    rclone("rmdirs", "--leave-root", "r:rc")
    rclone("purge", "r:rc")
    assert door.ask("HEAD", "/rc/").status == 404


def test_two_folders_are_kept_alike_by_bisync(door: Door, tmp_path: Path, rng: random.Random) -> None:
    rclone = Rclone("current", door.url, "rclone")
    here = make_tree(tmp_path / "here", 12, rng, names=("plain",))
    common = ["--workdir", tmp_path / "state"]
    rclone("mkdir", "r:bi")
    rclone("bisync", here, "r:bi", "--resync", *common)
    (here / "new here.txt").write_text("from this side")
    door.put("/bi/new%20there.txt", "from the other")
    rclone("bisync", here, "r:bi", *common)
    assert (here / "new there.txt").read_text() == "from the other"
    assert door.ask("GET", "/bi/new%20here.txt").body == b"from this side"
    rclone("purge", "r:bi")


def test_an_upload_whose_checksum_is_wrong_is_refused(door: Door) -> None:
    """rclone sends `OC-Checksum` to ownCloud and Nextcloud."""
    wrong = {"OC-Checksum": "SHA1:" + "0" * 40}
    door.put("/checked", "before")
    assert door.ask("PUT", "/checked", wrong, b"after").status == 400
    assert door.ask("GET", "/checked").body == b"before"


def test_a_checksum_is_computed_when_it_is_asked_for(door: Door, rng: random.Random) -> None:
    """rclone as Nextcloud's client asks after each upload."""
    data = rng.randbytes(9_000_000)
    for body in (b"", b"small", data):
        etag = door.put("/summed", body).etag
        for name, expected in (
            ("sha1", hashlib.sha1(body)),
            ("MD5", hashlib.md5(body)),
            ("sha256", hashlib.sha256(body)),
        ):
            answer = door.ask("PATCH", "/summed", {"X-Recalculate-Hash": name}, b"")
            assert (answer.status, answer.headers["oc-checksum"]) == (204, f"{name.upper()}:{expected.hexdigest()}")
            assert answer.etag == etag
    unknown = door.ask("PATCH", "/summed", {"X-Recalculate-Hash": "crc64"}, b"")
    assert unknown.status == 400 and b"SHA256" in unknown.body
    assert door.ask("PATCH", "/nothing", {"X-Recalculate-Hash": "sha1"}, b"").status == 404
