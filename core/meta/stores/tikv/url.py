# SPDX-License-Identifier: Apache-2.0
"""TiKV metadata URLs: `tikv://pd1:2379[,pd2…]/<prefix>?options`.

Pure: text in, a `TiKVURL` out; no IO. Source: format §6.1 (forms, options, key prefix).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from core.config import parse_duration
from core.errors import ConfigError

DEFAULT_PORT: Final = 2379
DEFAULT_GC_INTERVAL_S: Final = 3 * 3600.0
MIN_GC_INTERVAL_S: Final = 3600.0

#: Ends every prefix. No prefix of one volume then begins another's, because 0xFD is in no path that is UTF-8.
PREFIX_END: Final = b"\xfd"

#: What the client library for Python can't do; ignoring them would send metadata in the clear.
_TLS: Final = ("ca", "cert", "key", "verify-cn")
#: How another client's timestamp requests are grouped; ours groups by itself.
_IGNORED: Final = frozenset(["open-tso-follower-proxy", "max-tso-batch-wait-interval"])


@dataclass(frozen=True, slots=True)
class TiKVURL:
    """Where to connect, and which keys are ours. `where` is for error texts."""

    endpoints: tuple[str, ...]  # host:port of the placement drivers (PD)
    prefix: bytes  # of every key, 0xFD included
    gc_interval_s: float = DEFAULT_GC_INTERVAL_S  # how long old versions are kept; 0: this client removes none

    @property
    def where(self) -> str:
        return f"tikv://{','.join(self.endpoints)}/{self.prefix[:-1].decode(errors='backslashreplace')}"


def parse_url(text: str) -> TiKVURL:
    """Understand a metadata URL. Raises ConfigError that names the part at fault and what to write instead."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme.lower() != "tikv":
        raise ConfigError(f"{scheme}:// is no TiKV scheme; write tikv://PD1:2379,PD2:2379/PREFIX")
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    options = {name.replace("_", "-"): value for name, value in parse_qsl(query, keep_blank_values=True)}

    if wanted := [name for name in _TLS if options.pop(name, "")]:
        raise ConfigError(
            f"{', '.join(wanted)} in the TiKV URL: TLS is not supported by the TiKV client for Python (tikv-client); "
            "reach the cluster through TLS tunnels to its PD and TiKV ports, or over a private network without TLS"
        )
    interval = _gc_interval(options.pop("gc-interval", ""))
    if unknown := sorted(set(options) - _IGNORED):
        raise ConfigError(
            f"unknown option in the TiKV URL: {', '.join(unknown)}; remove it (known: gc-interval, ca, cert, key, "
            "verify-cn)"
        )
    return TiKVURL(_endpoints(authority), unquote_to_bytes(path.lstrip("/")) + PREFIX_END, interval)


def _endpoints(authority: str) -> tuple[str, ...]:
    if "@" in authority:
        raise ConfigError("a TiKV URL has no user or password: TiKV knows none; write tikv://PD1:2379/PREFIX")
    found = tuple(dict.fromkeys(_endpoint(part.strip()) for part in authority.split(",") if part.strip()))
    if not found:
        raise ConfigError("the TiKV URL names no placement driver (PD); write tikv://PD1:2379,PD2:2379/PREFIX")
    return found


def _endpoint(text: str) -> str:
    if text.startswith("["):  # IPv6
        host, closed, tail = text[1:].partition("]")
        port = tail.removeprefix(":")
        if not closed or (tail and not tail.startswith(":")):
            raise ConfigError(f"{text!r} in the TiKV URL: write an IPv6 address as [::1]:2379")
        host = f"[{host}]"
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise ConfigError(f"{text!r} in the TiKV URL: put an IPv6 address into brackets, such as [::1]:2379")
    if not host or host == "[]":
        raise ConfigError(f"{text!r} in the TiKV URL has no host; write PD:2379")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"port {port!r} of host {host!r} in the TiKV URL is no port number")
    return f"{host}:{port or DEFAULT_PORT}"


def _gc_interval(text: str) -> float:
    if not text:
        return DEFAULT_GC_INTERVAL_S
    seconds = parse_duration(text, option="gc-interval in the TiKV URL")
    # Below an hour, readers of a slow dump would lose their snapshot; 0 means that another does it (format §6.1).
    return max(seconds, MIN_GC_INTERVAL_S) if seconds else 0.0
