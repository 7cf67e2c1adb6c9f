# SPDX-License-Identifier: Apache-2.0
"""The npm client `webdav` on Node.js; `webdav_client.mjs` is the program. Source: its README; spec webdav §18.6."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.gateways.webdav.programs import ODD_NAMES, run, tool
from tests.servers.process import CACHE, missing

MODULES = CACHE / "npm" / "node_modules"


class NpmWebdav:
    """Several calls in one run of Node.js; their results."""

    def __init__(self, door: Door, *, digest: bool = False) -> None:
        self.node = tool("node")
        if not (MODULES / "webdav").is_dir():
            missing("webdav of npm", "tests/tools/install-needs.sh installs it")
        self._job = {"url": door.url, "user": USER, "password": PASSWORD, "digest": digest}

    def __call__(self, *calls: list[Any]) -> list[Any]:
        job = json.dumps({**self._job, "do": calls})
        program = Path(__file__).with_name("webdav_client.mjs")
        found: list[Any] = json.loads(run([self.node, str(program), job], env={"NODE_PATH": str(MODULES)}))
        return found


@pytest.fixture
def client(door: Door) -> NpmWebdav:
    return NpmWebdav(door)


def test_files_are_written_read_listed_and_moved(client: NpmWebdav, door: Door) -> None:
    door.ask("DELETE", "/npm")
    door.ask("MKCOL", "/npm")
    made = client(
        ["createDirectory", "/npm/a/b", {"recursive": True}],
        ["putFileContents", "/npm/a/text.txt", "Grüße"],
        ["putFileContents", "/npm/a/text.txt", "again", {"overwrite": False}],
        ["copyFile", "/npm/a/text.txt", "/npm/a/b/copy.txt"],
        ["moveFile", "/npm/a/b/copy.txt", "/npm/moved.txt"],
        ["getFileContents", "/npm/moved.txt", {"format": "text"}],
        ["exists", "/npm/a/b/copy.txt"],
        ["exists", "/npm/a/b"],
    )
    assert made[1:3] == [True, False] and made[5:] == ["Grüße", False, True]
    (listed, deep, stat, quota, compliance) = client(
        ["getDirectoryContents", "/npm"], ["getDirectoryContents", "/npm/a", {"includeSelf": True}],
        ["stat", "/npm/moved.txt", {"details": True}], ["getQuota"], ["getDAVCompliance", "/npm/"],
    )  # fmt: skip
    assert {(each["basename"], each["type"]) for each in listed} == {("a", "directory"), ("moved.txt", "file")}
    assert deep[0]["filename"] == "/npm/a"
    assert stat["data"]["size"] == len("Grüße".encode()) and stat["data"]["mime"] == "text/plain"
    assert stat["data"]["etag"] == door.ask("HEAD", "/npm/moved.txt").etag.strip('"')
    assert quota is None, "it asks for all properties, and quotas are none of those (RFC 4331)"
    assert {"1", "2", "3", "sabredav-partialupdate"} <= set(compliance["compliance"])


def test_every_name_comes_back(client: NpmWebdav, door: Door) -> None:
    door.ask("DELETE", "/npm%20names")
    door.ask("MKCOL", "/npm%20names")
    (*_, listed) = client(
        *[["putFileContents", f"/npm names/{name}", name] for name in ODD_NAMES],
        ["getDirectoryContents", "/npm names"],
    )
    assert {each["basename"] for each in listed} == set(ODD_NAMES)
    for name in ODD_NAMES:
        assert door.ask("GET", "/npm%20names/" + quote(name)).body == name.encode()


@pytest.mark.parametrize("digest", [False, True], ids=["basic", "digest"])
def test_large_files_are_streamed(door: Door, tmp_path: Path, rng: random.Random, digest: bool) -> None:
    client = NpmWebdav(door, digest=digest)
    data = rng.randbytes(20_000_000)
    (tmp_path / "data").write_bytes(data)
    client(
        ["exists", "/"],  # a stream can't be sent again after the challenge of Digest
        ["upload", "/npm-large.bin", str(tmp_path / "data")],
        ["download", "/npm-large.bin", str(tmp_path / "back"), {}],
        ["download", "/npm-large.bin", str(tmp_path / "part"), {"range": {"start": 5_000_000, "end": 5_000_099}}],
    )
    assert (tmp_path / "back").read_bytes() == data
    assert (tmp_path / "part").read_bytes() == data[5_000_000:5_000_100]


def test_parts_of_a_file_are_replaced(client: NpmWebdav, door: Door) -> None:
    door.put("/npm-part.txt", "0123456789")
    client(["partialUpdateFileContents", "/npm-part.txt", 2, 5, "abcd"])
    assert door.ask("GET", "/npm-part.txt").body == b"01abcd6789"


def test_locks_are_taken_and_given_back(client: NpmWebdav, door: Door) -> None:
    door.put("/npm-lock.txt", "locked")
    ((lock),) = client(["lock", "/npm-lock.txt", {"timeout": "Second-600"}])
    assert lock["token"]
    refused = client(
        ["fails", "putFileContents", "/npm-lock.txt", "no"], ["fails", "deleteFile", "/npm-lock.txt"],
        ["fails", "moveFile", "/npm-lock.txt", "/elsewhere.txt"], ["fails", "lock", "/npm-lock.txt", {}],
    )  # fmt: skip
    assert refused == [423] * 4
    held = {"headers": {"If": f"(<{lock['token'].strip('<>')}>)"}}
    client(
        ["putFileContents", "/npm-lock.txt", "by its holder", held], ["unlock", "/npm-lock.txt", lock["token"]],
        ["deleteFile", "/npm-lock.txt"],
    )  # fmt: skip
    assert door.ask("HEAD", "/npm-lock.txt").status == 404


def test_errors_have_their_status(client: NpmWebdav, door: Door) -> None:
    door.put("/npm-file", "x")
    statuses = client(
        ["fails", "stat", "/npm-nothing"], ["fails", "getFileContents", "/npm-nothing"],
        ["fails", "createDirectory", "/npm-nothing/a"], ["fails", "createDirectory", "/npm-file"],
        ["fails", "putFileContents", "/npm-file/below", "x"], ["fails", "deleteFile", "/npm-nothing"],
    )  # fmt: skip
    assert statuses == [404, 404, 409, 405, 409, 404]
