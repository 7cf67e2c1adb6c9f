# SPDX-License-Identifier: Apache-2.0
"""MySQL metadata URLs: `mysql://` and a DSN of go-sql-driver, its options, and where the password comes from.

    mysql://user:password@(host:3306)/database?tls=true&table_prefix=a
    mysql://user@unix(/run/mysqld/mysqld.sock)/database

Pure: text and an environment in, a `MySQLURL` out; the only IO is reading the file named by META_PASSWORD_FILE and
the certificates. Source: format §5.1; the option names are those of go-sql-driver's README.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from core.errors import ConfigError
from core.meta.stores.urls import go_duration, host_port, password_from, tls_context

DEFAULT_PORT: Final = 3306

#: Options that change what we do.
KNOWN: Final = (
    "table_prefix", "tls", "tls-ca-cert-file", "tls-cert-file", "tls-key-file", "timeout", "readTimeout",
    "max_open_conns", "max_idle_time", "lock_wait_timeout_s", "connections",
)  # fmt: skip
#: Options of go-sql-driver and of the original client that have no meaning here, and system variables that we
#: set ourselves.
IGNORED: Final = frozenset(
    [
        "allowAllFiles", "allowCleartextPasswords", "allowFallbackToPlaintext", "allowNativePasswords",
        "allowOldPasswords", "charset", "checkConnLiveness", "clientFoundRows", "collation", "columnsWithAlias",
        "compress", "connectionAttributes", "interpolateParams", "loc", "maxAllowedPacket", "multiStatements",
        "parseTime", "rejectReadOnly", "serverPubKey", "timeTruncate", "writeTimeout", "max_idle_conns",
        "max_life_time", "transaction_isolation", "tx_isolation", "autocommit", "sql_mode", "time_zone",
    ]
)  # fmt: skip
_EXAMPLE: Final = "mysql://user:password@(host:3306)/database"
_TLS_MODES: Final = ("false", "true", "skip-verify", "preferred", "custom")


@dataclass(frozen=True, slots=True)
class MySQLURL:
    """Where and how to connect. `where` is safe to print; the password appears in no repr."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""  # of a Unix socket; then host and port mean nothing
    database: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    table_prefix: str = ""
    tls: str = "false"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    idle_s: float = 300.0  # a connection that rested longer is closed, before a firewall forgets it
    lock_wait_s: int = 10
    connections: int = 4  # for reading; commits have two more

    @property
    def where(self) -> str:
        if self.path:
            return f"mysql://unix({self.path})/{self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mysql://({host}:{self.port})/{self.database}"

    def context(self) -> ssl.SSLContext | None:
        """None: no TLS. Raises ConfigError naming the file that can't be used."""
        if self.tls == "false":
            return None
        verify = self.tls not in ("skip-verify", "preferred") or bool(self.ca_file)
        return tls_context(self.ca_file, self.cert_file, self.key_file, verify=verify)


