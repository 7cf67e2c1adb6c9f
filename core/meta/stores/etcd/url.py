# SPDX-License-Identifier: Apache-2.0
"""etcd metadata URLs: endpoints, user, prefix, TLS options.

Pure: text and an environment in, an `EtcdURL` out; the only IO is reading the file named by META_PASSWORD_FILE.
Source: format §6.1.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from core.config import parse_bool
from core.errors import ConfigError
from core.meta.stores.urls import host_port, password_from

DEFAULT_PORT: Final = 2379
_EXAMPLE: Final = "etcd://host1:2379,host2:2379/prefix"


@dataclass(frozen=True, slots=True)
class TLS:
    """Files in PEM. server_name: checked instead of the endpoint's host."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    server_name: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class EtcdURL:
    """endpoints: host:port, brackets around IPv6. prefix: bytes before every key. tls: None is plain text."""

    endpoints: tuple[str, ...]
    prefix: bytes
    username: str = ""
    password: str = field(default="", repr=False)
    tls: TLS | None = None


def parse_url(url: str, env: Mapping[str, str] | None = None) -> EtcdURL:
    """ConfigError names what makes no sense; passwords are never shown."""
    env = os.environ if env is None else env
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() != "etcd":
        raise ConfigError(f"{scheme}:// is no etcd URL; write {_EXAMPLE}")
    # Passwords often hold an unescaped "/" or "@": all before the last "@" is theirs. "?" must be written %3F.
    head, _, query = rest.partition("?")
    credentials, at, place = head.rpartition("@")
    username, _, password = credentials.partition(":")
    if at and not username:
        raise ConfigError(f"the etcd URL has a password but no user; write etcd://USER:PASSWORD@{place or 'host'}")
    authority, slash, path = place.partition("/")
    endpoints = tuple(_endpoint(part) for part in authority.split(",") if part)
    if not endpoints:
        raise ConfigError(f"the etcd URL names no host; write {_EXAMPLE}")
    options = {name.replace("_", "-"): value for name, value in parse_qsl(query, keep_blank_values=True)}
    tls = TLS(
        ca_file=options.pop("cacert", ""),
        cert_file=options.pop("cert", ""),
        key_file=options.pop("key", ""),
        server_name=options.pop("server-name", ""),
        verify=not parse_bool(options.pop("insecure-skip-verify", ""), option="insecure-skip-verify in the etcd URL"),
    )
    if options:
        raise ConfigError(f"unknown option in the etcd URL: {', '.join(sorted(options))}; remove it")
    if bool(tls.cert_file) != bool(tls.key_file):
        missing = "key" if tls.cert_file else "cert"
        raise ConfigError(f"the etcd URL has only half of a client certificate; add {missing}=FILE")
    used = bool(tls.ca_file or tls.cert_file or tls.key_file or tls.server_name)
    return EtcdURL(
        endpoints=endpoints,
        prefix=(slash + unquote(path, errors="surrogateescape")).encode(errors="surrogateescape") + b"\xfd",
        username=unquote(username),
        password=(unquote(password) or password_from(env)) if username else "",
        tls=tls if used else None,
    )


def _endpoint(text: str) -> str:
    host, port = host_port(text, DEFAULT_PORT, "the etcd URL")
    return f"{f'[{host}]' if ':' in host else host}:{port}"
