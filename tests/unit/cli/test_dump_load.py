# SPDX-License-Identifier: Apache-2.0
"""`sluice dump` and `sluice load` as a user runs them: files, pipes, compression, refusals (cli §2.8)."""

from __future__ import annotations

import base64
import gzip
import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.meta.format import Format
from tests.golden.volumes import unpack
from tests.unit.cli.conftest import Sluice, environment


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return unpack("sqlite-plain", tmp_path)


def url(path: Path) -> str:
    return f"sqlite3://{path}"


def test_a_dump_to_a_file_is_the_originals_and_private(sluice: Sluice, golden: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = sluice("dump", url(golden / "meta.db"), out)
    assert done.code == 0 and "is dumped to" in done.err and done.out == ""
    assert out.read_bytes() == (golden / "dump.json").read_bytes()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("options", [(), ("-",), ("--fast",), ("--threads", 1)])
def test_a_dump_goes_to_stdout(sluice: Sluice, golden: Path, options: tuple[object, ...]) -> None:
    done = sluice("dump", url(golden / "meta.db"), *options)
    assert done.code == 0
    assert done.out == (golden / "dump.json").read_text()


def test_endings_compress(sluice: Sluice, golden: Path, tmp_path: Path) -> None:
    for name in ("d.json.gz", "d.json.zstd", "d.bin.gz"):
        binary = ("--binary",) if "bin" in name else ()
        assert sluice("dump", *binary, url(golden / "meta.db"), tmp_path / name).code == 0
        target = url(tmp_path / f"{name}.db")
        loaded = sluice("load", target, tmp_path / name)
        assert loaded.code == 0, loaded.err
        assert sluice("dump", target).out == (golden / "dump.json").read_text()
    assert gzip.decompress((tmp_path / "d.json.gz").read_bytes()) == (golden / "dump.json").read_bytes()


def test_one_database_flows_into_another(golden: Path, tmp_path: Path) -> None:
    sluice = [sys.executable, "-m", "sluicefs", "--quiet"]
    first = subprocess.Popen(
        [*sluice, "dump", "--binary", url(golden / "meta.db"), "-"], stdout=subprocess.PIPE, env=environment()
    )
    second = subprocess.run([*sluice, "load", url(tmp_path / "new.db"), "-"], stdin=first.stdout, env=environment())
    assert (first.wait(), second.returncode) == (0, 0)
    shown = subprocess.run([*sluice, "dump", url(tmp_path / "new.db")], capture_output=True, env=environment())
    assert shown.stdout == (golden / "dump.json").read_bytes()


def test_a_dump_of_a_part(sluice: Sluice, golden: Path, tmp_path: Path) -> None:
    done = sluice("dump", "--subdir", "/acl/d", url(golden / "meta.db"))
    assert sorted(json.loads(done.out)["FSTree"]["entries"]) == ["inherits", "inherits-dir"]
    (tmp_path / "part.json").write_text(done.out)
    assert sluice("load", url(tmp_path / "part.db"), tmp_path / "part.json").code == 0
    assert sluice("fsck", "--no-objects", url(tmp_path / "part.db")).code == 0
    missing = sluice("dump", "--subdir", "/nowhere", url(golden / "meta.db"))
    assert missing.code == 1 and "/nowhere doesn't exist" in missing.err
    file = sluice("dump", "--subdir", "/acl/f", url(golden / "meta.db"))
    assert file.code == 1 and "is no directory" in file.err
    assert sluice("dump", "--binary", "--subdir", "/acl", url(golden / "meta.db")).code == 1


def test_a_database_in_use_is_refused_with_a_way_out(sluice: Sluice, golden: Path) -> None:
    refused = sluice("load", url(golden / "meta.db"), golden / "dump.json")
    assert refused.code == 1
    assert "holds a volume already" in refused.err and "name another file" in refused.err


def test_a_damaged_file_is_refused_with_everything_that_is_wrong(sluice: Sluice, golden: Path, tmp_path: Path) -> None:
    document = json.loads((golden / "dump.json").read_text())
    document["FSTree"]["entries"]["acl"]["entries"]["f"]["attr"]["mode"] = 99999
    document["FSTree"]["entries"]["attrs"]["attr"]["inode"] = 2
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(document))
    target = tmp_path / "new.db"
    for option in ((), ("--check",), ("--stat",)):
        refused = sluice("load", *option, url(target), bad)
        assert refused.code == 1
        assert "/acl/f: attr.mode" in refused.err and "already elsewhere in the tree" in refused.err
        assert "nothing was written" in refused.err
    assert sluice("load", "--check", url(target), golden / "dump.json").code == 0
    loaded = sluice("load", url(target), golden / "backup.bin")
    assert loaded.code == 0, loaded.err


def test_the_form_of_a_file_is_found_out_or_insisted_upon(sluice: Sluice, golden: Path, tmp_path: Path) -> None:
    target = url(tmp_path / "new.db")
    wrong = sluice("load", "--binary", target, golden / "dump.json")
    assert wrong.code == 1 and "JSON dump; load it without --binary" in wrong.err
    about = sluice("load", "--stat", "--output", "json", target, golden / "backup.bin").json
    assert about["form"] == "binary" and about["tables"]["node"] == 1398 and about["written"] == 0
    assert sluice("load", "--stat", "--output", "json", golden / "backup.bin").json == about
    assert sluice("load", "--binary", target, golden / "backup.bin").code == 0


def test_an_encrypted_volume_gets_its_key_again(sluice: Sluice, tmp_path: Path) -> None:
    home = unpack("sqlite-gcm", tmp_path)
    info = json.loads((home / "volume.json").read_text())
    target = url(tmp_path / "new.db")
    loaded = sluice("load", target, home / "backup.bin")
    assert loaded.code == 0 and "has no EncryptKey" in loaded.err
    os.remove(tmp_path / "new.db")
    pem = tmp_path / "key.pem"
    pem.write_bytes(base64.b64decode(next(v for n, v in info.items() if "key" in n)))
    phrase = {"JFS_RSA_PASSPHRASE": info.get("passphrase") or ""}
    again = sluice("load", "--encrypt-rsa-key", pem, target, home / "backup.bin", env=phrase)
    assert again.code == 0, again.err
    database = sqlite3.connect(tmp_path / "new.db")
    (text,) = database.execute("SELECT value FROM jfs_setting").fetchone()
    database.close()
    assert Format.parse(text).secrets().encrypt_key == pem.read_text()


def test_a_name_in_a_folder_that_is_not_there(sluice: Sluice, golden: Path, tmp_path: Path) -> None:
    failed = sluice("dump", url(golden / "meta.db"), tmp_path / "no" / "out.json")
    assert failed.code == 1 and "can't be written" in failed.err
    failed = sluice("load", url(tmp_path / "x.db"), tmp_path / "missing.json")
    assert failed.code == 1 and "can't be read" in failed.err
    assert sluice("dump", url(tmp_path / "none.db")).code == 1
