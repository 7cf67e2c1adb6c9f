# SPDX-License-Identifier: Apache-2.0
"""Objects in an S3 bucket, over our own HTTP client.

One request per call, no copies of bodies. Every block carries its CRC-32C as metadata `crc32c` (decimal) and is
checked when it is read whole. Region, clock and expired keys are corrected once from what the server says.
Source: spec data-path §3.4, §4.1, §4.2, §4.4; Amazon S3 API reference.
"""

from __future__ import annotations

import mimetypes
import os
import re
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NoReturn

from core.errors import ConfigError, DataCorrupt, ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import Views, clip, total, views
from core.object.checksum import crc32c
from core.object.http import Client, ExchangeFailed, Response
from core.object.s3.address import Address, in_region, parse_bucket
from core.object.s3.answers import ADVICE, EXPIRED_CODES, http_time, is_retryable, parse_page, parse_refusal
from core.object.s3.credentials import Credentials, Provider, choose
from core.object.s3.options import is_true, tls_context
from core.object.s3.signing import Signer, encode_path, encode_query

CHECKSUM_HEADER = "x-amz-meta-crc32c"
# No byte either way for this long: the attempt has failed (spec §4.1: response header 30 s).
IDLE_TIMEOUT_S = 30.0
# A server refuses signatures that are 15 minutes off; ours follow its clock from one minute on.
SKEW_S = 60.0


