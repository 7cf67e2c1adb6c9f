# SPDX-License-Identifier: Apache-2.0
"""webdavclient3 of PyPI, in the virtual environment of clients: its file, resource and sync calls.

Source: its README; spec webdav §18.6.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.gateways.webdav.programs import make_tree, require_same, run, tree
from tests.servers.process import CACHE, missing

#: Its names: what it can't do with other ones (it doesn't encode `?`, `#` and `%`) is its own.
NAMES = ("plain", "with space", "umlaut äöü", "plus+and&", "(parens)", "comma,equals=")
_PROGRAM = """
import json, sys
from webdav3.client import Client
job = json.loads(sys.argv[1])
client = Client({"webdav_hostname": job["url"], "webdav_login": job["user"], "webdav_password": job["password"]})
results = []
for method, *arguments in job["do"]:
    try:
        found = getattr(client, method)(*arguments)
    except Exception as error:
        found = type(error).__name__
    results.append(found)
print()
print(json.dumps(results))
"""


def client(door: Door, *calls: list[Any]) -> list[Any]:
    """The results of these calls; of one that failed, the name of its exception."""
    python = CACHE / "clients" / "bin" / "python"
    if not list((CACHE / "clients").glob("lib/python3*/site-packages/webdav3")):
        missing("webdavclient3", "tests/tools/install-needs.sh installs it")
    job = json.dumps({"url": door.url, "user": USER, "password": PASSWORD, "do": calls})
    # It prints progress of its own before.
    found: list[Any] = json.loads(run([str(python), "-c", _PROGRAM, job]).splitlines()[-1])
    return found


def test_files_and_directories(door: Door, tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(5_000_000)
    (tmp_path / "up.bin").write_bytes(data)
    made = client(
        door, ["mkdir", "py3"], ["mkdir", "py3/sub dir"], ["check", "py3/sub dir"], ["check", "py3/nothing"],
        ["upload_sync", "py3/sub dir/up ä.bin", str(tmp_path / "up.bin")], ["list", "py3/sub dir"],
        ["copy", "py3/sub dir/up ä.bin", "py3/copy.bin"], ["move", "py3/copy.bin", "py3/moved.bin"],
        ["download_sync", "py3/moved.bin", str(tmp_path / "down.bin")], ["is_dir", "py3"], ["is_dir", "py3/moved.bin"],
        ["info", "py3/moved.bin"], ["free"], ["mkdir", "py3/nothing/below"], ["clean", "py3/moved.bin"],
        ["check", "py3/moved.bin"],
    )  # fmt: skip
    assert made[2] is True and made[3] is False and made[5] == ["up ä.bin"]
    assert (tmp_path / "down.bin").read_bytes() == data == door.ask("GET", "/py3/sub%20dir/up%20%C3%A4.bin").body
    assert made[9] is True and made[10] is False
    assert made[11]["size"] == str(len(data)) and made[11]["etag"].startswith('"')
    assert int(made[12]) > 1 << 30
    assert made[13] in ("RemoteParentNotFound", "MethodNotSupported")
    assert made[15] is False


def test_properties_are_set_and_read(door: Door) -> None:
    door.put("/py3-props.txt", "x")
    option = {"namespace": "urn:example", "name": "colour", "value": "red"}
    _, value = client(
        door, ["set_property", "py3-props.txt", option], ["get_property", "py3-props.txt", option]
    )  # fmt: skip
    assert value == "red"


def test_trees_are_pushed_and_pulled(door: Door, tmp_path: Path, rng: random.Random) -> None:
    source = make_tree(tmp_path / "source", 20, rng, names=NAMES)
    back = tmp_path / "back"
    back.mkdir()
    door.ask("MKCOL", "/py3-tree/")
    client(door, ["push", "py3-tree", str(source)])
    client(door, ["pull", "py3-tree", str(back)])
    require_same(tree(back), tree(source))
