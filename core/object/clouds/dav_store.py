# SPDX-License-Identifier: Apache-2.0
"""Objects as files below a folder of a WebDAV server, over our own HTTP client.

One request per call; a put into a new folder makes the folder and is sent again. Redirections are not followed: a
server redirects from `folder` to `folder/`, which is how we learn that a key is a folder. Whether a replaced file is
seen half written is the server's affair (Apache, nginx and SluiceFS rename; docs/object-stores.md).
Source: spec data-path §4.1, §4.2; RFC 4918 §9; RFC 9110 §14 (ranges); RFC 7617 (Basic).
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NoReturn
from urllib.parse import quote

from core.errors import ObjectError, ObjectNotFound
from core.object.api import Buffer, Features, ObjectInfo, ObjectStore
from core.object.buffers import Views, clip, total, views
from core.object.clouds.bucket_url import BucketUrl
from core.object.clouds.dav_answers import ADVICE, PROPFIND_BODY, is_passing, parse_members
from core.object.clouds.folders import Child, Children, walk
from core.object.http import Client, ExchangeFailed, Response
from core.object.s3.answers import http_time
from core.object.s3.options import tls_context

# A folder that is missing above a new file: 409 by the RFC; Apache says 403 if it goes missing in between, others 404.
_NO_PARENT = frozenset({403, 404, 409})
# Folders of which we know that they exist; forgotten all at once when there are many.
_KNOWN_FOLDERS = 10_000


class WebDavStore(ObjectStore):
    """`WebDavStore(split_url("webdav", "http://host/folder", …), "user", "password")`."""

    def __init__(self, url: BucketUrl, user: str = "", password: str = "", *, max_connections: int = 256) -> None:
        port = url.port or (443 if url.scheme == "https" else 80)
        tls = tls_context(url.options) if url.scheme == "https" else None
        self._client = Client(url.scheme, url.host, port, tls=tls, max_connections=max_connections)
        self._base = f"/{url.path}/" if url.path else "/"
        self.name = f"webdav://{url.authority}{self._base}"
        self.features = Features(ranges=True)
        self._lines = f"host: {self._client.authority}\r\n"
        if user or password:
            pair = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._lines += f"authorization: Basic {pair}\r\n"
        self._made: set[str] = set()
        self._making = asyncio.Lock()

    # ---- the contract

    async def put(self, key: str, data: Buffer | Sequence[Buffer]) -> None:
        parts = views(data)
        size = total(parts)
        fields = {"content-length": str(size), "content-type": "application/octet-stream"}
        answer = await self._request("PUT", key, fields, parts, size)
        if answer.status in _NO_PARENT and "/" in (self._base + key).strip("/"):
            await self._make_folder(key.rpartition("/")[0])
            answer = await self._request("PUT", key, fields, parts, size)
        if answer.status not in (200, 201, 204):
            self._refuse(answer, "put", key)

    async def get(self, key: str, start: int = 0, length: int | None = None) -> Buffer:
        clip(0, start, length)  # refuses negative values
        if length == 0:
            await self.head(key)
            return b""
        whole = start == 0 and length is None
        fields = {} if whole else {"range": f"bytes={start}-{'' if length is None else start + length - 1}"}
        answer = await self._request("GET", key, fields)
        if answer.status == 416 and not whole:
            return b""  # the object ends before the range
        if answer.status not in (200, 206):
            await self._refuse_folder(answer, key)
            self._refuse(answer, "get", key)
        if whole:
            return answer.body
        if answer.status == 200:  # the server ignored the range, or the object is empty
            begin, n = clip(len(answer.body), start, length)
            return memoryview(answer.body)[begin : begin + n]
        self._check_range(key, answer, start, length)
        return answer.body

    async def delete(self, key: str) -> None:
        answer = await self._request("DELETE", key)
        if answer.status not in (200, 202, 204, 404, 409, 410):  # 409: the folder above is missing too
            self._refuse(answer, "delete", key)

    async def head(self, key: str) -> ObjectInfo:
        answer = await self._request("HEAD", key)
        if answer.status not in (200, 204):
            await self._refuse_folder(answer, key)
            self._refuse(answer, "head", key)
        size = answer.headers.get("content-length", "")
        if size.isdigit():
            return ObjectInfo(key, int(size), http_time(answer.headers.get("last-modified", "")))
        # A server that compresses or streams leaves the length out.
        for member in await self._members(key, depth=0):
            if not member[1]:
                return ObjectInfo(key, member[2], member[3])
        raise ObjectNotFound(f"{self.name}: no object {key!r} (it is a folder)")

    def list(self, prefix: str = "", after: str = "") -> AsyncIterator[ObjectInfo]:
        return walk(self._children, prefix, after)

    async def create(self) -> None:
        self._made.clear()
        await self._make_folder("")

    async def close(self) -> None:
        await self._client.close()

    # ---- folders

    async def _children(self, folder: str) -> Children:
        found: Children = []
        try:
            members = await self._members(folder, depth=1)
        except ObjectNotFound:
            return found
        for path, is_folder, size, mtime in members:
            name = path.removeprefix(self._base + folder).rstrip("/")
            if not name or path.rstrip("/") == (self._base + folder).rstrip("/"):
                continue  # the folder itself
            if not path.startswith(self._base + folder) or "/" in name:
                raise ObjectError(
                    f"{self.name}: list of {folder!r} returned {path!r}, which is no member of it; does the server "
                    "rewrite addresses?",
                    retryable=False,
                )
            info = ObjectInfo(folder + name, size, mtime)
            found.append(Child(f"{name}/", None) if is_folder else Child(name, info))
        return found

    async def _members(self, key: str, depth: int) -> Sequence[tuple[str, bool, int, float]]:
        fields = {
            "depth": str(depth),
            "content-type": "application/xml; charset=utf-8",
            "content-length": str(len(PROPFIND_BODY)),
        }
        answer = await self._request("PROPFIND", key, fields, views(PROPFIND_BODY), len(PROPFIND_BODY))
        if answer.status == 404:
            raise ObjectNotFound(f"{self.name}: no object {key!r}")
        if answer.status != 207:
            self._refuse(answer, "list", key)
        try:
            return parse_members(answer.body)
        except ValueError as error:
            raise ObjectError(f"{self.name}: list of {key!r}: the answer is {error}") from error

    async def _refuse_folder(self, answer: Response, key: str) -> None:
        """Go's servers (rclone, …) answer 405 to a GET of a folder, which may as well mean that GET is switched off."""
        if answer.status == 405 and any(member[1] for member in await self._members(key, depth=0)):
            raise ObjectNotFound(f"{self.name}: no object {key!r} (it is a folder)")

    async def _make_folder(self, folder: str) -> None:
        path = (self._base + folder).rstrip("/")
        async with self._making:  # many puts into a new folder: the first one makes what is above it
            self._made.discard(path)  # it was missing just now, whatever we believe
            await self._make(path)

    async def _make(self, path: str) -> None:
        """A folder and what is missing above it."""
        if path in self._made or not path:
            return
        answer = await self._request("MKCOL", f"{path}/", absolute=True)
        parent = path.rpartition("/")[0]
        if answer.status in _NO_PARENT and parent:
            self._made.discard(parent)
            await self._make(parent)
            answer = await self._request("MKCOL", f"{path}/", absolute=True)
        if answer.status not in (201, 301, 405):  # made; or there already
            self._refuse(answer, "making the folder", path)
        if len(self._made) >= _KNOWN_FOLDERS:
            self._made.clear()
        self._made.add(path)

    # ---- requests

    async def _request(
        self,
        method: str,
        key: str,
        fields: Mapping[str, str] | None = None,
        parts: Views | None = None,
        size: int = 0,
        *,
        absolute: bool = False,
    ) -> Response:
        target = quote(key if absolute else self._base + key, safe="/~")
        lines = self._lines + "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        try:
            return await self._client.request(method, target, lines, parts or [], size)
        except ssl.SSLCertVerificationError as error:
            raise ObjectError(
                f"{self.name}: the server's certificate is not trusted ({error.verify_message}); add ca-certs, "
                "ssl-cert and ssl-key to the bucket URL or, for a test, ?tls-insecure-skip-verify=true",
                retryable=False,
            ) from error
        except (ExchangeFailed, OSError) as error:
            raise ObjectError(f"{self.name}: {method} {key!r} failed: {error}") from error

    def _check_range(self, key: str, answer: Response, start: int, length: int | None) -> None:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("content-range", ""))
        have = len(answer.body)
        if found is None or int(found[1]) != start or int(found[2]) - start + 1 != have:
            raise ObjectError(f"{self.name}: get of {key!r}: the answer is not the range that was asked for")
        wanted = length if found[3] == "*" else clip(int(found[3]), start, length)[1]
        if (wanted is not None and have > wanted) or (found[3] != "*" and have != wanted):
            raise ObjectError(f"{self.name}: get of {key!r}: {have} bytes came where {wanted} were asked for")

    def _refuse(self, answer: Response, action: str, key: str) -> NoReturn:
        status = answer.status
        where = answer.headers.get("location", "").split("?")[0]
        moved = status in (301, 302, 307, 308)
        if action in ("get", "head") and (status in (404, 410) or (moved and where.endswith("/"))):
            raise ObjectNotFound(f"{self.name}: no object {key!r}")
        advice = ADVICE.get(status, "")
        if moved:
            advice = f"it redirects to {where}; use that address as the bucket"
        asked = answer.headers.get("www-authenticate", "")
        if status == 401 and asked and "basic" not in asked.lower():
            advice = f"the server asks for {asked.split()[0]}, only Basic can be used; switch it on there (over TLS)"
        raise ObjectError(
            f"{self.name}: {action} of {key!r} was refused with {status}{advice and '; ' + advice}",
            retryable=is_passing(status),
        )
