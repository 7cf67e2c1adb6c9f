# SPDX-License-Identifier: Apache-2.0
"""Volumes made by JuiceFS 1.4.1, dumped by us: the same files that `juicefs dump` made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.dump.scratch_source import ScratchSource
from tests.dump.compare import differences
from tests.dump.support import backup_of, json_of, opened, records_of, source
from tests.golden.volumes import names


@pytest.mark.parametrize("name", names())
async def test_the_json_dump_is_the_originals_byte_for_byte(name: str, tmp_path: Path) -> None:
    with source(name, tmp_path) as volume:
        expected = (volume.folder / "dump.json").read_bytes()
        async with opened(volume.meta_url) as store:
            found = await json_of(store)
            assert differences(found, expected) == []
            assert found == expected
            # Small pages and reading ahead change nothing.
            assert await json_of(store, page=7, threads=3) == expected


@pytest.mark.parametrize("name", names())
async def test_a_fast_dump_is_the_same(name: str, tmp_path: Path) -> None:
    with source(name, tmp_path) as volume:
        async with opened(volume.meta_url) as store:
            with ScratchSource() as scanned:
                await scanned.fill(store)
                found = await json_of(store, source=scanned)
        assert found == (volume.folder / "dump.json").read_bytes()


@pytest.mark.parametrize("name", names())
async def test_the_binary_backup_has_the_originals_records(name: str, tmp_path: Path) -> None:
    with source(name, tmp_path) as volume:
        async with opened(volume.meta_url) as store:
            found = await records_of(await backup_of(store))
        expected = await records_of((volume.folder / "backup.bin").read_bytes())
        if volume.info["meta"]["engine"] == "redis":
            # Of Redis the original leaves out slices that wait for their deletion; of SQL it doesn't, and we never do.
            found["ref"] = [row for row in found["ref"] if row[2] > 1]
        for table, rows in expected.items():
            assert found[table] == rows, f"{table} differs"


def test_the_comparison_sees_every_kind_of_difference(tmp_path: Path) -> None:
    from tests.dump.support import reference

    text, _ = reference("redis-lz4", tmp_path)

    def changed(**parts: object) -> bytes:
        document = json.loads(text)
        acl = document["FSTree"]["entries"]["acl"]["entries"]
        for path, value in parts.items():
            if path == "perm":
                acl["f"]["posix_acl_access"]["users"][0]["perm"] = value
            elif path == "slice":
                acl["f"]["chunks"][0]["slices"][0]["len"] = value
            elif path == "mtime":
                acl["f"]["attr"]["mtimensec"] = value
            elif path == "gone":
                del acl["f"]
            elif path == "xattr":
                document["FSTree"]["entries"]["xattrs"]["xattrs"][0]["value"] = value
            else:
                document[path] = value
        return json.dumps(document).encode()

    assert differences(changed(), text) == []
    for part in ({"perm": 0}, {"slice": 1}, {"mtime": 1}, {"gone": 1}, {"xattr": "x"}, {"Quotas": {}},
                 {"DelFiles": [{"inode": 5, "length": 1, "expire": 1}]}):  # fmt: skip
        assert len(differences(changed(**part), text)) == 1, part


async def test_a_dump_of_a_part_has_only_that_part(tmp_path: Path) -> None:
    with source("sqlite-plain", tmp_path) as volume:
        whole = json.loads((volume.folder / "dump.json").read_bytes())
        async with opened(volume.meta_url) as store:
            top = whole["FSTree"]["entries"]["acl"]
            found = json.loads(await json_of(store, root=top["attr"]["inode"]))
            assert found["FSTree"] == top and "Trash" not in found
            assert "Trash" not in json.loads(await json_of(store, skip_trash=True))


async def test_secrets_stay_out_unless_they_are_wanted(tmp_path: Path) -> None:
    import msgspec

    from core.dump.json_writer import setting
    from core.meta.format import new_format

    fmt = new_format("secrets", bucket="/x", access_key="A", secret_key="S", session_token="T", encrypt_key="K")
    assert fmt.key_encrypted
    shown = setting(fmt, keep_secrets=False)
    assert (shown["SecretKey"], shown["SessionToken"], shown["EncryptKey"]) == ("removed", "removed", fmt.encrypt_key)
    assert setting(fmt, keep_secrets=False, binary=True)["EncryptKey"] == "removed"
    assert setting(fmt, keep_secrets=True, binary=True) == fmt.to_dict()
    plain = msgspec.structs.replace(fmt, secret_key="")
    assert "SecretKey" not in setting(plain, keep_secrets=False)