def parse_url(text: str, env: Mapping[str, str] | None = None) -> MySQLURL:
    """Understand a metadata URL. Raises ConfigError that names the part at fault, never the password."""
    env = os.environ if env is None else env
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != "mysql":
        raise ConfigError(f"this is no MySQL address; it looks like {_EXAMPLE}")
    credentials, address, tail = _split(rest)
    raw_database, _, query = tail.partition("?")
    user, _, password = credentials.partition(":")
    host, port, path = _address(address)
    options: dict[str, str] = dict(parse_qsl(query, keep_blank_values=True))
    database = unquote(raw_database)
    if not database:
        raise ConfigError(f"the MySQL address names no database; it looks like {_EXAMPLE}")
    unknown = sorted(name for name in options if name not in KNOWN and name not in IGNORED)
    if unknown:
        raise ConfigError(
            f"unknown option in the MySQL address: {', '.join(unknown)}; known are {', '.join(KNOWN)}, and "
            f"accepted without effect {', '.join(sorted(IGNORED))}"
        )
    tls = _tls_mode(options)
    usual = MySQLURL()
    limit = _whole("max_open_conns", options.get("max_open_conns", ""), 0)
    connections = _whole("connections", options.get("connections", ""), usual.connections)
    if limit:  # two of them are for commits
        connections = min(connections, limit - 2)
    return MySQLURL(
        host=host,
        port=port,
        path=path,
        database=database,
        user=user,
        password=unquote(password) or password_from(env),
        table_prefix=options.get("table_prefix", ""),
        tls=tls,
        ca_file=options.get("tls-ca-cert-file", ""),
        cert_file=options.get("tls-cert-file", ""),
        key_file=options.get("tls-key-file", ""),
        connect_timeout_s=_duration("timeout", options.get("timeout", ""), usual.connect_timeout_s),
        read_timeout_s=_duration("readTimeout", options.get("readTimeout", ""), usual.read_timeout_s),
        idle_s=_duration("max_idle_time", options.get("max_idle_time", ""), usual.idle_s),
        lock_wait_s=max(1, _whole("lock_wait_timeout_s", options.get("lock_wait_timeout_s", ""), usual.lock_wait_s)),
        connections=max(1, connections),
    )


def _split(rest: str) -> tuple[str, str, str]:
    """Credentials, address, and database with options. Passwords may hold any of ":/@?(" unescaped."""
    end = rest.rfind(")/")
    if end >= 0:
        start = rest.rfind("(", 0, end)
        at = rest.rfind("@", 0, start)
        # Between "@" and "(" stands the protocol, if any; without "@" there are no credentials.
        return rest[: max(at, 0)], rest[at + 1 : end + 1], rest[end + 2 :]
    if rest.endswith(")"):
        raise ConfigError(f"the MySQL address names no database; it looks like {_EXAMPLE}")
    at = rest.rfind("@", 0, rest.find("?", rest.rfind("@") + 1) if "?" in rest[rest.rfind("@") + 1 :] else len(rest))
    slash = rest.find("/", at + 1)
    if slash < 0:
        raise ConfigError(f"the MySQL address names no database; it looks like {_EXAMPLE}")
    return rest[: max(at, 0)], rest[at + 1 : slash], rest[slash + 1 :]


def _address(text: str) -> tuple[str, int, str]:
    """Host, port, socket path. `tcp(h:p)`, `(h:p)`, `unix(/path)`, or `h:p` as other tools write it."""
    found = re.fullmatch(r"(\w*)\((.*)\)", text)
    protocol, place = (found[1], found[2]) if found else ("tcp", text)
    if protocol == "unix" or (protocol == "" and place.startswith("/")):
        if not place:
            raise ConfigError("unix() in the MySQL address needs the path of a socket, such as unix(/run/mysqld/s)")
        return "", 0, unquote(place)
    if protocol not in ("", "tcp"):
        raise ConfigError(f"{protocol}(…) in the MySQL address is not supported; use tcp(host:port) or unix(/path)")
    host, port = host_port(place, DEFAULT_PORT, "the MySQL address")
    return host, port, ""


def _tls_mode(options: Mapping[str, str]) -> str:
    mode = options.get("tls", "").lower()
    if not mode:
        return "custom" if options.get("tls-ca-cert-file") else "false"
    mode = {"1": "true", "0": "false"}.get(mode, mode)
    if mode not in _TLS_MODES:
        raise ConfigError(f"tls={mode} in the MySQL address: choose one of {', '.join(_TLS_MODES)}")
    if mode == "custom" and not (options.get("tls-ca-cert-file") or options.get("tls-cert-file")):
        raise ConfigError("tls=custom in the MySQL address needs tls-ca-cert-file=PATH or tls-cert-file=PATH")
    return mode


def _whole(option: str, text: str, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal():
        raise ConfigError(f"{option}={text} in the MySQL address: give a whole number")
    return int(text)


def _duration(option: str, text: str, default: float) -> float:
    """Go's notation (1m30s, 20ms) or whole seconds; 0 means the default."""
    if not text:
        return default
    return go_duration(option, text) or default
