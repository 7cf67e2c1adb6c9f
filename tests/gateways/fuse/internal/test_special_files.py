# SPDX-License-Identifier: Apache-2.0
"""The special files as a process sees them on a real mount (cli §10.1, metadata-semantics §12.1)."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
from pathlib import Path

import pytest

from core.vfs.internal import protocol as p
from sluicefs.commands.profile import parse
from sluicefs.commands.stats import read_sample
from tests.gateways.fuse.internal.conftest import as_user
from tests.gateways.fuse.mounts import Mount, mounted

NOBODY = 65534


def errno_of(call: object, *args: object) -> int:
    try:
        call(*args)  # type: ignore[operator]
    except OSError as e:
        return e.errno or -1
    return 0


def ask(control: Path, message: bytes) -> bytes:
    """The whole reply to a message."""
    fd = os.open(control, os.O_RDWR)
    try:
        assert os.write(fd, message) == len(message)
        parser, reply = p.ReplyParser(), b""
        while True:
            data = os.read(fd, 1 << 16)
            reply += data
            if any(not isinstance(event, p.Progress) for event in parser.receive(data)):
                return reply
    finally:
        os.close(fd)


def test_they_are_listed_with_their_modes(mount: Mount) -> None:
    names = set(os.listdir(mount.point))
    assert {".accesslog", ".config", ".stats", ".trash"} <= names and ".control" not in names
    for name, mode, ino in (
        (".accesslog", 0o400, 0x7FFFFFFF00000001), (".control", 0o666, 0x7FFFFFFF00000002),
        (".stats", 0o444, 0x7FFFFFFF00000003), (".config", 0o400, 0x7FFFFFFF00000004),
    ):  # fmt: skip
        status = os.stat(mount.point / name)
        assert (stat.S_IMODE(status.st_mode), status.st_ino, status.st_nlink) == (mode, ino, 1)
    trash = os.stat(mount.point / ".trash")
    assert stat.S_ISDIR(trash.st_mode) and trash.st_ino == 0x7FFFFFFF10000000


def test_they_can_not_be_made_removed_or_replaced(mount: Mount) -> None:
    for name in (".accesslog", ".config", ".stats", ".control", ".trash"):
        path = mount.point / name
        assert errno_of(os.mkdir, path) == errno.EEXIST
        assert errno_of(os.rmdir if name == ".trash" else os.unlink, path) == errno.EPERM
        assert errno_of(os.rename, path, mount.point / "other") == errno.EPERM
        if name != ".trash":
            assert errno_of(os.link, path, mount.point / "other") == errno.EPERM
    for name in (".config", ".stats", ".accesslog"):
        assert errno_of(os.open, mount.point / name, os.O_WRONLY) == errno.EACCES


def test_others_read_statistics_and_nothing_else(mount: Mount) -> None:
    def work() -> int:
        readable = bool((mount.point / ".stats").read_text())
        refused = errno_of(os.open, mount.point / ".config", os.O_RDONLY)
        also = errno_of(os.open, mount.point / ".accesslog", os.O_RDONLY)
        return 0 if readable and refused == also == errno.EACCES else 1

    assert as_user(NOBODY, work) == 0


def test_config_is_json_of_this_mount(mount: Mount) -> None:
    document = json.loads((mount.point / ".config").read_text())
    assert document["Format"]["Name"] == "suite" and document["Mountpoint"] == str(mount.point)
    assert document["Version"] and isinstance(document["Pid"], int)


def test_statistics_count_requests_and_bytes(mount: Mount, folder: Path) -> None:
    before = read_sample(mount.point / ".stats")
    data = os.urandom(300_000)
    (folder / "f").write_bytes(data)
    after = read_sample(mount.point / ".stats")

    def grew(name: str) -> float:
        return after.get(f"juicefs_{name}", 0) - before.get(f"juicefs_{name}", 0)

    assert grew("fuse_written_size_bytes_sum") == len(data)
    assert grew("fuse_ops_durations_histogram_seconds_total") >= 5
    assert grew("fuse_ops_total_create") == 1
    assert grew("meta_ops_durations_histogram_seconds_total") > 0
    assert grew("transaction_durations_histogram_seconds_total") > 0
    assert grew("object_request_data_bytes_PUT") == len(data)
    assert after["juicefs_uptime"] > 0 and after["juicefs_cpu_usage"] > 0 and after["juicefs_memory"] > 1 << 20


def test_the_access_log_shows_what_others_do(mount: Mount, folder: Path) -> None:
    fd = os.open(mount.point / ".accesslog", os.O_RDONLY)
    try:
        (folder / "file name").write_bytes(b"12345")
        lines: list[str] = []
        while not any(" release " in line for line in lines):
            lines += os.read(fd, 1 << 17).decode().splitlines()
    finally:
        os.close(fd)
    ino, parent = os.stat(folder / "file name").st_ino, os.stat(folder).st_ino
    created = next(line for line in lines if " create " in line)
    assert f"create ({parent},file name,-rw-" in created and f": ({ino},[-rw-r--r--:0100644,1,0,0," in created
    assert f"[uid:0,gid:0,pid:{os.getpid()}]" in created and " - OK <0." in created
    assert any(f"write ({ino},5,0," in line for line in lines)
    assert all(parse(line) for line in lines if not line.startswith("#"))


def test_control_is_found_everywhere_and_speaks_the_protocol(mount: Mount, folder: Path) -> None:
    (folder / "f").write_bytes(b"x" * 10)
    ino = os.stat(folder / "f").st_ino
    reply = ask(folder / ".control", struct.pack(">IIQ", 1005, 8, ino))
    assert reply[0] == 0xFF and int.from_bytes(reply[1:5], "big") == len(reply) - 5
    assert json.loads(reply[5:])["Paths"] == [f"/{folder.name}/f"]
    assert ask(mount.point / ".control", struct.pack(">II", 999, 0)) == bytes((errno.EINVAL,))
    legacy = struct.pack(">IIQB1s", 1002, 10, os.stat(folder).st_ino, 1, b"f")
    assert ask(mount.point / ".control", legacy) == b"\0"
    assert not os.listdir(folder)


def test_requests_run_as_whoever_asks(mount: Mount, folder: Path) -> None:
    (folder / "f").write_bytes(b"x")
    message = p.encode(p.RemoveTree(os.stat(folder).st_ino, b"f"))
    assert as_user(NOBODY, lambda: ask(mount.point / ".control", message)[-1]) == errno.EACCES
    assert os.listdir(folder) == ["f"]
    os.chown(folder, NOBODY, NOBODY)
    assert as_user(NOBODY, lambda: ask(mount.point / ".control", message)[-1]) == 0


def test_closing_the_control_file_stops_what_runs(mount: Mount, folder: Path) -> None:
    for number in range(300):
        (folder / str(number)).touch()
    fd = os.open(mount.point / ".control", os.O_RDWR)
    os.write(fd, p.encode(p.RemoveTree(1, os.fsencode(folder.name), threads=1)))
    os.close(fd)  # returns when the work has stopped
    left = len(os.listdir(folder))
    assert left > 0
    assert len(os.listdir(folder)) == left


@pytest.mark.parametrize("flag", ["--prefix-internal", "--hide-internal"])
def test_other_names_and_hidden_ones(flag: str) -> None:
    with mounted("sqlite", flag, trash_days=1) as mount:
        names = os.listdir(mount.point)
        if flag == "--hide-internal":
            assert not names and (mount.point / ".stats").read_text()
            return
        assert sorted(names) == [".jfs.accesslog", ".jfs.config", ".jfs.stats", ".jfs.trash"]
        assert not (mount.point / ".stats").exists() and (mount.point / ".jfs.control").exists()
        (mount.point / ".stats").write_text("mine")
        assert (mount.point / ".stats").read_text() == "mine"
