# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL metadata URLs: forms, options, password sources, refusals (format §5.1). No server."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.meta.stores.postgres import PostgresStore
from core.meta.stores.postgres.arrays import array, columns
from core.meta.stores.postgres.failures import Refused
from core.meta.stores.postgres.url import parse_url


def test_the_usual_form() -> None:
    url = parse_url("postgres://joe:s3cret@db.example:6432/meta?sslmode=verify-full&table_prefix=v1", {})
    assert url.where == "postgres://db.example:6432/meta"
    assert url.prefix == "jfs_v1_"
    wanted = {
        "user": "joe",
        "password": "s3cret",
        "host": "db.example",
        "port": "6432",
        "dbname": "meta",
        "sslmode": "verify-full",
    }
    assert wanted.items() <= url.parameters.items()
    assert "s3cret" not in repr(url)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("postgres://h/db", "h", "5432"),
        ("postgresql://u@h:1/db", "h", "1"),
        ("postgres://u@[::1]:77/db", "::1", "77"),
        ("postgres://u@[fe80::1]/db", "fe80::1", "5432"),
        ("postgres://u@a:1,b:2,c/db?target_session_attrs=primary", "a,b,c", "1,2,5432"),
    ],
)
def test_hosts_and_ports(text: str, host: str, port: str) -> None:
    url = parse_url(text, {})
    assert (url.parameters["host"], url.parameters["port"], url.parameters["dbname"]) == (host, port, "db")


def test_a_unix_socket_is_named_by_an_option() -> None:
    url = parse_url("postgres:///db?host=/var/run/postgresql&user=joe", {})
    assert (url.parameters["host"], url.parameters["user"]) == ("/var/run/postgresql", "joe")
    assert "/var/run/postgresql" in url.where


def test_passwords_come_from_the_address_the_environment_or_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("from file\n")
    both = {"META_PASSWORD": "from env", "META_PASSWORD_FILE": str(secret)}
    assert parse_url("postgres://u:p%40%2F@h/db", both).parameters["password"] == "p@/"
    assert parse_url("postgres://u:p@/x@h/db", both).parameters["password"] == "p@/x"
    assert parse_url("postgres://u@h/db", both).parameters["password"] == "from env"
    assert parse_url("postgres://u@h/db", {"META_PASSWORD_FILE": str(secret)}).parameters["password"] == "from file"
    assert "password" not in parse_url("postgres://u@h/db", {}).parameters
    with pytest.raises(ConfigError, match="META_PASSWORD_FILE"):
        parse_url("postgres://u@h/db", {"META_PASSWORD_FILE": str(tmp_path / "none")})


def test_schema_and_pool_options() -> None:
    url = parse_url("postgres://h/db?search_path=vol&max_open_conns=2&max_idle_time=60&max_life_time=9", {})
    assert (url.schema, url.readers) == ("vol", 1)
    assert parse_url("postgres://h/db?max_open_conns=0", {}).readers == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mysql://u:hush@h/db", "postgres://"),
        ("postgres://u:hush@h", "no database"),
        ("postgres://u:hush@h:99999/db", "no port"),
        ("postgres://u:hush@h:x/db", "no port"),
        ("postgres://u:hush@[::1/db", "IPv6"),
        ("postgres://u:hush@h/db?search_path=a,b", "exactly one schema"),
        ("postgres://u:hush@h/db?table_prefix=a-b", "letters, digits"),
        ("postgres://u:hush@h/db?max_open_conns=many", "whole number"),
        ("postgres://u:hush@h/db?sslmod=require", "unknown option 'sslmod'.*table_prefix.*sslmode"),
    ],
)
def test_what_is_wrong_is_named_and_the_password_is_not(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        PostgresStore.from_url(text)
    assert "hush" not in str(caught.value)


# -- binary forms ---------------------------------------------------------------------------------------------------


def test_arrays_have_the_layout_that_array_recv_reads() -> None:
    head = bytes.fromhex("00000001 00000000 00000017 00000002 00000001")
    assert array("int4", (1, -1)) == head + bytes.fromhex("00000004 00000001 00000004 ffffffff")
    nulls = bytes.fromhex("00000001 00000001 00000011 00000002 00000001")
    assert array("bytea", (b"a\0", None)) == nulls + bytes.fromhex("00000002 6100 ffffffff")
    assert columns(("int8", "text"), [(1, b"x"), (2, b"y")]) == [array("int8", (1, 2)), array("text", (b"x", b"y"))]


def test_failed_checks_tell_their_marks_and_what_is_there() -> None:
    node = ":".join(map(str, range(1, 19)))
    error = Refused("22P02", f'invalid input syntax for type integer: "sluice:3,4/1:77/{node},5//,6/2:8/"')
    marks = error.marks
    assert marks[3] is None
    entry, attr = marks[4]
    assert (entry.type, entry.ino, attr.type, attr.mode, attr.parent) == (1, 77, 1, 2, 11)
    assert marks[5] == (None, None)
    assert (marks[6][0].ino, marks[6][1]) == (8, None)
    assert Refused("23505", "sluice:3").marks == {}
