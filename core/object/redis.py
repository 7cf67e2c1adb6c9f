# SPDX-License-Identifier: Apache-2.0
"""Objects as string values of Redis or Valkey (storage `redis`): single server, Sentinel or cluster.

    redis[s]://host:port[/db]      redis://master,sentinel1,sentinel2:port/db      redis://host1:port,host2:port

A key is the object's key, its value the object's bytes, without expiry. Redis keeps no time of writing: mtime is now
(`Features.times` says so; gc keeps a book of its own). A listing reads all keys of the server (SCAN), and keeps a
bounded number of them at a time. Source: spec data-path §4.2; redis.io (SCAN, GETRANGE).
"""

from __future__ import annotations

import asyncio
import heapq
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any, Final, TypeVar

import redis.asyncio as client
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialBackoff

from core.errors import ConfigError, ObjectError, ObjectNotFound
from core.meta.stores.redis.url import RedisURL, parse_url
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen

T = TypeVar("T")

FORMS: Final = "redis://HOST:6379/0, redis://MASTER,SENTINEL1,SENTINEL2:26379/0 or redis://HOST1:6379,HOST2:6379"
CONNECTIONS: Final = 32
#: Keys that one pass of a listing keeps: some 60 MB. More keys than that cost one more pass over the server each.
KEYS_PER_PASS: Final = 500_000
#: Keys that one SCAN looks at, and that one pipeline asks about.
SCAN_COUNT: Final = 2000
PAGE: Final = 1000
#: Redis: proto-max-bulk-len.
LARGEST: Final = 512 << 20
#: A socket read of a block in 64 KiB pieces costs a turn of the loop each.
READ_BYTES: Final = 1 << 20


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


