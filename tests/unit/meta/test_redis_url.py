# SPDX-License-Identifier: Apache-2.0
"""Redis metadata URLs (format §4.1): forms, options, password sources, and no password in any text."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.meta.stores.redis.discovery import slot_of
from core.meta.stores.redis.replies import code_of, typed_error
from core.meta.stores.redis.url import parse_url


@pytest.mark.parametrize(
    ("text", "mode", "hosts", "db"),
    [
        ("localhost", "single", (("localhost", 6379),), 0),
        ("localhost:7000/3", "single", (("localhost", 7000),), 3),
        ("user:pw@h/1", "single", (("h", 6379),), 1),
        ("redis://h", "single", (("h", 6379),), 0),
        ("redis://h/", "single", (("h", 6379),), 0),
        ("redis://h:1/?db=4", "single", (("h", 1),), 4),
        ("redis:///2", "single", (("127.0.0.1", 6379),), 2),
        ("redis://[::1]:7/2", "single", (("::1", 7),), 2),
        ("redis://[fe80::1]", "single", (("fe80::1", 6379),), 0),
        ("redis://vol,h1:26380,h2:26381/2", "sentinel", (("h1", 26380), ("h2", 26381)), 2),
        ("redis://vol,h1,h2:5000/2", "sentinel", (("h1", 5000), ("h2", 5000)), 2),
        ("redis://vol,h1:5000,h2", "sentinel", (("h1", 5000), ("h2", 26379)), 0),
        ("redis://u:p@vol,h1:1,h2:2/2", "sentinel", (("h1", 1), ("h2", 2)), 2),
        ("redis://h1:7000,h2:7001/1", "cluster", (("h1", 7000), ("h2", 7001)), 1),
        ("redis://h1,h2,h3", "cluster", (("h1", 6379), ("h2", 6379), ("h3", 6379)), 0),
    ],
)
def test_forms(text: str, mode: str, hosts: tuple[tuple[str, int], ...], db: int) -> None:
    url = parse_url(text, {})
    assert (url.mode, url.hosts, url.db) == (mode, hosts, db)
    assert url.master == ("vol" if mode == "sentinel" else "")


@pytest.mark.parametrize(
    ("text", "username", "password"),
    [
        ("redis://h", "", ""),
        ("redis://:pw@h", "", "pw"),
        ("redis://user:pw@h", "user", "pw"),
        ("redis://us%3Aer:p%40w%3F%2F@h/1", "us:er", "p@w?/"),
        ("redis://:p@w/x:y@h/1", "", "p@w/x:y"),
        ("unix://u:pw@/run/redis.sock?db=2", "u", "pw"),
    ],
)
def test_credentials(text: str, username: str, password: str) -> None:
    url = parse_url(text, {})
    assert (url.username, url.password) == (username, password)
    assert not password or (password not in repr(url) and password not in url.where)


def test_unix_socket() -> None:
    url = parse_url("unix:///run/my%20redis.sock?db=2&read-timeout=3s", {})
    assert (url.path, url.db, url.hosts, url.read_timeout_s) == ("/run/my redis.sock", 2, (), 3)
    assert url.where == "unix:///run/my redis.sock?db=2"


def test_passwords_come_from_url_then_environment_then_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(" from-file \n")
    env = {"META_PASSWORD_FILE": str(secret)}
    assert parse_url("redis://h", env).password == "from-file"
    env["META_PASSWORD"] = "from-meta"
    assert parse_url("redis://h", env).password == "from-meta"
    env["REDIS_PASSWORD"] = "from-redis"
    assert parse_url("redis://user@h", env).password == "from-redis"
    assert parse_url("redis://:from-url@h", env).password == "from-url"
    assert parse_url("redis://m,h:1", {"SENTINEL_PASSWORD": "s"}).sentinel_password == "s"


def test_options_and_their_spellings() -> None:
    url = parse_url(
        "redis://h/1?read-timeout=1m30s&write_timeout=500ms&min-retry-backoff=5&max_retry_backoff=1.5s&pool_size=9"
        "&client-cache=true",
        {},
    )
    assert (url.read_timeout_s, url.write_timeout_s, url.min_backoff_s, url.max_backoff_s) == (90, 0.5, 5, 1.5)
    url = parse_url("redis://h", {})
    assert (url.read_timeout_s, url.write_timeout_s, url.min_backoff_s, url.max_backoff_s) == (30, 5, 0.02, 10)


def test_tls_options() -> None:
    url = parse_url(
        "rediss://h/1?tls-cert-file=/c@d&tls-key-file=/k&tls-ca-cert-file=/a&tls-server-name=n&insecure-skip-verify=1",
        {},
    )
    assert url.tls is not None
    assert (url.tls.cert_file, url.tls.key_file, url.tls.ca_file, url.tls.server_name) == ("/c@d", "/k", "/a", "n")
    assert (url.tls.verify, url.where) == (False, "rediss://h:6379/1")
    assert parse_url("redis://h", {}).tls is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("http://h", "http"),
        ("redis://h/abc", "abc"),
        ("redis://h:port/1", "port"),
        ("redis://h:99999/1", "99999"),
        ("redis://h/1?nonsense=1", "nonsense"),
        ("redis://h/1?read-timeout=soon", "read-timeout"),
        ("redis://h/1?read-timeout=0s", "read-timeout"),
        ("unix://?db=1", "socket"),
    ],
)
def test_mistakes_are_named(text: str, names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        parse_url(text, {})


def test_unusable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="META_PASSWORD_FILE"):
        parse_url("redis://h", {"META_PASSWORD_FILE": str(tmp_path / "none")})
    url = parse_url(f"rediss://h?tls-ca-cert-file={tmp_path}/none.pem", {})
    assert url.tls is not None
    with pytest.raises(ConfigError, match="tls-ca-cert-file"):
        url.tls.context()


def test_slots_follow_the_hash_tag() -> None:
    # `CLUSTER KEYSLOT {0}i1` and `{10}i1` of a real server
    assert (slot_of(0), slot_of(10)) == (13907, 247)


@pytest.mark.parametrize(
    ("text", "code", "errno_name", "retryable"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM", "ENOSPC", False),
        (
            "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed",
            "OOM", "ENOSPC", False,
        ),
        ("LOADING Redis is loading the dataset in memory", "LOADING", "EIO", True),
        ("READONLY You can't write. script: " + "a" * 40 + ", on @user_script:1.", "READONLY", "EIO", True),
        ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN", "EIO", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN", "EIO", True),
        ("WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS", "EIO", False),
        ("ERR invalid password", "WRONGPASS", "EIO", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", "WRONGTYPE", "EIO", False),
    ],
)  # fmt: skip
def test_error_replies_say_whose_fault_and_what_next(text: str, code: str, errno_name: str, retryable: bool) -> None:
    assert code_of(text) == code
    error = typed_error(text, "h:1/2")
    assert (error.code, error.retryable) == (errno_name, retryable)
    assert "h:1/2" in str(error)
    assert "aaaa" not in str(error)
    assert str(error).endswith(")")
