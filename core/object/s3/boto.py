# SPDX-License-Identifier: Apache-2.0
"""The same bucket through aioboto3: `?client=aioboto3` in the bucket URL.

For the odd endpoint, and as a cross-check of our own client; it costs some ten times the CPU per small request
(bench/object.py). Same checksum metadata, same errors. Source: spec data-path §3.4, §4.4; boto3's S3 client.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

from core.errors import ConfigError, DataCorrupt, ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import clip, joined, views
from core.object.checksum import crc32c
from core.object.s3.address import Address, parse_bucket
from core.object.s3.answers import ADVICE, is_retryable
from core.object.s3.credentials import choose
from core.object.s3.options import is_true

try:
    import aioboto3  # type: ignore[import-untyped]
    import botocore.exceptions  # type: ignore[import-untyped]
    from botocore import UNSIGNED
    from botocore.config import Config  # type: ignore[import-untyped]
except ImportError:
    aioboto3 = None


class BotoStore(ObjectStore):
    """`BotoStore.open("s3", url, access_key, secret_key)`."""

    def __init__(self, address: Address, access_key: str, secret_key: str, session_token: str, checksum: bool) -> None:
        if aioboto3 is None:
            raise ConfigError("client=aioboto3 in the bucket URL needs the package aioboto3: pip install aioboto3")
        self.address = address
        self.name = f"s3://{address.host}/{address.bucket}"
        self.features = Features(ranges=True)
        self._keys = access_key, secret_key, session_token
        self._checksum = checksum
        self._client: Any = None
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()

    @classmethod
    def open(
        cls, storage: str, bucket: str, access_key: str = "", secret_key: str = "", session_token: str = ""
    ) -> BotoStore:
        address = parse_bucket(storage, bucket)
        choose(storage, access_key, secret_key, session_token)  # the same refusals
        checksum = storage == "minio" or not is_true(address.options.get("disable-checksum", ""))
        return cls(address, access_key.strip(), secret_key.strip(), session_token.strip(), checksum)

    async def _connected(self) -> Any:
        if self._client is not None:
            return self._client
        async with self._lock:
            if self._client is None:
                access_key, secret_key, token = self._keys
                options = {
                    "addressing_style": "virtual" if self.address.virtual_host else "path",
                    "payload_signing_enabled": False,
                }
                config = {
                    "s3": options,
                    "max_pool_connections": 64,
                    "connect_timeout": 10,
                    "read_timeout": 30,
                    "retries": {"max_attempts": 0},
                    "request_checksum_calculation": "when_required",
                    "response_checksum_validation": "when_required",
                }
                if access_key == "anonymous":
                    config["signature_version"] = UNSIGNED
                    access_key = ""
                given = self.address.options
                verify: bool | str | None = given.get("ca-certs") or None
                if is_true(given.get("tls-insecure-skip-verify", "")):
                    verify = False
                if given.get("ssl-cert"):
                    config["client_cert"] = (given["ssl-cert"], given.get("ssl-key", ""))
                made = aioboto3.Session().client(
                    "s3",
                    endpoint_url=f"{self.address.scheme}://{self.address.host}:{self.address.port}",
                    region_name=self.address.region,
                    aws_access_key_id=access_key or None,
                    aws_secret_access_key=secret_key or None if access_key else None,
                    aws_session_token=token or None,
                    verify=verify,
                    config=Config(**config),
                )
                self._client = await self._stack.enter_async_context(made)
        return self._client

    async def _call(self, action: str, key: str, run: Callable[[Any], Any]) -> Any:
        try:
            return await run(await self._connected())
        except botocore.exceptions.ClientError as error:
            found = error.response.get("Error", {})
            code, status = found.get("Code", ""), error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status == 404 and code in ("404", "NoSuchKey", "NotFound") and action in ("get", "head"):
                raise ObjectNotFound(f"{self.name}: no object {key!r}") from None
            if status == 416 and action == "get":
                return None  # the object ends before the range
            advice = ADVICE.get(code, "")
            raise ObjectError(
                f"{self.name}: {action} of {key!r} was refused with {status} {code}: "
                f"{found.get('Message', '')[:300]}{advice and '; ' + advice}",
                retryable=is_retryable(status, code),
            ) from None
        except botocore.exceptions.NoCredentialsError as error:
            raise ConfigError(f"{self.name}: {error}; give --access-key and --secret-key") from None
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise ObjectError(f"{self.name}: {action} of {key!r} failed: {type(error).__name__}: {error}") from error

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        extra = {"Metadata": {"crc32c": str(crc32c(views(data)))}} if self._checksum else {}
        body = bytes(joined(data))
        bucket = self.address.bucket
        call = self._call("put", key, lambda c: c.put_object(Bucket=bucket, Key=key, Body=body, **extra))
        task = asyncio.ensure_future(call)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            # aiohttp ends a cancelled upload in an orderly way, which some servers take for the end of the body: a
            # short object would be stored. So the request runs to its end (its own time-outs bound it).
            await asyncio.gather(task, return_exceptions=True)
            raise

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)
        if length == 0:
            await self.head(key)
            return b""
        whole = start == 0 and length is None
        extra = {} if whole else {"Range": f"bytes={start}-{'' if length is None else start + length - 1}"}

        async def run(client: Any) -> tuple[Any, bytes]:
            answer = await client.get_object(Bucket=self.address.bucket, Key=key, **extra)
            async with answer["Body"] as body:
                return answer, await body.read()

        found = await self._call("get", key, run)
        if found is None:
            return b""
        answer, data = found
        if len(data) != answer["ContentLength"]:
            raise ObjectError(f"{self.name}: get of {key!r}: {len(data)} of {answer['ContentLength']} bytes came")
        text = answer.get("Metadata", {}).get("crc32c", "")
        if whole and self._checksum and text.isdigit() and crc32c(views(data)) != int(text):
            raise DataCorrupt(f"{self.name}: {key!r} ({len(data)} bytes) does not match its CRC-32C")
        return bytes(data)

    async def delete(self, key: str) -> None:
        await self._call("delete", key, lambda c: c.delete_object(Bucket=self.address.bucket, Key=key))

    async def head(self, key: str) -> ObjectInfo:
        answer = await self._call("head", key, lambda c: c.head_object(Bucket=self.address.bucket, Key=key))
        return ObjectInfo(key, int(answer["ContentLength"]), answer["LastModified"].timestamp())

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        query = {"Bucket": self.address.bucket, "Prefix": prefix, "EncodingType": "url"}
        if after:
            query["StartAfter"] = after
        while True:
            page = await self._call("list", prefix, partial(_list_page, query))
            encoded = page.get("EncodingType") == "url"
            for item in page.get("Contents", []):
                key = unquote_plus(item["Key"]) if encoded else item["Key"]
                yield ObjectInfo(key, int(item["Size"]), item["LastModified"].timestamp())
            if not page.get("IsTruncated"):
                return
            query = {**query, "ContinuationToken": page["NextContinuationToken"]}
            query.pop("StartAfter", None)

    async def create(self) -> None:
        bucket = self.address.bucket
        try:
            await self._call("list", "", lambda c: c.list_objects_v2(Bucket=bucket, MaxKeys=1))
        except ObjectError:
            place = {"CreateBucketConfiguration": {"LocationConstraint": self.address.region}}
            extra = {} if self.address.region == "us-east-1" else place
            await self._call("create", bucket, lambda c: c.create_bucket(Bucket=bucket, **extra))

    async def close(self) -> None:
        await self._stack.aclose()
        self._client = None


async def _list_page(query: dict[str, str], client: Any) -> Any:
    return await client.list_objects_v2(**query)
