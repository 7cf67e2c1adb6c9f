# SPDX-License-Identifier: Apache-2.0
"""Writes the recordings anew: `python -m tests.gateways.webdav.recorded.record`, as root, clients installed.

Only when a client's next version says something else; the diff then shows what.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tests.gateways.webdav.door import PASSWORD, USER, Door, make_volume
from tests.gateways.webdav.test_clients_gvfs import session
from tests.gateways.webdav.test_clients_rclone import PREFIX, Rclone
from tests.servers.davfs import DavfsMount
from tests.servers.http_recorder import Exchange, HttpRecorder
from tests.servers.process import wait_for

_LEFT_OUT = frozenset({"authorization", "host", "connection", "te", "content-length", "referer", "x-oc-mtime"})


def written(exchanges: list[Exchange], authority: str) -> list[list[object]]:
    """What is sent again: everything but challenges and their repetition, which depend on the login."""
    found: list[list[object]] = []
    etags: dict[str, str] = {}
    for each in exchanges:
        if each.status == 401:
            continue
        headers = {}
        for name, value in each.headers.items():
            if name not in _LEFT_OUT:
                value = re.sub(r"urn:uuid:[0-9a-f-]{36}", "{token}", value).replace(f"http://{authority}", "{url}")
                for tag, target in etags.items():
                    value = value.replace(tag, f"{{etag {target}}}")
                headers[name] = value
        if etag := each.answer.get("etag"):
            etags[etag] = each.target
        body = each.body.decode() if len(each.body) == each.body_bytes else each.body_bytes
        found.append([each.method, each.target, headers, body, each.status])
    return found


def davfs2(door: Door, url: str, folder: Path) -> str:
    with DavfsMount(url + "/", USER, PASSWORD) as mount:
        there = mount.path
        (there / "dir").mkdir()
        (there / "dir" / "a.txt").write_text("one\n")
        wait_for(lambda: door.ask("GET", "/dir/a.txt").body == b"one\n")
        with (there / "dir" / "a.txt").open("a") as more:
            more.write("two\n")
        wait_for(lambda: door.ask("GET", "/dir/a.txt").body == b"one\ntwo\n")
        (there / "dir" / "a.txt").chmod(0o755)
        (there / "dir" / "a.txt").rename(there / "dir" / "b.txt")
        (there / "dir" / "b.txt").unlink()
        (there / "dir").rmdir()
    return subprocess.run(["mount.davfs", "--version"], capture_output=True, text=True).stdout.split("<")[0].strip()


def rclone(vendor: str) -> Callable[[Door, str, Path], str]:
    def run(door: Door, url: str, folder: Path) -> str:
        client = Rclone("current", url + PREFIX, vendor)
        source = folder / "source"
        (source / "sub").mkdir(parents=True)
        (source / "a.txt").write_text("one")
        (source / "sub" / "b.txt").write_text("two")
        single = ("--transfers", "1", "--checkers", "1")
        client("sync", source, "r:tree", *single)
        (source / "a.txt").write_text("longer than one")
        (source / "sub" / "b.txt").unlink()
        client("sync", source, "r:tree", *single)
        client("copyto", "r:tree/a.txt", "r:tree/copy.txt", *single)
        client("moveto", "r:tree/copy.txt", "r:tree/moved.txt", *single)
        client("about", "r:")
        client("copyto", "r:tree/a.txt", folder / "back", *single)
        client("purge", "r:tree")
        return client("version").splitlines()[0]

    return run


def gvfs(door: Door, url: str, folder: Path) -> str:
    (folder / "a").write_text("one")
    session(
        url, folder, 'gio mkdir "$URL/dir"', f'gio copy {folder}/a "$URL/dir/a.txt"', 'gio list -l "$URL/dir"',
        'gio copy "$URL/dir/a.txt" "$URL/dir/b.txt"', 'gio move "$URL/dir/b.txt" "$URL/c.txt"',
        f'gio copy {folder}/a "$URL/c.txt"', 'gio cat "$URL/c.txt" >/dev/null', 'gio remove "$URL/dir/a.txt"',
        'gio remove "$URL/dir"', 'gio remove "$URL/c.txt"',
    )  # fmt: skip
    return "gvfs " + subprocess.run(["gio", "--version"], capture_output=True, text=True).stdout.strip()


CLIENTS: dict[str, tuple[Callable[[Door, str, Path], str], str]] = {
    "davfs2": (davfs2, ""),
    "rclone-other": (rclone("other"), PREFIX),
    "rclone-nextcloud": (rclone("nextcloud"), PREFIX),
    "gvfs": (gvfs, ""),
}

if __name__ == "__main__":
    for name, (run, prefix) in CLIENTS.items():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            with (
                Door(make_volume(folder), *(("--prefix", prefix) if prefix else ())) as door,
                HttpRecorder(door.port) as recorder,
            ):
                version = run(door, recorder.url, folder)
                requests = written(recorder.exchanges, urlsplit(recorder.url).netloc)
        lines = ",\n  ".join(json.dumps(each, ensure_ascii=False) for each in requests)
        head = f'{{"client": {json.dumps(version)}, "prefix": {json.dumps(prefix)}, "requests": [\n  '
        Path(__file__).with_name(f"{name}.json").write_text(f"{head}{lines}\n]}}\n")
        print(name, version, len(requests))
