# SPDX-License-Identifier: Apache-2.0
"""What `-o`, fstab lines and the mount helper turn into."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from sluicefs import fstab
from sluicefs.fuse_options import parse_labels, parse_o, parse_owner, parse_umask

FLAGS = frozenset(("cache-size", "cache-dir", "read-only", "attr-cache", "enable-xattr", "background"))


def test_options_of_the_kernel_go_to_the_kernel() -> None:
    found = parse_o(["allow_other,noatime", "max_read=64K,ro"])
    assert found.mount == ["allow_other", "noatime", "max_read=65536", "ro"]
    assert (found.read_only, found.subtype) == (True, "sluicefs")


def test_words_of_fstab_that_mean_nothing_here_are_skipped() -> None:
    found = parse_o(["_netdev,nofail,defaults,rw,x-systemd.automount,nonempty"], FLAGS)
    assert (found.mount, found.own) == (["rw"], {})


def test_flags_of_ours_may_stand_in_an_fstab_line_under_old_names_too() -> None:
    found = parse_o(["cache-size=2048,enable-xattr,attrcacheto=5,cache-dir=/a\\,b"], FLAGS)
    assert found.own == {"cache-size": "2048", "enable-xattr": "true", "attr-cache": "5", "cache-dir": "/a,b"}


@pytest.mark.parametrize("text", ["nosuch", "cache-size=1", "force", "subtype=", "max_read"])
def test_what_nobody_understands_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match=text.partition("=")[0]):
        parse_o([text])


def test_a_mount_may_look_like_another() -> None:
    assert parse_o(["subtype=juicefs"]).subtype == "juicefs"
    assert parse_o(["subtype=fuse.juicefs,fsname=JuiceFS:x"]).fsname == "JuiceFS:x"


def test_owners_masks_and_labels() -> None:
    assert parse_owner("65534:65533", "--root-squash") == (65534, 65533)
    assert parse_owner("7", "--root-squash") == (7, 7)
    assert parse_owner("", "--root-squash") is None
    assert (parse_umask("022"), parse_umask(None)) == (0o22, None)
    assert parse_labels("a:b;c:d:e") == {"a": "b", "c": "d:e"}
    for call in (lambda: parse_owner("x:1", "--all-squash"), lambda: parse_umask("9"), lambda: parse_labels("a=b")):
        with pytest.raises(ConfigError):
            call()


def test_the_helper_speaks_the_language_of_mount() -> None:
    arguments = fstab.translate(
        ["redis://h/1", "/mnt", "-sn", "-o", "rw,cache-size=5", "-t", "sluicefs", "-o", "noatime"]
    )
    assert arguments == ["redis://h/1", "/mnt", "-d", "-o", "rw,cache-size=5,noatime"]
    assert fstab.translate(["redis://h/1", "/mnt", "-r"]) == ["redis://h/1", "/mnt", "-d", "--read-only"]
    assert fstab.translate(["redis://h/1", "/mnt", "-f"]) is None
    with pytest.raises(SystemExit):
        fstab.translate(["/mnt"])


def test_a_command_line_becomes_an_fstab_line() -> None:
    line = fstab.fstab_line(
        ["mount", "redis://h/1", "mnt", "-d", "--cache-size", "5G", "--enable-xattr", "-o", "allow_other,noatime",
         "--update-fstab", "--cache-dir=/a:/b"],
        "/my mount",
    )  # fmt: skip
    assert line == (
        "redis://h/1  /my\\040mount  sluicefs"
        "  _netdev,nofail,cache-size=5G,enable-xattr,allow_other,noatime,cache-dir=/a:/b  0 0"
    )


def test_passwords_are_kept_out_of_fstab() -> None:
    with pytest.raises(ConfigError, match="META_PASSWORD_FILE"):
        fstab.fstab_line(["mount", "redis://:secret@h/1", "/mnt"], "/mnt")


def test_the_line_of_a_mount_point_is_replaced_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(fstab, "in_container", lambda: False)
    monkeypatch.setattr(fstab, "_UPDATEDB", str(tmp_path / "updatedb.conf"))
    (tmp_path / "updatedb.conf").write_text('PRUNEFS="NFS proc"\n')
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / "program"))
    (tmp_path / "program").touch()
    table = tmp_path / "fstab"
    table.write_text("UUID=1 / ext4 defaults 0 1\nredis://old  /mnt  sluicefs  _netdev  0 0\n")
    table.chmod(0o640)
    for _ in range(2):
        fstab.update_fstab(
            ["mount", "redis://new/1", "/mnt"], "/mnt", table=str(table), helper_path=str(tmp_path / "h")
        )
    assert table.read_text().splitlines() == [
        "UUID=1 / ext4 defaults 0 1", "redis://new/1  /mnt  sluicefs  _netdev,nofail  0 0",
    ]  # fmt: skip
    assert table.stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "h").resolve() == tmp_path / "program"
    assert (tmp_path / "updatedb.conf").read_text() == 'PRUNEFS="fuse.sluicefs NFS proc"\n'
