# SPDX-License-Identifier: Apache-2.0
"""The setting documents that JuiceFS stored: read, understood, and written again byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis

from core.meta.format import Format
from tests.golden.volumes import golden, names, setting_text, unpack


def stored_setting(name: str, folder: Path) -> bytes:
    if not name.startswith("redis"):
        return setting_text(unpack(name, folder))
    with golden(name, folder) as volume:
        client = redis.Redis.from_url(volume.meta_url)
        value = client.get("setting")
        client.close()
        assert isinstance(value, bytes)
        return value


def test_all_golden_volumes_are_here() -> None:
    assert len(names()) == 14


@pytest.mark.parametrize("name", names())
def test_a_stored_setting_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    raw = stored_setting(name, tmp_path)
    assert Format.parse(raw).to_json() == raw


@pytest.mark.parametrize("name", names())
def test_a_redacted_setting_reads_as_juicefs_prints_it(name: str, tmp_path: Path) -> None:
    raw = stored_setting(name, tmp_path)
    printed: dict[str, Any] = json.loads((tmp_path / name / "status.json").read_text())["Setting"]
    shown = Format.parse(raw).redacted().to_dict()
    assert shown == printed
    assert list(shown) == list(printed)


@pytest.mark.parametrize("name", names())
def test_our_client_is_admitted(name: str, tmp_path: Path) -> None:
    Format.parse(stored_setting(name, tmp_path)).check_client()


@pytest.mark.parametrize("name", ["sqlite-gcm", "sqlite-chacha"])
def test_the_data_key_is_decrypted_with_the_volume_id(name: str, tmp_path: Path) -> None:
    home = unpack(name, tmp_path)
    setting = Format.parse(setting_text(home))
    key = setting.secrets().encrypt_key
    assert "PRIVATE KEY" in key
    again = setting.with_plain_secrets()
    assert again.encrypt_key == key and not again.key_encrypted
    assert again.with_encrypted_secrets().secrets().encrypt_key == key
