# SPDX-License-Identifier: Apache-2.0
"""Objects in an OpenStack Swift container (storage `swift`), bucket `http(s)://<container>.<host>[:port]`.

Log-in is auth v1 at `<host>/auth/v1.0`: user and key give the account's URL and a token, which is renewed when it
expires. A token that is given instead needs the account's URL (`?storage-url=`), unless the user's name tells it.
Every object carries the CRC-32C of its bytes and is checked when it is read whole, as over S3.
Source: spec data-path §4.2; OpenStack Object Storage API (accounts, containers, objects), Swift's overview of auth.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, NoReturn
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from core.errors import ConfigError, DataCorrupt, ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import Views, clip, total, views
from core.object.checksum import crc32c
from core.object.http import Client, ExchangeFailed, Response
from core.object.s3.answers import http_time
from core.object.s3.options import tls_context

FORM: Final = "http(s)://CONTAINER.HOST[:PORT], with the user as access key and the key as secret key"
CHECKSUM: Final = "x-object-meta-crc32c"
#: Swift's own limit of one listing.
PAGE: Final = 10_000
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class Address(NamedTuple):
    scheme: str
    host: str
    port: int
    container: str
    options: Mapping[str, str]


class _Account(NamedTuple):
    """What log-in gave: where objects are, and what lets us in."""

    client: Client
    path: str  # of the container, without a slash at the end
    token: str


def parse(bucket: str) -> Address:
    """ConfigError shows the form; its text never contains the URL's user part."""
    text = bucket.strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    if scheme.lower() not in _DEFAULT_PORTS:
        raise ConfigError(f"swift: the bucket's scheme is not http or https; it looks like {FORM}")
    if "@" in rest.partition("?")[0]:
        raise ConfigError(f"swift: user and key don't belong into the bucket; it looks like {FORM}")
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.netloc.partition(":")[0], parts.port
    except ValueError:
        raise ConfigError(f"swift: host or port of the bucket can't be understood; it looks like {FORM}") from None
    container, _, host = name.partition(".")
    if not container or not host or parts.path.strip("/"):
        raise ConfigError(f"swift: the bucket can't be used; it looks like {FORM}")
    scheme = scheme.lower()
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Address(scheme, host.lower(), port or _DEFAULT_PORTS[scheme], container, options)


