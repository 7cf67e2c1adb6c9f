# SPDX-License-Identifier: Apache-2.0
"""Option values as users type them (cli §1.2)."""

from __future__ import annotations

import pytest

from core.config import (
    GIB,
    KIB,
    MIB,
    format_size,
    mask_url,
    parse_address,
    parse_bandwidth,
    parse_bool,
    parse_duration,
    parse_meta_url,
    parse_size,
    url_password,
    without_password,
)  # fmt: skip
from core.errors import ConfigError


@pytest.mark.parametrize(
    "text, unit, size",
    [
        ("0", 1, 0), ("1", 1, 1), ("300", MIB, 300 * MIB), ("4M", KIB, 4 * MIB), ("4m", KIB, 4 * MIB),
        ("4MB", 1, 4 * MIB), ("4MiB", 1, 4 * MIB), ("1.5G", 1, 3 * GIB // 2), (" 64K ", 1, 64 * KIB),
        ("100B", MIB, 100), ("2T", 1, 2 << 40), ("15E", 1, 15 << 60), (12, GIB, 12 * GIB),
    ],
)  # fmt: skip
def test_sizes(text: str | int, unit: int, size: int) -> None:
    assert parse_size(text, unit) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "1 2", "4MM", "0x10", "١", "16E", "1e3"])
def test_sizes_that_are_none_name_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match="--cache-size"):
        parse_size(text, option="--cache-size")


@pytest.mark.parametrize(
    "text, seconds",
    [("12", 12), ("0", 0), ("1.5", 1.5), ("250ms", 0.25), ("1h30m", 5400), ("2d", 172800), ("1m0.5s", 60.5), (7, 7)],
)
def test_durations(text: str | int, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "1h30", "1 h", "-5s", "5x", "٣"])
def test_a_malformed_duration_is_an_error_and_not_zero(text: str) -> None:
    with pytest.raises(ConfigError, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize("text, mbps", [("0", 0), ("100", 100), ("1G", 1000), ("2T", 2_000_000), ("2.5G", 2500)])
def test_bandwidths_are_mbps_in_powers_of_1000(text: str, mbps: int) -> None:
    assert parse_bandwidth(text) == mbps


def test_booleans() -> None:
    assert parse_bool("TRUE") and parse_bool("1") and not parse_bool("off")
    with pytest.raises(ConfigError):
        parse_bool("maybe")


@pytest.mark.parametrize(
    "text, host, port, shown",
    [
        (":9000", "", 9000, "127.0.0.1:9000"),
        ("9000", "", 9000, "127.0.0.1:9000"),
        ("localhost:80", "localhost", 80, "localhost:80"),
        ("[::1]:9000", "::1", 9000, "[::1]:9000"),
        ("0.0.0.0:0", "0.0.0.0", 0, "127.0.0.1:0"),
    ],
)
def test_addresses(text: str, host: str, port: int, shown: str) -> None:
    address = parse_address(text)
    assert address == (host, port)
    assert address.authority == shown


@pytest.mark.parametrize("text", ["", "localhost", "host:", "host:x", "::1:9000", "h:70000", "h:-1"])
def test_addresses_without_a_port_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def test_a_metadata_address_without_scheme_is_redis() -> None:
    assert parse_meta_url("127.0.0.1:6379/1").url == "redis://127.0.0.1:6379/1"
    assert parse_meta_url("postgresql://h/d").scheme == "postgres"
    assert parse_meta_url("sqlite3:///a/b.db").rest == "/a/b.db"


@pytest.mark.parametrize(
    "url, password, bare, shown",
    [
        ("redis://:p%40ss@h:1/0", "p@ss", "redis://h:1/0", "redis://:****@h:1/0"),
        ("redis://u:p@ss@h:1/0", "p@ss", "redis://u@h:1/0", "redis://u:****@h:1/0"),
        ("mysql://u:pw@(h:3306)/db", "pw", "mysql://u@(h:3306)/db", "mysql://u:****@(h:3306)/db"),
        ("u:pw@h:1/0", "pw", "u@h:1/0", "u:****@h:1/0"),
        ("redis://u@h/1", None, "redis://u@h/1", "redis://u@h/1"),
        ("sqlite3:///a:b/c@d.db", None, "sqlite3:///a:b/c@d.db", "sqlite3:///a:b/c@d.db"),
        ("redis://h:6379/1", None, "redis://h:6379/1", "redis://h:6379/1"),
    ],
)
def test_passwords_are_found_taken_out_and_hidden(url: str, password: str | None, bare: str, shown: str) -> None:
    assert url_password(url) == password
    assert without_password(url) == bare
    assert mask_url(url) == shown


def test_secrets_among_query_options_are_hidden() -> None:
    assert mask_url("postgres://h/d?sslmode=x&password=abc#f") == "postgres://h/d?sslmode=x&password=****#f"


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 4 * MIB, 1 << 62)] == [
        "0 B", "1023 B", "1.00 KiB", "4.00 MiB", "4.00 EiB",
    ]  # fmt: skip
