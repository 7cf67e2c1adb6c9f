# SPDX-License-Identifier: Apache-2.0
"""What is a metadata address, what a path, and what is said where nothing is mounted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import ConfigError, FsError
from core.vfs.internal import protocol as p
from sluicefs.mounts import Control, TooOld, find_place, is_meta_url, require_root, split_arguments


@pytest.mark.parametrize(
    "text",
    [
        "redis://h/1",
        "sqlite3:///x.db",
        "localhost",
        "localhost:6379/1",
        "h:6379",
        "[::1]:6379/0",
        "u:p@h/1",
        "localhost/1",
        "db.example.com/2",
    ],
)
def test_addresses(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_meta_url(text)


@pytest.mark.parametrize("text", ["/mnt/x", "./x", "../x", "~/x", "x", "x/y", "d/5", "a b:1", "dir/file:1"])
def test_paths(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_meta_url(text)


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "localhost:6379").touch()
    assert not is_meta_url("localhost:6379")


def test_something_has_to_be_named() -> None:
    assert split_arguments(["redis://h/1", "/a", "/b"]) == ("redis://h/1", ["/a", "/b"])
    assert split_arguments(["/a", "redis://h/1"]) == (None, ["/a", "redis://h/1"])
    with pytest.raises(ConfigError, match="PATH is missing"):
        split_arguments(["redis://h/1"])


def test_without_a_mount_the_way_out_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mount the volume, or give META-URL"):
        find_place(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        find_place(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="not below a mount"):
        require_root(str(tmp_path))


def test_a_file_of_that_name_is_no_control_file(tmp_path: Path) -> None:
    (tmp_path / ".control").write_text("mine")
    with pytest.raises(ConfigError, match="not below a mount"):
        find_place(str(tmp_path))


class Answering:
    """A pair of pipes in the place of a control file: what is written is taken, what is told is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *replies: bytes) -> None:
        left = list(replies)
        self.written = b""

        def write(fd: int, data: bytes) -> int:
            self.written += bytes(data)
            return len(data)

        monkeypatch.setattr("sluicefs.mounts.os.write", write)
        monkeypatch.setattr("sluicefs.mounts.os.read", lambda fd, size: left.pop(0))


def test_asking_waits_for_progress_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "control"
    path.touch()
    with Control(str(path)) as control:
        with monkeypatch.context() as patch:
            told: list[tuple[int, int]] = []
            Answering(
                patch, b"", p.progress_frame(1, 2), b"", p.progress_frame(3, 4)[:5], p.progress_frame(3, 4)[5:], b"\0"
            )
            assert control.ask(p.Compact(1), lambda a, b: told.append((a, b))) == b""
            assert told == [(1, 2), (3, 4)]
        with monkeypatch.context() as patch:
            Answering(patch, p.data_frame(b"{}"))
            assert control.ask(p.Info(1)) == b"{}"
        with monkeypatch.context() as patch:
            Answering(patch, b"\x11")
            with pytest.raises(FsError, match="File exists"):
                control.ask(p.Compact(1))
        with monkeypatch.context() as patch:
            Answering(patch, b"\x16")
            with pytest.raises(TooOld, match="doesn't know this request"):
                control.ask(p.Compact(1))
    assert os.stat(path).st_size == 0
