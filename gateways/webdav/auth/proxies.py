# SPDX-License-Identifier: Apache-2.0
"""Reverse proxies that are believed: what they say of the client counts, the same words of anybody else don't.

Pure. Source: spec webdav §16.1 (header of a trusted proxy), §17 (X-Forwarded-*).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from core.errors import ConfigError
from gateways.http.messages import Request


class Proxies:
    """A set of addresses and networks."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        try:
            self._networks = tuple(ipaddress.ip_network(text.strip(), strict=False) for text in texts if text.strip())
        except ValueError as error:
            raise ConfigError(
                f"--trusted-proxy: {error}; an address or a network is needed, such as 10.0.0.0/8"
            ) from None
        self._holds = lru_cache(1024)(self._look)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def __contains__(self, peer: object) -> bool:
        return bool(self._networks) and isinstance(peer, str) and self._holds(peer)

    def _look(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._networks)

    def client(self, request: Request) -> str:
        """Address of whoever asks: the nearest hop that isn't one of ours."""
        peer = request.peer
        if peer not in self:
            return peer
        for hop in reversed(request.headers.get("x-forwarded-for", "").split(",")):
            hop = hop.strip()
            if hop and hop not in self:
                return hop
        return peer

    def secure(self, request: Request) -> bool:
        """Did the client come over TLS?"""
        if request.secure:
            return True
        proto = request.headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return proto == "https" and request.peer in self


NOBODY = Proxies()
