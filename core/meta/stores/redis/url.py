# SPDX-License-Identifier: Apache-2.0
"""Redis metadata URLs: every accepted form, its options, and where the password comes from.

Pure: text and an environment in, a `RedisURL` out; the only IO is reading the file named by META_PASSWORD_FILE.
Source: format §4.1 (forms, options, password sources) and §4.2 (key prefix).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import parse_qsl, unquote

from core.errors import ConfigError
from core.meta.stores.urls import go_duration, host_port, password_from, tls_context

Mode = Literal["single", "sentinel", "cluster"]

DEFAULT_PORT: Final = 6379
SENTINEL_PORT: Final = 26379

#: Options of other Redis clients' URLs that have no meaning here: one pipelined connection has no pool.
_IGNORED: Final = frozenset(
    [
        "protocol", "client-name", "max-retries", "pool-fifo", "pool-size", "pool-timeout", "min-idle-conns",
        "max-idle-conns", "max-active-conns", "conn-max-idle-time", "conn-max-lifetime", "idle-timeout",
        "idle-check-frequency", "max-conn-age", "client-cache", "client-cache-size", "client-cache-expire",
        "client-cache-preload", "route-read",
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TLS:
    cert_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    server_name: str = ""
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """What to hand to asyncio. Raises ConfigError naming the file that can't be used."""
        return tls_context(self.ca_file, self.cert_file, self.key_file, verify=self.verify)


@dataclass(frozen=True, slots=True)
class RedisURL:
    """Where and how to connect. `where` is safe to print; the password appears in no repr."""

    mode: Mode
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""  # of a Unix socket; then `hosts` is empty
    master: str = ""  # Sentinel's name of the master
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_password: str = field(default="", repr=False)
    tls: TLS | None = None
    read_timeout_s: float = 30.0
    write_timeout_s: float = 5.0
    dial_timeout_s: float = 5.0
    min_backoff_s: float = 0.02
    max_backoff_s: float = 10.0

    @property
    def where(self) -> str:
        if self.path:
            return f"unix://{self.path}?db={self.db}"
        hosts = ",".join(f"[{h}]:{p}" if ":" in h else f"{h}:{p}" for h, p in self.hosts)
        lead = f"{self.master}," if self.mode == "sentinel" else ""
        return f"{'rediss' if self.tls else 'redis'}://{lead}{hosts}/{self.db}"


def parse_url(text: str, env: Mapping[str, str] | None = None) -> RedisURL:
    """Understand a metadata URL. Raises ConfigError that names the part at fault, never the password."""
    env = os.environ if env is None else env
    if "://" not in text:
        text = "redis://" + text
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in ("redis", "rediss", "unix"):
        raise ConfigError(f"{scheme}:// is no Redis scheme; use redis://, rediss:// or unix://")
    # Passwords often hold an unescaped "/" or "@": all before the last "@" is theirs. "?" must be written %3F.
    head, _, query = rest.partition("?")
    credentials, _, place = head.rpartition("@")
    username, _, password = credentials.partition(":")
    options = {name.replace("_", "-"): value for name, value in parse_qsl(query, keep_blank_values=True)}
    db_text = options.pop("db", "")

    mode: Mode = "single"
    hosts: tuple[tuple[str, int], ...] = ()
    master = path = ""
    if scheme == "unix":
        path = unquote(place)
        if not path:
            raise ConfigError("unix:// needs the path of a socket, such as unix:///run/redis/redis.sock?db=1")
    else:
        authority, _, db_path = place.partition("/")
        db_text = db_path.strip("/") or db_text
        mode, master, hosts = _parse_hosts(authority)
    if db_text and not db_text.isdecimal():
        raise ConfigError(f"database {db_text!r} in the Redis URL is no number; write redis://host:6379/1")

    tls = TLS(
        cert_file=options.pop("tls-cert-file", ""),
        key_file=options.pop("tls-key-file", ""),
        ca_file=options.pop("tls-ca-cert-file", ""),
        server_name=options.pop("tls-server-name", ""),
        verify=not options.pop("insecure-skip-verify", ""),
    )
    times = {
        name: _duration(option, options.pop(option, ""), default)
        for name, option, default in (
            ("read_timeout_s", "read-timeout", 30.0),
            ("write_timeout_s", "write-timeout", 5.0),
            ("dial_timeout_s", "dial-timeout", 5.0),
            ("min_backoff_s", "min-retry-backoff", 0.02),
            ("max_backoff_s", "max-retry-backoff", 10.0),
        )
    }
    if unknown := sorted(set(options) - _IGNORED):
        raise ConfigError(f"unknown option in the Redis URL: {', '.join(unknown)}; remove it")
    return RedisURL(
        mode=mode,
        hosts=hosts,
        path=path,
        master=master,
        db=int(db_text or 0),
        username=unquote(username),
        password=unquote(password) or password_from(env, "REDIS_PASSWORD"),
        sentinel_password=env.get("SENTINEL_PASSWORD", ""),
        tls=tls if scheme == "rediss" else None,
        **times,
    )


def _parse_hosts(authority: str) -> tuple[Mode, str, tuple[tuple[str, int], ...]]:
    parts = [p for p in authority.split(",") if p]
    if len(parts) <= 1:
        return "single", "", (_host_port(parts[0] if parts else "", DEFAULT_PORT),)
    comma, colon = authority.find(","), authority.find(":")
    if 0 <= comma < colon:  # master,host[:port],… is Sentinel
        last = parts[-1].rpartition(":")[2]
        port = int(last) if ":" in parts[-1] and last.isdecimal() else SENTINEL_PORT
        return "sentinel", unquote(parts[0]), tuple(_host_port(p, port) for p in parts[1:])
    return "cluster", "", tuple(_host_port(p, DEFAULT_PORT) for p in parts)


def _host_port(text: str, default: int) -> tuple[str, int]:
    return host_port(text, default, "the Redis URL")


def _duration(option: str, text: str, default: float) -> float:
    """Go's notation (1m30s, 20ms) or whole seconds."""
    if not text:
        return default
    seconds = go_duration(option, text)
    if seconds <= 0:
        raise ConfigError(f"{option}={text}: must be greater than zero")
    return seconds
