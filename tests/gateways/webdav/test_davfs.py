# SPDX-License-Identifier: Apache-2.0
"""davfs2: the door as a mounted directory of Linux, edited in place, copied into, shared by two mounts with locks.

Source: spec webdav §18.3; manual page davfs2.conf(5).
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.gateways.webdav.door import PASSWORD, USER, Door
from tests.gateways.webdav.programs import make_tree, require_same, run, tree
from tests.servers.davfs import DavfsMount
from tests.servers.process import wait_for

D = "{DAV:}"
#: davfs2's own directory in each mount, for what it could not upload.
BACKUP = "lost+found"


@contextmanager
def mounted(door: Door, owner: str = "tests") -> Iterator[Path]:
    with DavfsMount(door.url + "/", USER, PASSWORD, owner=owner) as mount:
        yield mount.path
        # davfs2 puts there what the server refused.
        assert list((mount.path / BACKUP).iterdir()) == []


def comes(door: Door, path: str, content: bytes) -> None:
    """The kernel tells of a close after it has returned: only then does davfs2 upload."""
    wait_for(lambda: door.ask("GET", path).body == content, what=f"{content!r} in {path}")


@pytest.mark.parametrize("files", [100, pytest.param(2000, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])])
def test_a_tree_is_copied_in_and_out(door: Door, tmp_path: Path, rng: random.Random, files: int) -> None:
    source = make_tree(tmp_path / "source", files, rng)
    name = f"davfs {files}"
    with mounted(door) as there:
        shutil.copytree(source, there / name)
    # A second mount knows nothing yet: this is what the server has.
    with mounted(door) as there:
        shutil.copytree(there / name, tmp_path / "back")
        require_same(tree(tmp_path / "back"), tree(source))
        (there / name / "d1").rename(there / name / "renamed ü")
        shutil.rmtree(there / name / "d2")
    (source / "d1").rename(source / "renamed ü")
    shutil.rmtree(source / "d2")
    with mounted(door) as there:
        require_same(tree(there / name), tree(source))
        shutil.rmtree(there / name)
    assert door.ask("HEAD", "/davfs%20" + str(files)).status == 404


def test_files_are_edited_in_place(door: Door) -> None:
    with mounted(door) as there:
        file = there / "edited.txt"
        file.write_text("one\ntwo\n")
        comes(door, "/edited.txt", b"one\ntwo\n")
        etag = door.ask("HEAD", "/edited.txt").etag
        with file.open("a") as more:
            more.write("three\n")
        comes(door, "/edited.txt", b"one\ntwo\nthree\n")
        assert door.ask("HEAD", "/edited.txt").etag != etag
        with file.open("r+b") as shorter:  # of a file that nobody opened davfs2 sends the new length after ten seconds
            shorter.truncate(4)
        comes(door, "/edited.txt", b"one\n")
        with file.open("r+b") as inside:
            inside.seek(8)  # leaves a hole
            inside.write(b"end")
        comes(door, "/edited.txt", b"one\n\0\0\0\0end")
        run(["sed", "-i", "s/end/END/", str(file)])  # a temporary file and a rename over the old one
        comes(door, "/edited.txt", b"one\n\0\0\0\0END")


def test_files_are_saved_as_vim_saves_them(door: Door) -> None:
    with mounted(door) as there:
        file, backup, swap = there / "notes.md", there / "notes.md~", there / ".notes.md.swp"
        file.write_text("draft")
        for text in ("second", "third", ""):
            swap.write_bytes(b"b0VIM 9.1" + bytes(4000))
            file.rename(backup)
            with file.open("w") as new:
                new.write(text)
                new.flush()
                os.fsync(new.fileno())
            backup.unlink()
            swap.unlink()
            comes(door, "/notes.md", text.encode())
        assert door.ask("HEAD", "/notes.md~").status == 404


@pytest.mark.parametrize("mib", [24, pytest.param(600, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])])
def test_large_files_pass_in_both_directions(door: Door, tmp_path: Path, rng: random.Random, mib: int) -> None:
    piece = rng.randbytes(1 << 20)
    source = tmp_path / "large"
    with source.open("wb") as out:
        for number in range(mib):
            out.write(number.to_bytes(4, "big") + piece[4:])
    with mounted(door) as there:
        shutil.copyfile(source, there / "large.bin")
    with mounted(door) as there:
        run(["cmp", str(source), str(there / "large.bin")], timeout_s=300)
        (there / "large.bin").unlink()


def test_what_others_change_is_seen(door: Door) -> None:
    door.put("/shared.txt", "by HTTP")
    with mounted(door) as there:
        assert (there / "shared.txt").read_text() == "by HTTP"
        door.put("/shared.txt", "by HTTP again")
        # davfs2 asks again once a second, whatever its settings.
        wait_for(lambda: (there / "shared.txt").read_text() == "by HTTP again", what="the new content")
        door.ask("DELETE", "/shared.txt")
        wait_for(lambda: "shared.txt" not in os.listdir(there), what="its end")


def test_programs_stay_executable(door: Door) -> None:
    with mounted(door) as there:
        (there / "tool.sh").write_text("#!/bin/sh\necho it runs\n")
        (there / "tool.sh").chmod(0o755)
    found = door.ask("PROPFIND", "/tool.sh", {"Depth": "0"})
    assert found.texts("{http://apache.org/dav/props/}executable") == ["T"]
    with mounted(door) as there:
        assert os.access(there / "tool.sh", os.X_OK)
        assert run(["sh", "-c", str(there / "tool.sh")]) == "it runs\n"


def test_a_second_mount_respects_the_lock_of_the_first(door: Door, other_door: Door) -> None:
    """Through a door each: the lock is on the volume."""
    with mounted(door, "ann") as ann, mounted(other_door, "bob") as bob:
        (ann / "report.txt").write_text("draft of Ann")
        with (ann / "report.txt").open("a") as held:
            held.write("\nnot yet saved")
            shown = other_door.ask("PROPFIND", "/report.txt", {"Depth": "0"})
            assert shown.texts(D + "owner") == ["ann"] and len(shown.texts(D + "locktoken")) == 1
            wait_for(lambda: "report.txt" in os.listdir(bob), what="report.txt in the other mount")
            with pytest.raises(OSError) as refused:
                (bob / "report.txt").open("a")
            assert refused.value.errno in (errno.EACCES, errno.EBUSY)
            with pytest.raises(OSError):
                (bob / "report.txt").unlink()
            with pytest.raises(OSError):
                (bob / "report.txt").rename(bob / "stolen.txt")
            assert (bob / "report.txt").read_text() == "draft of Ann"  # reading needs no lock
            (bob / "other.txt").write_text("free")
        comes(door, "/report.txt", b"draft of Ann\nnot yet saved")
        wait_for(
            lambda: not other_door.ask("PROPFIND", "/report.txt", {"Depth": "0"}).texts(D + "locktoken"), what="UNLOCK"
        )
        # The kernel appends at the size that it was told last.
        wait_for(lambda: (bob / "report.txt").stat().st_size == 26, what="the new size")
        with (bob / "report.txt").open("a") as more:
            more.write("\nand of Bob")
        comes(door, "/report.txt", b"draft of Ann\nnot yet saved\nand of Bob")
        assert (ann / "report.txt").read_text() == "draft of Ann\nnot yet saved\nand of Bob"


def test_a_lock_of_another_client_is_respected(door: Door) -> None:
    door.put("/taken.txt", "old")
    token = door.lock("/taken.txt", depth="0").headers["lock-token"]
    with mounted(door) as there:
        with pytest.raises(OSError):
            (there / "taken.txt").open("w")
        assert door.ask("UNLOCK", "/taken.txt", {"Lock-Token": token}).status == 204
        (there / "taken.txt").write_text("new")
    comes(door, "/taken.txt", b"new")
