# SPDX-License-Identifier: Apache-2.0
"""Objects as values of etcd (storage `etcd`), bucket `h1:2379,h2:2379[?cacert=&cert=&key=&server-name=]`.

For small volumes with small blocks: a request holds 1.5 MiB at most, and etcd keeps every version until it is
compacted. Connections are those of the metadata engine. There is no time of writing: mtime is now.
Source: spec data-path §4.2; etcd API reference v3 (KV service).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any, Final

from core.errors import ConfigError, MetaError, ObjectError, ObjectNotFound
from core.meta.stores.etcd import messages as m
from core.meta.stores.etcd.channel import RpcError
from core.meta.stores.etcd.connection import Connection
from core.meta.stores.etcd.url import EtcdURL, parse_url
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, frozen

FORM: Final = "HOST1:2379,HOST2:2379, with the user as access key and the password as secret key"
#: --max-request-bytes, 1.5 MiB by default, less what surrounds a value.
LARGEST: Final = (3 << 19) - 4096
#: Objects of one page of a listing: values come along, because etcd doesn't tell sizes without them.
PAGE: Final = 32


def address(bucket: str, access_key: str, secret_key: str) -> EtcdURL:
    """Where to connect; ConfigError shows the form. The password is never part of a text."""
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if separator and scheme.lower() != "etcd":
        raise ConfigError(f"etcd: the bucket is no etcd address; it looks like {FORM}")
    text = rest if separator else text
    if "@" in text.partition("?")[0]:
        raise ConfigError(f"etcd: user and password don't belong into the bucket; it looks like {FORM}")
    if not text:
        raise ConfigError(f"etcd: the bucket is empty; it looks like {FORM}")
    url = parse_url("etcd://" + text, {})
    return replace(url, prefix=b"", username=access_key, password=secret_key)


class EtcdStore(ObjectStore):
    """`EtcdStore("127.0.0.1:2379")`. A put that returned is on the disks of most members."""

    features = Features(ranges=False, times=False)

    def __init__(self, bucket: str, access_key: str = "", secret_key: str = "") -> None:
        self._url = address(bucket, access_key, secret_key)
        self.name = f"etcd://{','.join(self._url.endpoints)}"
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        whole = frozen(data)
        if len(whole) > LARGEST:
            raise self._too_large(key, len(whole))
        request = m.TxnRequest(success=[m.RequestOp(request_put=m.PutRequest(key=key.encode(), value=whole))])
        try:
            await self._call("put", key, m.TXN, request, writing=True)
        except _Large as error:
            raise self._too_large(key, len(whole)) from error

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        value = await self._value("get", key)
        if start == 0 and length is None:
            return value
        begin, n = clip(len(value), start, length)
        return memoryview(value)[begin : begin + n]

    async def delete(self, key: str) -> None:
        await self._call("delete", key, m.DELETE_RANGE, m.DeleteRangeRequest(key=key.encode()), writing=True)

    async def head(self, key: str) -> ObjectInfo:
        return ObjectInfo(key, len(await self._value("head", key)), time.time())

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        low = prefix.encode()
        end = low[:-1] + bytes([low[-1] + 1]) if low else b"\xff"
        begin = max(low, after.encode() + b"\0") if after else low or b"\0"
        while begin < end:
            request = m.RangeRequest(key=begin, range_end=end, limit=PAGE)
            answer = m.RangeResponse.FromString(await self._call("list", prefix, m.RANGE, request))
            now = time.time()
            for pair in answer.kvs:
                yield ObjectInfo(pair.key.decode("utf-8", "surrogateescape"), len(pair.value), now)
            if not answer.more or not answer.kvs:
                return
            begin = answer.kvs[-1].key + b"\0"

    async def create(self) -> None:
        await self._connected()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and asyncio.get_running_loop() is self._loop:
            await connection.close()

    async def _value(self, action: str, key: str) -> bytes:
        answer = m.RangeResponse.FromString(
            await self._call(action, key, m.RANGE, m.RangeRequest(key=key.encode(), limit=1))
        )
        if not answer.kvs:
            raise ObjectNotFound(f"{self.name}: no object {key!r}")
        value: bytes = answer.kvs[0].value
        return value

    async def _call(self, action: str, key: str, path: str, request: Any, *, writing: bool = False) -> bytes:
        what = f"{action} of {key!r}" if key else action
        connection = await self._connected()
        return await self._explained(what, connection.call(path, request.SerializeToString(), writing=writing))

    async def _explained(self, what: str, call: Awaitable[bytes]) -> bytes:
        try:
            return await call
        except RpcError as error:
            raise _Large(f"{self.name}: {what} failed: {error}", retryable=False) from error
        except MetaError as error:
            # A put or delete of unknown fate may be repeated: the same bytes under the same key.
            said = str(error.args[1]).replace("metadata URL", "bucket").replace(", or META_PASSWORD", "")
            said = said.replace("user and password in the bucket", "--access-key and --secret-key")
            raise ObjectError(f"{self.name}: {what} failed: {said}", retryable=error.retryable) from error

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._connection, self._loop, self._opening = None, loop, asyncio.Lock()
        assert self._opening is not None
        if self._connection is None:
            async with self._opening:
                if self._connection is None:
                    connection = Connection(self._url)

                    async def open_it() -> bytes:
                        await connection.open()
                        return b""

                    await self._explained("connecting", open_it())
                    self._connection = connection
        return self._connection

    def _too_large(self, key: str, size: int) -> ObjectError:
        return ObjectError(
            f"{self.name}: put of {key!r}: {size} bytes are more than etcd takes at once (1.5 MiB by default); make the"
            " volume with --block-size 1M or less",
            retryable=False,
        )


class _Large(ObjectError):
    """The server refuses the size."""
