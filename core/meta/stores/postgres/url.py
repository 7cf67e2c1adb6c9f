# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL metadata URLs: host forms, options, and where the password comes from.

Pure: text and an environment in, a `PostgresURL` out; the only IO is reading the file named by META_PASSWORD_FILE.
Source: format §5.1. Connection options are those of libpq and keep its meaning (PostgreSQL manual, 34.1.2).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from core.errors import ConfigError
from core.meta.stores.sql.tables import full_prefix
from core.meta.stores.urls import password_from

#: libpq parameters that may stand in the URL. Not among them: what the store sets itself.
LIBPQ: Final = frozenset(
    [
        "user", "password", "passfile", "service", "host", "hostaddr", "port", "connect_timeout", "application_name",
        "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslmode",
        "sslnegotiation", "sslcompression", "sslcert", "sslkey", "sslcertmode", "sslpassword", "sslrootcert",
        "sslcrl", "sslcrldir", "sslsni", "requirepeer", "require_auth", "channel_binding", "gssencmode",
        "krbsrvname", "gsslib", "gssdelegation", "target_session_attrs", "load_balance_hosts",
        "ssl_min_protocol_version", "ssl_max_protocol_version", "options",
    ]
)  # fmt: skip
OURS: Final = ("table_prefix", "search_path", "max_open_conns", "max_idle_conns", "max_idle_time", "max_life_time")
#: Options of the original client's driver that have no meaning here.
_IGNORED: Final = frozenset(
    ("default_query_exec_mode", "statement_cache_capacity", "description_cache_capacity", "client_encoding")
)
DEFAULT_PORT: Final = "5432"
#: How many connections read at the same time, beside the one that commits.
READERS: Final = 2


@dataclass(frozen=True, slots=True)
class PostgresURL:
    """Where and how to connect. `where` is safe to print; secrets appear in no repr."""

    where: str
    parameters: dict[str, str] = field(repr=False)  # for libpq
    prefix: str = "jfs_"
    schema: str = ""  # "": whatever the server's search_path finds
    readers: int = READERS


def parse_url(text: str, env: Mapping[str, str] | None = None) -> PostgresURL:
    """Understand a metadata URL. ConfigError names the part at fault, never the password."""
    env = os.environ if env is None else env
    scheme, separator, rest = text.partition("://")
    if scheme.lower() not in ("postgres", "postgresql") or not separator:
        raise ConfigError("a PostgreSQL address looks like postgres://USER@HOST:5432/DATABASE?sslmode=require")
    # Passwords often hold an unescaped "/" or "@": all before the last "@" is theirs. "?" must be written %3F.
    head, _, query = rest.partition("?")
    credentials, _, place = head.rpartition("@")
    user, _, password = credentials.partition(":")
    authority, _, database = place.partition("/")
    options = _options(query)
    parameters = {name: value for name, value in options.items() if name in LIBPQ}
    if user:
        parameters["user"] = unquote(user)
    if authority:
        hosts, ports = _hosts(authority)
        parameters["host"] = hosts
        parameters["port"] = ports
    database = unquote(options.get("dbname", "") or database)
    if not database and "service" not in parameters:
        raise ConfigError("the PostgreSQL address names no database; it looks like postgres://USER@HOST:5432/DATABASE")
    if database:
        parameters["dbname"] = database
    secret = unquote(password) or parameters.get("password", "") or password_from(env)
    if secret:
        parameters["password"] = secret
    parameters.setdefault("connect_timeout", "10")
    parameters.setdefault("application_name", "sluicefs")
    # A server that vanished without a word is noticed after half a minute, not after the kernel's two hours.
    parameters.setdefault("keepalives_idle", "15")
    parameters.setdefault("keepalives_interval", "5")
    parameters.setdefault("keepalives_count", "3")
    parameters.setdefault("tcp_user_timeout", "30000")
    schema = options.get("search_path", "")
    if "," in schema:
        raise ConfigError(f"search_path={schema!r}: name exactly one schema, the one that holds the volume's tables")
    host = parameters.get("host", "") or parameters.get("hostaddr", "") or "local socket"
    return PostgresURL(
        where=f"postgres://{_place(host, parameters.get('port', DEFAULT_PORT))}/{database}",
        parameters=parameters,
        prefix=full_prefix(options.get("table_prefix", "")),
        schema=schema.strip().strip('"'),
        readers=_readers(options.get("max_open_conns", "")),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in LIBPQ and name not in OURS and name not in _IGNORED and name != "dbname":
            known = ", ".join((*OURS, *sorted(LIBPQ - {"password", "sslpassword"})))
            raise ConfigError(f"unknown option {name!r} in the PostgreSQL address; known: {known}")
    return options


def _hosts(authority: str) -> tuple[str, str]:
    """`host[:port]`, or several with commas: they are tried in turn (see target_session_attrs)."""
    hosts, ports = [], []
    for part in authority.split(","):
        if part.startswith("["):
            host, bracket, tail = part[1:].partition("]")
            port = tail.removeprefix(":")
            if not bracket or (tail and not tail.startswith(":")):
                raise ConfigError(f"{part!r} in the PostgreSQL address: write an IPv6 address as [::1]:5432")
        else:
            host, _, port = part.partition(":")
        if port and (not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536):
            raise ConfigError(f"{part!r} in the PostgreSQL address: {port!r} is no port")
        hosts.append(unquote(host))
        ports.append(port or DEFAULT_PORT)
    return ",".join(hosts), ",".join(ports)


def _place(hosts: str, ports: str) -> str:
    numbers = ports.split(",")
    several = hosts.split(",")
    if hosts.startswith("/") or hosts == "local socket":
        return f"({hosts})"
    return ",".join(f"{f'[{h}]' if ':' in h else h}:{numbers[min(i, len(numbers) - 1)]}" for i, h in enumerate(several))


def _readers(text: str) -> int:
    """One connection commits; of a limit, the others read."""
    if not text:
        return READERS
    if not text.isdigit():
        raise ConfigError(f"max_open_conns={text!r} in the PostgreSQL address: give a whole number, 2 or more")
    return READERS if not int(text) else max(1, min(READERS, int(text) - 1))
