# SPDX-License-Identifier: Apache-2.0
"""MySQL metadata URLs: forms of go-sql-driver, passwords from everywhere, options, and errors that keep secrets."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.meta.stores.mysql.url import MySQLURL, parse_url

ENV: dict[str, str] = {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mysql://u:p@(db.example:3307)/vol", MySQLURL(host="db.example", port=3307, user="u", password="p")),
        ("mysql://u:p@tcp(db.example)/vol", MySQLURL(host="db.example", user="u", password="p")),
        ("mysql://u:p@db.example:3307/vol", MySQLURL(host="db.example", port=3307, user="u", password="p")),
        ("mysql://u@db.example/vol", MySQLURL(host="db.example", user="u")),
        ("mysql://(db.example)/vol", MySQLURL(host="db.example")),
        ("mysql://u@([::1]:3308)/vol", MySQLURL(host="::1", port=3308, user="u")),
        ("mysql://u@()/vol", MySQLURL(user="u")),
        ("mysql://u:p@unix(/run/my sql/s.sock)/vol", MySQLURL("", 0, "/run/my sql/s.sock", user="u", password="p")),
        ("MySQL://u:a%3Ab%40%2F%25@(h)/vol", MySQLURL(host="h", user="u", password="a:b@/%")),
        ("mysql://u:a:b@c/d(e)?f@(h)/vol", MySQLURL(host="h", user="u", password="a:b@c/d(e)?f")),
        ("mysql://u:a@b@h/vol", MySQLURL(host="h", user="u", password="a@b")),
        ("mysql://u@(h)/vol?table_prefix=a&tls=true", MySQLURL(host="h", user="u", table_prefix="a", tls="true")),
        ("mysql://u@h/vol?tls-ca-cert-file=/ca.pem", MySQLURL(host="h", user="u", tls="custom", ca_file="/ca.pem")),
        ("mysql://u@(h)/vol?timeout=500ms", MySQLURL(host="h", user="u", connect_timeout_s=0.5)),
        ("mysql://u@(h)/vol?readTimeout=1m30s&max_idle_time=7", MySQLURL("h", user="u", read_timeout_s=90, idle_s=7)),
        ("mysql://u@(h)/vol?max_open_conns=4&parseTime=true&loc=Local", MySQLURL(host="h", user="u", connections=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_every_form_is_understood(text: str, expected: MySQLURL) -> None:
    found = parse_url(text, ENV)
    assert found == MySQLURL(**{**{f: getattr(expected, f) for f in MySQLURL.__slots__}, "database": "vol"})


def test_database_names_may_be_escaped() -> None:
    assert parse_url("mysql://u@(h)/my%2Fdb", ENV).database == "my/db"


def test_the_password_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from file\n")
    assert parse_url("mysql://u@(h)/v", {"META_PASSWORD": "env"}).password == "env"
    assert parse_url("mysql://u@(h)/v", {"META_PASSWORD_FILE": str(secret)}).password == "from file"
    assert parse_url("mysql://u:url@(h)/v", {"META_PASSWORD": "env"}).password == "url"
    with pytest.raises(ConfigError, match="META_PASSWORD_FILE"):
        parse_url("mysql://u@(h)/v", {"META_PASSWORD_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mysql://u:hush@(h)/v?colour=red", "colour; known are table_prefix"),
        ("mysql://u:hush@(h)/", "names no database"),
        ("mysql://u:hush@(h)", "names no database"),
        ("mysql://u:hush@h", "names no database"),
        ("mysql://u:hush@(h:http)/v", "'http' of host 'h'"),
        ("mysql://u:hush@(h:70000)/v", "no port number"),
        ("mysql://u:hush@unix()/v", "path of a socket"),
        ("mysql://u:hush@pipe(x)/v", "not supported"),
        ("mysql://u:hush@(h)/v?tls=maybe", "choose one of false, true"),
        ("mysql://u:hush@(h)/v?tls=custom", "tls-ca-cert-file=PATH"),
        ("mysql://u:hush@(h)/v?timeout=soon", "no duration"),
        ("mysql://u:hush@(h)/v?max_open_conns=-1", "whole number"),
        ("postgres://u:hush@h/v", "no MySQL address"),
    ],
)
def test_mistakes_are_named_and_passwords_are_not(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(text, ENV)
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


def test_neither_repr_nor_where_shows_the_password() -> None:
    url = parse_url("mysql://u:hush@(h:1)/v", ENV)
    assert url.where == "mysql://(h:1)/v"
    assert "hush" not in repr(url)
    assert parse_url("mysql://u:hush@unix(/s)/v", ENV).where == "mysql://unix(/s)/v"


def test_tls_modes(tmp_path: Path) -> None:
    assert parse_url("mysql://u@(h)/v?tls=false", ENV).context() is None
    strict = parse_url("mysql://u@(h)/v?tls=true", ENV).context()
    lax = parse_url("mysql://u@(h)/v?tls=skip-verify", ENV).context()
    assert strict and (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert lax and (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)
    with pytest.raises(ConfigError, match="tls-ca-cert-file"):
        parse_url(f"mysql://u@(h)/v?tls-ca-cert-file={tmp_path}/none.pem", ENV).context()
    with pytest.raises(ConfigError, match="tls-cert-file"):
        parse_url(f"mysql://u@(h)/v?tls=true&tls-cert-file={tmp_path}/none.pem", ENV).context()
