# SPDX-License-Identifier: Apache-2.0
"""The servers behind a Redis bucket: one, Sentinel's master, or the nodes of a cluster; and commands to them.

redis-py's clients and their blocking pools do the work. Its cluster client does not: under load (8.1) it takes away
connections that other tasks are opening, and it refuses calls when its pool is empty. So a cluster is a map from slots
to ordinary clients here, read again when a node redirects us or can't be reached.
Source: spec data-path §4.2; Redis cluster specification (slots, MOVED, ASK); Redis guidelines for Sentinel clients.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import redis.asyncio as client
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff
from redis.crc import key_slot

from core.errors import ConfigError
from core.meta.stores.redis.url import RedisURL, parse_url

FORMS: Final = "redis://HOST:6379/0, redis://MASTER,SENTINEL1,SENTINEL2:26379/0 or redis://HOST1:6379,HOST2:6379"
CONNECTIONS: Final = 32
#: A socket read of a block in 64 KiB pieces costs a turn of the loop each.
READ_BYTES: Final = 1 << 20


#: Redirections that one command follows; a slot that moves costs one or two.
REDIRECTIONS: Final = 5

Place = tuple[str, int]


def address(bucket: str, access_key: str, secret_key: str, environ: Mapping[str, str] = os.environ) -> RedisURL:
    """Where to connect; ConfigError shows the forms. The password is never part of a text."""
    text = bucket.strip()
    if "://" in text and text.partition("://")[0].lower() not in ("redis", "rediss", "unix"):
        raise ConfigError(f"redis: the bucket is no Redis address; it looks like {FORMS}")
    if "@" in text.partition("?")[0]:
        raise ConfigError("redis: user and password don't belong into the bucket; give --access-key and --secret-key")
    if not text.partition("://")[2 if "://" in text else 0]:
        raise ConfigError(f"redis: the bucket is empty; it looks like {FORMS}")
    url = parse_url(text, {})
    return replace(
        url,
        username=access_key,
        password=secret_key,
        sentinel_password=environ.get("SENTINEL_PASSWORD_FOR_OBJ", ""),
    )


class Servers:
    """`await execute(key, "GET", key)`. Belongs to the event loop that uses it; raises redis-py's errors."""

    def __init__(self, url: RedisURL) -> None:
        self._url = url
        self._sentinel: Any = None
        self._single: Any = None
        self._nodes: dict[Place, Any] = {}  # of a cluster
        self._slots: Sequence[tuple[int, int, Place]] = ()
        self._mapping = asyncio.Lock()

    async def execute(self, key: str, *command: Any) -> Any:
        """The reply to a command about one key."""
        if self._url.mode != "cluster":
            return await self._one().execute_command(*command)
        place, asking = await self._owner(key), False
        for left in range(REDIRECTIONS, -1, -1):
            try:
                node = self._node(place)
                if not asking:
                    return await node.execute_command(*command)
                batch = node.pipeline(transaction=False)
                batch.execute_command("ASKING")
                batch.execute_command(*command)
                return (await batch.execute())[1]
            except exceptions.AskError as error:  # this key has moved, its slot has not yet
                if not left:
                    raise
                place, asking = (error.node_addr[0] or place[0], error.node_addr[1]), True
            except exceptions.MovedError:
                if not left:
                    raise
                self._slots = ()
                place, asking = await self._owner(key), False
            except (exceptions.ConnectionError, exceptions.TimeoutError):
                self._slots = ()  # somebody else may have taken its place by the next call
                raise
        raise AssertionError("unreachable")

    async def execute_many(self, keys: Sequence[str], command: str) -> Sequence[Any]:
        """Replies to one command about each key, in one round trip to each server; errors among them."""
        if self._url.mode != "cluster":
            batch = self._one().pipeline(transaction=False)
            for key in keys:
                batch.execute_command(command, key)
            replies: Sequence[Any] = await batch.execute(raise_on_error=False)
            return replies
        groups: dict[Place, list[int]] = {}
        for at, key in enumerate(keys):
            groups.setdefault(await self._owner(key), []).append(at)
        found: list[Any] = [None] * len(keys)

        async def ask(place: Place, numbers: Sequence[int]) -> None:
            batch = self._node(place).pipeline(transaction=False)
            for at in numbers:
                batch.execute_command(command, keys[at])
            for at, reply in zip(numbers, await batch.execute(raise_on_error=False), strict=True):
                if isinstance(reply, exceptions.MovedError | exceptions.AskError):
                    reply = await self.execute(keys[at], command, keys[at])
                found[at] = reply

        try:
            await asyncio.gather(*(ask(place, numbers) for place, numbers in groups.items()))
        except (exceptions.ConnectionError, exceptions.TimeoutError):
            self._slots = ()
            raise
        return found

    async def all(self) -> Sequence[Any]:
        """A client for each server that holds keys."""
        if self._url.mode != "cluster":
            return [self._one()]
        await self._owner("")
        return [self._node(place) for place in dict.fromkeys(place for _, _, place in self._slots)]

    async def close(self) -> None:
        for one in (self._single, *self._nodes.values(), *(self._sentinel.sentinels if self._sentinel else ())):
            if one is not None:
                await one.aclose()

    # ---- a cluster's map

    async def _owner(self, key: str) -> Place:
        if not self._slots:
            async with self._mapping:
                if not self._slots:
                    self._slots = await self._read_slots()
        slot = key_slot(key.encode())
        for first, last, place in self._slots:
            if first <= slot <= last:
                return place
        self._slots = ()
        raise exceptions.ClusterDownError(f"CLUSTERDOWN nobody serves slot {slot}")

    async def _read_slots(self) -> Sequence[tuple[int, int, Place]]:
        """As the first node says that can be asked."""
        cause: Exception = exceptions.ConnectionError("no node was asked")
        for seed in dict.fromkeys([*self._nodes, *self._url.hosts]):
            try:
                ranges = await self._node(seed).execute_command("CLUSTER", "SLOTS")
            except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
                if isinstance(error, exceptions.AuthenticationError):
                    raise
                cause = error
                continue
            found = []
            for first, last, owner, *_ in ranges:
                host = owner[0].decode() if owner[0] else ""
                found.append((int(first), int(last), (host if host and host != "?" else seed[0], int(owner[1]))))
            return found
        raise cause

    # ---- clients

    def _one(self) -> Any:
        if self._single is None:
            self._single = self._make_sentinel() if self._url.mode == "sentinel" else self._make(None)
        return self._single

    def _node(self, place: Place) -> Any:
        found = self._nodes.get(place)
        if found is None:
            found = self._nodes[place] = self._make(place)
        return found

    def _common(self) -> dict[str, Any]:
        url = self._url
        return {
            "db": url.db if url.mode != "cluster" else 0,
            "username": url.username or None,
            "password": url.password or None,
            "protocol": 2,  # servers of before 6.0 know no other, and nothing here needs one
            "socket_timeout": url.read_timeout_s,
            "socket_connect_timeout": url.dial_timeout_s,
            "socket_read_size": READ_BYTES,
            "max_connections": CONNECTIONS,
            # A kept connection that the server closed is replaced at once; what lasts longer is the caller's to retry.
            "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
        }

    def _tls(self) -> dict[str, Any]:
        tls = self._url.tls
        if tls is None:
            return {}
        tls.context()  # names a file that can't be used
        return {
            "ssl_ca_certs": tls.ca_file or None,
            "ssl_certfile": tls.cert_file or None,
            "ssl_keyfile": tls.key_file or None,
            "ssl_cert_reqs": "required" if tls.verify else "none",
            "ssl_check_hostname": tls.verify,
        }

    def _make(self, place: Place | None) -> Any:
        """A client of one server, that waits for a connection instead of refusing."""
        url, tls = self._url, self._tls()
        options: dict[str, Any] = {"timeout": None, **self._common()}
        if place is None and url.path:
            options |= {"connection_class": client.UnixDomainSocketConnection, "path": url.path}
        else:
            host, port = place or url.hosts[0]
            kind = client.SSLConnection if url.tls else client.Connection
            options |= {"connection_class": kind, "host": host, "port": port, **tls}
        return client.Redis.from_pool(client.BlockingConnectionPool(**options))

    def _make_sentinel(self) -> Any:
        url, tls = self._url, self._tls()
        if url.tls:
            tls["ssl"] = True
        asking = {"password": url.sentinel_password or None, "socket_timeout": 2.0, "socket_connect_timeout": 2.0}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            url.hosts, sentinel_kwargs={**asking, "protocol": 2, **tls}
        )
        return self._sentinel.master_for(url.master, **self._common(), **tls)
