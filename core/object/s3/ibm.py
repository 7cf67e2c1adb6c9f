# SPDX-License-Identifier: Apache-2.0
"""IBM Cloud Object Storage, storage type `ibmcos`: S3 requests with an IAM token instead of a signature.

The access key is an API key, the secret key the id of the service instance (only making a bucket needs it). With the
HMAC keys of a credential the same bucket opens as plain `s3`.
Source: spec data-path §4.2; IBM Cloud documentation ("IAM token from API key", "COS authorization").
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlencode, urlsplit

from core.errors import ConfigError, ObjectError
from core.object.api import ObjectStore
from core.object.buffers import views
from core.object.http import Client, ExchangeFailed
from core.object.s3.address import Address, parse_bucket
from core.object.s3.credentials import Credentials
from core.object.s3.options import is_true
from core.object.s3.signing import Signer
from core.object.s3.store import S3Store

FORM = "https://BUCKET.s3.REGION.cloud-object-storage.appdomain.cloud"
IAM = "https://iam.cloud.ibm.com"
# A token lives for an hour; one that ends within these seconds is renewed first.
RENEW_BEFORE_S = 300.0


def find_ibm(bucket: str) -> Address:
    address = parse_bucket("s3", bucket)
    found = re.match(r"s3\.(?:private\.|direct\.)?([a-z0-9-]+)\.cloud-object-storage\.", address.host)
    if not found and "region" not in address.options:
        raise ConfigError(f"ibmcos: the bucket can't be used: {address.host!r} is no endpoint of it; use {FORM}")
    region = found[1] if found else address.region
    return address._replace(region=region, region_known=True)


def open_ibm(storage: str, bucket: str, access_key: str, secret_key: str, session_token: str) -> ObjectStore:
    address = find_ibm(bucket)
    if not access_key.strip():
        raise ConfigError("ibmcos: the API key is missing; give it with --access-key, and the id of the service "
                          "instance with --secret-key")  # fmt: skip
    return IbmStore(address, TokenOf(access_key.strip()), secret_key.strip())


class TokenOf:
    """IAM tokens for an API key, in the session_token of credentials; fetched when needed, renewed in time."""

    def __init__(self, api_key: str, *, login: str = IAM, clock: Callable[[], float] = time.time) -> None:
        self._api_key, self._login, self._clock = api_key, login, clock
        self._found: Credentials | None = None
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def current(self, *, renew: bool = False) -> Credentials | None:
        before = self._found
        if before is not None and not renew and self._clock() < self._until - RENEW_BEFORE_S:
            return before
        async with self._lock:
            if self._found is before:  # nobody was quicker
                token, self._until = await self._fetch()
                self._found = Credentials("", "", token)
        return self._found

    async def _fetch(self) -> tuple[str, float]:
        parts = urlsplit(self._login)
        client = Client(parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        body = urlencode({"grant_type": "urn:ibm:params:oauth:grant-type:apikey", "apikey": self._api_key}).encode()
        lines = (
            f"host: {client.authority}\r\naccept: application/json\r\ncontent-length: {len(body)}\r\n"
            "content-type: application/x-www-form-urlencoded\r\n"
        )
        try:
            answer = await client.request("POST", "/identity/token", lines, views(body), len(body))
        except (ExchangeFailed, OSError, ssl.SSLError) as error:
            raise ObjectError(f"ibmcos: the token service can't be reached: {error}") from error
        finally:
            await client.close()
        if answer.status != 200:
            raise ObjectError(
                f"ibmcos: the token service refused the API key with {answer.status}; check --access-key",
                retryable=answer.status >= 500 or answer.status == 429,
            )
        try:
            told = json.loads(bytes(answer.body))
            return str(told["access_token"]), float(told["expiration"])
        except (ValueError, KeyError, TypeError):
            raise ObjectError("ibmcos: the token service's answer has no token", retryable=False) from None


class IbmStore(S3Store):
    """`IbmStore(address, TokenOf(api_key), instance)`."""

    def __init__(self, address: Address, provider: TokenOf, instance: str) -> None:
        self._instance = instance
        checksum = not is_true(address.options.get("disable-checksum", ""))
        super().__init__(address, provider, checksum=checksum)
        self.name = f"ibmcos://{address.host}/{address.bucket}"

    def _new_signer(self, region: str) -> Signer:
        return _Bearer(region, self._instance)


class _Bearer(Signer):
    def __init__(self, region: str, instance: str) -> None:
        super().__init__(region)
        self._instance = instance

    def headers(
        self,
        method: str,
        path: str,
        query: str,
        host: str,
        extra: Mapping[str, str],
        who: Credentials | None,
        now: float,
    ) -> str:
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": host, **extra}.items())
        if self._instance:
            lines += f"ibm-service-instance-id: {self._instance}\r\n"
        return f"{lines}authorization: Bearer {who.session_token}\r\n" if who is not None else lines
