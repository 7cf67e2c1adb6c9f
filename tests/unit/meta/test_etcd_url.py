# SPDX-License-Identifier: Apache-2.0
"""etcd metadata URLs. Source: format §6.1."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.meta.stores.etcd import EtcdStore
from core.meta.stores.etcd.url import TLS, parse_url
from core.volume import open_record_store


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("etcd://h/jfs", b"/jfs\xfd"), ("etcd://h", b"\xfd"), ("etcd://h/", b"/\xfd"), ("etcd://h/a/b", b"/a/b\xfd"),
        ("etcd://h/a%20b", b"/a b\xfd"), ("etcd://h/%FF", b"/\xff\xfd"), ("etcd://h/jfs?server-name=x", b"/jfs\xfd"),
        ("etcd://h/%C3%A9", "/é".encode() + b"\xfd"),
    ],
)  # fmt: skip
def test_the_path_is_the_prefix_with_its_slash(url: str, prefix: bytes) -> None:
    assert parse_url(url, {}).prefix == prefix


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("etcd://h", ("h:2379",)), ("etcd://h:1/x", ("h:1",)), ("etcd://a,b:2,[::1],[fe80::1]:9/x",
         ("a:2379", "b:2", "[::1]:2379", "[fe80::1]:9")), ("ETCD://u:p@a,b", ("a:2379", "b:2379")),
    ],
)  # fmt: skip
def test_endpoints(url: str, endpoints: tuple[str, ...]) -> None:
    assert parse_url(url, {}).endpoints == endpoints


def test_user_and_password_in_any_spelling(tmp_path: Path) -> None:
    found = parse_url("etcd://ann:p%3Aw/@x@h1,h2/jfs", {})
    assert (found.username, found.password, found.endpoints) == ("ann", "p:w/@x", ("h1:2379", "h2:2379"))
    assert "p:w" not in repr(found)
    assert parse_url("etcd://ann@h", {"META_PASSWORD": "from env"}).password == "from env"
    (tmp_path / "pw").write_text("from file\n")
    assert parse_url("etcd://ann@h", {"META_PASSWORD_FILE": str(tmp_path / "pw")}).password == "from file"
    assert parse_url("etcd://h", {"META_PASSWORD": "nobody's"}).password == ""


def test_tls_is_used_when_one_of_its_options_is_given() -> None:
    assert parse_url("etcd://h/x", {}).tls is None
    assert parse_url("etcd://h/x?insecure-skip-verify=1", {}).tls is None
    assert parse_url("etcd://h/x?cacert=/ca", {}).tls == TLS(ca_file="/ca")
    assert parse_url("etcd://h/x?cert=/c&key=/k&server-name=n&insecure-skip-verify=true", {}).tls == TLS(
        cert_file="/c", key_file="/k", server_name="n", verify=False
    )


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://h", "no etcd URL"), ("etcd:///jfs", "names no host"), ("etcd://h:x/j", "no port number"),
        ("etcd://h:99999/j", "no port number"), ("etcd://h/j?nonsense=1", "unknown option.*nonsense"),
        ("etcd://h/j?cert=/c", "add key=FILE"), ("etcd://h/j?key=/k", "add cert=FILE"),
        ("etcd://:secret@h/j", "password but no user"), ("etcd://h/j?insecure-skip-verify=perhaps", "neither true"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named_and_passwords_are_not(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        parse_url(url, {})
    assert "secret" not in str(caught.value)


def test_the_scheme_opens_the_store() -> None:
    store = open_record_store("etcd://h1,h2:2/vol")
    assert isinstance(store, EtcdStore)
    assert store.codec.prefix == b"/vol\xfd"
    assert not store.caps.change_log and not store.caps.empty_xattr