class S3Store(ObjectStore):
    """`S3Store(parse_bucket("s3", url), provider)`, or `S3Store.open("s3", url, access_key, secret_key)`.

    storage_class and tag (`k=v`) go with every put. checksum=False neither writes nor verifies the CRC;
    write_checksum=False only verifies what others wrote.
    """

    def __init__(
        self,
        address: Address,
        provider: Provider,
        *,
        checksum: bool = True,
        write_checksum: bool = True,
        storage_class: str = "",
        tag: str = "",
        max_connections: int = 256,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        self.address = address
        self.name = f"s3://{address.host}/{address.bucket}"
        self.features = Features(ranges=True)
        self._provider = provider
        self._checksum = checksum
        self._write_checksum = checksum and write_checksum
        self._put_headers = _put_headers(storage_class, tag)
        self._max_connections = max_connections
        self._timeout_s = idle_timeout_s
        self._tls = tls_context(address.options) if address.scheme == "https" else None
        self._skew_s = 0.0
        self._use(address)

    @classmethod
    def open(
        cls, storage: str, bucket: str, access_key: str = "", secret_key: str = "", session_token: str = "",
        *, storage_class: str = "", tag: str = "",
    ) -> S3Store:  # fmt: skip
        address = parse_bucket(storage, bucket)
        checksum = storage == "minio" or not is_true(address.options.get("disable-checksum", ""))
        provider = choose(storage, access_key, secret_key, session_token)
        return cls(address, provider, checksum=checksum, storage_class=storage_class, tag=tag)

    def use_class(self, storage_class: str, tag: str) -> bool:
        """Storage class and tag of what is put from now on. True: both are honoured."""
        self._put_headers = _put_headers(storage_class, tag)
        return True

    def _use(self, address: Address) -> None:
        self.address = address
        self._base = encode_path(address.base_path)
        self._signer = self._new_signer(address.region)
        self._client = Client(
            address.scheme,
            address.request_host,
            address.port,
            tls=self._tls,
            max_connections=self._max_connections,
            idle_timeout_s=self._timeout_s,
        )
        self._host = self._client.authority

    def _new_signer(self, region: str) -> Signer:
        return Signer(region)

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        parts = views(data)
        size = total(parts)
        headers = {"content-length": str(size), "content-type": _content_type(key), **self._put_headers}
        if self._write_checksum:
            headers[CHECKSUM_HEADER] = str(crc32c(parts))
        answer = await self._request("PUT", key, headers=headers, parts=parts, size=size)
        if answer.status not in (200, 201, 204):
            self._refuse(answer, "put", key)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        if length == 0:
            await self.head(key)
            return b""
        whole = start == 0 and length is None
        headers = {} if whole else {"range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        answer = await self._request("GET", key, headers=headers)
        if answer.status == 416 and not whole:
            return b""  # the object ends before the range
        if answer.status not in (200, 206):
            self._refuse(answer, "get", key)
        if whole:
            self._verify(key, answer)
            return answer.body
        if answer.status == 200:  # the server ignored the range
            self._verify(key, answer)
            begin, n = clip(len(answer.body), start, length)
            return memoryview(answer.body)[begin : begin + n]
        self._check_range(key, answer, start, length)
        return answer.body

    async def delete(self, key: str) -> None:
        answer = await self._request("DELETE", key)
        if answer.status not in (200, 202, 204, 404):
            self._refuse(answer, "delete", key)
        if answer.status == 404 and parse_refusal(404, answer.headers, answer.body).code == "NoSuchBucket":
            self._refuse(answer, "delete", key)

    async def head(self, key: str) -> ObjectInfo:
        answer = await self._request("HEAD", key)
        if answer.status != 200:
            self._refuse(answer, "head", key)
        size = answer.headers.get("content-length", "")
        if not size.isdigit():
            raise ObjectError(f"{self.name}: head of {key!r}: the answer has no length")
        return ObjectInfo(key, int(size), http_time(answer.headers.get("last-modified", "")))

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000", "prefix": prefix}
        if after:
            query["start-after"] = after
        last = after
        while True:
            answer = await self._request("GET", "", query=query)
            if answer.status != 200:
                self._refuse(answer, "list", prefix)
            try:
                page = parse_page(answer.body)
            except ValueError as error:
                raise ObjectError(f"{self.name}: list of {prefix!r}: the answer is {error}") from error
            for info in page.objects:
                if not info.key.startswith(prefix) or (info.key <= last and last):
                    raise ObjectError(
                        f"{self.name}: list of {prefix!r} returned {info.key!r} out of place (after {last!r}); "
                        "this server does not list in key order",
                        retryable=False,
                    )
                last = info.key
                yield info
            if not page.next_token:
                return
            query.pop("start-after", None)
            query["continuation-token"] = page.next_token

    async def create(self) -> None:
        query = {"list-type": "2", "max-keys": "1"}
        answer = await self._request("GET", "", query=query)
        if answer.status == 200:
            return
        region = self.address.region
        body = b"" if region == "us-east-1" else _location(region)
        parts = views(body)
        answer = await self._request("PUT", "", headers={"content-length": str(len(body))}, parts=parts, size=len(body))
        if answer.status not in (200, 201, 204):
            code = parse_refusal(answer.status, answer.headers, answer.body).code
            if code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                self._refuse(answer, "create the bucket", "")

    async def close(self) -> None:
        await self._client.close()

    # ---- requests

    async def _request(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        parts: Views | None = None,
        size: int = 0,
    ) -> Response:
        """One answer of the bucket. What the server tells about region, clock or keys is used for one more try."""
        corrected: set[str] = set()
        while True:
            who = await self._provider.current()
            region, skew_s = self.address.region, self._skew_s
            answer = await self._send(method, key, query or {}, headers or {}, parts or [], size, who)
            if answer.status < 300 or answer.status in (404, 416):
                return answer
            why = await self._correct(answer, region, skew_s, who)
            if not why or why in corrected:
                return answer
            corrected.add(why)

    async def _send(
        self, method: str, key: str, query: Mapping[str, str], headers: Mapping[str, str], parts: Views, size: int,
        who: Credentials | None,
    ) -> Response:  # fmt: skip
        # The bucket itself is addressed without the slash in path style.
        path = self._base + encode_path(key) if key else (self._base.rstrip("/") or "/")
        question = encode_query(query) if query else ""
        now = time.time() + self._skew_s
        lines = self._signer.headers(method, path, question, self._host, headers, who, now)
        target = f"{path}?{question}" if question else path
        try:
            return await self._client.request(method, target, lines, parts, size)
        except ssl.SSLCertVerificationError as error:
            raise ObjectError(
                f"{self.name}: the server's certificate is not trusted ({error.verify_message}); add ca-certs to the "
                "bucket URL or, for a test, ?tls-insecure-skip-verify=true",
                retryable=False,
            ) from error
        except (ExchangeFailed, OSError) as error:
            what = f"{method} {key!r}" if key else method
            raise ObjectError(f"{self.name}: {what} failed: {_reason(error)}") from error

    async def _correct(self, answer: Response, region: str, skew_s: float, who: Credentials | None) -> str:
        """Adapt to what the refusal of a request (made with region, skew_s, who) reveals; returns what, or "".

        Requests under way at the same time are refused together: whoever comes second finds the correction made.
        """
        refusal = parse_refusal(answer.status, answer.headers, answer.body)
        if refusal.region and refusal.region != region and answer.status in (301, 307, 400, 403):
            if re.fullmatch(r"[a-z0-9-]{2,40}", refusal.region):
                if refusal.region != self.address.region:
                    before = self._client
                    self._use(in_region(self.address, refusal.region))
                    await before.close()
                return "region"
        elif answer.status == 403:
            date = http_time(answer.headers.get("date", ""))
            skew = date - time.time()
            if date and abs(skew - skew_s) > SKEW_S:
                self._skew_s = skew
                return "clock"
        if refusal.code not in EXPIRED_CODES:
            return ""
        renewed = await self._provider.current() != who or await self._provider.current(renew=True) != who
        return "keys" if renewed else ""

    # ---- answers

    def _verify(self, key: str, answer: Response) -> None:
        text = answer.headers.get(CHECKSUM_HEADER)
        if not self._checksum or text is None or not text.isdigit():
            return  # written without a checksum; spec: an unreadable value is ignored
        found = crc32c(views(answer.body))
        if found != int(text):
            raise DataCorrupt(
                f"{self.name}: {key!r} ({len(answer.body)} bytes) has CRC-32C {found}, stored with {text}; "
                "the object or its transport is damaged"
            )

    def _check_range(self, key: str, answer: Response, start: int, length: int | None) -> None:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("content-range", ""))
        have = len(answer.body)
        wrong = found is None or int(found[1]) != start or int(found[2]) - start + 1 != have
        if wrong or (length is not None and have > length):
            raise ObjectError(f"{self.name}: get of {key!r}: the answer is not the range that was asked for")
        if found is not None and found[3] != "*":
            # Less than asked for is right only at the end of the object.
            _, n = clip(int(found[3]), start, length)
            if have != n:
                raise ObjectError(f"{self.name}: get of {key!r}: {have} bytes came where {n} were asked for")

    def _refuse(self, answer: Response, action: str, key: str) -> NoReturn:
        refusal = parse_refusal(answer.status, answer.headers, answer.body)
        what = f"{action} of {key!r}" if key else action
        if answer.status == 404 and refusal.code in ("", "NoSuchKey", "NotFound") and action in ("get", "head"):
            raise ObjectNotFound(f"{self.name}: no object {key!r}")
        advice = ADVICE.get(refusal.code, "")
        raise ObjectError(
            f"{self.name}: {what} was refused with {answer.status} {refusal.code}"
            f"{refusal.message and ': ' + refusal.message.rstrip('.')}{advice and '; ' + advice}",
            retryable=is_retryable(answer.status, refusal.code),
        )


def _put_headers(storage_class: str, tag: str) -> Mapping[str, str]:
    headers = {}
    if storage_class:
        headers["x-amz-storage-class"] = storage_class
    if tag:
        name, _, value = tag.partition("=")
        headers["x-amz-tagging"] = encode_query({name: value})
    for value in headers.values():
        if not value.isascii() or not value.isprintable():
            raise ConfigError("storage class and tag may only have printable ASCII characters")
    return headers


def _content_type(key: str) -> str:
    extension = os.path.splitext(key)[1]
    if not extension:
        return "application/octet-stream"
    if extension == ".gz":
        return "application/gzip"
    return mimetypes.types_map.get(extension, "application/octet-stream")


def _location(region: str) -> bytes:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    text = f'<CreateBucketConfiguration xmlns="{space}"><LocationConstraint>{region}</LocationConstraint>'
    return f"{text}</CreateBucketConfiguration>".encode()


def _reason(error: Exception) -> str:
    if isinstance(error, ExchangeFailed):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return f"{error.strerror or os.strerror(error.errno)}"
    return f"{type(error).__name__}: {error}"
