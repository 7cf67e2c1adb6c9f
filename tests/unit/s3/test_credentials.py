# SPDX-License-Identifier: Apache-2.0
"""Root credentials from the environment: forms, minimum lengths, and no start without them."""

from __future__ import annotations

import pytest

from core.errors import ConfigError
from gateways.s3.auth import Credential, root_credential, root_credentials


@pytest.mark.parametrize(
    "names",
    [
        ("SLUICE_ACCESS_KEY", "SLUICE_SECRET_KEY"),
        ("MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"),
        ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"),
    ],
)
def test_each_pair_of_names_in_both_forms(names, tmp_path):
    user, secret = names
    found = root_credential({user: "adm", secret: "longsecret"})
    assert (found.access_key, found.secret_key, found.identity.root) == ("adm", "longsecret", True)
    assert len(found.identity.owner_id) == 64
    (tmp_path / "u").write_text("adm\n")
    (tmp_path / "s").write_text("longsecret\r\n")
    found = root_credential({user + "_FILE": str(tmp_path / "u"), secret + "_FILE": str(tmp_path / "s")})
    assert (found.access_key, found.secret_key) == ("adm", "longsecret")


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({}, "needs root credentials"),
        ({"MINIO_ROOT_USER": "adm"}, "MINIO_ROOT_PASSWORD"),
        ({"MINIO_ROOT_PASSWORD": "longsecret"}, "MINIO_ROOT_USER"),
        ({"MINIO_ROOT_USER": "ad", "MINIO_ROOT_PASSWORD": "longsecret"}, "at least 3"),
        ({"MINIO_ROOT_USER": "adm", "MINIO_ROOT_PASSWORD": "7777777"}, "at least 8"),
        ({"MINIO_ROOT_USER": "a,b", "MINIO_ROOT_PASSWORD": "longsecret"}, "printable ASCII"),
        ({"MINIO_ROOT_USER_FILE": "/nonexistent/x", "MINIO_ROOT_PASSWORD": "longsecret"}, "can't be read"),
    ],
)
def test_weak_or_absent_credentials_refuse_to_start(environ, text):
    with pytest.raises(ConfigError, match=text) as e:
        root_credential(environ)
    for secret in ("longsecret", "7777777"):
        assert secret not in str(e.value)


def test_our_own_names_win():
    both = {"MINIO_ROOT_USER": "minio", "MINIO_ROOT_PASSWORD": "longsecret"}
    both |= {"SLUICE_ACCESS_KEY": "sluice", "SLUICE_SECRET_KEY": "longsecret"}
    assert root_credentials(both).find("sluice") is not None
    assert root_credentials(both).find("minio") is None


def test_a_credential_does_not_print_its_secret():
    assert "longsecret" not in repr(Credential("adm", "longsecret", session_token="tok"))