class SwiftStore(ObjectStore):
    """`SwiftStore("https://container.swift.example.com", user, key)`; token: instead of logging in."""

    features = Features(ranges=True)

    def __init__(self, bucket: str, access_key: str = "", secret_key: str = "", token: str = "") -> None:
        at = parse(bucket)
        for what, value in (("access key", access_key), ("secret key", secret_key), ("session token", token)):
            if not value.isprintable() or not value.isascii():
                raise ConfigError(f"swift: the {what} may only have printable ASCII characters")
        self._at = at
        self.name = f"swift://{at.host}:{at.port}/{at.container}"
        self._user, self._key, self._token = access_key, secret_key, token
        self._tls = tls_context(at.options) if at.scheme == "https" else None
        self._clients: dict[tuple[str, str, int], Client] = {}
        self._account: _Account | None = None
        self._logins: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        parts = views(data)
        headers = {"content-type": "application/octet-stream", CHECKSUM: str(crc32c(parts))}
        answer = await self._request("PUT", key, headers=headers, parts=parts)
        if answer.status not in (201, 202):
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
        if answer.status == 206:
            self._check_range(key, answer, start, length)
            return answer.body
        self._verify(key, answer)
        begin, n = clip(len(answer.body), start, length)
        return answer.body if whole else memoryview(answer.body)[begin : begin + n]

    async def delete(self, key: str) -> None:
        answer = await self._request("DELETE", key)
        if answer.status not in (200, 202, 204, 404):
            self._refuse(answer, "delete", key)

    async def head(self, key: str) -> ObjectInfo:
        answer = await self._request("HEAD", key)
        if answer.status != 200:
            self._refuse(answer, "head", key)
        size = answer.headers.get("content-length", "")
        if not size.isdigit():
            raise ObjectError(f"{self.name}: head of {key!r}: the answer has no length")
        try:
            mtime = float(answer.headers.get("x-timestamp", ""))
        except ValueError:
            mtime = http_time(answer.headers.get("last-modified", ""))
        return ObjectInfo(key, int(size), mtime)

    async def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        last = after
        while True:
            query = {"format": "json", "limit": str(PAGE), "prefix": prefix, "marker": last}
            answer = await self._request("GET", "", query=query)
            if answer.status == 404:
                return  # no container yet
            if answer.status not in (200, 204):
                self._refuse(answer, "list", prefix)
            page = self._page(prefix, answer)
            for info in page:
                if not info.key.startswith(prefix) or (last and info.key <= last):
                    raise ObjectError(f"{self.name}: list of {prefix!r} returned {info.key!r} out of place")
                last = info.key
                yield info
            if not page:
                return  # a short page may be one of several: Swift's limit is its own

    async def create(self) -> None:
        answer = await self._request("PUT", "")
        if answer.status not in (201, 202, 204):
            self._refuse(answer, "create the container", "")

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()

    # ---- requests

    async def _request(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        parts: Views | None = None,
    ) -> Response:
        """One answer of the account; an expired token is renewed once."""
        body = parts or []
        size = total(body)
        refused = ""
        while True:
            account = await self._log_in(refused)
            target = account.path + (f"/{quote(key, safe='/~')}" if key else "")
            lines = {"host": account.client.authority, "x-auth-token": account.token, **(headers or {})}
            if method == "PUT":
                lines["content-length"] = str(size)
            text = f"{target}?{urlencode(query)}" if query else target
            answer = await self._send(account.client, method, text, lines, body, size, key)
            if answer.status != 401 or refused or not (self._user and self._key):
                return answer
            refused = account.token

    async def _send(
        self, client: Client, method: str, target: str, headers: Mapping[str, str], parts: Views, size: int, key: str
    ) -> Response:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        try:
            return await client.request(method, target, lines, parts, size)
        except ssl.SSLCertVerificationError as error:
            raise ObjectError(
                f"{self.name}: the server's certificate is not trusted ({error.verify_message}); add ca-certs, "
                "ssl-cert and ssl-key to the bucket URL or, for a test, ?tls-insecure-skip-verify=true",
                retryable=False,
            ) from error
        except (ExchangeFailed, OSError) as error:
            what = f"{method} {key!r}" if key else method
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            raise ObjectError(f"{self.name}: {what} failed: {reason}") from error

    # ---- log-in

    async def _log_in(self, refused: str) -> _Account:
        """The account; a new token if `refused` is the one we have."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._logins = loop, asyncio.Lock()
        account = self._account
        if account is not None and account.token != refused:
            return account
        assert self._logins is not None
        async with self._logins:
            if self._account is None or self._account.token == refused:
                self._account = await self._authenticate(again=bool(refused))
            return self._account

    async def _authenticate(self, *, again: bool) -> _Account:
        at = self._at
        if self._token and not again:
            return self._in(self._storage_url(), self._token)
        if not self._user or not self._key:
            raise ConfigError("swift: no user or key; give --access-key and --secret-key, or --session-token")
        client = self._client(at.scheme, at.host, at.port)
        headers = {"host": client.authority, "x-auth-user": self._user, "x-auth-key": self._key}
        answer = await self._send(client, "GET", "/auth/v1.0", headers, [], 0, "")
        url, token = answer.headers.get("x-storage-url", ""), answer.headers.get("x-auth-token", "")
        if answer.status not in (200, 204) or not url or not token:
            if answer.status in (401, 403):
                raise ObjectError(
                    f"{self.name}: log-in was refused with {answer.status}: user or key are wrong; check --access-key "
                    "(often ACCOUNT:USER) and --secret-key",
                    retryable=False,
                )
            raise ObjectError(
                f"{self.name}: log-in at /auth/v1.0 was answered with {answer.status} and no token; does this server "
                "offer auth v1?",
                retryable=answer.status >= 500 or answer.status == 429,
            )
        return self._in(url, token)

    def _storage_url(self) -> str:
        """Of the account that a given token is for."""
        given = self._at.options.get("storage-url", "")
        if given:
            return given
        account = self._user.partition(":")[0]
        if not account:
            raise ConfigError(
                "swift: a session token alone doesn't tell the account; add ?storage-url=URL to the bucket, or give "
                "the user as --access-key"
            )
        return f"{self._at.scheme}://{self._at.host}:{self._at.port}/v1/AUTH_{quote(account)}"

    def _in(self, url: str, token: str) -> _Account:
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ConfigError(f"swift: the account's URL ({parts.scheme}://{parts.hostname}) can't be used")
        client = self._client(parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS[parts.scheme])
        return _Account(client, f"{parts.path.rstrip('/')}/{quote(self._at.container)}", token)

    def _client(self, scheme: str, host: str, port: int) -> Client:
        found = self._clients.get((scheme, host, port))
        if found is None:
            tls = self._tls or (tls_context(self._at.options) if scheme == "https" else None)
            found = self._clients[scheme, host, port] = Client(scheme, host, port, tls=tls)
        return found

    # ---- answers

    def _page(self, prefix: str, answer: Response) -> Sequence[ObjectInfo]:
        if answer.status == 204 or not answer.body:
            return []
        try:
            rows: Any = json.loads(bytes(answer.body))
            return [ObjectInfo(row["name"], int(row["bytes"]), _seconds(row["last_modified"])) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise ObjectError(f"{self.name}: list of {prefix!r}: the answer is no listing ({error})") from error

    def _verify(self, key: str, answer: Response) -> None:
        text = answer.headers.get(CHECKSUM, "")
        if not text.isdigit():
            return  # written by another client
        found = crc32c(views(answer.body))
        if found != int(text):
            raise DataCorrupt(
                f"{self.name}: {key!r} ({len(answer.body)} bytes) has CRC-32C {found}, stored with {text}; "
                "the object or its transport is damaged"
            )

    def _check_range(self, key: str, answer: Response, start: int, length: int | None) -> None:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("content-range", ""))
        have = len(answer.body)
        if found is None or int(found[1]) != start or have != clip(int(found[3]), start, length)[1]:
            raise ObjectError(f"{self.name}: get of {key!r}: the answer is not the range that was asked for")

    def _refuse(self, answer: Response, action: str, key: str) -> NoReturn:
        what = f"{action} of {key!r}" if key else action
        if answer.status == 404 and action in ("get", "head"):
            raise ObjectNotFound(f"{self.name}: no object {key!r}")
        advice = _ADVICE.get(answer.status, "")
        raise ObjectError(
            f"{self.name}: {what} was refused with {answer.status}{advice and '; ' + advice}",
            retryable=answer.status >= 500 or answer.status in (408, 422, 429, 498),
        )


_ADVICE: Final = {
    401: "the token is not valid (any more); give a new --session-token, or user and key",
    403: "this user may not do that; give it read and write access to the container",
    404: "the container does not exist; create it, or format the volume",
    413: "the account or container has reached its quota",
    429: "the server asks to go slower",
    498: "the server asks to go slower",
    507: "the server's disks are full",
}


def _seconds(text: str) -> float:
    """`2024-05-06T07:08:09.123456`, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
