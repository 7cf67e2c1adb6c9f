# SPDX-License-Identifier: Apache-2.0
"""The commands over a real volume: SQLite and a folder, each command a process of its own (cli §2, §3)."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path

import pytest

from core.meta.format import Format
from tests.unit.cli.conftest import Sluice


def test_format_prints_the_definition_and_a_second_time_changes_nothing(
    sluice: Sluice, meta: str, tmp_path: Path
) -> None:
    made = sluice("format", "--trash-days", 3, meta, "demo", "--bucket", tmp_path / "o", "--compress=lz4")
    assert made.code == 0 and "volume demo is created" in made.err
    assert made.json["TrashDays"] == 3 and made.json["Bucket"] == f"{tmp_path}/o/"
    again = sluice("format", meta, "demo")
    assert again.code == 0 and "Nothing changed." in again.err
    assert again.json == made.json
    assert (tmp_path / "o/demo/juicefs_uuid").read_text() == made.json["UUID"]


def test_format_changes_what_is_given_and_nothing_else(sluice: Sluice, volume: str) -> None:
    before = sluice("config", volume).json
    after = sluice("format", volume, "demo", "--capacity", 10, "--inodes=100").json
    assert after["Capacity"] == 10 << 30 and after["Inodes"] == 100
    assert {n: v for n, v in after.items() if n not in ("Capacity", "Inodes")} == before


@pytest.mark.parametrize(
    "options, words",
    [
        (("--block-size", "1M"), "BlockSize of volume demo can't change from 64 to 1024"),
        (("--compress", "zstd"), "Compression of volume demo can't change"),
        (("--hash-prefix",), "HashPrefix of volume demo can't change"),
    ],
)
def test_format_refuses_what_cannot_change(sluice: Sluice, volume: str, options: tuple[str, ...], words: str) -> None:
    refused = sluice("format", volume, "demo", *options)
    assert refused.code == 1 and words in refused.err
    assert sluice("format", volume, "other").code == 1


def test_no_update_leaves_an_existing_volume_alone(sluice: Sluice, volume: str) -> None:
    done = sluice("format", volume, "demo", "--no-update", "--trash-days", 9)
    assert done.code == 0 and done.json["TrashDays"] == 1


def test_format_refuses_a_place_that_holds_objects(sluice: Sluice, meta: str, tmp_path: Path) -> None:
    (tmp_path / "o/demo").mkdir(parents=True)
    (tmp_path / "o/demo/stranger").write_text("data")
    refused = sluice("format", meta, "demo", "--bucket", tmp_path / "o")
    assert refused.code == 1 and "already holds objects" in refused.err
    assert (tmp_path / "o/demo/stranger").read_text() == "data"


def test_format_takes_a_key_with_its_passphrase_and_never_shows_it(sluice: Sluice, meta: str, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    pem = tmp_path / "key.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        )
    )
    arguments = ("format", meta, "demo", "--bucket", tmp_path / "o", "--encrypt-rsa-key", pem)
    assert "JFS_RSA_PASSPHRASE" in sluice(*arguments).err
    assert "can't be read" in sluice(*arguments, env={"JFS_RSA_PASSPHRASE": "wrong"}).err
    made = sluice(*arguments, env={"JFS_RSA_PASSPHRASE": "pass"})
    assert made.code == 0 and made.json["EncryptKey"] == "removed" and made.json["KeyEncrypted"]
    env = {"JFS_RSA_PASSPHRASE": "pass"}
    assert sluice("cp", meta, "-", ":/secret", input="a plain sentence", env=env).code == 0
    assert sluice("cp", meta, ":/secret", "-", env=env).out == "a plain sentence"
    assert not any(b"a plain sentence" in p.read_bytes() for p in (tmp_path / "o").rglob("*") if p.is_file())


def test_config_shows_changes_and_asks_before_dangerous_ones(sluice: Sluice, volume: str) -> None:
    assert sluice("config", volume).json["TrashDays"] == 1
    asked = sluice("config", volume, "--trash-days", 0)
    assert asked.code == 1 and "WARNING" in asked.err and "Aborted." in asked.err
    assert sluice("config", volume).json["TrashDays"] == 1
    assert "TrashDays: 1 -> 0" in sluice("config", volume, "--trash-days", 0, input="y\n").out
    done = sluice("config", "--upload-limit", "1G", volume, "--dir-stats=false", "--output", "json")
    assert done.json["changed"] == {"UploadLimit": [None, 1000], "DirStats": [True, None]} or done.json["changed"] == {
        "UploadLimit": [None, 1000]
    }
    assert sluice("config", volume).json.get("DirStats") is None
    assert "Nothing changed." in sluice("config", volume, "--upload-limit", 1000).out


def test_config_refuses_what_cannot_be(sluice: Sluice, volume: str) -> None:
    assert "only rise" in sluice("config", volume, "--min-client-version", "1.0.0").err
    assert sluice("config", volume, "--enable-acl").code == 0
    assert "can't be switched off" in sluice("config", volume, "--enable-acl=false").err
    assert "add --tier" in sluice("config", volume, "--storage-class", "COLD").err


def test_config_defines_a_tier(sluice: Sluice, volume: str) -> None:
    assert sluice("config", volume, "--tier", 1, "--storage-class", "COLD", "--tag", "a=b", "-y").code == 0
    setting = sluice("config", volume).json
    assert setting["Tiers"]["1"] == {"ID": 1, "StorageClass": "COLD", "Tag": "a=b"}
    assert setting["MinClientVersion"] == "1.4.0-A"


def test_credentials_come_from_the_environment_and_are_stored_encrypted(
    sluice: Sluice, volume: str, tmp_path: Path
) -> None:
    done = sluice("config", volume, env={"ACCESS_KEY": "AK", "SECRET_KEY": "a very secret key"})
    assert done.code == 0, done.err
    assert "very secret" not in done.out + done.err
    assert b"very secret" not in (tmp_path / "meta.db").read_bytes()
    shown = sluice("config", volume).json
    assert shown["AccessKey"] == "AK" and shown["SecretKey"] == "removed"
    assert "SecretKey: changed" in sluice("config", volume, env={"SECRET_KEY": "another secret key"}).out


def tree(folder: Path) -> None:
    """A folder with what makes copying difficult."""
    rng = random.Random(5)
    (folder / "deep/er").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "zero").write_bytes(b"")
    (folder / "small").write_bytes(b"x")
    (folder / "block").write_bytes(rng.randbytes(65536))
    (folder / "deep/er/large").write_bytes(rng.randbytes(1_000_000))
    (folder / "größe ' \" \n.txt").write_text("name")
    os.symlink("../small", folder / "deep/link")
    (folder / "small").chmod(0o640)
    os.utime(folder / "small", ns=(1_000_000_000, 1_234_567_891_234_567_890))


def described(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def test_a_tree_survives_the_way_in_inside_and_out(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    tree(source)
    assert sluice("cp", volume, "-rp", source, ":/in").code == 0
    assert sluice("cp", "-r", "-p", volume, ":/in", ":/copy").code == 0
    out = sluice("cp", volume, "-r", ":/copy", tmp_path / "out", "-p", "--output=json")
    assert out.code == 0 and out.json["files"] == 6
    assert described(tmp_path / "out") == described(source)
    small = (tmp_path / "out/small").stat()
    assert stat.S_IMODE(small.st_mode) == 0o640 and small.st_mtime_ns == 1_234_567_891_234_567_890
    listed = sluice("ls", volume, "-R", "/copy", "--output", "json").json
    assert len(listed) == len(described(source))


def test_a_copy_inside_the_volume_moves_no_data(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    sluice("cp", volume, "-", ":/a", input=bytes(range(256)) * 2000)
    before = sorted((tmp_path / "data").rglob("*_*_*"))
    assert sluice("cp", volume, ":/a", ":/b").code == 0
    assert sorted((tmp_path / "data").rglob("*_*_*")) == before
    assert sluice("rm", volume, "/a", "--skip-trash").code == 0
    assert sluice("cp", volume, ":/b", tmp_path / "b").code == 0
    assert (tmp_path / "b").read_bytes() == bytes(range(256)) * 2000


def test_cp_refuses_what_makes_no_sense(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    assert "both sides are local" in sluice("cp", volume, tmp_path / "f", tmp_path / "g").err
    assert "-r copies folders" in sluice("cp", volume, tmp_path, ":/x").err
    assert sluice("cp", volume, "-r", tmp_path / "f", ":/d/f").code == 0
    assert "into itself" in sluice("cp", volume, "-r", ":/d", ":/d/e").err
    assert "no such file" in sluice("cp", volume, ":/nothing", tmp_path / "g").err
    assert not (tmp_path / "g").exists()
    assert "is a folder" in sluice("cp", volume, "-", ":/d", input="x").err


def test_rm_moves_to_the_trash_unless_told_otherwise(sluice: Sluice, volume: str) -> None:
    for name in ("a", "b", "d/c"):
        sluice("cp", volume, "-", f":/{name}", input=name)
    assert sluice("rm", volume, "a").code == 0
    trash = sluice("ls", volume, "-R", "/.trash", "--output", "json").json
    assert any(entry["path"].endswith("-a") for entry in trash)
    assert "-r removes folders" in sluice("rm", volume, "/d").err
    assert sluice("rm", volume, "-r", "/d", "b", "--skip-trash").code == 0
    assert sluice("ls", volume).out == ""
    assert sluice("rm", volume, "/a").code == 1
    assert sluice("rm", volume, "-f", "/a").code == 0
    assert "root of the volume" in sluice("rm", volume, "-r", "/").err


def test_status_is_the_document_that_scripts_know(sluice: Sluice, volume: str) -> None:
    sluice("config", volume, "--trash-days", 0, "-y")  # the trash's folders would count
    sluice("cp", volume, "-", ":/a", input="12345")
    document = sluice("status", volume).json
    assert list(document) == ["Setting", "Sessions", "Stat"]
    assert document["Stat"]["UsedSpace"] == 4096 and document["Stat"]["UsedInodes"] == 1
    assert document["Sessions"] == []
    assert "no client 7" in sluice("status", volume, "-s", 7).err


def test_info_names_the_objects_of_a_file(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    sluice("cp", volume, "-", ":/d/a", input=b"x" * 100_000)
    (document,) = sluice("info", volume, "/d/a", "--output", "json").json
    assert document["length"] == 100_000 and document["paths"] == ["/d/a"]
    assert sum(row["length"] for row in document["objects"]) == 100_000
    for row in document["objects"]:
        assert (tmp_path / "data" / row["objectName"]).stat().st_size == row["size"]
    (by_number,) = sluice("info", volume, "-i", document["inode"], "--output", "json").json
    assert by_number["objects"] == document["objects"]
    (raw,) = sluice("info", "--raw", volume, "/d/a", "--output", "json").json
    assert raw["slices"][0]["length"] == 100_000
    (folder,) = sluice("info", "-r", volume, "/", "--output", "json").json
    assert (folder["files"], folder["dirs"], folder["length"]) == (1, 2, 100_000)
    text = sluice("info", volume, "/d/a").out
    assert "97.66 KiB (100000 Bytes)" in text and "| chunkIndex |" in text
    assert sluice("info", volume, "/d/a", "/nothing").code == 1


def test_gc_finds_leaked_objects_and_spares_young_and_live_ones(sluice: Sluice, volume: str, tmp_path: Path) -> None:
    sluice("cp", volume, "-", ":/a", input=b"live" * 50_000)
    live = set((tmp_path / "data").rglob("*_*_*"))
    old = tmp_path / "data/demo/chunks/0/999/999999_0_100"
    young = old.with_name("999998_0_100")
    for path in (old, young):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
    os.utime(old, (1, 1))
    found = sluice("gc", volume, "--output", "json").json
    assert found["leaked"] == {"objects": 1, "bytes": 100} and found["skipped"]["objects"] == 1
    assert found["valid"]["objects"] == len(live) and old.exists()
    removed = sluice("gc", "--delete", volume, "--output", "json").json
    assert removed["deleted"] == 1 and not old.exists() and young.exists()
    assert sluice("cp", volume, ":/a", "-").out == "live" * 50_000
    sluice("gc", volume, "--delete", env={"JFS_GC_SKIPPEDTIME": "0"})
    assert not young.exists()


def test_a_volume_made_here_has_a_setting_that_reads_back(sluice: Sluice, volume: str) -> None:
    document = sluice("config", volume).out
    assert Format.parse(document).name == "demo"
    assert json.loads(document)["MinClientVersion"] == "1.1.0-A"
