# SPDX-License-Identifier: Apache-2.0
"""What the metadata URLs of several databases have in common: passwords, host:port, durations, TLS files.

Pure but for the files that a user names. Errors are ConfigErrors that name the option or variable, never a secret.
Source: format §4.1, §5.1, §6.1.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from core.errors import ConfigError

_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def password_from(env: Mapping[str, str], *names: str) -> str:
    """The value of the first of `names` and META_PASSWORD that is set, else the text of the file META_PASSWORD_FILE."""
    for name in (*names, "META_PASSWORD"):
        if value := env.get(name):
            return value
    if path := env.get("META_PASSWORD_FILE"):
        try:
            return Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "not text"
            raise ConfigError(f"META_PASSWORD_FILE={path}: {reason}; name a readable file with the password") from e
    return ""


def host_port(text: str, default: int, where: str) -> tuple[str, int]:
    """`host`, `host:port`, `[::1]:port`, `:port`; an empty host is this machine. where: "the Redis URL"."""
    if text.startswith("["):  # IPv6
        host, _, tail = text[1:].partition("]")
        port = tail.removeprefix(":")
    else:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"port {port!r} of host {host!r} in {where} is no port number")
    return unquote(host) or "127.0.0.1", int(port or default)


def go_duration(option: str, text: str) -> float:
    """Seconds of Go's notation (1m30s, 20ms) or of a whole number."""
    if text.isdecimal():
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ConfigError(f"{option}={text}: no duration; write it like 500ms, 30s or 1m")
    return float(sum(float(n) * _UNITS[u] for n, u in parts))


def tls_context(ca_file: str, cert_file: str, key_file: str, *, verify: bool) -> ssl.SSLContext:
    """From the files of tls-ca-cert-file, tls-cert-file and tls-key-file; "" is none."""
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(f"tls-ca-cert-file={ca_file}: {e}; give a readable PEM file") from e
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file or key_file:
        try:
            context.load_cert_chain(cert_file, key_file or None)
        except (OSError, ssl.SSLError) as e:
            message = f"tls-cert-file={cert_file}, tls-key-file={key_file}: {e}; give a matching PEM pair"
            raise ConfigError(message) from e
    return context
