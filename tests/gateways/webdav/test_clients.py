# SPDX-License-Identifier: Apache-2.0
"""cadaver walks, locks and sets properties; curl uploads with `Expect` and resumes.

Source: spec webdav §18.6; manual pages of cadaver and curl.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.gateways.webdav.door import BASIC, PASSWORD, USER, Door
from tests.gateways.webdav.programs import run, tool
from tests.servers.http_recorder import HttpRecorder

LOGIN = ["-sS", "--fail", "-u", f"{USER}:{PASSWORD}"]


def cadaver(door: Door, folder: Path, script: str) -> str:
    (folder / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
    (folder / ".netrc").chmod(0o600)
    home = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [tool("cadaver"), door.url + "/"],
        input=script,
        cwd=folder,
        env=home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


def test_cadaver_walks_locks_and_sets_properties(door: Door, tmp_path: Path) -> None:
    (tmp_path / "up.txt").write_text("cadaver was here")
    said = cadaver(
        door, tmp_path,
        "mkcol cad\ncd cad\nput up.txt\nlock up.txt\nshowlocks\npropset up.txt colour red\npropget up.txt colour\n"
        "propnames up.txt\nunlock up.txt\ncopy up.txt two.txt\nmove two.txt three.txt\nget three.txt down.txt\n"
        "mkcol sub\nput up.txt sub/umlaut-ä.txt\nls sub\ndelete three.txt\nls\nquit\n",
    )  # fmt: skip
    assert (tmp_path / "down.txt").read_text() == "cadaver was here", said
    assert "failed" not in said.lower() and "Value of colour is: red" in said, said
    assert "umlaut-ä.txt" in said and re.search(r"Coll:\s+sub", said), said
    assert door.ask("HEAD", "/cad/three.txt").status == 404
    assert door.ask("GET", "/cad/sub/umlaut-%C3%A4.txt").body == b"cadaver was here"


def test_cadaver_is_told_that_somebody_else_holds_the_lock(door: Door, tmp_path: Path) -> None:
    (tmp_path / "up.txt").write_text("overwritten")
    door.put("/held.txt", "held")
    token = door.lock("/held.txt", depth="0").headers["lock-token"]
    said = cadaver(door, tmp_path, "put up.txt held.txt\ndelete held.txt\nmove held.txt gone.txt\nquit\n")
    assert said.count("423 Locked") + said.lower().count("is locked") >= 3, said
    assert door.ask("GET", "/held.txt").body == b"held"
    door.ask("UNLOCK", "/held.txt", {"Lock-Token": token})


def test_curl_uploads_with_expect_and_resumes(door: Door, tmp_path: Path) -> None:
    curl = tool("curl")
    data = bytes(range(256)) * 8192
    (tmp_path / "big").write_bytes(data)
    run([curl, *LOGIN, "-H", "Expect: 100-continue", "-T", str(tmp_path / "big"), door.url + "/curl.bin"])
    run([curl, *LOGIN, "--digest", "-o", str(tmp_path / "down"), "-r", "0-999999", door.url + "/curl.bin"])
    run([curl, *LOGIN, "-C", "-", "-o", str(tmp_path / "down"), door.url + "/curl.bin"])
    assert (tmp_path / "down").read_bytes() == data
    parts = run([curl, *LOGIN, "-r", "0-9,100-109", "-o", str(tmp_path / "parts"), "-D", "-", door.url + "/curl.bin"])
    assert "206" in parts and "multipart/byteranges" in parts
    assert data[100:110] in (tmp_path / "parts").read_bytes()


def test_curl_is_refused_before_it_sends_a_large_body(door: Door, tmp_path: Path) -> None:
    """Who may not write, and who writes under a lock, sends not a byte after `Expect`."""
    curl = tool("curl")
    (tmp_path / "big").write_bytes(bytes(50 << 20))
    door.put("/expected", "old")
    token = door.lock("/expected", depth="0").headers["lock-token"]
    with HttpRecorder(door.port) as recorder:
        for login, status in (([], "401"), (["-u", f"{USER}:{PASSWORD}"], "423")):
            said = run(
                [curl, "-sS", *login, "-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "--expect100-timeout",
                 "60", "-H", "Expect: 100-continue", "-T", str(tmp_path / "big"), recorder.url + "/expected"]
            )  # fmt: skip
            assert said == f"{status} 0"
        assert [(each.status, each.body_bytes) for each in recorder.exchanges] == [(401, 0), (423, 0)]
    door.ask("UNLOCK", "/expected", {"Lock-Token": token})
    assert door.ask("GET", "/expected").body == b"old"


def test_curl_streams_what_has_no_length(door: Door, tmp_path: Path) -> None:
    run([tool("curl"), *LOGIN, "-T", "-", door.url + "/streamed"], text="line\n" * 100_000)
    assert door.ask("GET", "/streamed").body == b"line\n" * 100_000
    # The same once more, only if nobody changed it since.
    etag = door.ask("HEAD", "/streamed").etag
    run([tool("curl"), *LOGIN, "-T", "-", "-H", f"If-Match: {etag}", door.url + "/streamed"], text="new")
    again = door.ask("PUT", "/streamed", {"If-Match": etag, "Authorization": BASIC}, b"lost update")
    assert again.status == 412