class RedisStore(ObjectStore):
    """`RedisStore("redis://host:6379/1", user, password)`. A put is as durable as the server's appendfsync says."""

    features = Features(ranges=True, times=False)

    def __init__(
        self, bucket: str, access_key: str = "", secret_key: str = "", *,
        environ: Mapping[str, str] = os.environ, keys_per_pass: int = KEYS_PER_PASS,
    ) -> None:  # fmt: skip
        self._url = address(bucket, access_key, secret_key, environ)
        self.name = self._url.where
        self._keys_per_pass = keys_per_pass
        self._client: Any = None
        self._sentinel: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        # A transport may keep a reference to what it has not sent yet, even after a cancelled call.
        whole = frozen(data)
        if len(whole) > LARGEST:
            raise ObjectError(
                f"{self.name}: put of {key!r}: {len(whole)} bytes; Redis holds {LARGEST} at most", retryable=False
            )
        await self._run("put", key, lambda: self._server().set(key, whole))

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        if length == 0:
            await self._require(key)
            return b""
        if start == 0 and length is None:
            whole: bytes | None = await self._run("get", key, lambda: self._server().get(key))
            if whole is None:
                raise self._missing(key)
            return whole
        last = -1 if length is None else start + length - 1
        part: bytes = await self._run("get", key, lambda: self._server().getrange(key, start, last))
        if not part:
            await self._require(key)  # behind the end, or not there at all
        return part

    async def delete(self, key: str) -> None:
        await self._run("delete", key, lambda: self._server().unlink(key))

    async def head(self, key: str) -> ObjectInfo:
        found = await self._look([key])
        if not found:
            raise self._missing(key)
        return found[0]

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        last = after.encode()
        while True:
            keys, more = await self._next_keys(prefix.encode(), last)
            for at in range(0, len(keys), PAGE):
                page = [key.decode("utf-8", "surrogateescape") for key in keys[at : at + PAGE]]
                for info in await self._look(page):
                    yield info
            if not more:
                return
            last = keys[-1]

    async def create(self) -> None:
        await self._run("connect", "", lambda: self._server().ping())

    async def close(self) -> None:
        found, sentinel, self._client, self._sentinel = self._client, self._sentinel, None, None
        if found is not None and asyncio.get_running_loop() is self._loop:
            await found.aclose()
            for one in sentinel.sentinels if sentinel else ():
                await one.aclose()

    # ---- keys

    async def _next_keys(self, prefix: bytes, after: bytes) -> tuple[Sequence[bytes], bool]:
        """The smallest keys after `after`, sorted; and whether there may be more. One pass over the server."""
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix) + b"*"
        # A heap of the smallest so far, largest first; SCAN may name a key twice.
        kept: set[bytes] = set()
        full = False

        async def collect() -> None:
            nonlocal full
            server = self._server()
            many = {"target_nodes": client.RedisCluster.PRIMARIES} if self._url.mode == "cluster" else {}
            async for key in server.scan_iter(match=pattern, count=SCAN_COUNT, **many):
                if key > after and key.startswith(prefix):
                    kept.add(key)
                    if len(kept) >= 2 * self._keys_per_pass:
                        full = True
                        smallest = heapq.nsmallest(self._keys_per_pass, kept)
                        kept.clear()
                        kept.update(smallest)

        await self._run("list", prefix.decode(), collect)
        keys = sorted(kept)
        more = full or len(keys) > self._keys_per_pass
        return keys[: self._keys_per_pass], more

    async def _look(self, keys: Sequence[str]) -> Sequence[ObjectInfo]:
        """Those that exist, in one round trip (and a second one if there are empty ones)."""

        async def ask() -> Sequence[Any]:
            if len(keys) == 1:
                return [await self._server().strlen(keys[0])]
            batch = self._server().pipeline(transaction=False)
            for key in keys:
                batch.strlen(key)
            replies: Sequence[Any] = await batch.execute(raise_on_error=False)
            return replies

        sizes = await self._run("head", keys[0] if len(keys) == 1 else "", ask)
        now = time.time()
        doubtful = [key for key, size in zip(keys, sizes, strict=True) if size == 0]
        present = await self._existing(doubtful) if doubtful else frozenset()
        found = []
        for key, size in zip(keys, sizes, strict=True):
            if isinstance(size, Exception):
                if "WRONGTYPE" in str(size):
                    continue  # not an object of ours: a hash or a set in the same database
                raise self._explain(size, "head", key) from size
            if size or key in present:
                found.append(ObjectInfo(key, size, now))
        return found

    async def _existing(self, keys: Sequence[str]) -> Set[str]:
        async def ask() -> Sequence[Any]:
            batch = self._server().pipeline(transaction=False)
            for key in keys:
                batch.exists(key)
            replies: Sequence[Any] = await batch.execute()
            return replies

        replies = await self._run("head", keys[0], ask)
        return {key for key, there in zip(keys, replies, strict=True) if there}

    async def _require(self, key: str) -> None:
        if not await self._existing([key]):
            raise self._missing(key)

    # ---- calls

    def _server(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or loop is not self._loop:
            self._client, self._loop = self._make(), loop
        return self._client

    def _make(self) -> Any:
        url = self._url
        common: dict[str, Any] = {
            "username": url.username or None,
            "password": url.password or None,
            "protocol": 2,  # servers of before 6.0 know no other, and nothing here needs one
            "socket_timeout": url.read_timeout_s,
            "socket_connect_timeout": url.dial_timeout_s,
            # A kept connection that the server closed is replaced at once; what lasts longer is the caller's to retry.
            "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), 2),
        }
        tls: dict[str, Any] = {}
        if url.tls:
            tls = {
                "ssl": True,
                "ssl_ca_certs": url.tls.ca_file or None,
                "ssl_certfile": url.tls.cert_file or None,
                "ssl_keyfile": url.tls.key_file or None,
                "ssl_cert_reqs": "required" if url.tls.verify else "none",
                "ssl_check_hostname": url.tls.verify,
            }
            url.tls.context()  # names a file that can't be used
        if url.mode == "cluster":
            nodes = [client.cluster.ClusterNode(host, port) for host, port in url.hosts]
            return client.RedisCluster(
                startup_nodes=nodes, max_connections=CONNECTIONS, socket_read_size=READ_BYTES, **common, **tls
            )
        pooled = {**common, "db": url.db, "max_connections": CONNECTIONS, "socket_read_size": READ_BYTES}
        if url.mode == "sentinel":
            asking = {"password": url.sentinel_password or None, "socket_timeout": 2.0, "socket_connect_timeout": 2.0}
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                url.hosts, sentinel_kwargs={**asking, **tls}
            )
            return self._sentinel.master_for(url.master, **pooled, **tls)
        pool: Any
        if url.path:
            pool = client.BlockingConnectionPool(
                connection_class=client.UnixDomainSocketConnection, path=url.path, timeout=None, **pooled
            )
        else:
            kind = client.SSLConnection if tls else client.Connection
            tls.pop("ssl", None)
            host, port = url.hosts[0]
            pool = client.BlockingConnectionPool(
                connection_class=kind, host=host, port=port, timeout=None, **pooled, **tls
            )
        return client.Redis.from_pool(pool)

    async def _run(self, action: str, key: str, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except (exceptions.RedisError, OSError) as error:
            raise self._explain(error, action, key) from error

    def _missing(self, key: str) -> ObjectNotFound:
        return ObjectNotFound(f"{self.name}: no object {key!r}")

    def _explain(self, error: BaseException, action: str, key: str) -> ObjectError:
        what = f"{action} of {key!r}" if key else action
        said = str(error) or type(error).__name__
        if self._url.password:
            said = said.replace(self._url.password, "****")
        for pattern, retryable, advice in _MEANINGS:
            if pattern.search(said):
                return ObjectError(f"{self.name}: {what} failed: {advice} ({said})", retryable=retryable)
        lost = isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError)
        advice = "; check that the server runs and can be reached" if lost else ""
        retryable = lost or isinstance(error, exceptions.ClusterError)
        return ObjectError(f"{self.name}: {what} failed: {said}{advice}", retryable=retryable)


#: Text of the refusal, whether another try may help, cause and next step.
_MEANINGS: Final = (
    (re.compile("WRONGPASS|NOAUTH|invalid password|Authentication required|invalid username", re.I), False,
     "user or password are wrong; check --access-key and --secret-key"),
    (re.compile("NOPERM", re.I), False, "the user may not do that; grant it the keys of the volume (ACL SETUSER)"),
    (re.compile("OOM command", re.I), True, "the server's maxmemory is reached; raise it"),
    (re.compile("READONLY", re.I), True, "the server is a replica; name the master, or Sentinel"),
    (re.compile("MISCONF", re.I), True, "the server can't save to its disk; see its log"),
    (re.compile("LOADING|BUSY |MASTERDOWN|CLUSTERDOWN|TRYAGAIN", re.I), True, "the server is not ready"),
    (re.compile("No master found", re.I), True, "no Sentinel knows a living master; check its name and the Sentinels"),
    (re.compile("WRONGTYPE", re.I), False, "the key holds something else than an object; use a database of its own"),
    (re.compile("invalid DB index|DB index is out of range|SELECT is not allowed", re.I), False, "there is no such database; check its number"),
    (re.compile("CERTIFICATE_VERIFY_FAILED", re.I), False,
     "the server's certificate is not trusted; add ?tls-ca-cert-file=FILE to the bucket"),
)  # fmt: skip
