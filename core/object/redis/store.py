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
from typing import Any, Final, TypeVar

from redis import exceptions

from core.errors import ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen
from core.object.redis.servers import Servers, address

T = TypeVar("T")

#: Keys that one pass of a listing keeps: some 60 MB. More keys than that cost one more pass over the server each.
KEYS_PER_PASS: Final = 500_000
#: Keys that one SCAN looks at, and that one pipeline asks about.
SCAN_COUNT: Final = 2000
PAGE: Final = 1000
#: Redis: proto-max-bulk-len.
LARGEST: Final = 512 << 20


class RedisStore(ObjectStore):
    """`RedisStore("redis://host:6379/1", user, password)`. A put is as durable as the server's appendfsync says."""

    features = Features(ranges=True, times=False)

    def __init__(
        self,
        bucket: str,
        access_key: str = "",
        secret_key: str = "",
        *,
        environ: Mapping[str, str] = os.environ,
        keys_per_pass: int = KEYS_PER_PASS,
    ) -> None:
        self._url = address(bucket, access_key, secret_key, environ)
        self.name = self._url.where
        self._keys_per_pass = keys_per_pass
        self._servers: Servers | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        # A transport may keep a reference to what it has not sent yet, even after a cancelled call.
        whole = frozen(data)
        if len(whole) > LARGEST:
            raise ObjectError(
                f"{self.name}: put of {key!r}: {len(whole)} bytes; Redis holds {LARGEST} at most", retryable=False
            )
        await self._command("put", key, "SET", key, whole)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        if length == 0:
            await self._require(key)
            return b""
        if start == 0 and length is None:
            whole: bytes | None = await self._command("get", key, "GET", key)
            if whole is None:
                raise self._missing(key)
            return whole
        last = -1 if length is None else start + length - 1
        part: bytes = await self._command("get", key, "GETRANGE", key, start, last)
        if not part:
            await self._require(key)  # behind the end, or not there at all
        return part

    async def delete(self, key: str) -> None:
        await self._command("delete", key, "UNLINK", key)

    async def head(self, key: str) -> ObjectInfo:
        size: int = await self._command("head", key, "STRLEN", key)
        if not size:
            await self._require(key)
        return ObjectInfo(key, size, time.time())

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
        """Nothing to make; proves that the server answers."""
        await self._command("connect", "", "PING")

    async def close(self) -> None:
        servers, self._servers = self._servers, None
        if servers is not None and asyncio.get_running_loop() is self._loop:
            await servers.close()

    # ---- keys

    async def _next_keys(self, prefix: bytes, after: bytes) -> tuple[Sequence[bytes], bool]:
        """The smallest keys after `after`, sorted; and whether there may be more. One pass over the server."""
        pattern = re.sub(rb"([\\*?\[\]])", rb"\\\1", prefix) + b"*"
        # A heap of the smallest so far, largest first; SCAN may name a key twice.
        kept: set[bytes] = set()
        full = False

        async def collect() -> None:
            nonlocal full
            for server in await self._all().all():
                async for key in server.scan_iter(match=pattern, count=SCAN_COUNT):
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
        """Those that exist, in one round trip to each server (and a second one if there are empty ones)."""
        sizes = await self._run("list", "", lambda: self._all().execute_many(keys, "STRLEN"))
        now = time.time()
        doubtful = [key for key, size in zip(keys, sizes, strict=True) if size == 0]
        present: Set[str] = frozenset()
        if doubtful:
            there = await self._run("list", "", lambda: self._all().execute_many(doubtful, "EXISTS"))
            present = {key for key, found in zip(doubtful, there, strict=True) if found == 1}
        found = []
        for key, size in zip(keys, sizes, strict=True):
            if isinstance(size, Exception):
                if "WRONGTYPE" in str(size):
                    continue  # not an object of ours: a hash or a set in the same database
                raise self._explain(size, "list", "") from size
            if size or key in present:
                found.append(ObjectInfo(key, size, now))
        return found

    async def _require(self, key: str) -> None:
        if not await self._command("head", key, "EXISTS", key):
            raise self._missing(key)

    # ---- calls

    def _all(self) -> Servers:
        loop = asyncio.get_running_loop()
        if self._servers is None or loop is not self._loop:
            self._servers, self._loop = Servers(self._url), loop
        return self._servers

    async def _command(self, action: str, key: str, *command: Any) -> Any:
        return await self._run(action, key, lambda: self._all().execute(key, *command))

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
    (re.compile("invalid DB index|DB index is out of range|SELECT is not allowed", re.I), False,
     "there is no such database; check its number"),
    (re.compile("CERTIFICATE_VERIFY_FAILED", re.I), False,
     "the server's certificate is not trusted; add ?tls-ca-cert-file=FILE to the bucket"),
)  # fmt: skip
