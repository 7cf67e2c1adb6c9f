# SPDX-License-Identifier: Apache-2.0
"""Which server to talk to: the host itself, Sentinel's master, or the owner of the volume's slot in a cluster.

A volume on a cluster lives in one slot (its prefix is a hash tag), so one connection to that slot's owner is all it
takes; a moved slot is found again like a failed-over master. Sentinel discovery is redis-py's.
Source: format §4.1, §4.2; Redis cluster specification (CRC16/XMODEM of the tag modulo 16384).
"""

from __future__ import annotations

import asyncio
import binascii
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from hiredis import ReplyError

from core.errors import MetaError
from core.meta.stores.redis.replies import typed_error
from core.meta.stores.redis.url import RedisURL
from core.meta.stores.redis.wire import Wire, WireLost, pack_command

#: How long one of several cluster nodes may take to say who serves what.
SEED_TIMEOUT_S: Final = 1.0

Address = tuple[str, int]
Dial = Callable[[Address], Awaitable[Wire]]


def slot_of(db: int) -> int:
    """Slot of every key that carries the prefix `{db}`."""
    return binascii.crc_hqx(b"%d" % db, 0) % 16384


async def find_master(url: RedisURL, tls: ssl.SSLContext | None) -> Address:
    """Ask the Sentinels. Raises MetaError if none of them knows the master."""
    from redis.asyncio.sentinel import Sentinel  # only Sentinel users pay for this import
    from redis.exceptions import RedisError

    options: dict[str, Any] = {"socket_timeout": url.dial_timeout_s, "socket_connect_timeout": url.dial_timeout_s}
    if url.sentinel_password:
        options["password"] = url.sentinel_password
    if tls is not None:
        options |= {"ssl": True, "ssl_ca_certs": url.tls.ca_file or None if url.tls else None}
        if url.tls is not None and url.tls.cert_file:
            options |= {"ssl_certfile": url.tls.cert_file, "ssl_keyfile": url.tls.key_file or url.tls.cert_file}
        if url.tls is not None and not url.tls.verify:
            options |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    sentinel = Sentinel(list(url.hosts), sentinel_kwargs=options)  # type: ignore[no-untyped-call]
    try:
        host, port = await sentinel.discover_master(url.master)
    except (TimeoutError, RedisError, OSError) as e:
        raise MetaError(
            f"no Sentinel of {url.where} knows a master {url.master!r} ({e}); check the name and the Sentinels",
            retryable=True,
        ) from e
    finally:
        for client in sentinel.sentinels:
            await client.aclose()
    return str(host), int(port)


async def find_owner(url: RedisURL, nodes: Sequence[Address], dial: Dial) -> tuple[Address, list[Address]]:
    """Ask a cluster who serves the volume's slot; also all its nodes, who can be asked next time.

    nodes: known from last time, asked before those of the URL. `dial` gives an authenticated connection.
    """
    slot = slot_of(url.db)
    cause: Exception | None = None
    seeds = list(dict.fromkeys([*nodes, *url.hosts]))
    for seed in seeds:
        try:
            # One that hangs must not use up the time for the others.
            async with asyncio.timeout(SEED_TIMEOUT_S if len(seeds) > 1 else None):
                wire = await dial(seed)
                try:
                    ranges = await wire.send(pack_command(("CLUSTER", "SLOTS")))
                finally:
                    wire.close()
        except (OSError, WireLost, MetaError) as e:
            cause = e
            continue
        if isinstance(ranges, ReplyError):
            raise typed_error(str(ranges), url.where)
        found = [_address(node, seed[0]) for _, _, *serving in ranges for node in serving]
        for first, last, owner, *_ in ranges:
            if first <= slot <= last:
                return _address(owner, seed[0]), list(dict.fromkeys(found))
        cause = MetaError(f"no node serves slot {slot}")
    raise MetaError(
        f"cluster {url.where}: nobody serves slot {slot} of this volume ({cause}); check the nodes", retryable=True
    ) from cause


def _address(node: Any, asked: str) -> Address:
    """Of a node in CLUSTER SLOTS; one that doesn't know its own name is where it was asked."""
    host = node[0].decode() if node[0] else ""
    return (host if host and host != "?" else asked), int(node[1])
