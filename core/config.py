# SPDX-License-Identifier: Apache-2.0
"""Option values as users type them: sizes, durations, bandwidths, yes and no, addresses; and hiding passwords in URLs.

Pure functions; no IO, no clock. One parser for every door, so that `--cache-size 1G` means the same everywhere.
Source: cli §1.2. One deliberate difference: a malformed duration is an error that says so, not a silent zero.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from core.errors import ConfigError

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgtpe]?)(i?b)?\s*", re.IGNORECASE | re.ASCII)
_POWERS: Final = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_UNITS_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BANDWIDTH = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([mgtp]?)(?:bps)?\s*", re.IGNORECASE | re.ASCII)
_MBPS: Final = {"": 1, "m": 1, "g": 1_000, "t": 1_000_000, "p": 1_000_000_000}
#: Sizes are stored as unsigned 64-bit numbers (format §7.1).
_MAX_SIZE: Final = (1 << 64) - 1


def parse_size(text: str | int, unit: int = 1, *, option: str = "size") -> int:
    """Bytes. `unit` multiplies a number without a suffix: each option has its own default unit.

    >>> parse_size("4M"), parse_size("300", MIB), parse_size("1.5GiB")
    (4194304, 314572800, 1610612736)
    """
    found = _SIZE.fullmatch(str(text))
    if not found:
        raise ConfigError(
            f"{option}: {text!r} is no size; write a number with an optional K, M, G, T, P or E, such as 64M"
        )
    number, suffix, _ = found.groups()
    factor = 1024 ** _POWERS[suffix.lower()] if suffix else (1 if found[3] else unit)
    # Integers stay exact: 16E - 1 does not survive a float.
    value = int(number) * factor if number.isdigit() else int(float(number) * factor)
    if value > _MAX_SIZE:
        raise ConfigError(f"{option}: {text} is too large; the limit is 16E - 1 bytes")
    return value


def parse_duration(text: str | float, *, option: str = "duration") -> float:
    """Seconds. A bare number is seconds; else parts such as 1h30m, 250ms, 2d."""
    if isinstance(text, (int, float)):
        return float(text)
    plain = text.strip()
    if re.fullmatch(r"\d+(\.\d*)?|\.\d+", plain, re.ASCII):
        return float(plain)
    total, at = 0.0, 0
    while found := _DURATION_PART.match(plain, at):
        total += float(found[1]) * _UNITS_S[found[2]]
        at = found.end()
    if not plain or at != len(plain):
        raise ConfigError(f"{option}: {text!r} is no duration; write seconds, or parts such as 90s, 5m, 1h30m, 2d")
    return total


def parse_bandwidth(text: str | int, *, option: str = "bandwidth") -> int:
    """Mbps (10^6 bits a second) as the setting document stores it; 0 is no limit."""
    found = _BANDWIDTH.fullmatch(str(text))
    if not found:
        raise ConfigError(f"{option}: {text!r} is no bandwidth; write Mbps, or a number with M, G, T or P, such as 10G")
    return int(float(found[1]) * _MBPS[found[2].lower()])


def parse_bool(text: str | bool, *, option: str = "value") -> bool:
    if isinstance(text, bool):
        return text
    word = text.strip().lower()
    if word in ("1", "t", "true", "yes", "on"):
        return True
    if word in ("0", "f", "false", "no", "off", ""):
        return False
    raise ConfigError(f"{option}: {text!r} is neither true nor false")


def format_size(size: int) -> str:
    """For people: 4.00 MiB. Exact below 1 KiB."""
    if size < KIB:
        return f"{size} B"
    power = min((size.bit_length() - 1) // 10, 6)
    return f"{size / (1 << 10 * power):.2f} {'KMGTPE'[power - 1]}iB"


class Address(NamedTuple):
    """Where a door listens. host "" is every interface."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """host:port for a URL that works on this machine."""
        host = self.host if self.host not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def parse_address(text: str, *, option: str = "address") -> Address:
    """`host:port`, `:port`, `port` or `[v6]:port`."""
    head, colon, tail = text.strip().rpartition(":")
    if not tail.isascii() or not tail.isdigit() or int(tail) > 65535:
        raise ConfigError(f"{option}: {text!r} has no port; write HOST:PORT, such as 127.0.0.1:9000 or :9000")
    if head.startswith("[") and head.endswith("]"):
        head = head[1:-1]
    elif colon and ":" in head:
        raise ConfigError(f"{option}: {text!r}: put an IPv6 address into brackets, such as [::1]:9000")
    return Address(head, int(tail))


# Up to the last "@": a password may hold any character, and showing too little of a URL beats showing a password.
_USERINFO = re.compile(r"(?P<user>[^:@/?#]*):(?P<password>[^?]*)@", re.DOTALL)


class MetaUrl(NamedTuple):
    """A metadata address taken apart; no scheme means Redis (cli §1.2)."""

    scheme: str
    rest: str  # everything after SCHEME://

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.rest}"


def parse_meta_url(text: str) -> MetaUrl:
    text = text.strip()
    if not text:
        raise ConfigError("the metadata URL is empty; write something like sqlite3:///path/meta.db or redis://HOST/1")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return MetaUrl("redis", text)
    if scheme.lower() in ("postgresql", "sqlite"):
        # Spelled as other tools spell them.
        scheme = {"postgresql": "postgres", "sqlite": "sqlite3"}[scheme.lower()]
    return MetaUrl(scheme.lower(), rest)


def _split_password(url: str) -> tuple[str, str, str]:
    """Scheme with user, password as written, rest after the "@"; the password is "" if there is none."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    found = _USERINFO.match(rest)
    if not found or not found["password"]:
        return url, "", ""
    return f"{scheme}{separator}{found['user']}", found["password"], rest[found.end() :]


def url_password(url: str) -> str | None:
    """The password in a URL, decoded; None if there is none."""
    return unquote(_split_password(url)[1]) or None


def without_password(url: str) -> str:
    """The same URL with the password taken out (`user@host`); whoever opens it reads META_PASSWORD."""
    head, password, rest = _split_password(url)
    if not password:
        return url
    return f"{head}@{rest}" if head and not head.endswith("://") else f"{head}{rest}"


def mask_url(url: str) -> str:
    """The URL as it may be shown: the password is `****`, and so are secrets among the query options."""
    head, password, rest = _split_password(url)
    if password:
        url = f"{head}:****@{rest}"
    return re.sub(r"(?i)([?&][^=&]*(?:password|passwd|secret|token|key)=)[^&#]+", r"\1****", url)


def split_url(url: str) -> SplitResult:
    """`urlsplit` with our error instead of a ValueError that quotes the password."""
    try:
        return urlsplit(url)
    except ValueError:
        raise ConfigError(f"{mask_url(url)} is no URL; check brackets and the port") from None
