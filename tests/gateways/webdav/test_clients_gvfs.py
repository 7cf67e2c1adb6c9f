# SPDX-License-Identifier: Apache-2.0
"""GVfs, by which GNOME's file manager mounts WebDAV: `gio` in a D-Bus session of its own, without a desktop.

Source: spec webdav §18.4; manual page gio(1).
"""

from __future__ import annotations

import random
import shlex
import subprocess
from pathlib import Path
from urllib.parse import quote

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.gateways.webdav.programs import ODD_NAMES, tool
from tests.servers.http_recorder import HttpRecorder
from tests.servers.process import missing


def session(url: str, home: Path, *commands: str) -> str:
    """Shell commands with the share mounted at $URL; all have to succeed. Returns what they print."""
    if not any(Path(folder, "gvfsd-dav").exists() for folder in ("/usr/libexec", "/usr/lib/gvfs")):
        missing("gvfsd-dav", "apt-get install gvfs-backends gvfs-daemons")
    runtime = home / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    dav = url.replace("http", "dav", 1)
    mount = f"printf '%s\\n%s\\n' {shlex.quote(USER)} {shlex.quote(PASSWORD)} | gio mount {dav}/ >/dev/null"
    script = "\n".join(["set -e", f"URL={dav}", mount, *commands, "gio mount -u $URL/"])
    env = {
        "HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8",
        "GIO_USE_VOLUME_MONITOR": "null", "GVFS_DISABLE_FUSE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [tool("dbus-run-session"), "--", "sh", "-c", script], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_gnome_mounts_lists_copies_and_removes(door: Door, tmp_path: Path, rng: random.Random) -> None:
    tool("gio")
    data = rng.randbytes(3_000_000)
    (tmp_path / "up.bin").write_bytes(data)
    with HttpRecorder(door.port) as recorder:
        said = session(
            recorder.url, tmp_path,
            'gio mkdir "$URL/gvfs%20dir"',
            f'gio copy {tmp_path}/up.bin "$URL/gvfs%20dir/up%20%C3%A4%20(1).bin"',
            'gio list -l "$URL/gvfs%20dir"',
            'gio copy "$URL/gvfs%20dir/up%20%C3%A4%20(1).bin" "$URL/gvfs%20dir/copy.bin"',
            'gio rename "$URL/gvfs%20dir/copy.bin" renamed.bin >/dev/null',
            'gio move "$URL/gvfs%20dir/renamed.bin" "$URL/moved.bin"',
            f'gio copy "$URL/moved.bin" {tmp_path}/down.bin',
            f'printf new > {tmp_path}/new && gio copy {tmp_path}/new "$URL/moved.bin"',  # over what exists
            'gio info "$URL/moved.bin"',
            'gio remove "$URL/gvfs%20dir/up%20%C3%A4%20(1).bin" "$URL/gvfs%20dir"',
            'gio list "$URL/"',
        )  # fmt: skip
        assert all(each.status < 500 and each.status != 405 for each in recorder.exchanges)
    assert "up ä (1).bin\t3000000\t(regular)" in said
    assert (tmp_path / "down.bin").read_bytes() == data
    assert door.ask("GET", "/moved.bin").body == b"new"
    assert "standard::size: 3" in said and "etag::value: " in said
    assert "moved.bin" in said.splitlines()
    assert door.ask("HEAD", "/gvfs%20dir/").status == 404


def test_gnome_mounts_below_a_prefix_and_reads_every_name(meta_url: str, tmp_path: Path) -> None:
    """It asks for the parents of what it mounts, which only exist in the URL."""
    with Door(meta_url, "--prefix", "/remote/dav") as below:
        below.ask("MKCOL", "/remote/dav/names/")
        for name in ODD_NAMES:
            below.put("/remote/dav/names/" + quote(name), name)
        cats = [f'gio cat "$URL/names/{quote(name)}"; echo' for name in ODD_NAMES]
        said = session(below.url + "/remote/dav", tmp_path, 'gio list "$URL/names"', "echo --", *cats)
    listed, _, content = said.partition("--\n")
    assert sorted(listed.splitlines()) == sorted(ODD_NAMES) and content.splitlines() == list(ODD_NAMES)
