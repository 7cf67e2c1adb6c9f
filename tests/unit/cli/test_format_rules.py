# SPDX-License-Identifier: Apache-2.0
"""The setting document: text form, defaults, versions, and which changes are refused (metadata-format §7)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from core.errors import ConfigError, VolumeError
from core.meta.format import REMOVED, Format, Tier, new_format, round_block_size
from core.meta.version import CLIENT_VERSION, highest, parse_version

KIB, MIB = 1 << 10, 1 << 20


def made(**options: object) -> Format:
    return new_format("demo", bucket="/data/", **options)  # type: ignore[arg-type]


def test_a_new_volume_has_the_defaults_of_the_format() -> None:
    fresh = made(uuid="11111111-2222-4333-8444-555555555555")
    assert fresh.to_json().decode() == "\n".join(
        (
            "{", '"Name": "demo",', '"UUID": "11111111-2222-4333-8444-555555555555",', '"Storage": "file",',
            '"Tiers": {', '"0": {', '"ID": 0,', '"StorageClass": "",', '"Tag": ""', "}", "},", '"Bucket": "/data/",',
            '"BlockSize": 4096,', '"Compression": "none",', '"EncryptAlgo": "aes256gcm-rsa",', '"TrashDays": 1,',
            '"MetaVersion": 1,', '"MinClientVersion": "1.1.0-A",', '"DirStats": true,', '"EnableACL": false', "}",
        )
    )  # fmt: skip


def test_unknown_fields_and_foreign_layouts_survive() -> None:
    raw = b'{"Future":{"a":[1,2]},"UUID":"u","Tiers":{"0":{"ID":0,"New":true}},"Name":"abc","BlockSize":64}'
    setting = Format.parse(raw)
    again = json.loads(setting.to_json())
    assert again["Future"] == {"a": [1, 2]}
    assert again["Tiers"]["0"]["New"] is True
    changed = setting.changed(trash_days=7)
    assert json.loads(changed.to_json())["Future"] == {"a": [1, 2]}


def test_special_characters_are_escaped_as_go_does() -> None:
    text = new_format("demo", bucket='/a<b>&\u2028\x01ü"\\')
    assert b'"Bucket": "/a\\u003cb\\u003e\\u0026\\u2028\\u0001\xc3\xbc\\"\\\\"' in text.to_json()


@given(st.text(), st.integers(0, 2**64 - 1), st.booleans())
def test_any_setting_survives_the_round_trip(text: str, number: int, flag: bool) -> None:
    text = text.encode("utf-8", "replace").decode()
    setting = Format(name="abc", uuid="u", bucket=text, capacity=number, enable_acl=flag, access_key=text)
    assert Format.parse(setting.to_json()) == setting


@pytest.mark.parametrize(
    "raw, words",
    [
        (b"not json", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"UUID": "u"}', "no name"),
        (b'{"Name": "abc", "UUID": "u", "BlockSize": "big"}', "BlockSize"),
        (b'{"Name": "abc", "UUID": "u", "BlockSize": true}', "BlockSize"),
    ],
)
def test_a_damaged_setting_is_refused_with_the_reason(raw: bytes, words: str) -> None:
    with pytest.raises(VolumeError, match=words):
        Format.parse(raw)


def test_a_damaged_secret_is_not_quoted() -> None:
    with pytest.raises(VolumeError) as error:
        Format.parse(b'{"Name": "abc", "UUID": "u", "SecretKey": 123456789}')
    assert "123456789" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["ab", "a" * 64, "Upper", "-abc", "abc-", "a_b", "a b", "", "grün", "abc\n"]
)  # fmt: skip
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="volume name"):
        new_format(name, bucket="/data/")


@pytest.mark.parametrize(
    "given_bytes, used",
    [
        (1, 64 * KIB), (64 * KIB, 64 * KIB), (100 * KIB, 64 * KIB), (4 * MIB, 4 * MIB), (5 * MIB, 4 * MIB),
        (1 << 30, 16 * MIB),
    ],
)  # fmt: skip
def test_block_sizes_are_rounded_down_and_clamped(given_bytes: int, used: int) -> None:
    assert round_block_size(given_bytes) == used


def test_shards_need_a_place_for_the_number() -> None:
    with pytest.raises(ConfigError, match="%d"):
        made(shards=4)
    assert new_format("demo", bucket="/b%d/", shards=256).shards == 256
    with pytest.raises(ConfigError, match="256"):
        new_format("demo", bucket="/b%d/", shards=257)


@pytest.mark.parametrize(
    "options, minimum",
    [
        ({}, "1.1.0-A"),
        ({"enable_acl": True}, "1.2.0-A"),
        ({"ranger_rest_url": "http://r"}, "1.3.0-A"),
        ({"kerb_conf": "x", "enable_acl": True}, "1.4.0-A"),
    ],
)
def test_features_raise_the_minimum_client(options: dict[str, object], minimum: str) -> None:
    assert made(**options).min_client_version == minimum


def test_versions_are_ordered_as_the_format_says() -> None:
    texts = ["0.14.2", "1", "1.1.0-A", "1.1.0-beta1", "1.1.0-rc1", "1.1", "1.1.1", "1.4.1", "1.10"]
    parsed = [parse_version(text) for text in texts]
    assert all(parsed)
    assert parsed == sorted(parsed)  # type: ignore[type-var]
    assert parse_version("1.4.1+2026-07-30.0b90c7db5") == parse_version("1.4.1") == parse_version(CLIENT_VERSION)
    assert parse_version("one") is None and parse_version("1.2.3.4") is None and parse_version("") is None
    assert highest("", "1.0", "x", "1.2-A") == "1.2-A"


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"meta_version": 2}, "metadata version 2"),
        ({"min_client_version": "1.5.0"}, "at least 1.5.0"),
        ({"max_client_version": "1.3.9"}, "at most 1.3.9"),
        ({"min_client_version": "soon"}, "can't be read"),
    ],
)
def test_a_volume_that_does_not_admit_us_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(VolumeError, match=words):
        Format(name="abc", uuid="u", **fields).check_client()  # type: ignore[arg-type]


def test_bounds_are_inclusive_and_old_documents_have_none() -> None:
    Format(name="abc", uuid="u", min_client_version="1.4.1", max_client_version="1.4.1").check_client()
    Format(name="abc", uuid="u").check_client()


@pytest.mark.parametrize(
    "change, label",
    [
        ({"name": "other"}, "Name"),
        ({"block_size_kib": 64}, "BlockSize"),
        ({"compression": "lz4"}, "Compression"),
        ({"shards": 4, "bucket": "/%d/"}, "Shards"),
        ({"hash_prefix": True}, "HashPrefix"),
    ],
)
def test_what_cannot_change_is_refused_with_both_values(change: dict[str, object], label: str) -> None:
    with pytest.raises(ConfigError, match=label):
        made().changed(**change)


def test_a_new_encryption_key_is_refused_because_old_blocks_would_be_lost() -> None:
    with pytest.raises(ConfigError, match="encryption key"):
        made().changed(encrypt_key="-----BEGIN PRIVATE KEY-----")


def test_acls_stay_on_and_the_minimum_client_only_rises() -> None:
    setting = made(enable_acl=True)
    with pytest.raises(ConfigError, match="ACL"):
        setting.changed(enable_acl=False)
    with pytest.raises(ConfigError, match="only rise"):
        setting.changed(min_client_version="1.0.0")
    assert made().changed(enable_acl=True).min_client_version == "1.2.0-A"
    assert made().changed(tiers={"0": Tier(), "1": Tier(1, "COLD")}).min_client_version == "1.4.0-A"


def test_a_successor_keeps_the_id_and_turns_the_change_log_on_with_an_age() -> None:
    old = made()
    new = made().replacing(old)
    assert new.uuid == old.uuid
    assert old.changed(change_log=True).change_log_max_age == 7200


def test_secrets_are_stored_encrypted_printed_removed_and_read_back() -> None:
    setting = made(access_key="AK", secret_key="open sesame", session_token="token!")
    assert setting.key_encrypted
    assert b"sesame" not in setting.to_json()
    assert setting.secrets() == ("open sesame", "token!", "")
    assert setting.redacted().secret_key == REMOVED and setting.redacted().encrypt_key == ""
    assert "sesame" not in repr(setting.with_plain_secrets())
    changed = setting.changed(secret_key="other one")
    assert changed.secrets() == ("other one", "token!", "")
    assert made(secret_key="x" * 9, encrypt_algo="sm4gcm").secrets().secret_key == "x" * 9


def test_a_secret_moves_to_the_stored_id_when_a_volume_is_formatted_again() -> None:
    old = made(secret_key="first secret")
    assert made(secret_key="second secret").replacing(old).secrets().secret_key == "second secret"


def test_a_stripped_secret_is_an_error_until_it_is_set_again() -> None:
    setting = made(secret_key="open sesame", session_token="token!").redacted()
    with pytest.raises(VolumeError, match=r"SecretKey.*sluice config"):
        setting.secrets()
    with pytest.raises(VolumeError, match="SessionToken"):
        setting.changed(secret_key="again")
    both = setting.changed(secret_key="again", session_token="new")
    assert both.secrets() == ("again", "new", "")
    assert setting.changed(trash_days=3).secret_key == REMOVED


def test_a_secret_of_another_volume_is_a_clear_error() -> None:
    import msgspec

    other = msgspec.structs.replace(made(secret_key="open sesame"), uuid="someone-else")
    with pytest.raises(VolumeError, match="can't be decrypted"):
        other.secrets()
