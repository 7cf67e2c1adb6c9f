# SPDX-License-Identifier: Apache-2.0
"""Backblaze B2, storage type `b2`, over its S3 interface.

A bare bucket name says nothing about the region: B2's own login does, once per process. The keys are those of an
application key; the account's master key opens B2's own interface only. Deleting hides an object; its bytes go by the
bucket's lifecycle rule, so that must be "keep only the last version". Source: spec data-path §4.2; Backblaze
documentation (b2_authorize_account, "S3-Compatible API").
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

from core.errors import ConfigError, ObjectError
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.http import Client, ExchangeFailed
from core.object.s3.address import Address
from core.object.s3.credentials import Credentials, Fixed
from core.object.s3.store import S3Store

FORM = "BUCKET, https://BUCKET or https://BUCKET.s3.REGION.backblazeb2.com"
LOGIN = "https://api.backblazeb2.com"


def find_b2(bucket: str) -> tuple[str, str]:
    """(bucket, region); region is "" if only B2's login can tell."""
    text = bucket.strip().removeprefix("https://").rstrip("/")
    name, _, rest = text.partition(".")
    region = re.fullmatch(r"s3\.([a-z0-9-]+)\.backblazeb2\.com", rest)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{4,61}[A-Za-z0-9]", name) or (rest and not region):
        raise ConfigError(f"b2: the bucket can't be used: it is not of the form; use {FORM}")
    return name, region[1] if region else ""


def open_b2(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    name, region = find_b2(bucket)
    keys = Credentials(access_key.strip(), secret_key.strip())
    if not (keys.access_key and keys.secret_key):
        raise ConfigError("b2: the credentials are missing; give the id of an application key and the key itself with "
                          "--access-key and --secret-key")  # fmt: skip
    return B2Store(name, region, keys)


class B2Store(ObjectStore):
    """`B2Store("bucket", "us-west-004", keys)`; with region "" the login is asked when the first request is made."""

    def __init__(self, bucket: str, region: str, keys: Credentials, *, login: str = LOGIN) -> None:
        self.name = f"b2://{bucket}"
        self.features = Features(ranges=True)
        self._bucket, self._keys, self._login = bucket, keys, login
        self._store: S3Store | None = self._opened(f"https://s3.{region}.backblazeb2.com", region) if region else None
        self._lock = asyncio.Lock()

    def _opened(self, endpoint: str, region: str) -> S3Store:
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # Path style: names with capitals are fine in a path, not in a host.
        address = Address(parts.scheme, parts.hostname or "", port, self._bucket, False, region, True, {})
        store = S3Store(address, Fixed(self._keys))
        store.name = self.name
        return store

    async def _ready(self) -> S3Store:
        if self._store is None:
            async with self._lock:
                if self._store is None:
                    endpoint = await self._find_endpoint()
                    region = re.search(r"//s3\.([a-z0-9-]+)\.", endpoint)
                    self._store = self._opened(endpoint, region[1] if region else "us-east-1")
        return self._store

    async def _find_endpoint(self) -> str:
        parts = urlsplit(self._login)
        client = Client(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        pair = base64.b64encode(f"{self._keys.access_key}:{self._keys.secret_key}".encode()).decode()
        lines = f"host: {client.authority}\r\nauthorization: Basic {pair}\r\n"
        try:
            answer = await client.request("GET", "/b2api/v2/b2_authorize_account", lines, [], 0)
        except (ExchangeFailed, OSError, ssl.SSLError) as error:
            raise ObjectError(f"{self.name}: B2's login can't be reached: {error}") from error
        finally:
            await client.close()
        if answer.status != 200:
            raise ObjectError(
                f"{self.name}: B2's login was refused with {answer.status}; check the id and the application key",
                retryable=answer.status >= 500 or answer.status == 429,
            )
        try:
            endpoint = str(json.loads(bytes(answer.body))["s3ApiUrl"])
        except (ValueError, KeyError, TypeError):
            raise ObjectError(f"{self.name}: B2's login names no S3 endpoint", retryable=False) from None
        return endpoint

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        await (await self._ready()).put(key, data)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        return await (await self._ready()).get(key, start, length)

    async def delete(self, key: str) -> None:
        await (await self._ready()).delete(key)

    async def head(self, key: str) -> ObjectInfo:
        return await (await self._ready()).head(key)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        async for info in (await self._ready()).list(prefix, after):
            yield info

    async def create(self) -> None:
        await (await self._ready()).create()

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
